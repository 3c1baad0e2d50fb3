//! Cluster IPs for pods outside of the mesh, as kube-proxy's nftables mode serves them: destination NAT in the
//! node's namespace, replaced in one transaction.

use crate::topology::{Node, Topology};
use anyhow::{Context, Result, ensure};
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::process::Stdio;

/// One port of a service.
#[derive(Clone, Debug)]
pub struct ClusterIp {
    /// Address and port that clients dial; both families are served, each by endpoints of its own family.
    pub vip: SocketAddr,
    /// Ready endpoints. None means connection refused.
    pub endpoints: Vec<SocketAddr>,
}

/// Serves `services`, and nothing that was served before, on both nodes.
///
/// # Errors
/// nft is missing or refuses.
pub fn serve(topology: &Topology, services: &[ClusterIp]) -> Result<()> {
    let rules = ruleset(services);
    topology.nodes.iter().try_for_each(|node| apply(node, &rules))
}

fn apply(node: &Node, rules: &str) -> Result<()> {
    let mut command = node.system.command("nft")?;
    command
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().context("running nft (package nftables)")?;
    child
        .stdin
        .take()
        .context("nft takes no input")?
        .write_all(rules.as_bytes())?;
    let output = child.wait_with_output()?;
    ensure!(
        output.status.success(),
        "nft on {}: {}",
        node.name,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

fn ruleset(services: &[ClusterIp]) -> String {
    let mut chains = String::new();
    let mut picks = String::new();
    let mut hairpins = String::new();
    // A packet that no endpoint serves still has the cluster IP when it is forwarded.
    let mut refused = String::new();
    for (s, service) in services.iter().enumerate() {
        let (family, vip, port) = (family(service.vip.ip()), service.vip.ip(), service.vip.port());
        let endpoints: Vec<_> = service
            .endpoints
            .iter()
            .filter(|e| e.is_ipv4() == service.vip.is_ipv4())
            .collect();
        if endpoints.is_empty() {
            let _ = writeln!(
                refused,
                "    {family} daddr {vip} tcp dport {port} reject with tcp reset"
            );
            continue;
        }
        let arms: Vec<_> = (0..endpoints.len())
            .map(|e| format!("{e} : goto s{s}e{e}"))
            .collect();
        let (count, arms) = (arms.len(), arms.join(", "));
        let _ = writeln!(
            picks,
            "    {family} daddr {vip} tcp dport {port} numgen random mod {count} vmap {{ {arms} }}"
        );
        for (e, endpoint) in endpoints.iter().enumerate() {
            let _ = writeln!(
                chains,
                "  chain s{s}e{e} {{ meta l4proto tcp dnat {family} to {endpoint}; }}"
            );
            let ip = endpoint.ip();
            let _ = writeln!(
                hairpins,
                "    ct status dnat {family} saddr {ip} {family} daddr {ip} masquerade"
            );
        }
    }
    format!(
        "table inet cluster-ip {{}}\ndelete table inet cluster-ip\ntable inet cluster-ip {{\n\
         {chains}  chain pick {{\n{picks}  }}\n\
         \x20 chain refused {{ type filter hook forward priority 0;\n{refused}  }}\n\
         \x20 chain pods {{ type nat hook prerouting priority -100; jump pick; }}\n\
         \x20 chain node {{ type nat hook output priority -100; jump pick; }}\n\
         \x20 chain hairpin {{ type nat hook postrouting priority 100;\n{hairpins}  }}\n}}\n",
    )
}

const fn family(ip: IpAddr) -> &'static str {
    if ip.is_ipv4() { "ip" } else { "ip6" }
}
