//! What the BPF maps must hold: snapshot → [`Plan`] → [`diff`]. The edge only carries the operations out.

mod basis;
mod build;

pub use basis::Basis;

use crate::model::snapshot::Snapshot;
use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use mesh_common::maps::{MAX_BACKENDS, MAX_SERVICES};
use mesh_common::{Backend, BackendKey, Ip, LocalPod, PortKey, Service, ServiceKey, Workload};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// How much the maps hold whose size can be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Entries of `SERVICES`.
    pub services: u32,
    /// Entries of `BACKENDS`.
    pub backends: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            services: MAX_SERVICES,
            backends: MAX_BACKENDS,
        }
    }
}

/// Facts about the node that only the edge knows.
#[derive(Clone, Debug, Default)]
pub struct NodeFacts {
    /// `spec.nodeName` of this node.
    pub node: String,
    /// Addresses of this node (probe sources).
    pub addrs: Vec<IpAddr>,
    /// Pods whose listeners are open: `Workload::id` → network namespace cookie. Only these are captured.
    pub captured: BTreeMap<u32, u64>,
    /// Sizes of the maps.
    pub limits: Limits,
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
    pub services: OrdMap<ServiceKey, Service>,
    /// `BACKENDS`.
    pub backends: OrdMap<BackendKey, Backend>,
    /// What did not fit into a map, by name; none of it is half there.
    pub refused: Vec<String>,
    /// The last generation given out; carried from plan to plan.
    pub last_generation: u32,
    /// What it was made from, so that the next plan looks only at what is different.
    pub basis: Basis,
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

/// Computes the wanted contents. What did not change since `previous` keeps its generation number, and is not looked at
/// if `previous` is a plan that was made here.
#[must_use]
pub fn plan(snapshot: &Snapshot, facts: &NodeFacts, previous: &Plan) -> Plan {
    build::plan(snapshot, facts, previous)
}

/// Operations that lead from `old` to `new`, in an order in which a reader at any point sees either the old or the
/// new state of each service, and an enrolled pod is never without its `LOCAL_PODS` entry.
#[must_use]
pub fn diff(old: &Plan, new: &Plan) -> Vec<Op> {
    let mut ops = Vec::new();
    let (put_backends, delete_backends) = parts(&old.backends, &new.backends);
    let (put_services, delete_services) = parts(&old.services, &new.services);
    ops.extend(put_backends.into_iter().map(|(k, v)| Op::PutBackend(k, v)));
    ops.extend(put_services.into_iter().map(|(k, v)| Op::PutService(k, v)));
    let mut put = |op| ops.push(op);
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
    ops.extend(delete_services.into_iter().map(Op::DeleteService));
    ops.extend(delete_backends.into_iter().map(Op::DeleteBackend));
    ops
}

/// What is new or different, and what is gone. Parts that both maps share are not walked.
fn parts<K: Ord + Copy, V: PartialEq + Copy>(
    old: &OrdMap<K, V>,
    new: &OrdMap<K, V>,
) -> (Vec<(K, V)>, Vec<K>) {
    let (mut put, mut gone) = (Vec::new(), Vec::new());
    for item in old.diff(new) {
        match item {
            DiffItem::Add(k, v) | DiffItem::Update { new: (k, v), .. } => put.push((*k, *v)),
            DiffItem::Remove(k, _) => gone.push(*k),
        }
    }
    (put, gone)
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
