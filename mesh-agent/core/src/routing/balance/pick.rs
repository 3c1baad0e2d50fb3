//! One of several, without a hash.

use super::locality::drawn;
use super::{Balancer, Group};
use crate::model::service::Endpoint;
use crate::model::traffic::{Algorithm, Simple};
use mesh_common::verdict::draw;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// What changes from request to request. Draws are uniform over all of `u32`.
pub struct Choice<'a> {
    /// Random draws.
    pub draws: PickDraws,
    /// The turn of this request: counted up by one for each, per balancer.
    pub turn: u32,
    /// The request's hash; `None` = any endpoint.
    pub hash: Option<u64>,
    /// Tried already; taken again only if nothing else is left (T-42). Hashes do not look at it (T-34).
    pub avoid: &'a [SocketAddr],
    /// Whether an endpoint is out for the time being.
    pub ejected: &'a dyn Fn(&Endpoint) -> bool,
    /// Requests in flight.
    pub load: &'a dyn Fn(&Endpoint) -> u32,
    /// How long an endpoint is known.
    pub age: &'a dyn Fn(&Endpoint) -> Duration,
}

/// Random draws of one pick.
#[derive(Clone, Copy, Debug, Default)]
pub struct PickDraws {
    /// The first candidate.
    pub first: u32,
    /// The second candidate.
    pub second: u32,
    /// The locality.
    pub locality: u32,
}

/// Picks an endpoint: two distinct ones are drawn, the one with fewer requests in flight wins. Endpoints of the
/// preferred family are taken if there are any; those in `avoid` only if nothing else is left (T-42).
///
/// `draws` are uniform over all of `u32`. Returns an index into `endpoints`, `None` only if it is empty.
#[must_use]
pub fn pick_endpoint(
    endpoints: &[Arc<Endpoint>],
    prefer_v6: bool,
    avoid: &[SocketAddr],
    draws: (u32, u32),
    load: &dyn Fn(&Endpoint) -> u32,
) -> Option<usize> {
    let preferred = |e: &Endpoint| e.addr.is_ipv6() == prefer_v6;
    let fresh = |e: &Endpoint| !avoid.contains(&e.addr);
    pick_among(endpoints, &|e| preferred(e) && fresh(e), draws, load)
        .or_else(|| pick_among(endpoints, &fresh, draws, load))
        .or_else(|| pick_among(endpoints, &preferred, draws, load))
        .or_else(|| pick_among(endpoints, &|_| true, draws, load))
}

fn pick_among(
    endpoints: &[Arc<Endpoint>],
    eligible: &dyn Fn(&Endpoint) -> bool,
    draws: (u32, u32),
    load: &dyn Fn(&Endpoint) -> u32,
) -> Option<usize> {
    let count = endpoints.iter().filter(|e| eligible(e)).count();
    if count == 0 {
        return None;
    }
    let nth = |n: usize| {
        if count == endpoints.len() {
            return Some(n);
        }
        endpoints
            .iter()
            .enumerate()
            .filter(|(_, e)| eligible(e))
            .nth(n)
            .map(|(place, _)| place)
    };
    let (first, second) = two(count, draws);
    let one = nth(first)?;
    let Some(other) = second.and_then(nth) else {
        return Some(one);
    };
    if load(&endpoints[other]) < load(&endpoints[one]) {
        Some(other)
    } else {
        Some(one)
    }
}

/// Two distinct places among `count`.
fn two(count: usize, draws: (u32, u32)) -> (usize, Option<usize>) {
    let size = u32::try_from(count).unwrap_or(u32::MAX);
    let first = draw(draws.0, size);
    if size < 2 {
        return (first as usize, None);
    }
    let mut second = draw(draws.1, size - 1);
    if second >= first {
        second += 1;
    }
    (first as usize, Some(second as usize))
}

