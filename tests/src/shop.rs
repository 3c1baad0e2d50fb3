//! A small shop in the mesh, on which the protocol suites stand: a client and the pod `near` on node 1, the pod `far`
//! on node 2, both with every kind of server, behind services that reach one, the other, both or none.

use crate::agent::{Agent, AgentSpec};
use crate::cluster_ip::{self, ClusterIp};
use crate::eventually;
use crate::manifests::{self, ConfigDir, PodOptions, Port};
use crate::process::Proc;
use crate::promtext::{self, Sample};
use crate::topology::{Pod, Topology};
use anyhow::{Context, Result};
use serde_json::Value;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// Namespace of the shop.
pub const NAMESPACE: &str = "shop";

/// HTTP under each way to declare it: `http` 80, `http2` 81, `grpc` 82, unknown name 83.
pub const HTTP: u16 = 80;
/// Declared HTTP/2.
pub const HTTP2: u16 = 81;
/// Declared gRPC.
pub const GRPC: u16 = 82;
/// HTTP under a name that says nothing.
pub const UNNAMED_HTTP: u16 = 83;
/// HTTP to a server that records bytes.
pub const RECORDED: u16 = 84;
/// HTTP that nobody serves.
pub const CLOSED_HTTP: u16 = 85;
/// HTTP declared as TCP.
pub const TCP_WEB: u16 = 86;
/// Line echo declared as TCP.
pub const ECHO: u16 = 7000;
/// Sink that counts, declared as TCP.
pub const SINK: u16 = 7001;
/// Server that speaks first, declared as TCP.
pub const SMTP: u16 = 7002;
/// Server that resets after a line, declared as TCP.
pub const RESET: u16 = 7003;
/// Server that closes its half first, declared as TCP.
pub const EARLY: u16 = 7004;
/// TCP that nobody serves.
pub const CLOSED: u16 = 7009;
/// Line echo under a name that says nothing.
pub const UNNAMED_ECHO: u16 = 7100;
/// Sink under a name that says nothing.
pub const UNNAMED_SINK: u16 = 7101;
/// Server that speaks first under a name that says nothing.
pub const UNNAMED_SMTP: u16 = 7102;
/// Server that resets after a line, under a name that says nothing.
pub const UNNAMED_RESET: u16 = 7103;
/// Server that closes its half first, under a name that says nothing.
pub const UNNAMED_EARLY: u16 = 7104;
/// TCP that nobody serves, under a name that says nothing.
pub const UNNAMED_CLOSED: u16 = 7109;

