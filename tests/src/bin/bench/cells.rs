//! What is measured: targets on paths, and the processes behind them.

use crate::{edge, peers};
use anyhow::Result;
use mesh_tests::agent::{Agent, AgentSpec};
use mesh_tests::manifests::{self, ConfigDir, PodOptions, Port};
use mesh_tests::process::Proc;
use mesh_tests::topology::{Pod, Topology};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Ports of every origin: HTTP/1.1, HTTP/2 with prior knowledge, bulk.
pub(crate) const HTTP1: u16 = 8080;
pub(crate) const HTTP2: u16 = 8081;
pub(crate) const BULK: u16 = 7001;

/// A kind of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Suite {
    Bulk1,
    Bulk8,
    Http1,
    Http2,
    Rate,
    NewConn,
    Mem,
}

impl Suite {
    pub(crate) const ALL: [Self; 7] = [
        Self::Bulk1,
        Self::Bulk8,
        Self::Http1,
        Self::Http2,
        Self::Rate,
        Self::NewConn,
        Self::Mem,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Bulk1 => "bulk1",
            Self::Bulk8 => "bulk8",
            Self::Http1 => "http1",
            Self::Http2 => "http2",
            Self::Rate => "rate",
            Self::NewConn => "newconn",
            Self::Mem => "mem",
        }
    }

    pub(crate) const fn unit(self) -> &'static str {
        match self {
            Self::Bulk1 | Self::Bulk8 => "Gbit/s",
            Self::Http1 | Self::Http2 => "requests/s",
            Self::Rate => "ms p50",
            Self::NewConn => "connections/s",
            Self::Mem => "MiB",
        }
    }

    /// Work that CPU seconds are given for.
    pub(crate) const fn per(self) -> &'static str {
        match self {
            Self::Bulk1 | Self::Bulk8 => "10 GiB",
            Self::Mem => "1000 connections",
            _ => "100k requests",
        }
    }

    /// Bulk is not HTTP, and a direct path has no process whose memory could be taken.
    pub(crate) fn applies(self, cell: &Cell) -> bool {
        match self {
            Self::Bulk1 | Self::Bulk8 => cell.layer != "l7",
            Self::Mem => cell.target != "direct",
            _ => true,
        }
    }
}

/// One target on one path.
pub(crate) struct Cell {
    pub(crate) target: &'static str,
    pub(crate) layer: &'static str,
    pub(crate) tls: &'static str,
    pub(crate) path: &'static str,
    pub(crate) client: Arc<Pod>,
    /// Where the client dials: HTTP/1.1, HTTP/2, bulk.
    pub(crate) to: [SocketAddr; 3],
    /// Cgroups of the processes in between.
    pub(crate) proxies: Vec<PathBuf>,
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!(
            "{} {} {} {}",
            self.target, self.layer, self.tls, self.path
        ))
    }
}

/// Everything that runs.
pub(crate) struct Stage {
    pub(crate) cells: Vec<Cell>,
    _procs: Vec<Proc>,
    _agents: Vec<Agent>,
    _ground: Topology,
}

/// Pods of one kind: client and near origin on node 1, far origin on node 2.
pub(crate) struct Trio {
    pub(crate) client: Arc<Pod>,
    pub(crate) near: Arc<Pod>,
    pub(crate) far: Arc<Pod>,
}

