//! Every kind of pod that users have, in the mesh: probes, stateful sets, sidecars, static pods; and mutual TLS only.
#![cfg(feature = "cluster")]
#![allow(
    clippy::unwrap_used,
    reason = "what fails here fails the test that asked for it"
)]

use mesh_tests::cluster::{CLIENT, Cluster, ECHO, Namespace};
use mesh_tests::cluster_app::{install, statuses};
use mesh_tests::eventually;
use mesh_tests::process::built;
use mesh_tests::release::Release;
use serde_json::{Value, json};
use std::process::Command;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(20);
const MINUTE: Duration = Duration::from_secs(60);

fn container(name: &str, image: &str, more: &Value) -> Value {
    let mut container = json!({"name": name, "image": image, "imagePullPolicy": "IfNotPresent"});
    let (into, more) = (container.as_object_mut().unwrap(), more.as_object().unwrap());
    into.extend(more.clone());
    container
}

fn client(name: &str) -> Value {
    container(name, CLIENT, &json!({"command": ["sleep", "infinity"]}))
}

fn pod(name: &str, spec: Value) -> Value {
    let mut spec = spec;
    spec["terminationGracePeriodSeconds"] = json!(0);
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}}, "spec": spec})
}

fn service(name: &str, selector: &str, cluster_ip: Option<&str>) -> Value {
    let mut service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {"selector": {"app": selector}, "ports": [{"name": "http", "port": 8080}]}});
    if let Some(ip) = cluster_ip {
        service["spec"]["clusterIP"] = json!(ip);
    }
    service
}

/// A mesh with one namespace in it.
struct Stage {
    cluster: Cluster,
    release: Release,
    space: Namespace,
}

impl Stage {
    fn open() -> Self {
        let cluster = Cluster::current().unwrap();
        let release = install(&cluster, &[]);
        let space = cluster.namespace("pods").unwrap();
        let label = ["label", "namespace", &space.name, "heddle.io/mesh=enabled"];
        cluster.kubectl(&label).unwrap();
        Self {
            cluster,
            release,
            space,
        }
    }

    fn apply(&self, objects: &[Value]) {
        let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
        self.space.apply(&list.to_string()).unwrap();
    }

    fn ready(&self, pod: &str) {
        let object = format!("pod/{pod}");
        self.cluster
            .wait(&self.space.name, &object, "condition=Ready", MINUTE)
            .unwrap();
    }

    /// What the agents say of a pod.
    fn status(&self, pod: &str) -> Option<Value> {
        let name = format!("{}/{pod}", self.space.name);
        let statuses = statuses(&self.release);
        let pods = statuses
            .iter()
            .flat_map(|s| s["pods"].as_array().into_iter().flatten());
        let mut here = pods.filter(|row| row["pod"] == name.as_str() && row["why"] != "on another node");
        here.next().cloned()
    }

    fn captured(&self, pod: &str) {
        eventually(&format!("{pod} to be captured"), MINUTE, || {
            (self.status(pod)?["captured"] == true).then_some(())
        })
        .unwrap();
    }

    /// The echo server's answer to a container of a pod.
    fn get(&self, pod: &str, container: &str, url: &str) -> Option<Value> {
        let exec = ["-n", &self.space.name, "exec", pod, "-c", container, "--"];
        let curl = ["curl", "-sf", "-m", "4", url];
        let answer = self.cluster.kubectl(&[&exec[..], &curl].concat()).ok()?;
        serde_json::from_str(&answer).ok()
    }

    /// Asks until there is an answer, and looks whether it came through the mesh: nobody else adds this header.
    fn in_the_mesh(&self, pod: &str, container: &str, url: &str) -> Value {
        let answer = eventually(&format!("{url} for {pod}/{container}"), SOON, || {
            self.get(pod, container, url)
        })
        .unwrap();
        assert!(
            answer["headers"]["X-Request-Id"].is_array(),
            "{pod}/{container}: {answer}"
        );
        answer
    }

    /// Restarts of all containers of a pod.
    fn restarts(&self, pod: &str) -> u64 {
        let pod = self
            .cluster
            .json(&["-n", &self.space.name, "get", "pod", pod])
            .unwrap();
        let containers =
            ["containerStatuses", "initContainerStatuses"].map(|of| pod["status"][of].as_array());
        let containers = containers.into_iter().flatten().flatten();
        containers.filter_map(|c| c["restartCount"].as_u64()).sum()
    }
}