const fn port(name: &'static str, port: u16, target: u16) -> Port<'static> {
    Port { name, port, target }
}

const PORTS: [Port<'static>; 19] = [
    port("http", HTTP, 8080),
    port("http2", HTTP2, 8080),
    port("grpc", GRPC, 8080),
    port("web", UNNAMED_HTTP, 8080),
    port("http-recorded", RECORDED, 8084),
    port("http-closed", CLOSED_HTTP, 8085),
    port("tcp-web", TCP_WEB, 8080),
    port("tcp-echo", ECHO, 7000),
    port("tcp-sink", SINK, 7001),
    port("tcp-smtp", SMTP, 7002),
    port("tcp-reset", RESET, 7003),
    port("tcp-early", EARLY, 7004),
    port("tcp-closed", CLOSED, 7009),
    port("echo", UNNAMED_ECHO, 7000),
    port("sink", UNNAMED_SINK, 7001),
    port("greeter", UNNAMED_SMTP, 7002),
    port("reset", UNNAMED_RESET, 7003),
    port("early", UNNAMED_EARLY, 7004),
    port("closed", UNNAMED_CLOSED, 7009),
];

/// Services with the last byte of their addresses and their selector.
const SERVICES: [(&str, u8, (&str, &str)); 4] = [
    ("near", 1, ("name", "near")),
    ("far", 2, ("name", "far")),
    ("both", 3, ("app", "shop")),
    ("none", 4, ("app", "nothing")),
];

/// Where a service's pods are, seen from the client.
pub const PLACES: [&str; 2] = ["near", "far"];

// Fields are dropped in this order: processes before the ground that they stand on.
/// The running shop.
#[derive(Debug)]
pub struct Shop {
    /// The agents of both nodes.
    pub agents: Vec<Agent>,
    /// Servers, in the order they were started.
    pub procs: Vec<Proc>,
    /// Where requests come from; on node 1.
    pub client: Arc<Pod>,
    /// Server on node 1, version v1.
    pub near: Arc<Pod>,
    /// Server on node 2, version v2.
    pub far: Arc<Pod>,
    /// The agents' YAML.
    pub config: ConfigDir,
    /// The nodes.
    pub ground: Topology,
}

impl Shop {
    /// Starts everything and waits until the pods are captured.
    ///
    /// # Errors
    /// Something does not start.
    pub fn open() -> Result<Self> {
        Self::open_with(&[])
    }

    /// As [`Shop::open`], with more arguments for the agents.
    ///
    /// # Errors
    /// As there.
    pub fn open_with(extra: &[&str]) -> Result<Self> {
        let mut ground = Topology::new()?;
        let client = ground.pod(1, "client")?;
        let near = ground.pod(1, "near")?;
        let far = ground.pod(2, "far")?;
        let mut procs = Vec::new();
        for pod in [&near, &far] {
            for args in servers(&pod.name) {
                procs.push(pod.start_podkit(&args)?);
            }
        }
        for proc in &mut procs {
            crate::podkit::await_listening(proc)?;
        }
        let config = ConfigDir::new(ground.run())?;
        config.write("00-namespace.yaml", manifests::namespace(NAMESPACE, true))?;
        config.write("10-services.yaml", services())?;
        let pods = [
            pod_object(&client, "client", "v1"),
            pod_object(&near, "shop", "v1"),
            pod_object(&far, "shop", "v2"),
        ];
        config.write("20-pods.yaml", pods.concat())?;
        config.write("25-subsets.yaml", SUBSETS)?;
        cluster_ip::serve(&ground, &cluster_ips(&near, &far))?;
        let mut agents = Vec::new();
        for node in &ground.nodes {
            let mut spec = AgentSpec::new(ground.run(), node)?;
            spec.extra = extra.iter().map(ToString::to_string).collect();
            agents.push(spec.start()?);
        }
        for agent in &mut agents {
            agent.ready(Duration::from_secs(20))?;
        }
        let shop = Self {
            agents,
            procs,
            client,
            near,
            far,
            config,
            ground,
        };
        shop.await_captured(0, "shop/client")?;
        shop.await_captured(0, "shop/near")?;
        shop.await_captured(1, "shop/far")?;
        Ok(shop)
    }

    /// `heddle status` of a node (0 or 1).
    ///
    /// # Errors
    /// The agent does not answer.
    pub fn status(&self, node: usize) -> Result<Value> {
        self.agents[node].spec.heddle_json(&["status"])
    }

    /// Waits until a node's agent has captured a pod.
    ///
    /// # Errors
    /// It has not within ten seconds.
    pub fn await_captured(&self, node: usize, pod: &str) -> Result<()> {
        eventually(&format!("{pod} captured"), Duration::from_secs(10), || {
            let status = self.status(node).ok()?;
            let row = status["pods"].as_array()?.iter().find(|row| row["pod"] == pod)?;
            (row["captured"] == true).then_some(())
        })
    }

    /// Writes a file and waits until both agents have taken a snapshot with it.
    ///
    /// # Errors
    /// As the file system's, or no snapshot comes.
    pub fn apply(&self, file: &str, text: &str) -> Result<()> {
        let snapshots = || -> Result<Vec<Value>> {
            let one = |node| Ok(self.status(node)?["agent"]["snapshot"].clone());
            (0..self.agents.len()).map(one).collect()
        };
        let before = snapshots()?;
        self.config.write(file, text)?;
        eventually(&format!("{file} in force"), Duration::from_secs(10), || {
            let now = snapshots().ok()?;
            before
                .iter()
                .zip(&now)
                .all(|(before, now)| before != now)
                .then_some(())
        })
    }

    /// Applies a VirtualService of `host` whose `http` is this YAML list.
    ///
    /// # Errors
    /// As [`Shop::apply`].
    pub fn route(&self, host: &str, http: &str) -> Result<()> {
        self.apply(&format!("30-{host}.yaml"), &virtual_service(host, http))
    }

    /// `podkit get` in the client, towards a service's port; `args` are more of its arguments.
    ///
    /// # Errors
    /// As [`Pod::podkit`].
    pub fn get(&self, to: SocketAddr, args: &[&str]) -> Result<Value> {
        let to = to.to_string();
        let args: Vec<&str> = ["get", "--to", &to].iter().chain(args).copied().collect();
        self.client.podkit(&args)
    }

    /// `podkit raw` in the client.
    ///
    /// # Errors
    /// As [`Pod::podkit`].
    pub fn raw(&self, to: SocketAddr, data: &[&str], args: &[&str]) -> Result<Value> {
        let to = to.to_string();
        let data = data.iter().flat_map(|data| ["--data", data]);
        let args: Vec<&str> = ["raw", "--to", &to]
            .into_iter()
            .chain(data)
            .chain(args.iter().copied())
            .collect();
        self.client.podkit(&args)
    }

    /// The log of a pod's server that listens on `target`.
    #[must_use]
    pub fn log_of(&self, pod: &str, kind: &str) -> String {
        let found = self
            .procs
            .iter()
            .find(|proc| proc.name().starts_with(pod) && proc.name().contains(kind));
        found.map(Proc::stdout).unwrap_or_default()
    }

    /// How many requests with this `x-test-id` a pod's HTTP server has got, over all paths.
    ///
    /// # Errors
    /// It does not answer.
    pub fn requests_at(&self, pod: &Pod, test_id: &str) -> Result<u64> {
        let stats = pod.podkit(&["get", "--to", "127.0.0.1:8080", "--path", "/stats"])?;
        let counts = stats["last"]["body"]["counts"]
            .as_object()
            .with_context(|| format!("{} gives no statistics: {stats}", pod.name))?;
        let prefix = format!("{test_id} ");
        Ok(counts
            .iter()
            .filter(|(key, _)| key.starts_with(&prefix))
            .filter_map(|(_, count)| count.as_u64())
            .sum())
    }

    /// Sum of a metric of one node's agent.
    ///
    /// # Errors
    /// The agent does not answer.
    pub fn sum(&self, node: usize, metric: &str, labels: &[(&str, &str)]) -> Result<f64> {
        Ok(promtext::sum(&self.metrics(node)?, metric, labels))
    }

    /// Codes and flags of the requests that one node's agent has counted as source, for messages.
    ///
    /// # Errors
    /// The agent does not answer.
    pub fn flags(&self, node: usize) -> Result<Vec<String>> {
        let of = |sample: &Sample| {
            let labels =
                ["response_code", "response_flags", "destination_service"].map(|name| sample.label(name));
            format!("{} {}", labels.join(" "), sample.value)
        };
        let counted = |sample: &&Sample| sample.is("istio_requests_total", &[("reporter", "source")]);
        Ok(self.metrics(node)?.iter().filter(counted).map(of).collect())
    }

    /// Metrics of one node's agent.
    ///
    /// # Errors
    /// The agent does not answer.
    pub fn metrics(&self, node: usize) -> Result<Vec<Sample>> {
        self.agents[node].spec.metrics()
    }

    /// Resident memory of one node's agent, bytes.
    ///
    /// # Errors
    /// It has ended.
    pub fn resident(&self, node: usize) -> Result<u64> {
        resident(self.agents[node].proc.pid())
    }
}

/// Both addresses of a service's port.
///
/// # Panics
/// There is no such service.
#[must_use]
pub fn vips(service: &str, port: u16) -> [SocketAddr; 2] {
    let (_, last, _) = SERVICES
        .iter()
        .find(|(name, ..)| *name == service)
        .expect("a service of the shop");
    addresses(*last).map(|ip| SocketAddr::new(ip, port))
}

/// A service's port on both families, near and far, with a name of the case.
#[must_use]
pub fn everywhere(ports: &[u16]) -> Vec<(String, SocketAddr)> {
    let mut cases = Vec::new();
    for place in PLACES {
        for port in ports {
            cases.extend(vips(place, *port).map(|to| (format!("{place} {to}"), to)));
        }
    }
    cases
}

/// The YAML of a VirtualService with this list as its `http`.
#[must_use]
pub fn virtual_service(host: &str, http: &str) -> String {
    let http: String = http.lines().map(|line| format!("  {line}\n")).collect();
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata:\n  name: {host}\n  namespace: {NAMESPACE}\n\
         spec:\n  hosts: [{host}]\n  http:\n{http}"
    )
}

