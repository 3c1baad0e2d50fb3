use super::*;

mod entries;

fn endpoints(addrs: &[&str]) -> Vec<Arc<Endpoint>> {
    addrs
        .iter()
        .map(|a| Arc::new(Endpoint::new(a.parse().unwrap(), None)))
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
        let draw = crate::testing::draw(i);
        counts[pick_endpoint(&list, false, &[], (draw, draw.rotate_left(16)), &|_| 0).unwrap()] += 1;
    }
    assert!(counts.iter().all(|c| (900..1100).contains(c)), "{counts:?}");
}

mod policies {
    use super::super::*;
    use crate::testing::{self, Fields, Request};
    use std::collections::BTreeMap;
    use std::time::Duration;

    /// Nodes of two regions, a pod of `web` on each, and a client on the first; `rule` is the trafficPolicy.
    fn mesh(rule: &str) -> Arc<Snapshot> {
        let mut yaml = String::from(
            "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: {heddle.io/mesh: enabled}}\n---\n\
             apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop}\nspec: {clusterIP: 10.96.0.9, selector: {app: web}, ports: [{name: http, port: 80}]}\n---\n\
             apiVersion: v1\nkind: Pod\nmetadata: {name: client, namespace: shop, labels: {app: client, tier: gold}}\nspec: {nodeName: n1}\nstatus: {podIP: 10.1.0.1}\n",
        );
        for (n, region, zone, tier) in [
            (1, "r1", "z1", "iron"),
            (2, "r1", "z2", "gold"),
            (3, "r2", "z3", "iron"),
            (4, "r3", "z4", "gold"),
        ] {
            yaml += &format!(
                "---\napiVersion: v1\nkind: Node\nmetadata: {{name: n{n}, labels: {{topology.kubernetes.io/region: {region}, topology.kubernetes.io/zone: {zone}}}}}\n\
                 ---\napiVersion: v1\nkind: Pod\nmetadata: {{name: web-{n}, namespace: shop, labels: {{app: web, tier: {tier}}}}}\nspec: {{nodeName: n{n}}}\nstatus: {{podIP: 10.2.0.{n}}}\n"
            );
        }
        yaml += &format!(
            "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: web, namespace: shop}}\nspec: {{host: web, trafficPolicy: {{{rule}}}}}"
        );
        let mut state = testing::state(&yaml);
        assert_eq!(state.problems(), []);
        state.snapshot()
    }

    fn balancer(snapshot: &Snapshot) -> Balancer {
        let request = Request {
            from: "10.1.0.1",
            to: "10.96.0.9:80",
            authority: "web",
            ..Request::default()
        };
        let upstream = request.plan(snapshot).upstream;
        let client = snapshot.workload_by_ip("10.1.0.1".parse().unwrap()).unwrap();
        let place = Place {
            locality: snapshot.locality(client),
            client: Some(client),
        };
        let distribution = upstream.service.as_ref().unwrap().distribution;
        Balancer::new(
            snapshot,
            &upstream.endpoints,
            &upstream.policy,
            distribution,
            &place,
            false,
        )
    }

    /// Shares in percent of a thousand requests, by the last number of the address.
    fn shares(balancer: &Balancer, out: &[u8]) -> BTreeMap<u8, u32> {
        let last = |e: &Endpoint| e.addr.to_string()[7..8].parse::<u8>().unwrap();
        let mut shares = BTreeMap::new();
        for turn in 0..1_000_u32 {
            let picked = balancer.pick(&Choice {
                draws: testing::pick_draws(turn),
                turn,
                hash: None,
                avoid: &[],
                ejected: &|e| out.contains(&last(e)),
                load: &|_| 0,
                age: &|e| Duration::from_secs(if last(e) == 1 { 0 } else { 1_000 }),
            });
            if let Some(index) = picked {
                *shares.entry(last(&balancer.endpoints()[index])).or_insert(0) += 1;
            }
        }
        shares.values_mut().for_each(|n| *n = (*n + 5) / 10);
        shares
    }

    /// `trafficPolicy`, the endpoints that are ejected, the shares in percent.
    type Row<'a> = (&'a str, &'a str, &'a [u8], &'a [(u8, u32)]);

