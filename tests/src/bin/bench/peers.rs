//! The peers that a registry ships, each at its defaults but for the number of workers, with explicit addresses in
//! place of capture. A cell with mTLS has one proxy on each node and a TLS 1.3 connection with client certificates
//! between them.

mod envoy;
mod haproxy;
mod nginx;

use crate::cells::{BULK, Cell, HTTP1, HTTP2, Trio};
use anyhow::{Context, Result, ensure};
use mesh_tests::process::{Place, Proc};
use mesh_tests::run::Run;
use mesh_tests::topology::{Node, Pod, Topology};
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// One listener of a proxy and where it leads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hop {
    pub(crate) listen: u16,
    pub(crate) to: SocketAddr,
    pub(crate) protocol: Protocol,
    /// Takes TLS with a client's certificate.
    pub(crate) tls_in: bool,
    /// Speaks TLS with a certificate of its own.
    pub(crate) tls_out: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Tcp,
    Http1,
    Http2,
}

/// Certificates for the proxies: CA, certificate and key in PEM, and the last two in one file.
pub(crate) struct Pki {
    pub(crate) dir: PathBuf,
}

type Config = fn(&[Hop], &Pki, &Path) -> String;
/// Program and arguments.
type Launch = (PathBuf, Vec<String>);

struct Peer {
    name: &'static str,
    config: Config,
    command: fn(&Path) -> Result<Launch>,
    /// Layer and whether with mTLS.
    modes: &'static [(&'static str, bool)],
}

const PEERS: [Peer; 3] = [
    Peer {
        name: "envoy",
        config: envoy::config,
        command: envoy::command,
        modes: &[("l4", false), ("l7", false), ("l4", true), ("l7", true)],
    },
    Peer {
        name: "nginx",
        config: nginx::config,
        command: nginx::command,
        modes: &[("l4", false), ("l7", false), ("l4", true)],
    },
    Peer {
        name: "haproxy",
        config: haproxy::config,
        command: haproxy::command,
        modes: &[("l4", false), ("l7", false), ("l4", true)],
    },
];

/// nginx as the origin in a pod: 12 bytes on HTTP/1.1 and HTTP/2.
pub(crate) fn origin(run: &Run, pod: &Pod) -> Result<Proc> {
    let dir = run.dir().join(format!("origin-{}", pod.name));
    fs::create_dir_all(&dir)?;
    let file = dir.join("nginx.conf");
    fs::write(&file, nginx::origin(&dir, HTTP1, HTTP2))?;
    let args = nginx::command(&file)?.1;
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    pod.spawn("origin", Path::new("nginx"), &args)
}

/// Starts the peers that are wanted and adds their cells.
pub(crate) fn start(
    ground: &Topology,
    pods: &Trio,
    wanted: &dyn Fn(&str) -> bool,
    procs: &mut Vec<Proc>,
    cells: &mut Vec<Cell>,
) -> Result<()> {
    let pki = certificates(ground.run())?;
    let mut port = 20_000;
    for peer in PEERS.iter().filter(|peer| wanted(peer.name)) {
        eprintln!("▸ starting {}", peer.name);
        for (layer, mtls) in peer.modes {
            let protocols = match *layer {
                "l4" => [Protocol::Tcp; 3],
                _ => [Protocol::Http1, Protocol::Http2, Protocol::Tcp],
            };
            let origin = if *mtls { &pods.far } else { &pods.near };
            let mut near = Vec::new();
            let mut far = Vec::new();
            for (protocol, target) in protocols.into_iter().zip([HTTP1, HTTP2, BULK]) {
                let to = SocketAddr::new(origin.v4.into(), target);
                let next = SocketAddr::new(ground.nodes[1].v4.into(), port);
                let hop = Hop {
                    listen: port,
                    to,
                    protocol,
                    tls_in: false,
                    tls_out: false,
                };
                if *mtls {
                    near.push(Hop {
                        to: next,
                        tls_out: true,
                        ..hop
                    });
                    far.push(Hop { tls_in: true, ..hop });
                } else {
                    near.push(hop);
                }
                port += 1;
            }
            let first = port - 3;
            let mut proxies = vec![proxy(ground, peer, &ground.nodes[0], &near, &pki, procs)?];
            if *mtls {
                proxies.push(proxy(ground, peer, &ground.nodes[1], &far, &pki, procs)?);
            }
            cells.push(Cell {
                target: peer.name,
                layer,
                tls: if *mtls { "mtls" } else { "plaintext" },
                path: if *mtls { "cross-node" } else { "same-node" },
                client: pods.client.clone(),
                to: [first, first + 1, first + 2]
                    .map(|port| SocketAddr::new(ground.nodes[0].v4.into(), port)),
                proxies,
            });
        }
    }
    Ok(())
}

