//! What is left of the mesh where nobody could take it along: uninstalled while the agent of a node was dead.
#![cfg(feature = "cluster")]
#![allow(
    clippy::unwrap_used,
    reason = "what fails here fails the test that asked for it"
)]

use mesh_tests::cluster::{CLIENT, Cluster};
use mesh_tests::cluster_app::App;
use mesh_tests::eventually;
use mesh_tests::release::marks_of;
use serde_json::json;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(20);
const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn a_node_whose_agent_was_dead_at_the_uninstall_frees_itself_at_the_next_pod() {
    let cluster = Cluster::current().unwrap();
    if !cluster.is_own() {
        eprintln!("NOT RUN: this kills processes of a node, which only those of `cargo xtask cluster` allow");
        return;
    }
    let nodes = cluster.ready_nodes().unwrap();
    let node = nodes.last().unwrap();
    let before = marks_of(&cluster, node, "").unwrap();
    let (app, release) = App::in_mesh(&cluster, &[]);

    // Dead, and nobody there to start it or to tell it of the uninstall.
    let kill = "kill -9 $(pgrep -f '^[^ ]*mesh-agent run')";
    cluster.stop(node, "kubelet").unwrap();
    cluster.node_exec(node, &["sh", "-c", kill]).unwrap();
    let args = ["uninstall", "heddle", "-n", &release.space.name];
    cluster.helm(&args).unwrap();
    cluster.start(node, "kubelet").unwrap();
    assert_ne!(
        marks_of(&cluster, node, "").unwrap(),
        before,
        "nothing is left: nothing is proven"
    );

    let starts = |name: &str| {
        let container = json!({"name": "c", "image": CLIENT, "imagePullPolicy": "IfNotPresent", "command": ["sleep", "infinity"]});
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}},
            "spec": {"nodeName": node, "terminationGracePeriodSeconds": 0, "containers": [container]}});
        app.space.apply(&pod.to_string()).unwrap();
    };
    starts("held");
    // An agent that is dead for seconds may come back: the pod waits, and says for what.
    eventually("the Event that says what the pod waits for", MINUTE * 2, || {
        let events = cluster.json(&["-n", &app.space.name, "get", "events"]).ok()?;
        let mut events = events["items"].as_array()?.clone().into_iter();
        events.find(|event| {
            event["message"]
                .as_str()
                .is_some_and(|text| text.contains("waits for the mesh"))
        })
    })
    .unwrap();
    assert!(
        app.space.pods("held").unwrap().is_empty(),
        "it has started without an agent"
    );
    // Minutes later.
    let past = "touch -d '10 minutes ago' /run/heddle/alive 2>/dev/null || touch -d \"$(date -d '10 minutes ago' '+%F %T')\" /run/heddle/alive";
    cluster.node_exec(node, &["sh", "-c", past]).unwrap();
    eventually("the pod to start", MINUTE * 4, || {
        (!app.space.pods("held").unwrap().is_empty()).then_some(())
    })
    .unwrap();
    eventually("the node to be as before", SOON, || {
        (marks_of(&cluster, node, "").unwrap() == before).then_some(())
    })
    .unwrap_or_else(|error| {
        panic!(
            "{error:#}: {}\nbefore: {before}",
            marks_of(&cluster, node, "").unwrap()
        )
    });
    app.forgive();
    app.nothing_lost("uninstall with a dead agent");
}