    #[test]
    fn where_requests_go_follows_localities() {
        const OUT: &str = "outlierDetection: {maxEjectionPercent: 100}";
        let rows: &[Row<'_>] = &[
            (
                "T-35: no failover without outlier detection",
                "loadBalancer: {localityLbSetting: {failover: [{from: r1, to: r2}]}}",
                &[],
                &[(1, 25), (2, 25), (3, 25), (4, 25)],
            ),
            ("the nearest zone has it all", OUT, &[], &[(1, 100)]),
            ("then the region", OUT, &[1], &[(2, 100)]),
            ("then everything else", OUT, &[1, 2], &[(3, 50), (4, 50)]),
            (
                "failover names the region",
                "loadBalancer: {localityLbSetting: {failover: [{from: r1, to: r3}]}}, outlierDetection: {maxEjectionPercent: 100}",
                &[1, 2],
                &[(4, 100)],
            ),
            ("T-36: nobody is left", OUT, &[1, 2, 3, 4], &[]),
            (
                "enabled: false",
                "loadBalancer: {localityLbSetting: {enabled: false}}, outlierDetection: {}",
                &[],
                &[(1, 25), (2, 25), (3, 25), (4, 25)],
            ),
            (
                "failoverPriority",
                "loadBalancer: {localityLbSetting: {failoverPriority: [tier]}}, outlierDetection: {}",
                &[],
                &[(2, 50), (4, 50)],
            ),
            (
                "failoverPriority with a value",
                "loadBalancer: {localityLbSetting: {failoverPriority: [tier=iron, topology.kubernetes.io/region]}}, outlierDetection: {}",
                &[],
                &[(1, 100)],
            ),
            (
                "distribute needs no outlier detection",
                "loadBalancer: {localityLbSetting: {distribute: [{from: r1/z1/*, to: {r1/z1/*: 80, r2/*: 20}}]}}",
                &[],
                &[(1, 80), (3, 20)],
            ),
            (
                "distribute of another place",
                "loadBalancer: {localityLbSetting: {distribute: [{from: r2/*, to: {r1/*: 100}}]}}",
                &[],
                &[(1, 25), (2, 25), (3, 25), (4, 25)],
            ),
            (
                "minHealthPercent: ejections do not count below it",
                "loadBalancer: {localityLbSetting: {enabled: false}}, outlierDetection: {minHealthPercent: 60}",
                &[1, 2],
                &[(1, 25), (2, 25), (3, 25), (4, 25)],
            ),
            (
                "and count above",
                "loadBalancer: {localityLbSetting: {enabled: false}}, outlierDetection: {minHealthPercent: 50}",
                &[1, 2],
                &[(3, 50), (4, 50)],
            ),
            (
                "round robin",
                "loadBalancer: {simple: ROUND_ROBIN}",
                &[],
                &[(1, 25), (2, 25), (3, 25), (4, 25)],
            ),
            (
                "random",
                "loadBalancer: {simple: RANDOM}",
                &[],
                &[(1, 25), (2, 25), (3, 25), (4, 25)],
            ),
            (
                "a new endpoint warms up (round robin)",
                "loadBalancer: {simple: ROUND_ROBIN, warmup: {duration: 60s, minimumPercent: 10}}",
                &[],
                &[(1, 3), (2, 47), (3, 25), (4, 25)],
            ),
        ];
        for (what, rule, out, want) in rows {
            let shares = shares(&balancer(&mesh(rule)), out);
            let near = |n: &u8, share: u32| shares.get(n).is_some_and(|s| s.abs_diff(share) <= 3);
            let fits = shares.len() == want.len() && want.iter().all(|(n, share)| near(n, *share));
            assert!(fits, "{what}: {shares:?}, expected {want:?}");
        }
    }

