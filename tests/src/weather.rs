//! The Weather Forecast application on two nodes: its pods, its cluster IPs, its YAML.
//!
//! The client and the frontend are on node 1, advertisement and both forecasts on node 2, recommendation on node 1
//! again, so that every kind of call crosses the wire; `echo` is beside the client for same-node L4.

use crate::cluster_ip::{self, ClusterIp};
use crate::manifests::{self, ConfigDir, PodOptions, Port};
use crate::podkit::await_listening;
use crate::process::{Proc, built};
use crate::topology::{Pod, Topology};
use anyhow::{Context, Result};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

/// Its namespace.
pub const NAMESPACE: &str = "weather";
/// What the load asks.
pub const FRONTEND: &str = "10.96.0.30:3000";
/// The TCP echo service, L4 only.
pub const ECHO: &str = "10.96.0.70:7000";

struct Kind {
    name: &'static str,
    app: &'static str,
    version: &'static str,
    node: usize,
    port: u16,
    vip: u8,
    protocol: &'static str,
    args: &'static [&'static str],
}

const fn kind(
    name: &'static str,
    app: &'static str,
    version: &'static str,
    node: usize,
    port: u16,
    protocol: &'static str,
    args: &'static [&'static str],
) -> Kind {
    let vip = if port == 7000 {
        70
    } else {
        30 + (port - 3000) as u8
    };
    Kind {
        name,
        app,
        version,
        node,
        port,
        vip,
        protocol,
        args,
    }
}

const KINDS: [Kind; 6] = [
    kind(
        "frontend-v1",
        "frontend",
        "v1",
        1,
        3000,
        "http",
        &[
            "frontend",
            "--forecast-address",
            "10.96.0.32:3002",
            "--advertisement-address",
            "10.96.0.33:3003",
        ],
    ),
    kind(
        "advertisement-v1",
        "advertisement",
        "v1",
        2,
        3003,
        "grpc",
        &["advertisement"],
    ),
    kind("forecast-v1", "forecast", "v1", 2, 3002, "http", &["forecast"]),
    kind(
        "forecast-v2",
        "forecast",
        "v2",
        2,
        3002,
        "http",
        &[
            "forecast",
            "--version",
            "v2",
            "--recommendation-address",
            "10.96.0.35:3005",
        ],
    ),
    kind(
        "recommendation-v1",
        "recommendation",
        "v1",
        1,
        3005,
        "http",
        &["recommendation"],
    ),
    kind("echo-v1", "echo", "v1", 1, 7000, "tcp", &[]),
];

/// The running application.
#[derive(Debug)]
pub struct Weather {
    /// Pod from which requests come.
    pub client: Arc<Pod>,
    /// Pods of the services, in the order of their names above.
    pub pods: Vec<Arc<Pod>>,
    /// Their processes.
    pub procs: Vec<Proc>,
    /// The agents' YAML, namespace not yet in the mesh.
    pub config: ConfigDir,
}

impl Weather {
    /// Makes pods, starts programs, serves the cluster IPs and writes the YAML.
    ///
    /// # Errors
    /// A program is not built, or the kernel refuses something.
    pub fn start(ground: &mut Topology) -> Result<Self> {
        let client = ground.pod(1, "client-v1")?;
        let (mut pods, mut procs) = (Vec::new(), Vec::new());
        for kind in &KINDS {
            let pod = ground.pod(kind.node, kind.name)?;
            procs.push(match kind.app {
                "echo" => pod.serve(&["echo-server"])?,
                _ => {
                    let mut proc = pod.spawn("app", &built("weather-apps")?, kind.args)?;
                    await_listening(&mut proc)?;
                    proc
                }
            });
            pods.push(pod);
        }
        let config = ConfigDir::new(ground.run())?;
        config.write("00-namespace.yaml", manifests::namespace(NAMESPACE, false))?;
        config.write("10-services.yaml", services())?;
        config.write("20-pods.yaml", objects(&client, &pods))?;
        cluster_ip::serve(ground, &cluster_ips(&pods))?;
        Ok(Self {
            client,
            pods,
            procs,
            config,
        })
    }

