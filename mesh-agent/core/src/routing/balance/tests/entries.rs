//! Endpoints that ServiceEntries name: weights and localities of their own.

use super::super::*;
use crate::testing::{self, Request};
use std::collections::BTreeMap;
use std::time::Duration;

/// A client in r1/z1, a host with these endpoints, and a trafficPolicy for it.
fn balancer(endpoints: &str, rule: &str) -> (Arc<Snapshot>, Balancer) {
    let yaml = format!(
        "apiVersion: v1\nkind: Namespace\nmetadata: {{name: shop, labels: {{heddle.io/mesh: enabled}}}}\n---\n\
         apiVersion: v1\nkind: Node\nmetadata: {{name: n1, labels: {{topology.kubernetes.io/region: r1, topology.kubernetes.io/zone: z1}}}}\n---\n\
         apiVersion: v1\nkind: Pod\nmetadata: {{name: client, namespace: shop}}\nspec: {{nodeName: n1}}\nstatus: {{podIP: 10.1.0.1}}\n---\n\
         apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: ext, namespace: shop}}\n\
         spec: {{hosts: [ext.test], addresses: [10.96.1.1], resolution: STATIC, ports: [{{number: 80, name: http, protocol: HTTP}}], endpoints: [{endpoints}]}}\n---\n\
         apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: ext, namespace: shop}}\nspec: {{host: ext.test, trafficPolicy: {{{rule}}}}}"
    );
    let mut state = testing::state(&yaml);
    assert_eq!(state.problems(), []);
    let snapshot = state.snapshot();
    let request = Request {
        from: "10.1.0.1",
        to: "10.96.1.1:80",
        authority: "ext.test",
        ..Request::default()
    };
    let upstream = request.plan(&snapshot).upstream;
    let service = upstream.service.as_ref().unwrap();
    assert!(Balancer::needed(
        &upstream.policy,
        service.distribution,
        service.weighted()
    ));
    let client = snapshot.workload_by_ip("10.1.0.1".parse().unwrap()).unwrap();
    let place = Place {
        locality: snapshot.locality(client),
        client: Some(client),
    };
    let balancer = Balancer::new(
        &snapshot,
        &upstream.endpoints,
        &upstream.policy,
        service.distribution,
        &place,
        false,
    );
    (Arc::clone(&snapshot), balancer)
}

/// Of 10,000 requests those that each endpoint gets, by the last number of its address; `load` is what it has in flight.
fn shares(balancer: &Balancer, hashed: bool, load: impl Fn(u8) -> u32) -> BTreeMap<u8, u32> {
    let last = |e: &Endpoint| e.addr.to_string()[7..8].parse::<u8>().unwrap();
    let mut shares = BTreeMap::new();
    for turn in 0..10_000_u32 {
        let picked = balancer.pick(&Choice {
            draws: testing::pick_draws(turn),
            turn,
            hash: hashed.then(|| u64::from(turn).wrapping_mul(0x9e37_79b9_7f4a_7c15)),
            avoid: &[],
            ejected: &|_| false,
            load: &|e| load(last(e)),
            age: &|_| Duration::MAX,
        });
        *shares
            .entry(last(&balancer.endpoints()[picked.unwrap()]))
            .or_insert(0) += 1;
    }
    shares
}

const THREE_TO_ONE: &str = "{address: 10.9.0.1, weight: 3}, {address: 10.9.0.2}";

#[test]
fn requests_are_shared_by_weight() {
    for (rule, hashed) in [
        ("", false),
        ("loadBalancer: {simple: ROUND_ROBIN}", false),
        (
            "loadBalancer: {consistentHash: {useSourceIp: true, ringHash: {minimumRingSize: 16384}}}",
            true,
        ),
        (
            "loadBalancer: {consistentHash: {useSourceIp: true, maglev: {}}}",
            true,
        ),
    ] {
        let (_snapshot, balancer) = balancer(THREE_TO_ONE, rule);
        let first = shares(&balancer, hashed, |_| 0)[&1];
        assert!((7_200..7_800).contains(&first), "{rule}: {first}");
    }
}

#[test]
fn the_least_load_counts_by_weight_too() {
    let (_snapshot, balancer) = balancer(THREE_TO_ONE, "");
    // 3 / (5 + 1) against 1 / (0 + 1).
    let first = shares(&balancer, false, |n| if n == 1 { 5 } else { 0 })[&1];
    assert!((3_000..3_700).contains(&first), "{first}");
}

#[test]
fn an_endpoint_without_a_node_is_where_it_says() {
    let near_and_far = "{address: 10.9.0.1, locality: r2/z9}, {address: 10.9.0.2, locality: r1/z1/rack.7}";
    let outliers = "outlierDetection: {consecutive5xxErrors: 5}";
    let (_snapshot, near) = balancer(near_and_far, outliers);
    assert_eq!(shares(&near, false, |_| 0), BTreeMap::from([(2, 10_000)]));
    let to_r2 = "loadBalancer: {localityLbSetting: {distribute: [{from: r1/*, to: {r2/*: 100}}]}}";
    let (_snapshot, far) = balancer(near_and_far, &format!("{outliers}, {to_r2}"));
    assert_eq!(shares(&far, false, |_| 0), BTreeMap::from([(1, 10_000)]));
}
