//! The Weather Forecast guide's chapters on where pods are: requests shared out by locality, and where they go when what
//! is near fails.

#![allow(
    clippy::unwrap_used,
    reason = "what fails here fails the test that asked for it"
)]

use mesh_tests::eventually;
use mesh_tests::guide::{CLIENT, Guide};
use mesh_tests::seed;
use serde_json::{Value, json};
use std::time::Duration;

/// A pod of advertisement in each of four places. Those of node 1, where the client is, and of node 2 are what the nodes'
/// labels say; the others say it themselves, as pods on machines without such labels do.
fn advertisement() -> Guide {
    let guide = Guide::of("weather")
        .pod(1, "zone-b", "advertisement", "v1")
        .http(3003)
        .pod(2, "zone-c", "advertisement", "v1")
        .http(3003)
        .pod(2, "south", "advertisement", "v1")
        .label("istio-locality", "cn-south-1.cn-south-1a")
        .http(3003)
        .pod(2, "east", "advertisement", "v1")
        .label("istio-locality", "cn-east-2.cn-east-2a")
        .http(3003)
        .service("advertisement", 2, 3003, 3003, "http")
        .start()
        .unwrap();
    let node = |name: &str, zone: &str| {
        format!(
            "apiVersion: v1\nkind: Node\nmetadata:\n  name: {name}\n  labels:\n    topology.kubernetes.io/region: cn-north-7\n    topology.kubernetes.io/zone: {zone}\n---\n"
        )
    };
    let [first, second] = &guide.ground.nodes;
    let nodes = node(&first.name, "cn-north-7b") + &node(&second.name, "cn-north-7c");
    guide.apply("01-nodes.yaml", &nodes).unwrap();
    let mut all = seed!("destination-rule-v1.yaml").split("\n---\n");
    let own = all.find(|rule| rule.contains("name: advertisement-dr"));
    guide.apply("31-dr.yaml", own.unwrap()).unwrap();
    guide
}

fn served_by(guide: &Guide, count: u64, more: &[&str]) -> Value {
    let asked = count.to_string();
    let args = [&["--count", asked.as_str()], more].concat();
    let answer = guide.curl(CLIENT, "advertisement", &args).unwrap();
    assert_eq!(answer["statuses"], json!({"200": count}), "{answer}");
    answer["fields"].clone()
}

/// One request that the pod which gets it cannot serve.
fn fail_once(guide: &Guide) {
    let answer = guide
        .curl(CLIENT, "advertisement", &["--path", "/status/500"])
        .unwrap();
    assert_eq!(answer["statuses"], json!({"500": 1}), "{answer}");
}

/// S201: the weights are places', whoever is there; the rule is a second one for the same host, and the first one's subset
/// still leads somewhere.
#[test]
fn requests_are_shared_out_by_place() {
    let guide = advertisement();
    assert_eq!(
        served_by(&guide, 100, &[]).as_object().unwrap().len(),
        4,
        "without the rule places mean nothing"
    );
    guide
        .apply("32-locality.yaml", seed!("dr-locality-distribution.yaml"))
        .unwrap();
    let to_subset = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata:\n  name: advertisement-route\nspec:\n  hosts: [advertisement]\n  http:\n  - route: [{destination: {host: advertisement, subset: v1}}]\n";
    for rule in [None, Some(to_subset)] {
        if let Some(rule) = rule {
            guide.apply("30-vs.yaml", rule).unwrap();
        }
        let shared = served_by(&guide, 300, &[]);
        let of = |pod: &str| shared[pod].as_u64().unwrap_or(0);
        // 30, 240 and 30 are meant; each bound is more than five standard deviations away.
        assert!((3..=60).contains(&of("zone-b")), "{shared}");
        assert!((200..=280).contains(&of("zone-c")), "{shared}");
        assert!((3..=60).contains(&of("south")), "{shared}");
        assert_eq!(of("east"), 0, "a place without a weight: {shared}");
    }
}

/// S202: the region that the rule names comes after the client's own, and before any other.
#[test]
fn requests_leave_their_region_when_its_pods_fail_and_go_where_the_rule_says() {
    let guide = advertisement();
    guide
        .apply("32-locality.yaml", seed!("dr-locality-failover.yaml"))
        .unwrap();
    assert_eq!(served_by(&guide, 20, &[]), json!({"zone-b": 20}));
    guide.write_pods(&["zone-c"]).unwrap();
    eventually(
        "the pod of the other zone to be gone",
        Duration::from_secs(5),
        || {
            let status = guide.agents[1].spec.heddle_json(&["status"]).ok()?;
            let mut pods = status["pods"].as_array()?.iter();
            pods.all(|pod| pod["pod"] != "weather/zone-c").then_some(())
        },
    )
    .unwrap();
    assert_eq!(served_by(&guide, 20, &[]), json!({"zone-b": 20}));
    fail_once(&guide);
    assert_eq!(served_by(&guide, 20, &[]), json!({"south": 20}));
}

/// S202, by labels: one label more in common is nearer.
#[test]
fn requests_go_to_the_pods_that_share_most_labels_when_the_nearest_fail() {
    let guide = advertisement();
    guide
        .apply("32-locality.yaml", seed!("dr-locality-failover-priority.yaml"))
        .unwrap();
    assert_eq!(served_by(&guide, 20, &[]), json!({"zone-b": 20}));
    fail_once(&guide);
    assert_eq!(served_by(&guide, 20, &[]), json!({"zone-c": 20}));
}