/// Every kind of probe, each of which ends its container at the first failure.
fn probed() -> Value {
    let probe = |probe: Value| {
        let mut probe = probe;
        probe["periodSeconds"] = json!(1);
        probe["failureThreshold"] = json!(1);
        probe["timeoutSeconds"] = json!(5);
        probe
    };
    let startup = json!({"tcpSocket": {"port": 8080}, "periodSeconds": 1, "failureThreshold": 30});
    let http = json!({
        "ports": [{"name": "http", "containerPort": 8080}],
        "startupProbe": startup,
        "livenessProbe": probe(json!({"httpGet": {"path": "/live", "port": "http"}})),
        "readinessProbe": probe(json!({"grpc": {"port": 9090}})),
    });
    let exec = json!({"command": ["sleep", "infinity"],
        "livenessProbe": probe(json!({"exec": {"command": ["true"]}})),
        "readinessProbe": probe(json!({"tcpSocket": {"port": 9090}}))});
    pod(
        "probed",
        json!({"containers": [container("web", ECHO, &http), container("side", CLIENT, &exec)]}),
    )
}

fn strict() -> Value {
    json!({"apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication", "metadata": {"name": "strict"},
        "spec": {"mtls": {"mode": "STRICT"}}})
}

#[test]
fn mutual_tls_only_refuses_plaintext_and_every_probe_of_the_kubelet_stays_green() {
    let stage = Stage::open();
    let outside = stage.cluster.namespace("outside").unwrap();
    outside
        .apply(&pod("stranger", json!({"containers": [client("c")]})).to_string())
        .unwrap();
    stage.apply(&[
        probed(),
        service("probed", "probed", None),
        pod("client", json!({"containers": [client("c")]})),
    ]);
    for pod in ["probed", "client"] {
        stage.ready(pod);
        stage.captured(pod);
    }
    stage
        .cluster
        .wait(&outside.name, "pod/stranger", "condition=Ready", MINUTE)
        .unwrap();
    let target = format!("http://probed.{}:8080/", stage.space.name);
    let ask = [
        "curl",
        "-s",
        "-o",
        "/dev/null",
        "-m",
        "4",
        "-w",
        "%{http_code}",
        &target,
    ];
    let stranger = |what: &str, wanted: bool| {
        eventually(what, SOON, || {
            let answered = outside
                .exec("stranger", &ask)
                .is_ok_and(|code| code.trim() == "200");
            (answered == wanted).then_some(())
        })
        .unwrap();
    };
    stranger("plaintext to be taken", true);
    stage.apply(&[strict()]);
    stranger("plaintext to be refused", false);
    stage.in_the_mesh("client", "c", &target);
    let status = stage.status("probed").unwrap();
    assert_eq!(status["mutual_tls"], "STRICT");
    assert_eq!(status["mutual_tls_by"], format!("{}/strict", stage.space.name));

    // Five times of every probe, under an agent, without one, and under the next.
    std::thread::sleep(Duration::from_secs(5));
    let node = stage.space.pods("probed").unwrap()[0].node.clone();
    let kill = "kill -9 $(pgrep -f '^[^ ]*mesh-agent run')";
    if stage.cluster.is_own() {
        stage.cluster.node_exec(&node, &["sh", "-c", kill]).unwrap();
    }
    std::thread::sleep(Duration::from_secs(5));
    stage.captured("probed");
    stage.in_the_mesh("client", "c", &target);
    assert_eq!(stage.restarts("probed"), 0);
    stage.ready("probed");
    stranger("plaintext still to be refused", false);

    let of_port = json!({"apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication", "metadata": {"name": "port"},
        "spec": {"selector": {"matchLabels": {"app": "probed"}}, "portLevelMtls": {"8080": {"mode": "PERMISSIVE"}}}});
    stage.apply(&[of_port]);
    stranger("plaintext to one port to be taken", true);
    let why = Command::new(built("heddle").unwrap())
        .args([
            "status",
            "--mesh-namespace",
            &stage.release.space.name,
            "--output",
            "json",
        ])
        .env("KUBECONFIG", stage.cluster.kubeconfig())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&why.stdout).into_owned();
    assert!(said.contains("strict"), "{said}");
}