    #[test]
    fn a_service_may_prefer_its_clients_zone_without_any_rule() {
        let with = |distribution| {
            let snapshot = mesh("connectionPool: {}");
            let place = |client: &'static str| Place {
                locality: snapshot.nodes.get(client).cloned().unwrap(),
                client: None,
            };
            let list = &snapshot.services[0].ports[0].endpoints;
            let balancer = Balancer::new(
                &snapshot,
                list,
                &TrafficPolicy::mesh_default(),
                distribution,
                &place("n2"),
                false,
            );
            shares(&balancer, &[])
        };
        assert_eq!(with(Distribution::SameZone), BTreeMap::from([(2, 100)]));
        assert_eq!(with(Distribution::Any).len(), 4);
    }

    fn pick(balancer: &Balancer, hash: u64, out: &dyn Fn(&Endpoint) -> bool) -> Option<std::net::SocketAddr> {
        let index = balancer.pick(&Choice {
            draws: PickDraws::default(),
            turn: 0,
            hash: Some(hash),
            avoid: &[],
            ejected: out,
            load: &|_| 0,
            age: &|_| Duration::MAX,
        })?;
        Some(balancer.endpoints()[index].addr)
    }

    #[test]
    fn a_hash_stays_with_its_endpoint_when_others_come_and_go() {
        for table in ["ringHash: {minimumRingSize: 4096}", "maglev: {}"] {
            let snapshot = mesh(&format!(
                "loadBalancer: {{consistentHash: {{useSourceIp: true, {table}}}}}"
            ));
            let policy = balancer(&snapshot).policy().clone();
            let of = |n: u8| {
                let list: Arc<[_]> = super::endpoints(
                    &(1..=n)
                        .map(|i| format!("10.9.0.{i}:80"))
                        .collect::<Vec<_>>()
                        .iter()
                        .map(|s| &**s)
                        .collect::<Vec<_>>(),
                )
                .into();
                let place = Place {
                    locality: Arc::default(),
                    client: None,
                };
                Balancer::new(&snapshot, &list, &policy, Distribution::Any, &place, false)
            };
            let (nine, ten) = (of(9), of(10));
            let hashes: Vec<u64> = (0..5_000_u64)
                .map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15))
                .collect();
            let moved = hashes
                .iter()
                .filter(|h| pick(&nine, **h, &|_| false) != pick(&ten, **h, &|_| false));
            let moved = moved.count();
            assert!(
                (300..=750).contains(&moved),
                "{table}: {moved} of 5000 moved, a tenth is right"
            );
            let out = pick(&ten, hashes[0], &|_| false).unwrap();
            for hash in &hashes {
                let (before, after) = (
                    pick(&ten, *hash, &|_| false),
                    pick(&ten, *hash, &|e| e.addr == out),
                );
                assert!(
                    after != Some(out) && (before == Some(out) || before == after),
                    "{table}"
                );
            }
        }
    }

    #[test]
    fn what_a_request_is_bound_to() {
        let of = |key: &str, path: &str, headers: &[(&str, &str)]| {
            let snapshot = mesh(&format!("loadBalancer: {{consistentHash: {{{key}}}}}"));
            let policy = balancer(&snapshot).policy().clone();
            affinity(
                &policy,
                "10.1.0.1".parse().unwrap(),
                path,
                &Fields(headers),
                0xabc,
            )
        };
        let user = |name: &str| of("httpHeaderName: x-user", "/", &[("x-user", name)]).hash;
        assert!(user("ann").is_some() && user("ann") == user("ann") && user("ann") != user("bob"));
        assert_eq!(
            of("httpHeaderName: x-user", "/", &[]),
            Affinity::default(),
            "Envoy: any endpoint"
        );
        assert!(of("useSourceIp: true", "/", &[]).hash.is_some());
        let query = |path: &str| of("httpQueryParameterName: q", path, &[]).hash;
        assert_eq!(
            query("/?a=1&q=x&q=y"),
            query("/other?q=x"),
            "T-23: the first value"
        );
        assert_eq!(query("/"), None);
        let cookie = "httpCookie: {name: user, ttl: 60s, path: /app, attributes: [{name: SameSite, value: Lax}, {name: Secure}]}";
        let made = of(cookie, "/", &[]);
        assert_eq!(
            made.set_cookie.as_deref(),
            Some("user=\"0000000000000abc\"; Max-Age=60; Path=/app; SameSite=Lax; Secure; HttpOnly")
        );
        let again = of(cookie, "/", &[("cookie", "a=b; user=0000000000000abc")]);
        assert_eq!(
            (again.hash, again.set_cookie),
            (made.hash, None),
            "it comes back to the same endpoint"
        );
        assert_eq!(
            of("httpCookie: {name: user}", "/", &[]),
            Affinity::default(),
            "no ttl: only read"
        );
        let session = of("httpCookie: {name: user, ttl: 0s}", "/", &[])
            .set_cookie
            .unwrap();
        assert!(!session.contains("Max-Age"), "{session}");
    }
}
