//! What the mesh does while others are away: the API server, the CA, and the versions that an API server has forgotten.
#![cfg(feature = "cluster")]
#![allow(
    clippy::unwrap_used,
    reason = "what fails here fails the test that asked for it"
)]

use mesh_tests::cluster::{Cluster, PodAt};
use mesh_tests::cluster_app::{App, statuses};
use mesh_tests::eventually;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

const MINUTE: Duration = Duration::from_secs(60);

/// For how long the API server stays away; `HEDDLE_TEST_AWAY_SECONDS=600` is what the mesh is meant to survive.
fn away() -> Duration {
    let seconds = std::env::var("HEDDLE_TEST_AWAY_SECONDS").ok();
    Duration::from_secs(seconds.and_then(|text| text.parse().ok()).unwrap_or(25))
}

#[test]
fn endpoints_that_die_while_the_api_server_is_away_are_left_by_connect_failures() {
    let cluster = Cluster::current().unwrap();
    if !cluster.is_own() {
        eprintln!("NOT RUN: needs a cluster of `cargo xtask cluster`");
        return;
    }
    let (app, release) = App::in_mesh(&cluster, &[]);
    app.nothing_lost("enrolment");

    let load_on = app.space.pods("load").unwrap()[0].node.clone();
    let echoes = app.space.pods("echo").unwrap();
    let doomed = echoes
        .iter()
        .find(|pod| pod.node != load_on)
        .unwrap()
        .node
        .clone();
    // Without its API server nothing can be asked of a pod: the load's files are read on its node.
    let failed = |node: &str| {
        let read = "for p in $(pgrep -f 'while :'); do cat /proc/$p/root/tmp/failed 2>/dev/null; done | sort -u; true";
        cluster.node_exec(node, &["sh", "-c", read]).unwrap()
    };
    let began = Instant::now();
    cluster.stop("cp", "kube-apiserver").unwrap();
    // Nobody starts them again.
    cluster.stop(&doomed, "kubelet").unwrap();
    cluster
        .node_exec(&doomed, &["sh", "-c", "kill -9 $(pgrep -x echo)"])
        .unwrap();
    // What was under way is lost; what comes later is not.
    std::thread::sleep(Duration::from_secs(2));
    let at_first = failed(&load_on);
    std::thread::sleep(away().saturating_sub(began.elapsed()));
    let at_last = failed(&load_on);
    cluster.start(&doomed, "kubelet").unwrap();
    cluster.start_api_server().unwrap();
    assert_eq!(at_last, at_first, "lost although two endpoints of four live");
    assert!(
        at_first.lines().count() <= 5,
        "lost by the deaths alone: {at_first}"
    );
    let (asked, _) = app.load();
    assert!(asked > 100, "{asked} requests");

    app.await_cluster();
    app.forgive();
    app.nothing_lost("API server away");
    app.await_captured(&release, MINUTE);
}

#[test]
fn a_ca_that_is_away_through_a_renewal_costs_nothing_and_is_asked_again() {
    let cluster = Cluster::current().unwrap();
    let (app, release) = App::in_mesh(&cluster, &["--set", "ca.certTtlSeconds=100"]);
    app.forgive();
    let certificates = || -> Vec<Value> {
        let statuses = statuses(&release);
        let all = statuses
            .iter()
            .filter_map(|status| status["certificates"].as_array())
            .flatten();
        let all = all.filter(|c| {
            c["identity"]
                .as_str()
                .is_some_and(|id| id.contains(&app.space.name))
        });
        all.cloned().collect()
    };
    let serials = || -> BTreeSet<String> { certificates().iter().map(|c| c["serial"].to_string()).collect() };
    let scale = |replicas: &str| {
        let replicas = format!("--replicas={replicas}");
        let target = ["-n", &release.space.name, "scale", "deployment/heddle-controller"];
        cluster.kubectl(&[&target[..], &[&replicas]].concat()).unwrap();
    };
    // Fresh ones, so that what follows has its time.
    let old = serials();
    eventually("new certificates", MINUTE * 2, || {
        let now = serials();
        (!old.is_empty() && now.len() == old.len() && now.is_disjoint(&old)).then_some(())
    })
    .unwrap();
    let fresh = serials();
    scale("0");
    eventually("a renewal that fails", MINUTE * 2, || {
        let all = certificates();
        let overdue = |c: &Value| c["state"] != "Valid" && !c["last_error"].is_null();
        (all.len() == fresh.len() && all.iter().all(overdue)).then_some(())
    })
    .unwrap();
    assert_eq!(serials(), fresh, "the certificates that there were are in use");
    app.nothing_lost("CA away");
    scale("2");
    eventually("renewed certificates", MINUTE, || {
        let now = serials();
        (now.len() == fresh.len() && now.is_disjoint(&fresh)).then_some(())
    })
    .unwrap();
    app.nothing_lost("CA back");
}

