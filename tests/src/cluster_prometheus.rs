//! A real Prometheus on a cluster, with the usual discovery by annotations. Its methods fail as tests do.

#![allow(
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    reason = "what fails here fails the test that asked for it"
)]

use crate::cluster::Cluster;
use crate::release::chart;
use serde_json::{Value, json};
use std::path::PathBuf;

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
#[derive(Debug)]
pub struct Prometheus {
    cluster: Cluster,
    node: String,
    pid: String,
    dir: PathBuf,
}

impl Prometheus {
    /// Starts it on a node, with the pods of a namespace as its targets and the chart's rules.
    #[must_use]
    pub fn start(cluster: &Cluster, node: &str, namespace: &str) -> Self {
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

    /// The answer to a query (`query`) or to anything else under `/api/v1/`; none if it does not answer.
    #[must_use]
    pub fn ask(&self, path: &str, query: &str) -> Option<Value> {
        let url = format!("http://{ADDRESS}/api/v1/{path}");
        let query = format!("query={query}");
        let curl = ["curl", "-sS", "-m", "5", "-G", &url, "--data-urlencode", &query];
        let answer = self.cluster.node_exec(&self.node, &curl).ok()?;
        serde_json::from_str(&answer).ok()
    }

    /// The value of a query that gives one number.
    #[must_use]
    pub fn number(&self, query: &str) -> Option<f64> {
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
