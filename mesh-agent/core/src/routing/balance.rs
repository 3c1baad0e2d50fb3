//! Which endpoint takes a request: the less loaded of two drawn at random.

use crate::model::service::Endpoint;
use mesh_common::verdict::draw;
use std::net::SocketAddr;
use std::sync::Arc;

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
    let size = u32::try_from(count).unwrap_or(u32::MAX);
    let first = draw(draws.0, size);
    let one = nth(first as usize)?;
    if count == 1 {
        return Some(one);
    }
    let mut second = draw(draws.1, size - 1);
    if second >= first {
        second += 1;
    }
    let other = nth(second as usize)?;
    if load(&endpoints[other]) < load(&endpoints[one]) {
        Some(other)
    } else {
        Some(one)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoints(addrs: &[&str]) -> Vec<Arc<Endpoint>> {
        addrs
            .iter()
            .map(|a| {
                Arc::new(Endpoint {
                    addr: a.parse().unwrap(),
                    workload: None,
                })
            })
            .collect()
    }

    #[test]
    fn the_less_loaded_of_two_distinct_endpoints_wins() {
        let list = endpoints(&["10.0.0.1:80", "10.0.0.2:80"]);
        for draws in [(0, 0), (u32::MAX, 0), (0, u32::MAX), (u32::MAX, u32::MAX)] {
            let picked = pick_endpoint(&list, false, &[], draws, &|e| u32::from(e.addr == list[0].addr));
            assert_eq!(picked, Some(1), "{draws:?}");
        }
    }

    #[test]
    fn the_preferred_family_is_taken_where_there_is_one() {
        let list = endpoints(&["10.0.0.1:80", "[fd00::1]:80"]);
        assert_eq!(pick_endpoint(&list, true, &[], (0, 0), &|_| 0), Some(1));
        assert_eq!(pick_endpoint(&list, false, &[], (u32::MAX, 0), &|_| 0), Some(0));
        assert_eq!(pick_endpoint(&list[..1], true, &[], (0, 0), &|_| 0), Some(0));
    }

    #[test]
    fn a_retry_goes_elsewhere_unless_nothing_else_is_left() {
        let list = endpoints(&["10.0.0.1:80", "[fd00::1]:80"]);
        assert_eq!(
            pick_endpoint(&list, false, &[list[0].addr], (0, 0), &|_| 0),
            Some(1)
        );
        assert_eq!(
            pick_endpoint(&list, false, &[list[0].addr, list[1].addr], (0, 0), &|_| 0),
            Some(0)
        );
        assert_eq!(pick_endpoint(&[], false, &[], (0, 0), &|_| 0), None);
    }

    #[test]
    fn equal_loads_spread_evenly() {
        let list = endpoints(&["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80", "10.0.0.4:80"]);
        let mut counts = [0_u32; 4];
        for i in 0..4_000_u32 {
            let draw = i.wrapping_mul(2_654_435_761);
            counts[pick_endpoint(&list, false, &[], (draw, draw.rotate_left(16)), &|_| 0).unwrap()] += 1;
        }
        assert!(counts.iter().all(|c| (900..1100).contains(c)), "{counts:?}");
    }
}
