//! The cluster itself: what the suites on it take for granted, before any mesh is there.
#![cfg(feature = "cluster")]
#![allow(
    clippy::unwrap_used,
    reason = "what fails here fails the test that asked for it"
)]

use mesh_tests::cluster::{self, CLIENT, Cluster, ECHO, Namespace, PodAt};
use mesh_tests::eventually;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

const MINUTE: Duration = Duration::from_secs(60);

/// On every node a server and a client with a service before the servers.
fn echo_and_client(cluster: &Cluster) -> (Namespace, Vec<PodAt>, Vec<PodAt>) {
    let space = cluster.namespace("ground").unwrap();
    let daemon = |name: &str, image: &str, more: &str| {
        format!(
            "apiVersion: apps/v1\nkind: DaemonSet\nmetadata: {{name: {name}}}\nspec:\n  selector: {{matchLabels: {{app: {name}}}}}\n  \
             template:\n    metadata: {{labels: {{app: {name}}}}}\n    spec:\n      terminationGracePeriodSeconds: 0\n      containers:\n      \
             - {{name: {name}, image: \"{image}\", imagePullPolicy: IfNotPresent, {more}}}\n---\n"
        )
    };
    let server = "env: [{name: NODE_NAME, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}], \
                  readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}";
    let yaml = daemon("echo", ECHO, server)
        + &daemon("client", CLIENT, "")
        + "apiVersion: v1\nkind: Service\nmetadata: {name: echo}\nspec:\n  selector: {app: echo}\n  ports:\n  \
           - {name: http, port: 80, targetPort: 8080}\n  - {name: grpc, port: 9090}\n";
    space.apply(&yaml).unwrap();
    for workload in ["daemonset/echo", "daemonset/client"] {
        space.rolled_out(workload, MINUTE * 3).unwrap();
    }
    let (servers, clients) = (space.pods("echo").unwrap(), space.pods("client").unwrap());
    // kube-proxy may be waiting to ask the API server again, which another test took away.
    let url = format!("http://echo.{}/", space.name);
    for client in &clients {
        eventually("the service on the client's node", MINUTE * 3, || {
            space.exec(&client.name, &["curl", "-sS", "-m", "5", &url]).ok()
        })
        .unwrap();
    }
    (space, servers, clients)
}

fn get(space: &Namespace, from: &PodAt, url: &str) -> Value {
    let answer = space.exec(&from.name, &["curl", "-sS", "-m", "5", url]).unwrap();
    serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{url}: {error}: {answer}"))
}

