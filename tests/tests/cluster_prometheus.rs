//! A real Prometheus with the usual discovery by annotations, the chart's rules and the chart's dashboards.
#![cfg(feature = "cluster")]
#![allow(
    clippy::unwrap_used,
    reason = "what fails here fails the test that asked for it"
)]

use mesh_tests::cluster::{Cluster, image};
use mesh_tests::cluster_prometheus::Prometheus;
use mesh_tests::eventually;
use mesh_tests::release::{Release, chart};
use serde_json::Value;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(90);
/// What the dashboards ask, with Grafana's variables filled in.
fn dashboard_queries() -> Vec<String> {
    let mut queries = Vec::new();
    for entry in std::fs::read_dir(chart().join("files/dashboards")).unwrap() {
        let board: Value = serde_json::from_slice(&std::fs::read(entry.unwrap().path()).unwrap()).unwrap();
        for panel in board["panels"].as_array().unwrap() {
            for target in panel["targets"].as_array().into_iter().flatten() {
                let query = target["expr"].as_str().unwrap();
                let query = query
                    .replace("$__rate_interval", "30s")
                    .replace("$instance", ".*");
                queries.push(query.replace("$reporter", "source").replace("$namespace", ".*"));
            }
        }
    }
    queries
}

#[test]
fn every_pod_of_heddle_is_scraped_by_its_annotations_and_no_alert_is_raised() {
    let cluster = Cluster::current().unwrap();
    if !cluster.is_own() {
        eprintln!("NOT RUN: Prometheus runs on a node, which only those of `cargo xtask cluster` allow");
        return;
    }
    let nodes = cluster.ready_nodes().unwrap();
    let image = image();
    let (repository, tag) = image.rsplit_once(':').unwrap();
    let (repository, tag) = (
        format!("image.repository={repository}"),
        format!("image.tag={tag}"),
    );
    let release = Release::install(&cluster, &["--set", &repository, "--set-string", &tag]).unwrap();
    let space = &release.space;
    for workload in ["daemonset/heddle-agent", "deployment/heddle-controller"] {
        space.rolled_out(workload, LIMIT).unwrap();
    }
    let prometheus = Prometheus::start(&cluster, &nodes[0], &space.name);
    for (app, wanted) in [("heddle-agent", nodes.len()), ("heddle-controller", 2)] {
        let query = format!("sum(up{{app=\"{app}\"}})");
        let what = format!("{wanted} targets of {app} that are up");
        eventually(&what, LIMIT, || {
            (prometheus.number(&query)? as usize == wanted).then_some(())
        })
        .unwrap();
        let targets = format!("count(up{{app=\"{app}\"}})");
        assert_eq!(
            prometheus.number(&targets),
            Some(wanted as f64),
            "{app}: a target too many"
        );
    }
    eventually("recorded series", LIMIT, || {
        prometheus.number("count(instance:heddle_bpf_map_entries:ratio)")
    })
    .unwrap();
    let rules = prometheus.ask("rules", "").unwrap();
    for group in rules["data"]["groups"].as_array().unwrap() {
        for rule in group["rules"].as_array().unwrap() {
            assert_eq!(rule["health"], "ok", "{rule}");
        }
    }
    let alerts = prometheus.ask("query", "ALERTS{alertstate=\"firing\"}").unwrap();
    assert_eq!(
        alerts["data"]["result"].as_array().map(Vec::len),
        Some(0),
        "{alerts}"
    );
    for query in dashboard_queries() {
        let answer = prometheus.ask("query", &query).unwrap();
        assert_eq!(answer["status"], "success", "{query}: {answer}");
    }
}
