//! A mesh of the size that the agent is built for.

use super::*;
use serde_json::json;
use std::time::{Duration, Instant};

const NAMESPACES: usize = 50;
const SERVICES: usize = 200;
const PODS_PER_SERVICE: usize = 5;

fn pod(ns: usize, service: usize, i: usize, node: &str) -> Value {
    let n = (ns * SERVICES + service) * PODS_PER_SERVICE + i;
    let ip = std::net::Ipv4Addr::from(0x0a00_0000 + u32::try_from(n).unwrap());
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": format!("s{service}-{i}"), "namespace": format!("n{ns}"),
            "labels": {"app": format!("s{service}"), "version": format!("v{}", i % 2)}},
        "spec": {"nodeName": node}, "status": {"podIP": ip.to_string()}})
}

fn service(ns: usize, service: usize) -> Value {
    let ip = std::net::Ipv4Addr::from(0x0b00_0000 + u32::try_from(ns * SERVICES + service).unwrap());
    json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": format!("s{service}"), "namespace": format!("n{ns}")},
        "spec": {"clusterIP": ip.to_string(), "selector": {"app": format!("s{service}")},
            "ports": [{"name": "http", "port": 80}]}})
}

#[test]
fn ten_thousand_services_and_fifty_thousand_pods_are_followed_without_building_them_again() {
    let mut state = State::new(MeshSettings::default());
    state.apply(Change::Init);
    for ns in 0..NAMESPACES {
        for s in 0..SERVICES {
            state.apply(Change::Apply {
                object: service(ns, s),
                origin: "x".into(),
            });
            for i in 0..PODS_PER_SERVICE {
                state.apply(Change::Apply {
                    object: pod(ns, s, i, "node-1"),
                    origin: "x".into(),
                });
            }
        }
    }
    state.apply(Change::InitDone);
    let started = Instant::now();
    let before = state.snapshot();
    let whole = started.elapsed();
    assert_eq!((before.services.len(), before.workloads.len()), (10_000, 50_000));
    let started = Instant::now();
    state.apply(Change::Apply {
        object: pod(7, 7, 0, "node-2"),
        origin: "x".into(),
    });
    let after = state.snapshot();
    let one = started.elapsed();
    let rebuilt = before
        .services
        .iter()
        .zip(&after.services)
        .filter(|(a, b)| !Arc::ptr_eq(a, b))
        .count();
    assert_eq!(rebuilt, 1, "only the service of the pod that moved");
    eprintln!("whole mesh {whole:?}, one pod {one:?}");
    // Unoptimised and on a busy machine; far above what either takes.
    assert!(
        whole < Duration::from_secs(30) && one < Duration::from_secs(5),
        "{whole:?} {one:?}"
    );
}