#[test]
fn pods_of_every_kind_are_in_the_mesh_or_it_is_said_why_not() {
    let stage = Stage::open();
    let echo = || container("web", ECHO, &json!({}));
    let stateful = json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "db"},
        "spec": {"serviceName": "db", "replicas": 2, "selector": {"matchLabels": {"app": "db"}}, "podManagementPolicy": "Parallel",
            "template": {"metadata": {"labels": {"app": "db"}},
                "spec": {"terminationGracePeriodSeconds": 0, "containers": [echo()]}}}});
    let mut sidecar = client("side");
    sidecar["restartPolicy"] = json!("Always");
    sidecar["startupProbe"] = json!({"exec": {"command": ["true"]}, "periodSeconds": 1});
    let ends = "trap 'exit 0' TERM; while :; do sleep 0.1; done";
    let restarting = container("c", CLIENT, &json!({"command": ["sh", "-c", ends]}));
    stage.apply(&[
        service("db", "db", Some("None")),
        stateful,
        pod(
            "sidecar",
            json!({"initContainers": [sidecar], "containers": [client("one"), client("two")]}),
        ),
        pod("host", json!({"hostNetwork": true, "containers": [client("c")]})),
        pod("restarting", json!({"containers": [restarting]})),
    ]);
    for pod in ["db-0", "db-1", "sidecar", "host", "restarting"] {
        stage.ready(pod);
    }
    for pod in ["db-0", "db-1", "sidecar", "restarting"] {
        stage.captured(pod);
    }
    let host = stage.status("host").unwrap();
    assert_eq!(host["captured"], false);
    assert!(host["why"].as_str().unwrap().contains("host network"), "{host}");

    // A pod that is named is the pod that answers.
    for container in ["side", "one", "two"] {
        for name in ["db-0", "db-1", "db-0", "db-1"] {
            let answer = stage.in_the_mesh("sidecar", container, &format!("http://{name}.db:8080/"));
            assert_eq!(answer["hostname"], name);
        }
    }

    let addressed = |pod: &str| stage.space.pods(pod).unwrap()[0].ip.clone();
    let address = addressed("restarting");
    stage.in_the_mesh("restarting", "c", "http://db-0.db:8080/");
    stage.space.exec("restarting", &["kill", "-TERM", "1"]).unwrap();
    eventually("the container's restart", MINUTE, || {
        (stage.restarts("restarting") == 1).then_some(())
    })
    .unwrap();
    stage.ready("restarting");
    stage.in_the_mesh("restarting", "c", "http://db-0.db:8080/");
    assert_eq!(addressed("restarting"), address, "another sandbox");
}

#[test]
fn a_static_pod_is_in_the_mesh() {
    let stage = Stage::open();
    if !stage.cluster.is_own() {
        eprintln!(
            "NOT RUN: this writes a manifest on a node, which only those of `cargo xtask cluster` allow"
        );
        return;
    }
    let node = stage.cluster.ready_nodes().unwrap().remove(0);
    stage.apply(&[
        pod(
            "echo",
            json!({"containers": [container("web", ECHO, &json!({}))]}),
        ),
        service("echo", "echo", None),
    ]);
    stage.ready("echo");
    let mut manifest = pod("static", json!({"containers": [client("c")]}));
    manifest["metadata"]["namespace"] = json!(stage.space.name);
    let file = format!("/etc/kubernetes/manifests/{}.json", stage.space.name);
    let write = format!("printf %s '{manifest}' >{file}");
    stage.cluster.node_exec(&node, &["sh", "-c", &write]).unwrap();
    let name = format!("static-{node}");
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let there = ["-n", stage.space.name.as_str(), "get", "pod", name.as_str()];
        eventually("its mirror", MINUTE, || stage.cluster.kubectl(&there).ok()).unwrap();
        stage.ready(&name);
        stage.captured(&name);
        stage.in_the_mesh(&name, "c", &format!("http://echo.{}:8080/", stage.space.name));
    }));
    stage.cluster.node_exec(&node, &["rm", "-f", &file]).unwrap();
    outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}