/// A watch that begins anew at a version that the API server does not remember is answered with 410 Gone, and the whole
/// kind is listed: what went meanwhile is learnt from its absence.
#[test]
fn after_a_version_that_is_gone_what_went_goes_and_what_is_there_stays() {
    let cluster = Cluster::current().unwrap();
    if !cluster.is_own() {
        eprintln!("NOT RUN: needs a cluster of `cargo xtask cluster`");
        return;
    }
    let (app, release) = App::in_mesh(&cluster, &[]);
    let service = |name: &str| {
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
            "spec": {"selector": {"app": "echo"}, "ports": [{"name": "http", "port": 8080}]}})
    };
    let make = |name: &str| {
        app.space.apply(&service(name).to_string()).unwrap();
        let found = cluster
            .json(&["-n", &app.space.name, "get", "service", name])
            .unwrap();
        found["spec"]["clusterIP"].as_str().unwrap().to_owned()
    };
    // Only the mesh adds this header, and the echo server tells what it got.
    let answers = |ip: &str| {
        let url = format!("http://{ip}:8080/");
        let said = app
            .space
            .exec("client", &["curl", "-sf", "-m", "2", url.as_str()]);
        said.is_ok_and(|answer| answer.contains("X-Request-Id"))
    };
    let (stays, goes) = (make("stays"), make("goes"));
    eventually("both services", MINUTE, || {
        (answers(&stays) && answers(&goes)).then_some(())
    })
    .unwrap();
    let relists = || -> f64 {
        let agents = release.space.pods("heddle-agent").unwrap();
        let of = |agent: &PodAt| {
            let path = format!(
                "/api/v1/namespaces/{}/pods/{}:15020/proxy/metrics",
                release.space.name, agent.name
            );
            let text = cluster.kubectl(&["get", "--raw", &path]).unwrap();
            let line = text
                .lines()
                .find(|line| line.starts_with("heddle_source_relists_total{kind=\"Service\"}"));
            line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
                .unwrap()
        };
        agents.iter().map(of).fold(f64::INFINITY, f64::min)
    };
    let before = relists();

    // The agents sleep through it all; the new API server remembers nothing of what they know.
    let nodes = cluster.ready_nodes().unwrap();
    let signal = |name: &str| {
        let kill = format!("kill -{name} $(pgrep -f '^[^ ]*mesh-agent run')");
        for node in &nodes {
            cluster.node_exec(node, &["sh", "-c", &kill]).unwrap();
        }
    };
    signal("STOP");
    let comes = make("comes");
    cluster
        .kubectl(&["-n", &app.space.name, "delete", "service", "goes"])
        .unwrap();
    cluster.stop("cp", "kube-apiserver").unwrap();
    cluster.start_api_server().unwrap();
    signal("CONT");
    eventually("what is there now", MINUTE * 2, || {
        (answers(&comes) && !answers(&goes)).then_some(())
    })
    .unwrap();
    assert!(answers(&stays));
    assert!(relists() > before, "no list was read again: nothing is proven");
    app.await_captured(&release, MINUTE);
    app.forgive();
    app.nothing_lost("410 Gone");
}
