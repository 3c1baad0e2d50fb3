//! A Kubernetes cluster as the suites see it: the one of `cargo xtask cluster`, or the one that `HEDDLE_KUBECONFIG`
//! names.

use crate::eventually;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

/// Image of a server that says what it saw: HTTP/1.1 and h2c on 8080, gRPC on 9090. Run with `imagePullPolicy: Never`.
pub const ECHO: &str = "k8s.test/echo:1";
/// Image with a shell, curl, nsenter, bpftool, `echo-client` and `probe`.
pub const CLIENT: &str = "k8s.test/client:1";

/// Heddle's image: `HEDDLE_IMAGE`, or the one of `cargo xtask image` under this workspace's version.
#[must_use]
pub fn image() -> String {
    std::env::var("HEDDLE_IMAGE")
        .unwrap_or_else(|_| format!("heddle.io/heddle:{}", env!("CARGO_PKG_VERSION")))
}

/// A handle on a running cluster. It does not own it: [`Cluster::down`] is for whoever called [`Cluster::up`].
#[derive(Clone, Debug)]
pub struct Cluster {
    kubeconfig: PathBuf,
    /// State directory; none for a cluster of the user's.
    work: Option<PathBuf>,
}

impl Cluster {
    /// The cluster of this run: `HEDDLE_KUBECONFIG`, else the one whose state is in `KC_WORK` or target/cluster.
    ///
    /// # Errors
    /// There is none; the message says how to get one.
    pub fn current() -> Result<Self> {
        if let Some(file) = std::env::var_os("HEDDLE_KUBECONFIG") {
            let kubeconfig = PathBuf::from(file);
            ensure!(
                kubeconfig.is_file(),
                "HEDDLE_KUBECONFIG={}: no such file",
                kubeconfig.display()
            );
            return Ok(Self {
                kubeconfig,
                work: None,
            });
        }
        let work = std::env::var_os("KC_WORK").map_or_else(build, PathBuf::from);
        let cluster = Self::at(&work).context(
            "no cluster is up: `cargo xtask cluster up`, or set HEDDLE_KUBECONFIG to the one you have",
        )?;
        cluster.settled()?;
        Ok(cluster)
    }

    /// Waits until every node is ready: the test before may have taken one, or the API server, away.
    fn settled(&self) -> Result<()> {
        eventually("every node to be ready", Duration::from_secs(180), || {
            let all = self.json(&["get", "nodes"]).ok()?;
            let ready = self.ready_nodes().ok()?;
            (!ready.is_empty() && ready.len() == items(&all).count()).then_some(())
        })
    }

    /// Starts one with its state in `work`, from what `cargo xtask cluster up` has built.
    ///
    /// # Errors
    /// Nothing is built, or it does not get ready.
    pub fn up(work: &Path, args: &[&str]) -> Result<Self> {
        run(script(work).arg("up").args(args))?;
        Self::at(work)
    }

    fn at(work: &Path) -> Result<Self> {
        let file = run(script(work).arg("kubeconfig"))?;
        Ok(Self {
            kubeconfig: PathBuf::from(file.trim()),
            work: Some(work.to_path_buf()),
        })
    }

    /// Ends it.
    ///
    /// # Errors
    /// It is the user's, or something of it stays.
    pub fn down(&self) -> Result<()> {
        run(self.own()?.arg("down")).map(drop)
    }

    /// For clients: valid from where this runs.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Whether nodes can be switched off and entered, as only those of `cargo xtask cluster` can.
    #[must_use]
    pub fn is_own(&self) -> bool {
        self.work.is_some()
    }

    /// kubectl's output.
    ///
    /// # Errors
    /// It fails; the message has its words.
    pub fn kubectl(&self, args: &[&str]) -> Result<String> {
        run(self.client("kubectl").args(args))
    }

