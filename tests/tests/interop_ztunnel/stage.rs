//! A Heddle agent with its pod on node 1, a ztunnel in a pod of node 2, one CA under both.

use anyhow::{Context, Result};
use mesh_tests::agent::{Agent, AgentSpec};
use mesh_tests::manifests::{self, ConfigDir, PodOptions};
use mesh_tests::process::Proc;
use mesh_tests::topology::{Pod, Topology};
use mesh_tests::{eventually, socks};
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Once};
use std::time::Duration;

pub(crate) const NAMESPACE: &str = "interop";
/// Ports of the pods' applications.
pub(crate) const ECHO: u16 = 7000;
pub(crate) const HTTP: u16 = 8080;
const ZTUNNEL_SOCKS: u16 = 15080;
const PODKIT_SOCKS: u16 = 1080;

/// What comes from outside: the program, and its test CA.
pub(crate) struct Ztunnel {
    program: PathBuf,
    pub(crate) ca_key: PathBuf,
    pub(crate) ca_cert: PathBuf,
}

/// The ztunnel to test against; says once, also when output is captured, that there is none.
pub(crate) fn ztunnel() -> Option<Ztunnel> {
    static TOLD: Once = Once::new();
    let found = std::env::var_os("HEDDLE_ZTUNNEL").zip(std::env::var_os("HEDDLE_ZTUNNEL_CA"));
    let Some((program, ca)) = found else {
        TOLD.call_once(|| {
            let _ = writeln!(
                std::io::stderr(),
                "NOT RUN: interop_ztunnel needs HEDDLE_ZTUNNEL and HEDDLE_ZTUNNEL_CA (see CONTRIBUTING.md)"
            );
        });
        return None;
    };
    let ca = PathBuf::from(ca);
    Some(Ztunnel {
        program: program.into(),
        ca_key: ca.join("ca-key.pem"),
        ca_cert: ca.join("root-cert.pem"),
    })
}

/// What the two sides believe. By default the truth.
pub(crate) struct Beliefs {
    /// Service account that Heddle expects of ztunnel's pod, which has `peer`.
    pub(crate) heddle_expects: &'static str,
    /// Service account that ztunnel expects of Heddle's pod, which has `app`.
    pub(crate) ztunnel_expects: &'static str,
    /// Trust domain of ztunnel's pod; Heddle's is `cluster.local`.
    pub(crate) ztunnel_domain: &'static str,
    /// ztunnel's policies, as YAML on one line.
    pub(crate) ztunnel_policies: &'static str,
    /// More of ztunnel's environment.
    pub(crate) ztunnel_env: &'static [(&'static str, &'static str)],
}

impl Default for Beliefs {
    fn default() -> Self {
        Self {
            heddle_expects: "peer",
            ztunnel_expects: "app",
            ztunnel_domain: "cluster.local",
            ztunnel_policies: "[]",
            ztunnel_env: &[],
        }
    }
}

/// One of the two pods as a place to dial from.
#[derive(Clone)]
pub(crate) struct Side {
    pub(crate) pod: Arc<Pod>,
    socks: u16,
}

impl Side {
    pub(crate) fn connect(&self, to: impl Into<IpAddr>, port: u16) -> Result<TcpStream> {
        let server = SocketAddr::from((Ipv4Addr::LOCALHOST, self.socks));
        socks::connect(&self.pod.netns, server, SocketAddr::new(to.into(), port))
    }

    /// Serves bytes back to whoever connects, with half close, from threads of the test.
    pub(crate) fn echo(&self) -> Result<()> {
        let listener = self.pod.netns.run(|| Ok(TcpListener::bind(("::", ECHO))?))?;
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || {
                    let mut buffer = vec![0; 128 << 10];
                    while let Ok(n @ 1..) = (&stream).read(&mut buffer) {
                        if (&stream).write_all(&buffer[..n]).is_err() {
                            return;
                        }
                    }
                    let _gone = stream.shutdown(Shutdown::Write);
                });
            }
        });
        Ok(())
    }
}

/// Fields are dropped in order: processes before what they live in.
pub(crate) struct Stage {
    pub(crate) agent: Agent,
    pub(crate) ztunnel: Proc,
    spawn_ztunnel: Box<dyn Fn() -> Result<Proc>>,
    _helpers: Vec<Proc>,
    pub(crate) config: ConfigDir,
    pub(crate) heddle_side: Side,
    pub(crate) ztunnel_side: Side,
    _ground: Topology,
}

impl Stage {
    pub(crate) fn start(from: &Ztunnel, beliefs: &Beliefs) -> Result<Self> {
        let mut ground = Topology::new()?;
        let app = ground.pod(1, "app")?;
        let peer = ground.pod(2, "peer")?;
        let mut helpers = vec![app.serve(&["socks", "--listen", &format!("127.0.0.1:{PODKIT_SOCKS}")])?];
        for pod in [&app, &peer] {
            helpers.push(pod.serve(&["http-server", "--name", &pod.name])?);
        }
        let config = ConfigDir::new(ground.run())?;
        config.write("mesh.yaml", heddle_yaml(&app, &peer, beliefs))?;
        let mut spec = AgentSpec::new(ground.run(), &ground.nodes[0])?;
        spec.workers = Some(2);
        spec.extra = ["--drain-seconds", "20"].map(str::to_owned).to_vec();
        std::fs::copy(&from.ca_key, spec.ca.join("ca.key")).context("ca-key.pem")?;
        std::fs::copy(&from.ca_cert, spec.ca.join("ca.crt")).context("root-cert.pem")?;
        let spawn_ztunnel = ztunnel_spawner(from, &ground, &app, &peer, beliefs)?;
        let ztunnel = spawn_ztunnel()?;
        let mut agent = spec.start()?;
        agent.ready(Duration::from_secs(20))?;
        ztunnel_ready(&peer)?;
        let heddle_side = Side {
            pod: app,
            socks: PODKIT_SOCKS,
        };
        let ztunnel_side = Side {
            pod: peer,
            socks: ZTUNNEL_SOCKS,
        };
        heddle_side.echo()?;
        ztunnel_side.echo()?;
        Ok(Self {
            agent,
            ztunnel,
            spawn_ztunnel,
            _helpers: helpers,
            config,
            heddle_side,
            ztunnel_side,
            _ground: ground,
        })
    }

