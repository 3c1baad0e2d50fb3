//! Objects that nobody should have to take, and objects that change all the time, while requests run without a pause.

#![allow(
    clippy::unwrap_used,
    reason = "what fails here fails the test that asked for it"
)]

use mesh_tests::eventually;
use mesh_tests::hostile::{self, Target};
use mesh_tests::podkit::last_json;
use mesh_tests::process::Proc;
use mesh_tests::promtext;
use mesh_tests::shop::{self, Shop, peak_while, vips, virtual_service};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

const GOOD: &str = "- route:\n  - destination: {host: both, subset: v1}";

fn load(shop: &Shop, host: &str, rate: &str) -> Proc {
    let to = vips(host, shop::HTTP)[0].to_string();
    let args = ["load", "--to", &to, "--host", host, "--rate", rate];
    shop.client.serve(&args).unwrap()
}

fn ended(mut load: Proc) -> Value {
    load.stop(Duration::from_secs(15)).unwrap();
    last_json(&load.stdout()).unwrap()
}

/// A thousand at once: nothing is lost or misrouted, what must be refused is named, and memory stays.
#[test]
fn a_thousand_hostile_objects_leave_traffic_and_memory_as_they_were() {
    let shop = Shop::open().unwrap();
    // Older than all of them.
    let good = virtual_service("both", GOOD).replace(
        "  namespace: shop\n",
        "  namespace: shop\n  creationTimestamp: \"2020-01-01T00:00:00Z\"\n",
    );
    shop.apply("30-both.yaml", &good).unwrap();
    let load = load(&shop, "both", "50");
    let (host, address) = (
        "both.shop.svc.cluster.local",
        vips("both", shop::HTTP)[0].ip().to_string(),
    );
    let target = Target {
        host,
        address: &address,
    };
    // A few first, so that what is compared is objects, and not code that runs for the first time.
    for (n, hostile) in hostile::objects(3, 64, target).into_iter().enumerate() {
        let file = format!("40-hostile-{n}.yaml");
        shop.config.write(&file, hostile.object.to_string()).unwrap();
    }
    let counted = || promtext::sum(&shop.metrics(0).unwrap(), "heddle_agent_config_problems", &[]);
    eventually("the first few to be counted", Duration::from_secs(20), || {
        (counted() >= 30.0).then_some(())
    })
    .unwrap();
    for n in 0..64 {
        shop.config.remove(&format!("40-hostile-{n}.yaml")).unwrap();
    }
    eventually("the first few to be gone", Duration::from_secs(20), || {
        (counted() == 0.0).then_some(())
    })
    .unwrap();
    let before = shop.resident(0).unwrap();
    let mut expected = BTreeSet::new();
    let (peak, ()) = peak_while(shop.agents[0].proc.pid(), || {
        for (n, hostile) in hostile::objects(7, 1_000, target).into_iter().enumerate() {
            let file = format!("50-hostile-{n}.yaml");
            shop.config.write(&file, hostile.object.to_string())?;
            if hostile.refused {
                expected.insert(file);
            }
        }
        eventually("all of them to be named", Duration::from_secs(60), || {
            let status = shop.status(0).ok()?;
            let named: BTreeSet<String> = status["problems"]
                .as_array()?
                .iter()
                .filter_map(|problem| Some(problem["origin"].as_str()?.to_owned()))
                .collect();
            expected.is_subset(&named).then_some(())
        })
    })
    .unwrap();
    let problems = counted();
    assert!(
        problems >= expected.len() as f64,
        "{problems} are counted of {}",
        expected.len()
    );
    let summary = ended(load);
    assert_eq!(summary["statuses"]["200"], summary["sent"], "{summary}");
    assert_eq!(
        summary["fields"],
        json!({"near": summary["sent"]}),
        "misrouted: {summary}"
    );
    // What is free goes back within a second or so.
    let settled = eventually("memory to be as before", Duration::from_secs(10), || {
        let after = shop.resident(0).ok()?;
        (after * 10 <= before * 12).then_some(after)
    });
    println!("resident: {before} before, {peak} at most, {settled:?} after");
    settled.unwrap();
}

/// Routes, DestinationRules and endpoints of one service change all the time, at once.
#[test]
fn change_loses_nothing() {
    let shop = Shop::open().unwrap();
    shop.route("both", GOOD).unwrap();
    let pods = std::fs::read_to_string(shop.config.path().join("20-pods.yaml")).unwrap();
    let subsets = std::fs::read_to_string(shop.config.path().join("25-subsets.yaml")).unwrap();
    // Of the pods in the file, far is the last.
    let cut = pods.rfind("status: \"True\"").unwrap();
    let unready = format!(
        "{}status: \"False\"{}",
        &pods[..cut],
        &pods[cut + "status: \"True\"".len()..]
    );
    let loads = [load(&shop, "both", "100"), load(&shop, "near", "50")];
    let routes = [
        GOOD,
        "- timeout: 5s\n  route:\n  - destination: {host: both}",
        "- match:\n  - uri: {prefix: /other}\n  route:\n  - destination: {host: near}\n- route:\n  - destination: {host: both, subset: v1}\n    weight: 90\n  - destination: {host: both}\n    weight: 10",
    ];
    let policies = [
        "",
        "  trafficPolicy:\n    loadBalancer: {simple: RANDOM}\n",
        "  trafficPolicy:\n    loadBalancer: {simple: ROUND_ROBIN}\n    connectionPool: {tcp: {maxConnections: 1000}}\n",
        "  trafficPolicy:\n    loadBalancer: {consistentHash: {httpHeaderName: x-user}}\n",
    ];
    let start = Instant::now();
    let mut round = 0;
    while start.elapsed() < Duration::from_secs(20) {
        let route = virtual_service("both", routes[round % routes.len()]);
        shop.config.write("30-both.yaml", route).unwrap();
        std::thread::sleep(Duration::from_millis(30));
        let policy = policies[round % policies.len()];
        let rule = subsets.replacen("  subsets:\n", &format!("{policy}  subsets:\n"), 1);
        shop.config.write("25-subsets.yaml", rule).unwrap();
        std::thread::sleep(Duration::from_millis(30));
        if round % 4 == 0 {
            let text = if round % 8 == 0 { &unready } else { &pods };
            shop.config.write("20-pods.yaml", text).unwrap();
        }
        std::thread::sleep(Duration::from_millis(30));
        round += 1;
    }
    assert!(round > 50, "{round} rounds");
    for load in loads {
        let summary = ended(load);
        assert_eq!(summary["statuses"]["200"], summary["sent"], "{summary}");
        assert!(summary["sent"].as_u64() > Some(700), "{summary}");
    }
    assert_eq!(shop.status(0).unwrap()["problems"], json!([]));
}