    /// kubectl's output, of arguments that end in `-o json`.
    ///
    /// # Errors
    /// As [`Cluster::kubectl`], or it is not JSON.
    pub fn json(&self, args: &[&str]) -> Result<Value> {
        let text = run(self.client("kubectl").args(args).args(["-o", "json"]))?;
        serde_json::from_str(&text).with_context(|| format!("kubectl {}", args.join(" ")))
    }

    /// `kubectl apply` of YAML documents.
    ///
    /// # Errors
    /// One is refused.
    pub fn apply(&self, yaml: &str) -> Result<String> {
        fed(self.client("kubectl").args(["apply", "-f", "-"]), yaml)
    }

    /// `kubectl delete` of YAML documents; absent ones are no error.
    ///
    /// # Errors
    /// One cannot be deleted.
    pub fn delete(&self, yaml: &str) -> Result<String> {
        let mut command = self.client("kubectl");
        fed(command.args(["delete", "--ignore-not-found", "-f", "-"]), yaml)
    }

    /// helm's output.
    ///
    /// # Errors
    /// It fails; the message has its words.
    pub fn helm(&self, args: &[&str]) -> Result<String> {
        run(self.client("helm").args(args))
    }

    /// Runs a command in a pod's first container.
    ///
    /// # Errors
    /// It exits with another code than 0.
    pub fn exec(&self, namespace: &str, pod: &str, command: &[&str]) -> Result<String> {
        let exec = ["-n", namespace, "exec", pod, "--"];
        run(self.client("kubectl").args(exec).args(command))
    }

    /// Imports an image archive into every node.
    ///
    /// # Errors
    /// The cluster is the user's (who loads images his way), or a node refuses it.
    pub fn load_image(&self, archive: &Path) -> Result<()> {
        run(self.own()?.arg("load").arg(archive)).map(drop)
    }

    /// Runs a command as a process of a node, in all its namespaces and cgroups; `cp` is the control plane's machine.
    ///
    /// # Errors
    /// The cluster is the user's, or the command fails.
    pub fn node_exec(&self, node: &str, command: &[&str]) -> Result<String> {
        machine_exec(self.own_work()?, node, command)
    }

    /// Pulls a node's plug.
    ///
    /// # Errors
    /// The cluster is the user's, or there is no such node.
    pub fn node_off(&self, node: &str) -> Result<()> {
        run(self.own()?.args(["off", node])).map(drop)
    }

    /// Boots a node that is off.
    ///
    /// # Errors
    /// As [`Cluster::node_off`].
    pub fn node_on(&self, node: &str) -> Result<()> {
        run(self.own()?.args(["on", node])).map(drop)
    }

    /// Ends a service of a machine as a crash would, and keeps it down: `kube-apiserver`, `etcd`, … of `cp`,
    /// `containerd`, `kubelet`, `kube-proxy` of a node.
    ///
    /// # Errors
    /// The cluster is the user's, or the machine has no such service.
    pub fn stop(&self, machine: &str, service: &str) -> Result<()> {
        run(self.own()?.args(["stop", machine, service])).map(drop)
    }

    /// Lets a stopped service start again.
    ///
    /// # Errors
    /// As [`Cluster::stop`].
    pub fn start(&self, machine: &str, service: &str) -> Result<()> {
        run(self.own()?.args(["start", machine, service])).map(drop)
    }

    /// Lets a stopped API server start again, and the controllers with it: they would back off for a minute, while those
    /// of a cluster with leader election have lost their lease and start anew as well.
    ///
    /// # Errors
    /// As [`Cluster::start`], or it does not come back within a minute.
    pub fn start_api_server(&self) -> Result<()> {
        self.start("cp", "kube-apiserver")?;
        eventually("the API server", Duration::from_secs(60), || {
            self.ready_nodes().ok()
        })?;
        for service in ["kube-controller-manager", "kube-scheduler"] {
            self.stop("cp", service)?;
            self.start("cp", service)?;
        }
        Ok(())
    }