    /// Kills ztunnel, starts it again, and waits until it is ready.
    pub(crate) fn restart_ztunnel(&mut self) -> Result<()> {
        self.ztunnel.kill();
        self.ztunnel = (self.spawn_ztunnel)()?;
        ztunnel_ready(&self.ztunnel_side.pod)
    }

    /// Both directions: who dials, whom, and the words for messages.
    pub(crate) fn directions(&self) -> [(&'static str, Side, Arc<Pod>); 2] {
        let (heddle, ztunnel) = (&self.heddle_side, &self.ztunnel_side);
        [
            ("heddle to ztunnel", heddle.clone(), ztunnel.pod.clone()),
            ("ztunnel to heddle", ztunnel.clone(), heddle.pod.clone()),
        ]
    }

    /// Established connections to port 15008 of `to`, counted where they were made.
    pub(crate) fn tunnels(&self, from: &Side) -> Result<usize> {
        established(&from.pod, "dport = :15008")
    }
}

/// Established TCP connections in a pod, as `ss` filters them.
pub(crate) fn established(pod: &Pod, filter: &str) -> Result<usize> {
    let mut args = vec!["-Htn", "state", "established", "( "];
    args.extend([filter, " )"]);
    let output = pod.output(std::path::Path::new("ss"), &args)?;
    anyhow::ensure!(
        output.status.success(),
        "ss: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8_lossy(&output.stdout).lines().count())
}

fn heddle_yaml(app: &Pod, peer: &Pod, beliefs: &Beliefs) -> String {
    let mut text = manifests::namespace(NAMESPACE, true);
    for (pod, account) in [(app, "app"), (peer, beliefs.heddle_expects)] {
        text += &manifests::service_account(NAMESPACE, account);
        let options = PodOptions {
            service_account: Some(account),
            deployment: Some(&pod.name),
            ..PodOptions::default()
        };
        text += &manifests::pod(NAMESPACE, pod, &options);
    }
    text
}

fn ztunnel_ready(peer: &Pod) -> Result<()> {
    let ready = SocketAddr::from((Ipv4Addr::LOCALHOST, 15021));
    eventually("ztunnel to be ready", Duration::from_secs(20), || {
        matches!(peer.netns.http_get(ready, "/healthz/ready"), Ok((200, _))).then_some(())
    })
}

fn ztunnel_spawner(
    from: &Ztunnel,
    ground: &Topology,
    app: &Pod,
    peer: &Arc<Pod>,
    beliefs: &Beliefs,
) -> Result<Box<dyn Fn() -> Result<Proc>>> {
    let mut xds = "workloads:\n".to_owned();
    let workloads = [
        (app, beliefs.ztunnel_expects, "cluster.local"),
        (peer, "peer", beliefs.ztunnel_domain),
    ];
    for (pod, account, domain) in workloads {
        writeln!(
            xds,
            "- uid: Kubernetes//Pod/{NAMESPACE}/{name}\n  name: {name}\n  namespace: {NAMESPACE}\n  \
             serviceAccount: {account}\n  trustDomain: {domain}\n  workloadIps: [\"{v4}\", \"{v6}\"]\n  \
             protocol: HBONE\n  workloadName: {name}\n  workloadType: deployment\n  canonicalName: {name}\n  \
             node: {node}\n  network: \"\"\n  services: {{}}",
            name = pod.name,
            v4 = pod.v4,
            v6 = pod.v6,
            node = pod.node.name,
        )?;
    }
    writeln!(xds, "policies: {}\nservices: []", beliefs.ztunnel_policies)?;
    let path = ground.run().dir().join("ztunnel.yaml");
    std::fs::write(&path, xds)?;
    let (program, logs, peer) = (from.program.clone(), ground.run().logs(), peer.clone());
    let more = beliefs.ztunnel_env;
    Ok(Box::new(move || {
        let mut command = peer.place().command(&program)?;
        command
            .env("PROXY_MODE", "dedicated")
            .env("PROXY_WORKLOAD_INFO", format!("{NAMESPACE}/peer/peer"))
            .env("XDS_ADDRESS", "")
            .env("LOCAL_XDS_PATH", &path)
            .env("FAKE_CA", "true")
            // The application's answers would miss a ztunnel that dials with the client's address.
            .env("ENABLE_ORIG_SRC", "false")
            .env("NETWORK", "")
            .env("UNSTABLE_ENABLE_SOCKS5", "true")
            .envs(more.iter().copied());
        Proc::spawn("ztunnel", command, &logs)
    }))
}