/// Resident memory of a process, bytes.
///
/// # Errors
/// It has ended.
pub fn resident(pid: i32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .context("no VmRSS")?;
    let kib: u64 = line.split_whitespace().nth(1).context("VmRSS")?.parse()?;
    Ok(kib * 1024)
}

/// The highest resident memory of a process while `work` runs.
///
/// # Errors
/// As `work`'s.
pub fn peak_while<T>(pid: i32, work: impl FnOnce() -> Result<T>) -> Result<(u64, T)> {
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut peak = 0;
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                peak = peak.max(resident(pid).unwrap_or(0));
                std::thread::sleep(Duration::from_millis(20));
            }
            peak
        });
        let result = work();
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        let peak = watch
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Ok((peak, result?))
    })
}

/// A pod of the shop as its object.
#[must_use]
pub fn pod_object(pod: &Pod, app: &str, version: &str) -> String {
    let deployment = format!("{}-{version}", pod.name);
    let options = PodOptions {
        labels: &[("app", app), ("name", &pod.name), ("version", version)],
        service_account: Some(app),
        deployment: Some(&deployment),
        unready: false,
    };
    manifests::pod(NAMESPACE, pod, &options)
}

fn servers(name: &str) -> [Vec<&str>; 7] {
    [
        vec!["http-server", "--name", name],
        vec!["echo-server", "--name", name],
        vec!["sink"],
        vec![
            "echo-server",
            "--name",
            name,
            "--listen",
            "[::]:7002",
            "--banner",
            "220 ready",
        ],
        vec!["echo-server", "--name", name, "--listen", "[::]:7003", "--reset"],
        vec!["sink", "--listen", "[::]:7004", "--early"],
        vec!["record-server", "--listen", "[::]:8084"],
    ]
}