    /// `kubectl wait` until an object (`pod/a`) meets a condition (`condition=Ready`, `delete`, `jsonpath=…`).
    ///
    /// # Errors
    /// It does not within `limit`.
    pub fn wait(&self, namespace: &str, object: &str, condition: &str, limit: Duration) -> Result<()> {
        let (until, timeout) = (
            format!("--for={condition}"),
            format!("--timeout={}s", limit.as_secs()),
        );
        self.kubectl(&["-n", namespace, "wait", object, &until, &timeout])
            .map(drop)
    }

    /// Names of the nodes whose condition `Ready` is true, sorted.
    ///
    /// # Errors
    /// The API server does not answer.
    pub fn ready_nodes(&self) -> Result<Vec<String>> {
        let nodes = self.json(&["get", "nodes"])?;
        let mut ready: Vec<String> = items(&nodes)
            .filter(|node| {
                let conditions = node["status"]["conditions"].as_array().into_iter().flatten();
                conditions
                    .into_iter()
                    .any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
            })
            .filter_map(|node| Some(node["metadata"]["name"].as_str()?.to_owned()))
            .collect();
        ready.sort();
        Ok(ready)
    }

    /// A namespace for one test: a name of its own, removed with the handle.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn namespace(&self, prefix: &str) -> Result<Namespace> {
        let mut random = [0u8; 3];
        File::open("/dev/urandom")?.read_exact(&mut random)?;
        let name = format!("{prefix}-{:02x}{:02x}{:02x}", random[0], random[1], random[2]);
        self.kubectl(&["create", "namespace", &name])?;
        // Pods cannot be made before it is there. The controller manager that makes it backs off for a while after an API
        // server was away.
        let account = ["-n", name.as_str(), "get", "serviceaccount", "default"];
        eventually("the default service account", Duration::from_secs(150), || {
            self.kubectl(&account).ok()
        })?;
        Ok(Namespace {
            name,
            cluster: self.clone(),
        })
    }

    /// Waits until a workload (`daemonset/echo`) is rolled out.
    ///
    /// # Errors
    /// It is not within `limit`; the message has its pods' states.
    pub fn rolled_out(&self, namespace: &str, workload: &str, limit: Duration) -> Result<()> {
        let timeout = format!("--timeout={}s", limit.as_secs());
        let status = self.kubectl(&["-n", namespace, "rollout", "status", workload, &timeout]);
        status.map(drop).with_context(|| {
            let events = self.kubectl(&["-n", namespace, "get", "pods,events"]);
            events.unwrap_or_else(|error| format!("{error:#}"))
        })
    }

    /// Addresses that a service's EndpointSlices call ready, and those of the ready pods that `selector` finds.
    ///
    /// # Errors
    /// The API server does not answer.
    pub fn serving(
        &self,
        namespace: &str,
        service: &str,
        selector: &str,
    ) -> Result<(BTreeSet<String>, BTreeSet<String>)> {
        let label = format!("kubernetes.io/service-name={service}");
        let slices = self.json(&["-n", namespace, "get", "endpointslices", "-l", &label])?;
        let endpoints = items(&slices)
            .flat_map(|slice| slice["endpoints"].as_array().into_iter().flatten())
            .filter(|endpoint| endpoint["conditions"]["ready"] == true)
            .filter_map(|endpoint| endpoint["addresses"][0].as_str());
        let pods = self.json(&["-n", namespace, "get", "pods", "-l", selector])?;
        let ready = |pod: &&Value| {
            let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
            pod["metadata"]["deletionTimestamp"].is_null() && { conditions }
                .any(|is| is["type"] == "Ready" && is["status"] == "True")
        };
        let pods = items(&pods)
            .filter(ready)
            .filter_map(|pod| pod["status"]["podIP"].as_str());
        Ok((
            endpoints.map(str::to_owned).collect(),
            pods.map(str::to_owned).collect(),
        ))
    }

    /// A program whose API server is this cluster's.
    fn client(&self, name: &str) -> Command {
        let own = build().join("bin").join(name);
        let mut command = if own.exists() {
            Command::new(own)
        } else {
            Command::new(name)
        };
        command.env("KUBECONFIG", &self.kubeconfig);
        command
    }

    fn own(&self) -> Result<Command> {
        self.own_work().map(script)
    }

    fn own_work(&self) -> Result<&Path> {
        self.work
            .as_deref()
            .context("this needs a cluster of `cargo xtask cluster`, and HEDDLE_KUBECONFIG names another")
    }
}

