//! The agent with exactly the privileges that the chart gives, and with one less.
#![cfg(feature = "cluster")]
#![allow(
    clippy::unwrap_used,
    reason = "what fails here fails the test that asked for it"
)]

use mesh_tests::cluster::{CLIENT, Cluster, Namespace, image};
use mesh_tests::eventually;
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);
/// By which the pod's process is found on its node; the newest, as an earlier run's may be ending.
const MARK: &str = "86399";

/// One node with a pod of the mesh that runs as an ordinary user, and an agent on a folder.
struct Stage {
    cluster: Cluster,
    space: Namespace,
    node: String,
    pod: Value,
}

impl Stage {
    fn open() -> Self {
        let cluster = Cluster::current().unwrap();
        let space = cluster.namespace("privileges").unwrap();
        let node = cluster.ready_nodes().unwrap().remove(0);
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "victim", "labels": {"app": "victim"}},
            "spec": {
                "nodeName": node, "terminationGracePeriodSeconds": 0, "securityContext": {"runAsUser": 1000},
                "containers": [{"name": "sleep", "image": CLIENT, "imagePullPolicy": "IfNotPresent", "command": ["sleep", MARK]}],
            },
        });
        space.apply(&pod.to_string()).unwrap();
        let ready = [
            "-n",
            &space.name,
            "wait",
            "--for=condition=Ready",
            "pod/victim",
            "--timeout=60s",
        ];
        cluster.kubectl(&ready).unwrap();
        let pid = cluster
            .node_exec(&node, &["pgrep", "-n", "-f", &format!("^sleep {MARK}")])
            .unwrap();
        let mut pod = cluster
            .json(&["-n", &space.name, "get", "pod", "victim"])
            .unwrap();
        pod["metadata"]["annotations"] = json!({"heddle.io/netns": format!("/proc/{}/ns/net", pid.trim())});
        Self {
            cluster,
            space,
            node,
            pod,
        }
    }

    /// The chart's agent, less one capability, on a folder with the pod in place of the API server.
    fn agent(&self, without: Option<&str>) -> Value {
        let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/heddle");
        let mut args = vec![
            "template",
            "heddle",
            chart.to_str().unwrap(),
            "-n",
            &self.space.name,
        ];
        args.extend([
            "--kube-version",
            "1.34.0",
            "--set",
            "cni.enabled=false",
            "-s",
            "templates/agent-daemonset.yaml",
        ]);
        let text = self.cluster.helm(&args).unwrap();
        let mut agent: Value = serde_saphyr::from_str(&text).unwrap();
        let pod = &mut agent["spec"]["template"]["spec"];
        pod["nodeName"] = json!(self.node);
        pod["serviceAccountName"] = json!("default");
        pod["terminationGracePeriodSeconds"] = json!(2);
        pod["volumes"]
            .as_array_mut()
            .unwrap()
            .push(json!({"name": "config", "configMap": {"name": "config"}}));
        let container = &mut pod["containers"][0];
        container["image"] = json!(image());
        container["args"] = json!([
            "run",
            "--config=/config",
            "--ca-dir=/run/heddle/privileges/ca",
            "--state-dir=/run/heddle/privileges",
            "--bpf-dir=/sys/fs/bpf/heddle-privileges",
            "--drain-seconds=0",
        ]);
        let socket = json!({"name": "HEDDLE_ADMIN_SOCKET", "value": "/run/heddle/privileges/admin.sock"});
        container["env"].as_array_mut().unwrap().push(socket);
        container["volumeMounts"]
            .as_array_mut()
            .unwrap()
            .push(json!({"name": "config", "mountPath": "/config"}));
        let capabilities = container["securityContext"]["capabilities"]["add"]
            .as_array_mut()
            .unwrap();
        capabilities.retain(|capability| capability.as_str() != without);
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "agent", "namespace": self.space.name},
            "spec": {
                "replicas": 1, "strategy": {"type": "Recreate"},
                "selector": agent["spec"]["selector"], "template": agent["spec"]["template"],
            },
        })
    }

    /// Runs that agent, and gives what it says of the pod; if it cannot even say, its last words.
    fn verdict(&self, without: Option<&str>) -> String {
        let space = json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": self.space.name, "labels": {"heddle.io/mesh": "enabled"}},
        });
        let config = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "config"},
            "data": {"namespace.yaml": space.to_string(), "pod.yaml": self.pod.to_string()},
        });
        self.space.apply(&config.to_string()).unwrap();
        self.space.apply(&self.agent(without).to_string()).unwrap();
        let verdict = eventually("the agent's verdict", LIMIT, || {
            std::thread::sleep(Duration::from_millis(500));
            self.status().or_else(|| self.last_words())
        });
        self.remove();
        verdict.unwrap()
    }

    fn status(&self) -> Option<String> {
        let status = ["-n", &self.space.name, "exec", "deployment/agent", "--"];
        let heddle = ["heddle", "status", "--output", "json"];
        let answer = self.cluster.kubectl(&[&status[..], &heddle[..]].concat()).ok()?;
        let status: Value = serde_json::from_str(&answer).ok()?;
        let why = status["pods"][0]["why"].as_str()?;
        // Until it has tried, the agent says why the pod is enrolled.
        let tried = why == "captured" || why.starts_with("cannot");
        (status["agent"]["ready"] == true && tried).then(|| why.to_owned())
    }

    fn last_words(&self) -> Option<String> {
        let pods = ["-n", &self.space.name, "get", "pods", "-l", "app=heddle-agent"];
        let pods = self.cluster.json(&pods).ok()?;
        let state = &pods["items"][0]["status"]["containerStatuses"][0];
        let ended = ["lastState", "state"].map(|when| state[when]["terminated"]["message"].as_str());
        ended.into_iter().flatten().next().map(str::to_owned)
    }

    fn remove(&self) {
        let gone = [
            "-n",
            &self.space.name,
            "delete",
            "deployment/agent",
            "--cascade=foreground",
        ];
        self.cluster.kubectl(&gone).unwrap();
        let files = [
            "rm",
            "-rf",
            "/sys/fs/bpf/heddle-privileges",
            "/run/heddle/privileges",
        ];
        self.cluster.node_exec(&self.node, &files).unwrap();
    }
}

#[test]
fn the_agent_captures_with_the_charts_capabilities_and_with_none_of_them_missing() {
    if !Cluster::current().unwrap().is_own() {
        eprintln!("NOT RUN: this looks into the nodes, which only those of `cargo xtask cluster` allow");
        return;
    }
    let stage = Stage::open();
    assert_eq!(stage.verdict(None), "captured");
    let table = [
        ("SYS_PTRACE", "cannot open its network namespace"),
        ("NET_ADMIN", "cannot listen in its network namespace"),
        ("SYS_ADMIN", "failed to create map"),
    ];
    for (capability, words) in table {
        let verdict = stage.verdict(Some(capability));
        assert!(verdict.contains(words), "without {capability}: {verdict}");
    }
}