fn addresses(last: u8) -> [IpAddr; 2] {
    let v6 = Ipv6Addr::new(0xfd96, 0, 0, 0, 0, 0, 1, u16::from(last));
    [IpAddr::from([10, 96, 1, last]), v6.into()]
}

fn services() -> String {
    let mut text = String::new();
    for (name, last, selector) in SERVICES {
        text += &manifests::service(NAMESPACE, name, &[selector], &addresses(last), &PORTS, &[]);
    }
    for account in ["client", "shop"] {
        text += &manifests::service_account(NAMESPACE, account);
    }
    text
}

const SUBSETS: &str = "apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata:
  name: both
  namespace: shop
spec:
  host: both
  subsets:
  - name: v1
    labels:
      version: v1
  - name: v2
    labels:
      version: v2
  - name: v3
    labels:
      version: v3
";

fn cluster_ips(near: &Pod, far: &Pod) -> Vec<ClusterIp> {
    let mut found = Vec::new();
    for (name, last, _) in SERVICES {
        let pods: &[&Pod] = match name {
            "near" => &[near],
            "far" => &[far],
            "both" => &[near, far],
            _ => &[],
        };
        for (vip, port) in addresses(last)
            .into_iter()
            .flat_map(|vip| PORTS.iter().map(move |port| (vip, port)))
        {
            found.push(ClusterIp {
                vip: SocketAddr::new(vip, port.port),
                endpoints: pods
                    .iter()
                    .flat_map(|pod| pod.ips())
                    .map(|ip| SocketAddr::new(ip, port.target))
                    .collect(),
            });
        }
    }
    found
}
