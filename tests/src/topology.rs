//! Two nodes joined by a wire, pods behind them as the `ptp` CNI plug-in makes them.
//!
//! Node *n* has 10.77.0.*n* and fd77::*n* on `mesh0`; its pods have 10.77.*n*.x and fd77:*n*::x as single addresses
//! behind point-to-point veths, and the node forwards.

use crate::netns::Netns;
use crate::process::{Place, Proc};
use crate::run::Run;
use anyhow::{Context, Result};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::Arc;

/// Device of the wire between the nodes.
pub const WIRE: &str = "mesh0";

/// A node.
#[derive(Debug)]
pub struct Node {
    /// Its Kubernetes name: `node1`, `node2`.
    pub name: String,
    /// Its name with the run's in front, for folders and pins.
    pub unique: String,
    /// Its number, from 1.
    pub number: u8,
    /// Its network namespace.
    pub netns: Netns,
    /// Its pods' cgroups are below this one.
    pub cgroup: PathBuf,
    /// Where its own daemons run: beside, not below, `cgroup`, like kubelet's siblings of `kubepods`.
    pub system: Place,
    /// Address on the wire.
    pub v4: Ipv4Addr,
    /// Address on the wire.
    pub v6: Ipv6Addr,
}

/// A pod.
#[derive(Debug)]
pub struct Pod {
    /// Its Kubernetes name.
    pub name: String,
    /// The node it runs on.
    pub node: Arc<Node>,
    /// Its network namespace.
    pub netns: Netns,
    /// Its address.
    pub v4: Ipv4Addr,
    /// Its address.
    pub v6: Ipv6Addr,
    place: Place,
    logs: PathBuf,
}

impl Pod {
    /// Both addresses.
    #[must_use]
    pub fn ips(&self) -> [IpAddr; 2] {
        [self.v4.into(), self.v6.into()]
    }

    /// Where its processes run.
    #[must_use]
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Starts a program in the pod; output goes to the run's logs.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn spawn(&self, name: &str, program: &Path, args: &[&str]) -> Result<Proc> {
        let mut command = self.place.command(program)?;
        command.args(args);
        Proc::spawn(&format!("{}-{name}", self.name), command, &self.logs)
    }

    /// Runs a program in the pod to its end.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn output(&self, program: &Path, args: &[&str]) -> Result<Output> {
        let mut command = self.place.command(program)?;
        command
            .args(args)
            .output()
            .with_context(|| format!("{} in pod {}", program.display(), self.name))
    }
}

/// Two nodes and their pods. Processes started on it must be dropped first; what is not is killed with it.
#[derive(Debug)]
pub struct Topology {
    /// `node1` and `node2`.
    pub nodes: [Arc<Node>; 2],
    run: Run,
    pods: Vec<Arc<Pod>>,
    made: [u16; 2],
}

impl Topology {
    /// Two nodes without pods.
    ///
    /// # Errors
    /// Not root, or the kernel or iproute2 refuses something.
    pub fn new() -> Result<Self> {
        let run = Run::start()?;
        let first = node(&run, 1)?;
        let second = node(&run, 2)?;
        first.netns.ip(&[&format!(
            "link add {WIRE} type veth peer name {WIRE} netns {}",
            second.netns.name()
        )])?;
        for node in [&first, &second] {
            node.netns.ip(&[
                &format!("addr add {}/24 dev {WIRE}", node.v4),
                &format!("addr add {}/64 dev {WIRE} nodad", node.v6),
                &format!("link set {WIRE} up"),
            ])?;
        }
        for (node, other) in [(&first, &second), (&second, &first)] {
            let (v4, v6, n) = (other.v4, other.v6, other.number);
            node.netns.ip(&[
                &format!("route add 10.77.{n}.0/24 via {v4}"),
                &format!("route add fd77:{n}::/64 via {v6}"),
                // Cluster IPs are rewritten on their way out, which needs a route to start from.
                &format!("route add default via {v4}"),
                &format!("route add ::/0 via {v6}"),
            ])?;
        }
        Ok(Self {
            nodes: [Arc::new(first), Arc::new(second)],
            run,
            pods: Vec::new(),
            made: [0, 0],
        })
    }

    /// The run that owns it.
    #[must_use]
    pub fn run(&self) -> &Run {
        &self.run
    }

    /// The run that owns it.
    pub fn run_mut(&mut self) -> &mut Run {
        &mut self.run
    }

    /// All pods so far, in the order they were made.
    #[must_use]
    pub fn pods(&self) -> &[Arc<Pod>] {
        &self.pods
    }

