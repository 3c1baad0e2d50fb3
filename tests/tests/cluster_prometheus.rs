//! A real Prometheus with the usual discovery by annotations, the chart's rules and the chart's dashboards.
#![cfg(feature = "cluster")]
#![allow(
    clippy::unwrap_used,
    reason = "what fails here fails the test that asked for it"
)]

use mesh_tests::cluster::{Cluster, image};
use mesh_tests::eventually;
use mesh_tests::release::{Release, chart};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(90);
const ADDRESS: &str = "127.0.0.1:9099";

/// The pods' job of Prometheus' own example for Kubernetes (documentation/examples/prometheus-kubernetes.yml). The
/// distribution's Prometheus is built without `kubernetes_sd_configs`; [`discovered`] gives the same targets and labels.
const CONFIG: &str = r"
global: {scrape_interval: 1s, evaluation_interval: 1s}
rule_files: [RULES]
scrape_configs:
- job_name: kubernetes-pods
  file_sd_configs:
  - files: [TARGETS]
    refresh_interval: 1s
  relabel_configs:
  - {source_labels: [__meta_kubernetes_pod_annotation_prometheus_io_scrape], action: keep, regex: true}
  - {source_labels: [__meta_kubernetes_pod_annotation_prometheus_io_path], action: replace, target_label: __metrics_path__, regex: (.+)}
  - {source_labels: [__address__, __meta_kubernetes_pod_annotation_prometheus_io_port], action: replace, regex: '([^:]+)(?::\d+)?;(\d+)', replacement: '$1:$2', target_label: __address__}
  - {action: labelmap, regex: __meta_kubernetes_pod_label_(.+)}
  - {source_labels: [__meta_kubernetes_namespace], action: replace, target_label: namespace}
  - {source_labels: [__meta_kubernetes_pod_name], action: replace, target_label: pod}
";

/// Targets as `role: pod` finds them: one for each declared port, or the pod's bare address if there is none.
fn discovered(pods: &Value) -> Vec<Value> {
    let mut targets = Vec::new();
    for pod in pods["items"].as_array().unwrap() {
        let meta = &pod["metadata"];
        let mut labels = json!({
            "__meta_kubernetes_namespace": meta["namespace"],
            "__meta_kubernetes_pod_name": meta["name"],
        });
        for (kind, field) in [("label", "labels"), ("annotation", "annotations")] {
            for (key, value) in meta[field].as_object().into_iter().flatten() {
                let key = key.replace(|c: char| !c.is_ascii_alphanumeric(), "_");
                labels[format!("__meta_kubernetes_pod_{kind}_{key}")] = value.clone();
            }
        }
        let ip = pod["status"]["podIP"].as_str().unwrap();
        let ports = pod["spec"]["containers"][0]["ports"].as_array();
        let mut addresses: Vec<String> = ports
            .into_iter()
            .flatten()
            .map(|port| format!("{ip}:{}", port["containerPort"]))
            .collect();
        if addresses.is_empty() {
            addresses.push(ip.to_owned());
        }
        targets.push(json!({"targets": addresses, "labels": labels}));
    }
    targets
}

/// Prometheus as a process of a node, so that it reaches the pods.
struct Prometheus {
    cluster: Cluster,
    node: String,
    pid: String,
    dir: PathBuf,
}

impl Prometheus {
    fn start(cluster: &Cluster, node: &str, namespace: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("prometheus-{namespace}"));
        std::fs::create_dir_all(&dir).unwrap();
        let rules = chart().join("files/rules/heddle.yaml").canonicalize().unwrap();
        let config = CONFIG
            .replace("RULES", rules.to_str().unwrap())
            .replace("TARGETS", dir.join("targets.json").to_str().unwrap());
        let place = dir.display();
        let targets = discovered(&cluster.json(&["-n", namespace, "get", "pods"]).unwrap());
        std::fs::write(dir.join("targets.json"), Value::from(targets).to_string()).unwrap();
        std::fs::write(dir.join("prometheus.yml"), config).unwrap();
        let start = format!(
            "cd {place} && setsid prometheus --config.file={place}/prometheus.yml --storage.tsdb.path={place}/data \
             --web.listen-address={ADDRESS} >{place}/log 2>&1 </dev/null & echo $!"
        );
        let pid = cluster.node_exec(node, &["sh", "-c", &start]).unwrap();
        Self {
            cluster: cluster.clone(),
            node: node.to_owned(),
            pid: pid.trim().to_owned(),
            dir,
        }
    }

    fn ask(&self, path: &str, query: &str) -> Option<Value> {
        let url = format!("http://{ADDRESS}/api/v1/{path}");
        let query = format!("query={query}");
        let curl = ["curl", "-sS", "-m", "5", "-G", &url, "--data-urlencode", &query];
        let answer = self.cluster.node_exec(&self.node, &curl).ok()?;
        serde_json::from_str(&answer).ok()
    }

    /// The value of a query that gives one number.
    fn number(&self, query: &str) -> Option<f64> {
        let answer = self.ask("query", query)?;
        answer["data"]["result"][0]["value"][1].as_str()?.parse().ok()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let log = std::fs::read_to_string(self.dir.join("log")).unwrap_or_default();
        let _ = self.cluster.node_exec(&self.node, &["kill", &self.pid]);
        if std::thread::panicking() {
            eprintln!("{log}");
        }
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

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
