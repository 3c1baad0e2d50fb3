//! The upgrade of the chart under a load that counts: new connections, requests, and a TCP stream that goes on.
#![cfg(feature = "cluster")]
#![allow(
    clippy::unwrap_used,
    reason = "what fails here fails the test that asked for it"
)]

use mesh_tests::cluster::{CLIENT, Cluster, ECHO};
use mesh_tests::cluster_app::install;
use mesh_tests::eventually;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const MINUTE: Duration = Duration::from_secs(60);
const ROLLOUT: Duration = Duration::from_secs(240);
/// How long the old agents let live connections go on, seconds.
const DRAIN: u64 = 45;

/// How many requests must have been answered; the upgrade happens meanwhile. `HEDDLE_TEST_REQUESTS=100000` is the promise.
fn requests() -> u64 {
    let wanted = std::env::var("HEDDLE_TEST_REQUESTS").ok();
    wanted.and_then(|text| text.parse().ok()).unwrap_or(5_000)
}

/// One connection for ten requests, and a new one; a line for each that failed.
const ASKING: &str = "n=0; while :; do curl -sf -o /dev/null -m 20 --fail-early --resolve echo:80:ADDRESS 'http://echo/[1-10]' || \
                      echo \"$n $(date +%T) $?\" >>/tmp/failed; n=$((n+10)); echo $n >/tmp/count; done";
/// A line a second each way, over one connection that is no HTTP.
const STREAM: &str = "(while :; do date +%s; sleep 1; done) | nc ADDRESS 7000 >/tmp/stream; date +%s >/tmp/ended; sleep infinity";

#[test]
fn an_upgrade_loses_no_request_and_cuts_no_stream_before_the_drain_deadline() {
    let cluster = Cluster::current().unwrap();
    let space = cluster.namespace("upgrade").unwrap();
    let nodes = cluster.ready_nodes().unwrap();
    let pod = |name: &str, app: &str, node: &str, image: &str, command: Option<Value>| {
        let mut container = json!({"name": "c", "image": image, "imagePullPolicy": "IfNotPresent"});
        if let Some(command) = command {
            container["command"] = command;
        }
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": app}},
            "spec": {"nodeName": node, "terminationGracePeriodSeconds": 0, "containers": [container]}})
    };
    let service = |name: &str, port: u16, target: u16, kind: &str| {
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": {"selector": {"app": name},
            "ports": [{"name": kind, "port": port, "targetPort": target}]}})
    };
    let apply = |objects: &[Value]| {
        let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
        space.apply(&list.to_string()).unwrap();
    };
    let (near, far) = (&nodes[0], nodes.last().unwrap());
    let back = json!(["nc", "-ll", "-p", "7000", "-e", "/bin/cat"]);
    apply(&[
        service("echo", 80, 8080, "http"),
        service("back", 7000, 7000, "tcp"),
        pod("echo-near", "echo", near, ECHO, None),
        pod("echo-far", "echo", far, ECHO, None),
        pod("back", "back", far, CLIENT, Some(back)),
    ]);
    let ready = |pod: &str| {
        let object = format!("pod/{pod}");
        cluster
            .wait(&space.name, &object, "condition=Ready", MINUTE)
            .unwrap();
    };
    ["echo-near", "echo-far", "back"].into_iter().for_each(ready);
    let drain = format!("agent.drainSeconds={DRAIN}");
    let release = install(&cluster, &["--set", &drain]);
    let label = ["label", "namespace", &space.name, "heddle.io/mesh=enabled"];
    cluster.kubectl(&label).unwrap();
    let address = |name: &str| {
        let service = cluster
            .json(&["-n", &space.name, "get", "service", name])
            .unwrap();
        service["spec"]["clusterIP"].as_str().unwrap().to_owned()
    };
    let shell = |script: &str, service: &str| {
        let script = script.replace("ADDRESS", &address(service));
        Some(json!(["sh", "-c", script]))
    };
    apply(&[
        pod("load-1", "load-1", near, CLIENT, shell(ASKING, "echo")),
        pod("load-2", "load-2", far, CLIENT, shell(ASKING, "echo")),
        pod("stream", "stream", near, CLIENT, shell(STREAM, "back")),
    ]);
    ["load-1", "load-2", "stream"].into_iter().for_each(ready);
    let read = |pod: &str, file: &str| {
        let cat = format!("cat /tmp/{file} 2>/dev/null || true");
        space.exec(pod, &["sh", "-c", &cat]).unwrap()
    };
    let count = || -> u64 {
        let counts = ["load-1", "load-2"].map(|pod| read(pod, "count").trim().parse::<u64>().unwrap_or(0));
        counts.iter().sum()
    };
    let echoed = || read("stream", "stream").lines().count();
    eventually("the load", MINUTE, || {
        (count() > 100 && echoed() > 2).then_some(())
    })
    .unwrap();
    for pod in ["load-1", "load-2"] {
        space.exec(pod, &["rm", "-f", "/tmp/failed"]).unwrap();
    }
    let first = count();

    let longer = format!("agent.drainSeconds={}", DRAIN + 1);
    let began = Instant::now();
    release
        .upgrade(&["--set", "crds.istio=true", "--set", &longer])
        .unwrap();
    // The stream passes both nodes' agents; the first of them to be told ends it at its deadline.
    while began.elapsed() < Duration::from_secs(DRAIN - 5) {
        assert_eq!(
            read("stream", "ended"),
            "",
            "cut {:?} after the upgrade began",
            began.elapsed()
        );
        std::thread::sleep(Duration::from_secs(2));
    }
    assert!(echoed() as u64 > DRAIN - 15, "the stream stood still");
    for workload in ["daemonset/heddle-agent", "deployment/heddle-controller"] {
        release.space.rolled_out(workload, ROLLOUT).unwrap();
    }
    let limit = Duration::from_secs(60 + requests() / 50);
    eventually("enough requests", limit, || {
        (count() >= first + requests()).then_some(())
    })
    .unwrap();
    let failed = ["load-1", "load-2"].map(|pod| read(pod, "failed")).concat();
    println!("{} requests during and after the upgrade", count() - first);
    assert!(failed.is_empty(), "failed: {failed}");
}