    /// A pod by its name.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn pod(&self, name: &str) -> Result<&Arc<Pod>> {
        self.pods
            .iter()
            .find(|pod| pod.name == name)
            .with_context(|| format!("no pod {name}"))
    }

    /// The process of a pod.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn proc(&mut self, name: &str) -> Result<&mut Proc> {
        let index = self.pods.iter().position(|pod| pod.name == name);
        index
            .and_then(|index| self.procs.get_mut(index))
            .with_context(|| format!("no pod {name}"))
    }

    /// Puts the namespace into the mesh or takes it out.
    ///
    /// # Errors
    /// As the file system's.
    pub fn label(&self, mesh: bool) -> Result<()> {
        self.config
            .write("00-namespace.yaml", manifests::namespace(NAMESPACE, mesh))
    }

    /// Applies a file of `tests/apps/manifests` as `file`.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn apply(&self, file: &str, manifest: &str) -> Result<()> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("apps/manifests")
            .join(manifest);
        let text = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        self.config.write(file, text)
    }

    /// How many requests with this `x-test-id` a forecast has got.
    ///
    /// # Errors
    /// It does not answer.
    pub fn requests_at(&self, forecast: &str, test_id: &str) -> Result<u64> {
        let stats = self
            .pod(forecast)?
            .podkit(&["get", "--to", "127.0.0.1:3002", "--path", "/stats"])?;
        let counts = &stats["last"]["body"]["counts"];
        anyhow::ensure!(counts.is_object(), "{forecast} gives no statistics: {stats}");
        Ok(counts[format!("{test_id} /weather")].as_u64().unwrap_or(0))
    }
}

fn vips(kind: &Kind) -> [IpAddr; 2] {
    let v6 = std::net::Ipv6Addr::new(0xfd96, 0, 0, 0, 0, 0, 0, u16::from(kind.vip));
    [IpAddr::from([10, 96, 0, kind.vip]), v6.into()]
}

fn services() -> String {
    let mut text = String::new();
    for kind in KINDS.iter().filter(|kind| kind.name != "forecast-v2") {
        let port = [Port {
            name: kind.protocol,
            port: kind.port,
            target: kind.port,
        }];
        let labels: &[(&str, &str)] = if kind.protocol == "tcp" {
            &[("heddle.io/l7", "disabled")]
        } else {
            &[]
        };
        text += &manifests::service(
            NAMESPACE,
            kind.app,
            &[("app", kind.app)],
            &vips(kind),
            &port,
            labels,
        );
        text += &manifests::service_account(NAMESPACE, kind.app);
    }
    text + &manifests::service_account(NAMESPACE, "client")
}

fn objects(client: &Pod, pods: &[Arc<Pod>]) -> String {
    let object = |pod: &Pod, name: &str, app: &str, version: &str| {
        let options = PodOptions {
            labels: &[("app", app), ("version", version)],
            service_account: Some(app),
            deployment: Some(name),
            unready: false,
        };
        manifests::pod(NAMESPACE, pod, &options)
    };
    let services = KINDS
        .iter()
        .zip(pods)
        .map(|(kind, pod)| object(pod, kind.name, kind.app, kind.version));
    services
        .chain([object(client, "client-v1", "client", "v1")])
        .collect()
}

fn cluster_ips(pods: &[Arc<Pod>]) -> Vec<ClusterIp> {
    let mut services = Vec::new();
    for kind in KINDS.iter().filter(|kind| kind.name != "forecast-v2") {
        let same_app = KINDS.iter().zip(pods).filter(|(other, _)| other.app == kind.app);
        let endpoints: Vec<_> = same_app
            .flat_map(|(_, pod)| pod.ips())
            .map(|ip| SocketAddr::new(ip, kind.port))
            .collect();
        for vip in vips(kind) {
            services.push(ClusterIp {
                vip: SocketAddr::new(vip, kind.port),
                endpoints: endpoints.clone(),
            });
        }
    }
    services
}
