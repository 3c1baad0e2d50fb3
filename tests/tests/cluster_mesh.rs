//! The mesh on a real cluster, as its users run it: helm install, label a namespace, upgrade, uninstall; and what fails
//! meanwhile.
#![cfg(feature = "cluster")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "what fails here fails the test that asked for it"
)]

use mesh_tests::cluster::{CLIENT, Cluster};
use mesh_tests::cluster_app::{App, install};
use mesh_tests::eventually;
use mesh_tests::release::marks_of;
use serde_json::Value;
use std::time::Duration;

const MINUTE: Duration = Duration::from_secs(60);
const ROLLOUT: Duration = Duration::from_secs(180);

/// Where an agent has its sockets.
const RUN: &str = "/run/heddle*";

const CANARY: &str = "apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: echo}
spec: {host: echo, subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: echo}
spec:
  hosts: [echo]
  http:
  - match: [{headers: {user-agent: {regex: \".*Chrome.*\"}}}]
    route: [{destination: {host: echo, subset: v2}}]
  - route:
    - {destination: {host: echo, subset: v1}, weight: 90}
    - {destination: {host: echo, subset: v2}, weight: 10}
";

#[test]
fn install_enrol_canary_upgrade_and_uninstall_lose_no_request_and_leave_nothing() {
    let cluster = Cluster::current().unwrap();
    let nodes = cluster.ready_nodes().unwrap();
    let before: Vec<String> = nodes
        .iter()
        .map(|node| marks_of(&cluster, node, RUN).unwrap())
        .collect();
    let app = App::open(&cluster);
    let release = install(&cluster, &["--set", "agent.drainSeconds=5"]);
    app.nothing_lost("install");

    app.label("heddle.io/mesh=enabled");
    let took = app.await_captured(&release, Duration::from_secs(10));
    // Asking the agents takes a part of it.
    assert!(took < Duration::from_secs(4), "captured after {took:?}");
    app.nothing_lost("enrolment");
    for pod in app.pods() {
        let container = &pod["status"]["containerStatuses"][0];
        assert_eq!(
            (&container["restartCount"], &container["ready"]),
            (&Value::from(0), &Value::from(true)),
            "{}",
            pod["metadata"]["name"]
        );
    }

    app.space.apply(CANARY).unwrap();
    eventually("the canary", Duration::from_secs(10), || {
        app.versions(10, "-A Chrome")
            .iter()
            .all(|version| version == "v2")
            .then_some(())
    })
    .unwrap();
    let asked = app.versions(200, "");
    let v2 = asked.iter().filter(|version| *version == "v2").count();
    assert!(asked.iter().all(|version| version != "failed"));
    // 10 % of 200: 20, and 99.99 % of all runs lie between these.
    assert!((5..=40).contains(&v2), "{v2} of 200 went to v2");
    app.nothing_lost("canary");
    let refused = app.space.apply(&CANARY.replace(".*Chrome.*", "(")).unwrap_err();
    let refused = format!("{refused:#}");
    assert!(refused.contains("spec.http[0].match[0].headers"), "{refused}");

    release
        .upgrade(&["--set", "crds.istio=true", "--set", "agent.drainSeconds=6"])
        .unwrap();
    for workload in ["daemonset/heddle-agent", "deployment/heddle-controller"] {
        release.space.rolled_out(workload, ROLLOUT).unwrap();
    }
    app.await_captured(&release, Duration::from_secs(20));
    app.nothing_lost("upgrade");

    app.label("heddle.io/mesh=disabled");
    eventually("every pod to leave", Duration::from_secs(10), || {
        (app.captured(&release) == 0).then_some(())
    })
    .unwrap();
    app.nothing_lost("un-enrolment");
    app.label("heddle.io/mesh=enabled");
    app.await_captured(&release, Duration::from_secs(10));

    release.uninstall().unwrap();
    app.nothing_lost("uninstall");
    for (node, before) in nodes.iter().zip(before) {
        eventually("the node to be as before", Duration::from_secs(20), || {
            (marks_of(&cluster, node, RUN).unwrap() == before).then_some(())
        })
        .unwrap_or_else(|error| {
            panic!(
                "{node}: {error:#}: {}\nbefore: {before}",
                marks_of(&cluster, node, RUN).unwrap()
            )
        });
    }
}

#[test]
fn a_new_pods_first_connection_is_in_the_mesh_and_without_an_agent_its_start_waits() {
    let cluster = Cluster::current().unwrap();
    let app = App::open(&cluster);
    let release = install(&cluster, &[]);
    app.label("heddle.io/mesh=enabled");
    app.await_captured(&release, Duration::from_secs(10));
    let job = |name: &str, node: &str| {
        format!(
            "apiVersion: batch/v1\nkind: Job\nmetadata: {{name: {name}}}\nspec:\n  backoffLimit: 0\n  template:\n    metadata: {{labels: {{app: {name}}}}}\n    \
             spec:\n      nodeName: {node}\n      restartPolicy: Never\n      initContainers: [{{name: i, image: \"{CLIENT}\", imagePullPolicy: IfNotPresent, \
             command: [curl, -sf, -m, \"5\", \"http://echo/\"]}}]\n      containers: [{{name: c, image: \"{CLIENT}\", imagePullPolicy: IfNotPresent, \
             command: [curl, -sf, -m, \"5\", \"http://echo/\"]}}]\n"
        )
    };
    // Only the mesh adds this header, and the echo server tells what it got.
    let in_the_mesh = |name: &str| {
        for container in ["i", "c"] {
            let job = format!("job/{name}");
            let said = cluster
                .kubectl(&["-n", &app.space.name, "logs", &job, "-c", container])
                .unwrap();
            assert!(said.contains("X-Request-Id"), "{name}/{container}: {said}");
        }
    };
    let agents = release.space.pods("heddle-agent").unwrap();
    let node = agents[0].node.clone();
    app.space.apply(&job("first", &node)).unwrap();
    cluster
        .wait(&app.space.name, "job/first", "condition=Complete", MINUTE)
        .unwrap();
    in_the_mesh("first");

    // The agent goes, and with it whoever would start it again.
    let keep_away = r#"{"spec":{"template":{"spec":{"nodeSelector":{"heddle-test/nowhere":"true"}}}}}"#;
    let set = [
        "-n",
        &release.space.name,
        "patch",
        "daemonset",
        "heddle-agent",
        "-p",
        keep_away,
    ];
    cluster.kubectl(&set).unwrap();
    eventually("the agents to go", MINUTE, || {
        release
            .space
            .pods("heddle-agent")
            .unwrap()
            .is_empty()
            .then_some(())
    })
    .unwrap();
    app.space.apply(&job("held", &node)).unwrap();
    std::thread::sleep(Duration::from_secs(4));
    let pods = app.space.pods("held").unwrap();
    assert!(pods.is_empty(), "started without an agent: {pods:?}");
    let back = r#"{"spec":{"template":{"spec":{"nodeSelector":{"heddle-test/nowhere":null}}}}}"#;
    cluster
        .kubectl(&[
            "-n",
            &release.space.name,
            "patch",
            "daemonset",
            "heddle-agent",
            "-p",
            back,
        ])
        .unwrap();
    release
        .space
        .rolled_out("daemonset/heddle-agent", ROLLOUT)
        .unwrap();
    cluster
        .wait(&app.space.name, "job/held", "condition=Complete", MINUTE * 2)
        .unwrap();
    in_the_mesh("held");
}

#[test]
fn traffic_goes_on_while_the_api_server_is_away_and_comes_back_after_an_agents_death_and_a_reboot() {
    let cluster = Cluster::current().unwrap();
    if !cluster.is_own() {
        eprintln!("NOT RUN: needs a cluster of `cargo xtask cluster`");
        return;
    }
    let app = App::open(&cluster);
    let release = install(&cluster, &[]);
    app.label("heddle.io/mesh=enabled");
    app.await_captured(&release, Duration::from_secs(10));
    app.forgive();

    cluster.stop("cp", "kube-apiserver").unwrap();
    std::thread::sleep(Duration::from_secs(20));
    cluster.start_api_server().unwrap();
    app.nothing_lost("API server away");

    let load_on = app.space.pods("load").unwrap()[0].node.clone();
    cluster
        .node_exec(
            &load_on,
            &["sh", "-c", "kill -9 $(pgrep -f '^[^ ]*mesh-agent run')"],
        )
        .unwrap();
    eventually("service after the agent's death", Duration::from_secs(20), || {
        app.versions(5, "")
            .iter()
            .all(|version| version != "failed")
            .then_some(())
    })
    .unwrap();
    app.await_captured(&release, Duration::from_secs(30));

    cluster.node_off(&load_on).unwrap();
    cluster.node_on(&load_on).unwrap();
    // The API server shows the state before the reboot for a while.
    eventually("the rebooted node to run pods", MINUTE * 3, || {
        app.space.exec("load", &["true"]).ok()
    })
    .unwrap();
    let all_ready = || {
        let pods = app.pods();
        let ready = |pod: &Value| pod["status"]["containerStatuses"][0]["ready"] == true;
        (pods.len() >= 6 && pods.iter().all(ready)).then_some(())
    };
    eventually("every pod after the reboot", MINUTE * 3, all_ready).unwrap();
    app.await_captured(&release, MINUTE * 2);
    app.await_cluster();
    eventually("service after the reboot", Duration::from_secs(30), || {
        let ask = ["curl", "-sf", "-m", "4", "http://echo/"];
        let answered = |pod: &&str| app.space.exec(pod, &ask).is_ok();
        ["load", "client"].iter().all(answered).then_some(())
    })
    .unwrap();
    app.forgive();
    app.nothing_lost("after the reboot");
    // By name: the cluster's DNS has come back on one node after the other.
    eventually("twenty answers in a row by name", MINUTE, || {
        let versions = app.versions(20, "");
        versions.iter().all(|version| version != "failed").then_some(())
    })
    .unwrap();
}