    /// Makes a pod on node 1 or 2.
    ///
    /// # Errors
    /// As [`Topology::new`].
    ///
    /// # Panics
    /// The node's number is neither 1 nor 2.
    pub fn pod(&mut self, node: usize, name: &str) -> Result<Arc<Pod>> {
        let index = self.made[node - 1];
        self.made[node - 1] += 1;
        let pod = Arc::new(pod(&self.run, self.nodes[node - 1].clone(), index, name)?);
        self.pods.push(pod.clone());
        Ok(pod)
    }

    /// Removes a pod: its processes, its namespace, its cgroup. Its address is not given out again.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn remove_pod(&mut self, pod: &Arc<Pod>) -> Result<()> {
        self.pods.retain(|other| !Arc::ptr_eq(other, pod));
        std::fs::write(pod.place.cgroup.join("cgroup.kill"), "1")?;
        crate::eventually(
            "the pod's processes to end",
            std::time::Duration::from_secs(5),
            || std::fs::remove_dir(&pod.place.cgroup).ok(),
        )?;
        let status = std::process::Command::new("ip")
            .args(["netns", "del", pod.netns.name()])
            .status()?;
        anyhow::ensure!(status.success(), "ip netns del {} failed", pod.netns.name());
        Ok(())
    }

    /// Removes everything and says what is still there.
    ///
    /// # Errors
    /// Something could not be removed.
    pub fn finish(self) -> Result<Vec<String>> {
        self.run.finish()
    }
}

fn node(run: &Run, number: u8) -> Result<Node> {
    let name = format!("node{number}");
    let unique = format!("{}-{name}", run.name());
    let netns = Netns::create(&unique)?;
    netns.sysctl(&[
        ("net/ipv4/ip_forward", "1"),
        ("net/ipv6/conf/all/forwarding", "1"),
    ])?;
    let cgroup = run.cgroup().join(&name);
    let system = run.cgroup().join(format!("{name}-system"));
    for dir in [&cgroup, &system] {
        std::fs::create_dir(dir).with_context(|| format!("creating cgroup {}", dir.display()))?;
    }
    Ok(Node {
        system: Place {
            netns: netns.file().clone(),
            cgroup: system,
        },
        v4: Ipv4Addr::new(10, 77, 0, number),
        v6: Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, u16::from(number)),
        name,
        unique,
        number,
        netns,
        cgroup,
    })
}

fn pod(run: &Run, node: Arc<Node>, index: u16, name: &str) -> Result<Pod> {
    let netns = Netns::create(&format!("{}-p{}x{index}", run.name(), node.number))?;
    let last = index
        .checked_add(10)
        .filter(|last| *last < 255 * 250)
        .context("too many pods on a node")?;
    let n = node.number;
    // Past .254 the third octet would leave the node's /24, so a node has at most 245 IPv4 pods at a time;
    // tests that make more reuse one address after another.
    let v4 = Ipv4Addr::new(
        10,
        77,
        n,
        u8::try_from(10 + (last - 10) % 240).context("pod address")?,
    );
    let v6 = Ipv6Addr::new(0xfd77, u16::from(n), 0, 0, 0, 0, 0, last);
    let (veth, gateway) = (format!("veth{index}"), Ipv4Addr::new(10, 77, n, 1));
    node.netns.ip(&[
        &format!("link add {veth} type veth peer name eth0 netns {}", netns.name()),
        &format!("addr add {gateway}/32 dev {veth}"),
        &format!("addr add fd77:{n}::1/128 dev {veth} nodad"),
        &format!("link set {veth} up"),
        &format!("route add {v4}/32 dev {veth} src {gateway}"),
        &format!("route add {v6}/128 dev {veth}"),
    ])?;
    netns.ip(&[
        &format!("addr add {v4}/32 dev eth0"),
        &format!("addr add {v6}/128 dev eth0 nodad"),
        "link set eth0 up",
        &format!("route add {gateway}/32 dev eth0"),
        &format!("route add default via {gateway} dev eth0 src {v4}"),
        &format!("route add fd77:{n}::1/128 dev eth0"),
        &format!("route add ::/0 via fd77:{n}::1 dev eth0 src {v6}"),
    ])?;
    let cgroup = node.cgroup.join(name);
    std::fs::create_dir(&cgroup).with_context(|| format!("creating cgroup {}", cgroup.display()))?;
    let place = Place {
        netns: netns.file().clone(),
        cgroup,
    };
    Ok(Pod {
        name: name.to_owned(),
        node,
        netns,
        v4,
        v6,
        place,
        logs: run.logs(),
    })
}