/// Starts one proxy in a cgroup of its own on a node, waits until it listens, and gives the cgroup.
fn proxy(
    ground: &Topology,
    peer: &Peer,
    node: &Node,
    hops: &[Hop],
    pki: &Pki,
    procs: &mut Vec<Proc>,
) -> Result<PathBuf> {
    let name = format!("{}-{}-{}", peer.name, node.name, hops[0].listen);
    let dir = ground.run().dir().join(&name);
    let cgroup = ground.run().cgroup().join(&name);
    fs::create_dir_all(&dir)?;
    fs::create_dir(&cgroup)?;
    let file = dir.join("config.json");
    fs::write(&file, (peer.config)(hops, pki, &dir))?;
    let (program, args) = (peer.command)(&file)?;
    let place = Place {
        netns: node.netns.file().clone(),
        cgroup: cgroup.clone(),
    };
    let mut command = place.command(program)?;
    command.args(args).current_dir(&dir);
    let mut proc = Proc::spawn(&name, command, &ground.run().logs())?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, hops[0].listen));
    mesh_tests::eventually(&format!("{name} to listen"), Duration::from_secs(20), || {
        let up = node
            .netns
            .run(|| Ok(std::net::TcpStream::connect_timeout(&address, Duration::from_millis(200)).is_ok()));
        (up.unwrap_or(false) || !proc.running()).then_some(())
    })?;
    ensure!(proc.running(), "{name} ended: {}", proc.last_words());
    procs.push(proc);
    Ok(cgroup)
}

fn certificates(run: &Run) -> Result<Pki> {
    let dir = run.dir().join("pki");
    fs::create_dir_all(&dir)?;
    let openssl = |args: &[&str]| -> Result<()> {
        let output = Command::new("openssl")
            .args(args)
            .current_dir(&dir)
            .output()
            .context("running openssl")?;
        ensure!(
            output.status.success(),
            "openssl: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    };
    let key = [
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
    ];
    let with = |rest: &[&'static str]| {
        ["req"]
            .into_iter()
            .chain(key)
            .chain(rest.iter().copied())
            .collect::<Vec<_>>()
    };
    openssl(&with(&[
        "-x509",
        "-subj",
        "/CN=bench-ca",
        "-keyout",
        "ca.key",
        "-out",
        "ca.pem",
    ]))?;
    let request: Vec<&str> = with(&["-subj", "/CN=bench", "-keyout", "key.pem", "-out", "request.pem"])
        .into_iter()
        .filter(|arg| !["-days", "2"].contains(arg))
        .collect();
    openssl(&request)?;
    openssl(&[
        "x509",
        "-req",
        "-in",
        "request.pem",
        "-CA",
        "ca.pem",
        "-CAkey",
        "ca.key",
        "-CAcreateserial",
        "-days",
        "2",
        "-out",
        "cert.pem",
    ])?;
    let both = [fs::read(dir.join("cert.pem"))?, fs::read(dir.join("key.pem"))?].concat();
    fs::write(dir.join("both.pem"), both)?;
    Ok(Pki { dir })
}
