//! Consistent hashing: what a request hashes to, and which endpoint a hash means.
//!
//! Every agent comes to the same tables, so that a client stays with an endpoint whichever node it is on.

use crate::model::service::Endpoint;
use crate::model::traffic::{Algorithm, Cookie, HashKey, TrafficPolicy};
use crate::routing::HeaderView;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;
use twox_hash::XxHash64;

/// What a request is bound to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Affinity {
    /// Its hash; `None` = any endpoint will do.
    pub hash: Option<u64>,
    /// A `Set-Cookie` for the response, where the cookie was to be made.
    pub set_cookie: Option<String>,
}

/// What a request of `client` is bound to (T-34). `fresh` is a random number that becomes the cookie where one is made.
#[must_use]
pub fn affinity(
    policy: &TrafficPolicy,
    client: IpAddr,
    path: &str,
    headers: &dyn HeaderView,
    fresh: u64,
) -> Affinity {
    let Algorithm::Hash(hash) = &policy.load_balancer.algorithm else {
        return Affinity::default();
    };
    let of = |text: Option<&str>| Affinity {
        hash: text.map(|text| hash_of(text.as_bytes())),
        set_cookie: None,
    };
    match &hash.key {
        HashKey::Header(name) => of(headers.joined(name).as_deref()),
        HashKey::SourceIp => of(Some(&client.to_canonical().to_string())),
        HashKey::Query(name) => of(query(path, name)),
        HashKey::Cookie(cookie) => {
            let sent = headers.joined("cookie");
            match (
                sent.as_deref().and_then(|sent| cookie_value(sent, &cookie.name)),
                cookie.ttl,
            ) {
                (Some(value), _) => of(Some(value)),
                (None, None) => Affinity::default(),
                (None, Some(_)) => {
                    let value = format!("{fresh:016x}");
                    Affinity {
                        hash: Some(hash_of(value.as_bytes())),
                        set_cookie: Some(set_cookie(cookie, &value)),
                    }
                }
            }
        }
    }
}

/// xxHash64 with seed 0, as Envoy hashes.
fn hash_of(bytes: &[u8]) -> u64 {
    XxHash64::oneshot(0, bytes)
}

/// The first value of a query parameter, as sent.
fn query<'a>(path: &'a str, name: &str) -> Option<&'a str> {
    let (_, query) = path.split_once('?')?;
    let pairs = query
        .split('&')
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs
        .into_iter()
        .find(|(key, _)| *key == name)
        .map(|(_, value)| value)
}

/// A cookie's value; several header fields come joined by commas.
pub(in crate::routing) fn cookie_value<'a>(sent: &'a str, name: &str) -> Option<&'a str> {
    sent.split([';', ','])
        .filter_map(|pair| pair.trim().split_once('='))
        .find(|(key, _)| *key == name)
        .map(|(_, value)| value.trim_matches('"'))
        .filter(|value| !value.is_empty())
}

fn set_cookie(cookie: &Cookie, value: &str) -> String {
    let mut text = format!("{}=\"{value}\"", cookie.name);
    // Writing to a String cannot fail.
    if let Some(ttl) = cookie.ttl.filter(|ttl| !ttl.is_zero()) {
        let _ = write!(text, "; Max-Age={}", ttl.as_secs().max(1));
    }
    if !cookie.path.is_empty() {
        let _ = write!(text, "; Path={}", cookie.path);
    }
    for (name, value) in &cookie.attributes {
        let _ = if value.is_empty() {
            write!(text, "; {name}")
        } else {
            write!(text, "; {name}={value}")
        };
    }
    text.push_str("; HttpOnly");
    text
}

/// Hash → endpoint.
pub(super) enum Table {
    /// Places on a ring, sorted.
    Ring(Vec<(u64, u32)>),
    /// Slots.
    Maglev(Vec<u32>),
}

/// The largest weight, at least 1.
fn heaviest(endpoints: &[Arc<Endpoint>], members: &[usize]) -> u64 {
    let weights = members.iter().map(|member| u64::from(endpoints[*member].weight));
    weights.max().unwrap_or(1).max(1)
}

impl Table {
    /// A ring with at least `size` places, as many for each of `members`.
    pub(super) fn ring(endpoints: &[Arc<Endpoint>], members: &[usize], size: u32) -> Self {
        // A power of two: one endpoint more or less must not change how many places the others have.
        let each = (size as usize).div_ceil(members.len().max(1)).next_power_of_two();
        let largest = heaviest(endpoints, members);
        let mut ring = Vec::with_capacity(each * members.len());
        let mut name = String::new();
        for member in members {
            let Endpoint { addr, weight, .. } = &*endpoints[*member];
            let copies = (each as u64 * u64::from(*weight)).div_ceil(largest);
            for copy in 0..copies {
                name.clear();
                let _ = write!(name, "{addr}_{copy}");
                ring.push((
                    hash_of(name.as_bytes()),
                    u32::try_from(*member).unwrap_or(u32::MAX),
                ));
            }
        }
        ring.sort_unstable();
        Self::Ring(ring)
    }

    /// A Maglev table of `size` slots, a prime (Eisenbud et al., "Maglev", § 3.4).
    pub(super) fn maglev(endpoints: &[Arc<Endpoint>], members: &[usize], size: u32) -> Self {
        let size = u64::from(size.max(2));
        let largest = heaviest(endpoints, members);
        let mut steps: Vec<(u64, u64, u32, [u64; 2])> = members
            .iter()
            .map(|member| {
                let name = endpoints[*member].addr.to_string();
                let offset = XxHash64::oneshot(0, name.as_bytes()) % size;
                let skip = XxHash64::oneshot(1, name.as_bytes()) % (size - 1) + 1;
                let weight = u64::from(endpoints[*member].weight);
                (
                    offset,
                    skip,
                    u32::try_from(*member).unwrap_or(u32::MAX),
                    [weight, 0],
                )
            })
            .collect();
        let mut slots = vec![u32::MAX; usize::try_from(size).unwrap_or(usize::MAX)];
        let mut empty = slots.len();
        while empty > 0 && !steps.is_empty() {
            for (at, skip, member, [weight, due]) in &mut steps {
                // The heaviest takes a slot each time, the others as often as their weight comes up to that.
                *due += *weight;
                if *due < largest {
                    continue;
                }
                *due -= largest;
                let mut place = usize::try_from(*at).unwrap_or_default();
                while slots[place] != u32::MAX {
                    *at = (*at + *skip) % size;
                    place = usize::try_from(*at).unwrap_or_default();
                }
                slots[place] = *member;
                empty -= 1;
                if empty == 0 {
                    break;
                }
            }
        }
        Self::Maglev(slots)
    }

    /// The endpoint of a hash; where it is ejected, the next on the way that is not.
    pub(super) fn find(&self, hash: u64, healthy: &dyn Fn(&usize) -> bool) -> Option<usize> {
        let usable = |member: u32| Some(member as usize).filter(|i| member != u32::MAX && healthy(i));
        match self {
            Self::Ring(ring) => {
                let start = ring.partition_point(|(place, _)| *place < hash);
                let (before, after) = ring.split_at(start);
                after.iter().chain(before).find_map(|(_, member)| usable(*member))
            }
            Self::Maglev(slots) => {
                let start = usize::try_from(hash.checked_rem(slots.len() as u64)?).ok()?;
                let (before, after) = slots.split_at(start);
                after.iter().chain(before).find_map(|member| usable(*member))
            }
        }
    }
}
