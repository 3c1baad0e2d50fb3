//! What Kiali and Istio's own Grafana dashboards ask of Prometheus, each answered with something while the mesh is used.
//!
//! The expressions are theirs (Kiali v2.27 `prometheus/metrics.go` and `graph/telemetry/istio`; Istio's dashboards mesh,
//! service, workload and ztunnel), with the variables of Grafana filled in. What none of them gets an answer to is
//! counted by families that only Istio's control plane and Envoy have, and is not asked here.
#![cfg(feature = "cluster")]
#![allow(
    clippy::unwrap_used,
    reason = "what fails here fails the test that asked for it"
)]

use mesh_tests::cluster::{CLIENT, Cluster, ECHO};
use mesh_tests::cluster_app::install;
use mesh_tests::cluster_prometheus::Prometheus;
use mesh_tests::eventually;
use serde_json::{Value, json};
use std::time::Duration;

const MINUTE: Duration = Duration::from_secs(60);

/// What Kiali groups its graph by: an edge without one of them is dropped.
const GROUP: &str = "source_cluster,source_workload_namespace,source_workload,source_canonical_service,\
                     source_canonical_revision,destination_cluster,destination_service_namespace,destination_service,\
                     destination_service_name,destination_workload_namespace,destination_workload,\
                     destination_canonical_service,destination_canonical_revision";

/// Expressions; NS is the application's namespace.
fn expressions() -> Vec<String> {
    let mut all = Vec::new();
    let kiali = [
        (
            "istio_requests_total",
            "source",
            ",request_protocol,response_code,grpc_response_status,response_flags",
        ),
        (
            "istio_requests_total",
            "destination",
            ",request_protocol,response_code,grpc_response_status,response_flags",
        ),
        ("istio_tcp_sent_bytes_total", "source", ",response_flags"),
        ("istio_tcp_received_bytes_total", "destination", ",response_flags"),
        ("istio_request_messages_total", "source", ""),
        ("istio_response_messages_total", "source", ""),
    ];
    for (metric, reporter, more) in kiali {
        all.push(format!(
            "sum(rate({metric}{{reporter=\"{reporter}\",source_workload_namespace=\"NS\"}}[30s])) by ({GROUP}{more}) > 0"
        ));
    }
    let families = [
        "istio_request_duration_milliseconds",
        "istio_request_bytes",
        "istio_response_bytes",
    ];
    for family in families {
        for reporter in ["source", "destination"] {
            all.push(format!(
                "histogram_quantile(0.95, sum(rate({family}_bucket{{reporter=\"{reporter}\",destination_workload=~\"echo\",\
                 destination_workload_namespace=~\"NS\"}}[30s])) by (le, source_workload, source_workload_namespace))"
            ));
            all.push(format!(
                "sum(rate({family}_sum{{reporter=\"{reporter}\",destination_service_namespace=\"NS\"}}[30s])) / \
                 sum(rate({family}_count{{reporter=\"{reporter}\",destination_service_namespace=\"NS\"}}[30s]))"
            ));
        }
    }
    let rest = [
        // Istio mesh dashboard.
        "round(sum(irate(istio_requests_total{reporter=~\"source|waypoint\"}[30s])), 0.01)",
        "sum(irate(istio_requests_total{reporter=~\"source|waypoint\",response_code!~\"5.*\"}[30s])) / \
         sum(irate(istio_requests_total{reporter=~\"source|waypoint\"}[30s]))",
        "label_join(sum(rate(istio_requests_total{reporter=~\"source|waypoint\",response_code=\"200\"}[30s])) by \
         (destination_workload,destination_workload_namespace,destination_service), \"destination_workload_var\", \".\", \
         \"destination_workload\", \"destination_workload_namespace\")",
        "sum(rate(istio_tcp_received_bytes_total{reporter=~\"source|waypoint\"}[30s])) by \
         (destination_workload,destination_workload_namespace,destination_service)",
        "sum(istio_build) by (component, tag)",
        // Istio service dashboard.
        "sum(irate(istio_requests_total{connection_security_policy=\"mutual_tls\",reporter=\"destination\",\
         destination_service=~\"echo.NS.svc.cluster.local\"}[30s])) by (source_workload, source_workload_namespace, response_code)",
        "sum(irate(istio_requests_total{connection_security_policy!=\"mutual_tls\",reporter=\"destination\",\
         destination_service=~\"echo.NS.svc.cluster.local\"}[30s])) by (source_workload, response_code)",
        "sum(irate(istio_tcp_sent_bytes_total{reporter=\"destination\",destination_service=~\"back.NS.svc.cluster.local\"}[30s]))",
        "sum(irate(istio_requests_total{reporter=\"source\",destination_service=~\"echo.NS.svc.cluster.local\",\
         request_protocol=\"grpc\"}[30s])) by (grpc_response_status)",
        // Istio workload dashboard.
        "round(sum(irate(istio_requests_total{reporter=\"source\",source_workload=~\"load\",\
         source_workload_namespace=~\"NS\"}[30s])) by (destination_service, response_code), 0.001)",
        "sum(irate(istio_requests_total{reporter=~\"destination\",destination_workload_namespace=~\"NS\",\
         destination_workload=~\"echo\"}[30s])) by (source_principal, destination_principal)",
        // Istio ztunnel dashboard, and Kiali's of TCP.
        "sum by (source_workload) (rate(istio_tcp_connections_opened_total{source_workload_namespace=\"NS\"}[30s]))",
        "sum by (source_workload) (rate(istio_tcp_connections_closed_total{source_workload_namespace=\"NS\"}[30s]))",
        // Flagger.
        "sum(rate(istio_requests_total{reporter=\"destination\",destination_workload_namespace=\"NS\",\
         destination_workload=~\"echo\",response_code!~\"5.*\"}[30s])) / sum(rate(istio_requests_total{\
         reporter=\"destination\",destination_workload_namespace=\"NS\",destination_workload=~\"echo\"}[30s])) * 100",
    ];
    all.extend(rest.map(str::to_owned));
    all
}

