//! What the BPF maps must hold: snapshot → [`Plan`] → [`diff`]. The edge only carries the operations out.

mod build;

use crate::model::snapshot::Snapshot;
use mesh_common::{Backend, BackendKey, Ip, LocalPod, PortKey, Service, ServiceKey, Workload};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Facts about the node that only the edge knows.
#[derive(Clone, Debug, Default)]
pub struct NodeFacts {
    /// `spec.nodeName` of this node.
    pub node: String,
    /// Addresses of this node (probe sources).
    pub addrs: Vec<IpAddr>,
    /// Pods whose listeners are open: `Workload::id` → network namespace cookie. Only these are captured.
    pub captured: BTreeMap<u32, u64>,
}

/// Full contents of the config maps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// `WORKLOADS`.
    pub workloads: BTreeMap<u64, Workload>,
    /// `LOCAL_PODS`.
    pub local_pods: BTreeMap<Ip, LocalPod>,
    /// `PROBE_PORTS`.
    pub probe_ports: BTreeSet<PortKey>,
    /// `NODE_ADDRS`.
    pub node_addrs: BTreeSet<Ip>,
    /// `SERVICES`. `Service::id` is a *generation*: whenever the backends of a service change it gets a number that
    /// the previous plan did not use, so that the kernel never mixes an old count with new backends.
    pub services: BTreeMap<ServiceKey, Service>,
    /// `BACKENDS`.
    pub backends: BTreeMap<BackendKey, Backend>,
    /// What did not fit into a map, by name; none of it is half there.
    pub refused: Vec<String>,
    /// The last generation given out; carried from plan to plan.
    pub last_generation: u32,
}

/// One map operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Insert or overwrite.
    PutWorkload(u64, Workload),
    /// Insert or overwrite.
    PutLocalPod(Ip, LocalPod),
    /// Insert.
    PutProbePort(PortKey),
    /// Insert.
    PutNodeAddr(Ip),
    /// Insert or overwrite.
    PutService(ServiceKey, Service),
    /// Insert.
    PutBackend(BackendKey, Backend),
    /// Remove.
    DeleteWorkload(u64),
    /// Remove.
    DeleteLocalPod(Ip),
    /// Remove.
    DeleteProbePort(PortKey),
    /// Remove.
    DeleteNodeAddr(Ip),
    /// Remove.
    DeleteService(ServiceKey),
    /// Remove.
    DeleteBackend(BackendKey),
}

/// Computes the wanted contents. `previous` is only used to keep generation numbers of what did not change.
#[must_use]
pub fn plan(snapshot: &Snapshot, facts: &NodeFacts, previous: &Plan) -> Plan {
    build::plan(snapshot, facts, previous)
}

/// Operations that lead from `old` to `new`, in an order in which a reader at any point sees either the old or the
/// new state of each service, and an enrolled pod is never without its `LOCAL_PODS` entry.
#[must_use]
pub fn diff(old: &Plan, new: &Plan) -> Vec<Op> {
    let mut ops = Vec::new();
    let mut put = |op| ops.push(op);
    changed(&old.backends, &new.backends).for_each(|(k, v)| put(Op::PutBackend(k, v)));
    changed(&old.services, &new.services).for_each(|(k, v)| put(Op::PutService(k, v)));
    changed(&old.local_pods, &new.local_pods).for_each(|(k, v)| put(Op::PutLocalPod(k, v)));
    new.node_addrs
        .difference(&old.node_addrs)
        .for_each(|ip| put(Op::PutNodeAddr(*ip)));
    new.probe_ports
        .difference(&old.probe_ports)
        .for_each(|port| put(Op::PutProbePort(*port)));
    changed(&old.workloads, &new.workloads).for_each(|(k, v)| put(Op::PutWorkload(k, v)));
    gone(&old.workloads, &new.workloads).for_each(|k| put(Op::DeleteWorkload(k)));
    gone(&old.local_pods, &new.local_pods).for_each(|k| put(Op::DeleteLocalPod(k)));
    old.probe_ports
        .difference(&new.probe_ports)
        .for_each(|port| put(Op::DeleteProbePort(*port)));
    old.node_addrs
        .difference(&new.node_addrs)
        .for_each(|ip| put(Op::DeleteNodeAddr(*ip)));
    gone(&old.services, &new.services).for_each(|k| put(Op::DeleteService(k)));
    gone(&old.backends, &new.backends).for_each(|k| put(Op::DeleteBackend(k)));
    ops
}

fn changed<'a, K: Ord + Copy, V: PartialEq + Copy>(
    old: &'a BTreeMap<K, V>,
    new: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = (K, V)> + 'a {
    new.iter()
        .filter(|(k, v)| old.get(k) != Some(v))
        .map(|(k, v)| (*k, *v))
}

fn gone<'a, K: Ord + Copy, V>(
    old: &'a BTreeMap<K, V>,
    new: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = K> + 'a {
    old.keys().filter(|k| !new.contains_key(k)).copied()
}

#[cfg(test)]
mod tests;