impl Stage {
    pub(crate) fn new(targets: &[String]) -> Result<Self> {
        let wanted = |name: &str| targets.is_empty() || targets.iter().any(|target| target == name);
        let mut ground = Topology::new()?;
        ground.run().remove_on_signal()?;
        let mut procs = Vec::new();
        let plain = trio(&mut ground, "plain", &mut procs)?;
        let mut cells = Vec::new();
        for (path, origin) in [("same-node", &plain.near), ("cross-node", &plain.far)] {
            let to = [HTTP1, HTTP2, BULK].map(|port| SocketAddr::new(origin.v4.into(), port));
            let client = plain.client.clone();
            cells.push(Cell {
                target: "direct",
                layer: "none",
                tls: "plaintext",
                path,
                client,
                to,
                proxies: vec![],
            });
        }
        let mut agents = Vec::new();
        if wanted("heddle") {
            let meshed = trio(&mut ground, "meshed", &mut procs)?;
            agents = heddle(&ground, &meshed, &mut cells)?;
        }
        if wanted("gateway") {
            edge::start(&ground, &plain, &mut procs, &mut cells)?;
        }
        peers::start(&ground, &plain, &wanted, &mut procs, &mut cells)?;
        Ok(Self {
            cells,
            _procs: procs,
            _agents: agents,
            _ground: ground,
        })
    }
}

fn trio(ground: &mut Topology, kind: &str, procs: &mut Vec<Proc>) -> Result<Trio> {
    let client = ground.pod(1, &format!("{kind}-client"))?;
    let near = ground.pod(1, &format!("{kind}-near"))?;
    let far = ground.pod(2, &format!("{kind}-far"))?;
    for origin in [&near, &far] {
        procs.push(peers::origin(ground.run(), origin)?);
        procs.push(origin.serve(&["sink", "--listen", &format!("[::]:{BULK}")])?);
    }
    Ok(Trio { client, near, far })
}

/// The agents, and one cell per layer and path. Each origin has one service that is L4 only and one that is not.
fn heddle(ground: &Topology, pods: &Trio, cells: &mut Vec<Cell>) -> Result<Vec<Agent>> {
    let config = ConfigDir::new(ground.run())?;
    let mut text = manifests::namespace("bench", true);
    for (pod, app) in [(&pods.client, "client"), (&pods.near, "near"), (&pods.far, "far")] {
        let options = PodOptions {
            labels: &[("app", app)],
            deployment: Some(app),
            ..PodOptions::default()
        };
        text += &manifests::pod("bench", pod, &options);
    }
    let mut vip = 0u8;
    for (app, path, tls) in [("near", "same-node", "plaintext"), ("far", "cross-node", "mtls")] {
        for layer in ["l4", "l7"] {
            vip += 1;
            let ip = IpAddr::from([10, 96, 9, vip]);
            let labels: &[(&str, &str)] = if layer == "l4" {
                &[("heddle.io/l7", "disabled")]
            } else {
                &[]
            };
            let protocol = |http: &'static str| if layer == "l4" { "tcp" } else { http };
            let ports = [
                Port {
                    name: &format!("{}-one", protocol("http")),
                    port: HTTP1,
                    target: HTTP1,
                },
                Port {
                    name: &format!("{}-two", protocol("http2")),
                    port: HTTP2,
                    target: HTTP2,
                },
                Port {
                    name: "tcp-bulk",
                    port: BULK,
                    target: BULK,
                },
            ];
            text += &manifests::service(
                "bench",
                &format!("{app}-{layer}"),
                &[("app", app)],
                &[ip],
                &ports,
                labels,
            );
            let nodes = if path == "same-node" {
                &ground.nodes[..1]
            } else {
                &ground.nodes[..]
            };
            cells.push(Cell {
                target: "heddle",
                layer,
                tls,
                path,
                client: pods.client.clone(),
                to: [HTTP1, HTTP2, BULK].map(|port| SocketAddr::new(ip, port)),
                proxies: nodes
                    .iter()
                    .map(|node| node.cgroup.join("heddle-agent"))
                    .collect(),
            });
        }
    }
    config.write("bench.yaml", text)?;
    let mut agents = Vec::new();
    for node in &ground.nodes {
        let mut spec = AgentSpec::new(ground.run(), node)?;
        // As the peers, which run without one.
        spec.extra.extend(["--access-log".to_owned(), "false".to_owned()]);
        let mut agent = spec.start()?;
        agent.ready(Duration::from_secs(20))?;
        agents.push(agent);
    }
    Ok(agents)
}
