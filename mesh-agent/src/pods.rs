//! Opens the agent's listeners inside a pod's network namespace, and tells what lives there already.

use crate::contract::{Listeners, PodHandle};
use crate::sys::{NetNs, datagrams_at, listen_any};
use mesh_common::maps::{INBOUND_PORT, OUTBOUND_PORT, RESOLVERS_PER_POD, TUNNEL_PORT};
use mesh_common::verdict::resolver_at;
use mesh_core::model::workload::Workload;
use std::fs;
use std::io;
use std::net::UdpSocket;
use std::path::Path;
use std::sync::Arc;

/// Why a pod cannot be captured.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The source gave no namespace.
    #[error("its network namespace is not known (annotation heddle.io/netns)")]
    NoNetns,
    /// The namespace file.
    #[error("cannot open its network namespace {path}: {source}")]
    Open {
        /// Which file.
        path: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The namespace is the node's own: its sockets could not be told apart.
    #[error("it shares the node's network namespace")]
    HostNetwork,
    /// A listener.
    #[error("cannot listen in its network namespace: {0}")]
    Listen(#[source] io::Error),
    /// The data path refused.
    #[error("{0}")]
    Datapath(String),
}

/// Opens namespace and listeners of a pod, and if `names`, the sockets that take its questions for names. Nothing is steered
/// to them yet.
///
/// # Errors
/// See [`CaptureError`]; nothing stays open.
pub fn open(workload: &Arc<Workload>, mark: u32, names: bool) -> Result<PodHandle, CaptureError> {
    let path = workload.netns.as_deref().ok_or(CaptureError::NoNetns)?;
    let fail = |source| CaptureError::Open {
        path: path.to_owned(),
        source,
    };
    let netns = NetNs::open(Path::new(path)).map_err(fail)?;
    let home = NetNs::current().and_then(|home| home.inode()).map_err(fail)?;
    if netns.inode().map_err(fail)? == home {
        return Err(CaptureError::HostNetwork);
    }
    let listeners = netns
        .run(|| {
            Ok(Listeners {
                outbound: listen_any(OUTBOUND_PORT, mark)?,
                inbound: listen_any(INBOUND_PORT, mark)?,
                tunnel: listen_any(TUNNEL_PORT, mark)?,
            })
        })
        .map_err(CaptureError::Listen)?;
    let resolver = if names {
        netns.run(|| resolver(workload, mark)).unwrap_or_else(|error| {
            tracing::warn!(pod = %workload.pod, %error, "the pod asks its own name server: a port for questions is taken");
            Vec::new()
        })
    } else {
        Vec::new()
    };
    Ok(PodHandle {
        workload: Arc::clone(workload),
        netns,
        listeners: Some(listeners),
        resolver,
    })
}

/// On loopback, where nobody but the pod itself can ask.
fn resolver(workload: &Workload, mark: u32) -> io::Result<Vec<(u32, UdpSocket)>> {
    let mut sockets = Vec::new();
    for v4 in [true, false] {
        if !workload.ips.iter().any(|ip| ip.is_ipv4() == v4) {
            continue;
        }
        for slot in 0..u32::from(RESOLVERS_PER_POD) {
            sockets.push((slot, datagrams_at(resolver_at(slot, v4).into(), mark)?));
        }
    }
    Ok(sockets)
}

/// How many TCP connections to or from other hosts live in a namespace. At enrollment these are the ones that the mesh
/// does not carry: they go on as they are until they end.
///
/// # Errors
/// The namespace cannot be entered.
pub fn established(netns: &NetNs) -> io::Result<usize> {
    netns.run(|| {
        let mut count = 0;
        for table in ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"] {
            // A kernel without IPv6 has no second table.
            count += count_established(&fs::read_to_string(table).unwrap_or_default());
        }
        Ok(count)
    })
}

/// Counts the rows in state ESTABLISHED (01) whose remote end is not loopback (proc_net_tcp, kernel documentation).
fn count_established(table: &str) -> usize {
    let loopback = |address: &str| {
        address.starts_with("0100007F:")
            || address.starts_with("00000000000000000000000001000000:")
            || address.starts_with("0000000000000000FFFF00000100007F:")
    };
    table
        .lines()
        .skip(1)
        .filter(|line| {
            let mut fields = line.split_whitespace();
            let remote = fields.nth(2).unwrap_or_default();
            let state = fields.next().unwrap_or_default();
            state == "01" && !loopback(remote)
        })
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_established_connections_to_other_hosts_are_counted() {
        let table = "  sl  local_address rem_address   st tx_queue\n\
            0: 0100007F:1F90 00000000:0000 0A 0\n\
            1: 0100007F:1F90 0100007F:A000 01 0\n\
            2: 0201A8C0:1F90 0301A8C0:A000 01 0\n\
            3: 0201A8C0:1F90 0301A8C0:A001 06 0\n";
        assert_eq!(count_established(table), 1);
    }
}