#[test]
fn pods_on_all_nodes_reach_each_other_by_address_name_and_service() {
    let cluster = Cluster::current().unwrap();
    let nodes = cluster.ready_nodes().unwrap();
    assert!(nodes.len() >= 2, "ready nodes: {nodes:?}");
    let (space, servers, clients) = echo_and_client(&cluster);
    for pods in [&servers, &clients] {
        let on: Vec<&String> = pods.iter().map(|pod| &pod.node).collect();
        assert_eq!(on, nodes.iter().collect::<Vec<_>>());
    }
    for client in &clients {
        for server in &servers {
            let seen = get(&space, client, &format!("http://{}:8080/", server.ip));
            assert_eq!(seen["hostname"], server.name.as_str());
            let remote = seen["remote"].as_str().unwrap();
            assert!(
                remote.starts_with(&format!("{}:", client.ip)),
                "the server saw {remote}, not the client {client:?}"
            );
        }
        // Each connection is spread anew; 40 that all fall on one of two are as likely as 2^-39.
        let by_name = format!("http://echo.{}/", space.name);
        let answered: BTreeSet<String> = (0..40)
            .map(|_| get(&space, client, &by_name)["node"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(answered, nodes.iter().cloned().collect(), "from {client:?}");
        let grpc = format!("echo.{}:9090", space.name);
        let status = space.exec(&client.name, &["echo-client", "grpc", &grpc]).unwrap();
        assert!(status.contains("SERVING"), "{status}");
    }
}

#[test]
fn logs_and_proxied_requests_reach_every_node_from_outside() {
    let cluster = Cluster::current().unwrap();
    let (space, servers, _) = echo_and_client(&cluster);
    for server in &servers {
        let path = format!(
            "/api/v1/namespaces/{}/pods/{}:8080/proxy/asked",
            space.name, server.name
        );
        let answer = cluster.kubectl(&["get", "--raw", &path]).unwrap();
        assert!(answer.contains("\"path\":\"/asked\""), "{answer}");
        let log = cluster
            .kubectl(&["-n", &space.name, "logs", &server.name])
            .unwrap();
        assert!(log.contains("GET /asked"), "{log}");
    }
}

/// What the mesh builds on: a program at a node's cgroup root reaches that node's pods and no other's.
#[test]
fn a_cgroup_program_stays_on_its_node() {
    let cluster = Cluster::current().unwrap();
    if !cluster.is_own() {
        println!("NOT RUN: nodes that are machines of their own cannot share cgroups");
        return;
    }
    let (space, servers, clients) = echo_and_client(&cluster);
    let target = format!("http://{}:7777/", servers[0].ip);
    let errors = || -> Vec<bool> {
        let try_it = format!("curl -sv -m 3 {target} 2>&1 || true");
        clients
            .iter()
            .map(|client| {
                let said = space.exec(&client.name, &["sh", "-c", &try_it]).unwrap();
                assert!(
                    said.contains("refused") || said.contains("not permitted"),
                    "{said}"
                );
                said.contains("not permitted")
            })
            .collect()
    };
    let root = "unified=/sys/fs/cgroup/unified; [ -d $unified ] || unified=/sys/fs/cgroup";
    let probe = build("probe").display().to_string();
    assert_eq!(errors(), vec![false; clients.len()]);
    let attach = format!("{root}; {probe} attach $unified /sys/fs/bpf/ground");
    cluster
        .node_exec(&clients[0].node, &["sh", "-c", &attach])
        .unwrap();
    let mut expected = vec![false; clients.len()];
    expected[0] = true;
    assert_eq!(errors(), expected);
    let pins = |node: &str| cluster.node_exec(node, &["ls", "/sys/fs/bpf"]).unwrap();
    assert!(pins(&clients[0].node).contains("ground"));
    assert!(!pins(&clients[1].node).contains("ground"));
    cluster
        .node_exec(&clients[0].node, &[&probe, "detach", "/sys/fs/bpf/ground"])
        .unwrap();
    assert_eq!(errors(), vec![false; clients.len()]);
}

#[test]
fn a_node_that_lost_power_comes_back_with_its_pods() {
    let cluster = Cluster::current().unwrap();
    if !cluster.is_own() {
        println!("NOT RUN: this needs nodes that can be switched off");
        return;
    }
    let (space, servers, _) = echo_and_client(&cluster);
    let victim = servers.last().unwrap();
    cluster.node_off(&victim.node).unwrap();
    let dead = cluster.node_exec(&victim.node, &["true"]);
    assert!(dead.is_err(), "a node that is off ran a program");
    cluster.node_on(&victim.node).unwrap();
    eventually("the node's pods at new addresses", MINUTE, || {
        let now = space.pods("echo").ok()?;
        let back = now
            .iter()
            .find(|pod| pod.node == victim.node && pod.ip != victim.ip)?;
        let path = format!("/api/v1/namespaces/{}/pods/{}:8080/proxy/", space.name, back.name);
        cluster.kubectl(&["get", "--raw", &path]).ok()?;
        Some(())
    })
    .unwrap();
    space.rolled_out("daemonset/echo", MINUTE * 3).unwrap();
}

#[test]
fn a_stopped_api_server_stays_away_until_it_is_started() {
    let cluster = Cluster::current().unwrap();
    if !cluster.is_own() {
        println!("NOT RUN: this needs a control plane that can be stopped");
        return;
    }
    let space = cluster.namespace("ground").unwrap();
    let ask = ["get", "--raw", "/readyz", "--request-timeout=2s"];
    cluster.stop("cp", "kube-apiserver").unwrap();
    // Longer than a crashed service takes to be started again.
    for _ in 0..3 {
        assert!(cluster.kubectl(&ask).is_err());
        std::thread::sleep(Duration::from_secs(1));
    }
    cluster.start("cp", "kube-apiserver").unwrap();
    eventually("the API server", MINUTE, || cluster.kubectl(&ask).ok()).unwrap();
    cluster.kubectl(&["get", "namespace", &space.name]).unwrap();
    let unknown = cluster.stop("cp", "nothing").unwrap_err().to_string();
    assert!(unknown.contains("kube-apiserver"), "{unknown}");
}

#[test]
fn a_cluster_leaves_nothing_behind() {
    let work = own_place("ground-down");
    let before = Snapshot::take(&work);
    let cluster = Cluster::up(&work, &["--nodes", "1"]).unwrap();
    let during = Snapshot::take(&work);
    assert!(
        during
            .new_since(&before)
            .iter()
            .any(|entry| entry.contains("cgroup")),
        "the snapshot does not see a cluster"
    );
    assert_eq!(cluster.ready_nodes().unwrap(), ["n1"]);
    cluster.down().unwrap();
    assert_eq!(Snapshot::take(&work).new_since(&before), Vec::<String>::new());
    assert!(!cluster.kubeconfig().exists() && !work.join("run").exists());
    std::fs::remove_dir_all(work).unwrap();
}

#[test]
fn what_a_killed_start_left_goes_with_the_next_command() {
    let work = own_place("ground-killed");
    let before = Snapshot::take(&work);
    let mut starting = cluster::script(&work)
        .args(["up", "--nodes", "1"])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    eventually("a machine of it", MINUTE, || {
        work.join("run/cp/ready").exists().then_some(())
    })
    .unwrap();
    starting.kill().unwrap();
    starting.wait().unwrap();
    assert_ne!(Snapshot::take(&work).new_since(&before), Vec::<String>::new());
    // Nor must the state directory be there to tell of it.
    std::fs::remove_dir_all(work.join("run")).unwrap();
    let down = cluster::script(&work).arg("down").status().unwrap();
    assert!(down.success());
    assert_eq!(Snapshot::take(&work).new_since(&before), Vec::<String>::new());
    std::fs::remove_dir_all(work).unwrap();
}

fn own_place(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../target")
        .join(format!("cluster-{name}"));
    std::fs::create_dir_all(&dir).unwrap();
    dir.canonicalize().unwrap()
}

fn build(program: &str) -> PathBuf {
    let dir = std::env::var_os("KC_BUILD").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/cluster"),
        PathBuf::from,
    );
    dir.join("bin").join(program).canonicalize().unwrap()
}

/// What a cluster could leave on the machine: a line each.
struct Snapshot(BTreeSet<String>);

impl Snapshot {
    fn take(work: &Path) -> Self {
        let mut lines = BTreeSet::new();
        let mut add = |what: &str, text: String| {
            lines.extend(text.lines().map(|line| format!("{what}: {line}")));
        };
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let targets = mounts.lines().filter_map(|line| line.split(' ').nth(4));
        add("mount", targets.map(|target| format!("{target}\n")).collect());
        let commands: &[&[&str]] = &[
            &["ip", "-o", "link"],
            &["ip", "-o", "route", "show", "table", "all"],
            &["ip", "netns"],
            &["nft", "list", "ruleset"],
            &["find", "/sys/fs/cgroup", "-type", "d"],
            &["find", "/sys/fs/bpf"],
            &[
                "find",
                "/etc/cni",
                "/opt/cni",
                "/run/netns",
                "/run/containerd",
                "/var/lib/kubelet",
            ],
        ];
        for command in commands {
            let output = Command::new(command[0]).args(&command[1..]).output().unwrap();
            add(
                &command.join(" "),
                String::from_utf8_lossy(&output.stdout).into_owned(),
            );
        }
        // Of processes, those whose arguments name the cluster's place; any other would keep a cgroup of it alive.
        // A killed one is a zombie, without arguments, until the machine's own process 1 asks for it.
        let processes = Command::new("ps").args(["-eo", "args="]).output().unwrap();
        let processes = String::from_utf8_lossy(&processes.stdout).into_owned();
        let place = work.display().to_string();
        let ours = processes.lines().filter(|line| line.contains(&place));
        add("process", ours.map(|line| format!("{line}\n")).collect());
        Self(lines)
    }

    /// What is here and was not before, but for what other runs and clusters do beside this one.
    fn new_since(&self, before: &Self) -> Vec<String> {
        let cluster = |line: &String| {
            let start = line.find("/kc-")?;
            line[start..].split('.').next().map(str::to_owned)
        };
        let others: BTreeSet<String> = before.0.iter().filter_map(cluster).collect();
        self.0
            .difference(&before.0)
            .filter(|line| !line.contains("hd-"))
            .filter(|line| cluster(line).is_none_or(|name| !others.contains(&name)))
            .cloned()
            .collect()
    }
}