/// One of a group's healthy members, of those not tried yet if there are any.
pub(super) fn among(
    balancer: &Balancer,
    group: &Group,
    algorithm: &Algorithm,
    choice: &Choice<'_>,
    healthy: &dyn Fn(&usize) -> bool,
) -> Option<usize> {
    let endpoints = &balancer.endpoints;
    let fresh = |i: &usize| !choice.avoid.contains(&endpoints[*i].addr);
    let healthy: Vec<usize> = group.members.iter().copied().filter(healthy).collect();
    let untried: Vec<usize> = healthy.iter().copied().filter(fresh).collect();
    let candidates = if untried.is_empty() { healthy } else { untried };
    let weight = |i: &usize| endpoints[*i].weight;
    let differ = |pair: &[usize]| weight(&pair[0]) != weight(&pair[1]);
    let weighted = balancer.weighted && candidates.windows(2).any(differ);
    match algorithm {
        Algorithm::Simple(simple @ (Simple::RoundRobin | Simple::LeastRequest)) if weighted => {
            by_weight(balancer, &candidates, *simple, choice)
        }
        Algorithm::Simple(Simple::RoundRobin) => round_robin(balancer, &candidates, choice),
        Algorithm::Simple(Simple::LeastRequest) => least_request(balancer, &candidates, choice),
        _ => candidates
            .get(two(candidates.len(), (choice.draws.first, 0)).0)
            .copied(),
    }
}

/// By weight, with the least load by weight divided by load, as Envoy does where weights differ.
fn by_weight(
    balancer: &Balancer,
    candidates: &[usize],
    simple: Simple,
    choice: &Choice<'_>,
) -> Option<usize> {
    let share = |i: &usize| {
        let endpoint = &balancer.endpoints[*i];
        let busy = match simple {
            Simple::LeastRequest => u64::from((choice.load)(endpoint)),
            _ => 0,
        };
        // Thousandths, so that load tells between small weights.
        u64::from(endpoint.weight) * 1_000 / (busy + 1)
    };
    let shares: Vec<u64> = candidates.iter().map(|i| share(i).max(1)).collect();
    let (mut draws, mut chosen) = (choice.draws.first, None);
    for _ in 0..PASSES {
        let drawn = *drawn(candidates, &shares, draws)?;
        chosen.get_or_insert(drawn);
        draws = next(draws ^ choice.turn);
        if takes(balancer, drawn, choice, draws) {
            return Some(drawn);
        }
        draws = next(draws);
    }
    chosen
}

/// The next in turn; while some warm up, each is passed over as often as its share is short of a whole.
fn round_robin(balancer: &Balancer, candidates: &[usize], choice: &Choice<'_>) -> Option<usize> {
    let count = candidates.len();
    let at = |turn: u32| candidates.get((turn as usize).checked_rem(count)?).copied();
    let mut chance = choice.draws.first;
    for pass in 0..u32::try_from(count).unwrap_or(u32::MAX).min(PASSES) {
        let index = at(choice.turn.wrapping_add(pass))?;
        if takes(balancer, index, choice, chance) {
            return Some(index);
        }
        chance = next(chance);
    }
    at(choice.turn)
}

/// The less loaded of two; one that warms up is drawn less often.
fn least_request(balancer: &Balancer, candidates: &[usize], choice: &Choice<'_>) -> Option<usize> {
    let (mut draws, mut chance) = ((choice.draws.first, choice.draws.second), choice.turn);
    let mut chosen = None;
    for _ in 0..PASSES {
        let (first, second) = two(candidates.len(), draws);
        let one = *candidates.get(first)?;
        let other = second.and_then(|s| candidates.get(s).copied());
        let load = |i: usize| (choice.load)(&balancer.endpoints[i]);
        let less = match other {
            Some(other) if load(other) < load(one) => other,
            _ => one,
        };
        chosen.get_or_insert(less);
        chance = next(chance ^ draws.0);
        if takes(balancer, less, choice, chance) {
            return Some(less);
        }
        draws = (next(draws.0 ^ 0x9e37_79b9), next(draws.1 ^ 0x85eb_ca6b));
    }
    chosen
}

fn takes(balancer: &Balancer, index: usize, choice: &Choice<'_>, chance: u32) -> bool {
    let Some(warmup) = &balancer.policy.load_balancer.warmup else {
        return true;
    };
    let share = warmup.factor((choice.age)(&balancer.endpoints[index]));
    f64::from(chance) < share * f64::from(u32::MAX)
}

/// More draws from one (xorshift32 after an odd multiplication).
const fn next(seed: u32) -> u32 {
    let mut x = seed.wrapping_mul(0x2545_f491).wrapping_add(0x9e37_79b9);
    x ^= x << 13;
    x ^= x >> 17;
    x ^ (x << 5)
}

/// Draws before one that warms up is taken all the same.
const PASSES: u32 = 16;