/// A namespace of a test; deleted with the handle, without waiting.
#[derive(Debug)]
pub struct Namespace {
    /// Its name.
    pub name: String,
    cluster: Cluster,
}

impl Namespace {
    /// `kubectl apply` of YAML into it.
    ///
    /// # Errors
    /// As [`Cluster::apply`].
    pub fn apply(&self, yaml: &str) -> Result<String> {
        let mut command = self.cluster.client("kubectl");
        fed(command.args(["-n", &self.name, "apply", "-f", "-"]), yaml)
    }

    /// Running pods with the label `app`, by node: node, pod, address; sorted.
    ///
    /// # Errors
    /// The API server does not answer.
    pub fn pods(&self, app: &str) -> Result<Vec<PodAt>> {
        let selector = format!("app={app}");
        let list = self
            .cluster
            .json(&["-n", &self.name, "get", "pods", "-l", &selector])?;
        let mut pods: Vec<PodAt> = items(&list)
            .filter(|pod| {
                pod["status"]["phase"] == "Running" && pod["metadata"]["deletionTimestamp"].is_null()
            })
            .filter_map(|pod| {
                Some(PodAt {
                    node: pod["spec"]["nodeName"].as_str()?.to_owned(),
                    name: pod["metadata"]["name"].as_str()?.to_owned(),
                    ip: pod["status"]["podIP"].as_str()?.to_owned(),
                })
            })
            .collect();
        pods.sort();
        Ok(pods)
    }

    /// Runs a command in one of its pods.
    ///
    /// # Errors
    /// As [`Cluster::exec`].
    pub fn exec(&self, pod: &str, command: &[&str]) -> Result<String> {
        self.cluster.exec(&self.name, pod, command)
    }

    /// As [`Cluster::rolled_out`].
    ///
    /// # Errors
    /// As there.
    pub fn rolled_out(&self, workload: &str, limit: Duration) -> Result<()> {
        self.cluster.rolled_out(&self.name, workload, limit)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // A cluster that is gone has no namespaces.
        let _ = self
            .cluster
            .kubectl(&["delete", "namespace", &self.name, "--wait=false"]);
    }
}

/// A running pod and where it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PodAt {
    /// Its node.
    pub node: String,
    /// Its name.
    pub name: String,
    /// Its first address.
    pub ip: String,
}

/// The objects of a list.
pub fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list["items"].as_array().into_iter().flatten()
}

/// Where built programs and images are.
fn build() -> PathBuf {
    std::env::var_os("KC_BUILD").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/cluster"),
        PathBuf::from,
    )
}

/// As [`Cluster::node_exec`], of the cluster with its state in `work`: also where HEDDLE_KUBECONFIG names another way to it.
///
/// # Errors
/// The command fails; the message has its words.
pub fn machine_exec(work: &Path, machine: &str, command: &[&str]) -> Result<String> {
    run(script(work).args(["in", machine]).args(command))
}

/// The script that makes clusters, told of the one in `work`.
#[must_use]
pub fn script(work: &Path) -> Command {
    let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("cluster/cluster.sh"));
    command.env("KC_BUILD", build()).env("KC_WORK", work);
    command
}

fn run(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {command:?}"))?;
    said(command, &output)
}

fn fed(command: &mut Command, input: &str) -> Result<String> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {command:?}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    said(command, &output)
}

fn said(command: &Command, output: &Output) -> Result<String> {
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(
        output.status.success(),
        "{command:?}: {}\n{}{stdout}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(stdout)
}