#[test]
fn every_expression_of_kiali_and_of_istios_dashboards_is_answered_under_traffic() {
    let cluster = Cluster::current().unwrap();
    if !cluster.is_own() {
        eprintln!("NOT RUN: Prometheus runs on a node, which only those of `cargo xtask cluster` allow");
        return;
    }
    let nodes = cluster.ready_nodes().unwrap();
    let release = install(&cluster, &[]);
    let space = cluster.namespace("boards").unwrap();
    let label = ["label", "namespace", &space.name, "heddle.io/mesh=enabled"];
    cluster.kubectl(&label).unwrap();
    let asking = "while :; do curl -s -m 4 -o /dev/null http://echo/; echo-client grpc echo:9090; echo hello | nc -w 1 back 7000; \
                  sleep 0.2; done";
    let container = |image: &str, command: Option<Value>| {
        let mut container = json!({"name": "c", "image": image, "imagePullPolicy": "IfNotPresent"});
        if let Some(command) = command {
            container["command"] = command;
        }
        container
    };
    let daemons = |name: &str, container: Value| {
        json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": name},
            "spec": {"selector": {"matchLabels": {"app": name}}, "template": {"metadata": {"labels": {"app": name, "version": "v1"}},
                "spec": {"terminationGracePeriodSeconds": 0, "containers": [container]}}}})
    };
    let service = |name: &str, ports: Value| json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": {"selector": {"app": name}, "ports": ports}});
    let http = json!([{"name": "http", "port": 80, "targetPort": 8080}, {"name": "grpc", "port": 9090}]);
    let list = json!({"apiVersion": "v1", "kind": "List", "items": [
        service("echo", http),
        service("back", json!([{"name": "tcp", "port": 7000}])),
        daemons("echo", container(ECHO, None)),
        daemons("back", container(CLIENT, Some(json!(["nc", "-ll", "-p", "7000", "-e", "/bin/cat"])))),
        daemons("load", container(CLIENT, Some(json!(["sh", "-c", asking])))),
    ]});
    space.apply(&list.to_string()).unwrap();
    for workload in ["daemonset/echo", "daemonset/back", "daemonset/load"] {
        space.rolled_out(workload, MINUTE).unwrap();
    }
    let prometheus = Prometheus::start(&cluster, &nodes[0], &release.space.name);
    let answered = |expression: &str| {
        let query = expression.replace("NS", &space.name);
        let answer = prometheus.ask("query", &query)?;
        let values = answer["data"]["result"].as_array()?;
        let number = |row: &Value| row["value"][1].as_str().is_some_and(|value| value != "NaN");
        values.iter().any(number).then_some(())
    };
    let mut unanswered = expressions();
    let all = unanswered.len();
    let _ = eventually("every answer", MINUTE * 2, || {
        unanswered.retain(|expression| answered(expression).is_none());
        unanswered.is_empty().then_some(())
    });
    assert!(
        unanswered.is_empty(),
        "{} of {all} have no answer:\n{}",
        unanswered.len(),
        unanswered.join("\n")
    );
}
