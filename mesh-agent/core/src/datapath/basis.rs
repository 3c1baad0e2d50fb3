//! What a plan was made from.

use crate::changes::{Difference, changes};
use crate::model::ObjectName;
use crate::model::service::{Service, ServicePort};
use crate::model::snapshot::Snapshot;
use crate::model::workload::Workload;
use imbl::{HashSet, OrdMap};
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// The parts of a snapshot that a plan was made from. Two plans that say the same are equal whatever they were made from.
#[derive(Clone, Default)]
pub struct Basis {
    pub(super) settings: Option<Settings>,
    pub(super) workloads: Vec<Arc<Workload>>,
    pub(super) remotes: OrdMap<ObjectName, Arc<Workload>>,
    pub(super) services: Vec<Arc<Service>>,
    /// Service ports with a policy that the kernel cannot carry out.
    pub(super) steered: HashSet<u32>,
    pub(super) exposures: Exposures,
    /// Generations in the plan.
    pub(super) generations: HashSet<u32>,
}

/// What every entry depends on.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Settings {
    pub(super) node: String,
    pub(super) l4_only: std::collections::HashSet<Arc<str>>,
    pub(super) captured_ports: BTreeSet<u16>,
}

/// Where endpoints of enrolled pods listen, and how the services see that.
#[derive(Clone, Default)]
pub(super) struct Exposures(OrdMap<SocketAddr, Exposure>);

/// How many service ports see an address as something to look into, and how many as opaque.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Exposure {
    pub(super) inspected: u32,
    pub(super) opaque: u32,
}

impl PartialEq for Basis {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Basis {}

impl std::fmt::Debug for Basis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Basis")
            .field("services", &self.services.len())
            .finish_non_exhaustive()
    }
}

impl Basis {
    /// The services that are different in `snapshot`.
    pub(super) fn services<'a>(&'a self, snapshot: &'a Snapshot) -> Vec<Difference<'a, Service>> {
        let mut changed = changes(&self.services, &snapshot.services, |s| &s.name);
        if self.steered.ptr_eq(&snapshot.steered) || self.steered == snapshot.steered {
            return changed;
        }
        let known: std::collections::HashSet<&ObjectName> = changed
            .iter()
            .filter_map(|(_, new)| Some(&new.as_ref()?.name))
            .collect();
        let differs = |s: &Service| {
            s.ports
                .iter()
                .any(|p| self.steered.contains(&p.id) != snapshot.steered.contains(&p.id))
        };
        // The same service before and after: what it comes to is different all the same.
        let same: Vec<_> = snapshot
            .services
            .iter()
            .filter(|s| differs(s) && !known.contains(&s.name))
            .map(|s| (Some(s), Some(s)))
            .collect();
        changed.extend(same);
        changed
    }

    /// The addresses of pods that are different in `snapshot`: before and after.
    pub(super) fn addresses(&self, snapshot: &Snapshot) -> BTreeSet<IpAddr> {
        let full = changes(&self.workloads, &snapshot.workloads, |w| &w.pod);
        let mut changed: Vec<&Arc<Workload>> = full
            .into_iter()
            .flat_map(|(a, b)| a.into_iter().chain(b))
            .collect();
        for item in self.remotes.diff(&snapshot.remotes) {
            use imbl::ordmap::DiffItem::{Add, Remove, Update};
            match item {
                Add(_, new) => changed.push(new),
                Remove(_, old) => changed.push(old),
                Update { old, new } => changed.extend([old.1, new.1]),
            }
        }
        changed.into_iter().flat_map(|w| &w.ips).copied().collect()
    }
}

impl Exposures {
    /// Counts the endpoints of a port in or out. `touched` gets their addresses.
    pub(super) fn expose(&mut self, port: &ServicePort, there: bool, touched: &mut BTreeSet<SocketAddr>) {
        let enrolled = |w: &Arc<Workload>| w.enrolled();
        for endpoint in port
            .endpoints
            .iter()
            .filter(|e| e.workload.as_ref().is_some_and(enrolled))
        {
            let mut exposure = self.of(endpoint.addr);
            let count = if port.protocol.needs_bytes() {
                &mut exposure.inspected
            } else {
                &mut exposure.opaque
            };
            *count = if there {
                *count + 1
            } else {
                count.saturating_sub(1)
            };
            if exposure == Exposure::default() {
                self.0.remove(&endpoint.addr);
            } else {
                self.0.insert(endpoint.addr, exposure);
            }
            touched.insert(endpoint.addr);
        }
    }

    /// The ports of an address that endpoints have.
    pub(super) fn exposed(&self, ip: IpAddr) -> impl Iterator<Item = SocketAddr> {
        self.0
            .range(SocketAddr::new(ip, 0)..=SocketAddr::new(ip, u16::MAX))
            .map(|(addr, _)| *addr)
    }

    /// How services see an address.
    pub(super) fn of(&self, addr: SocketAddr) -> Exposure {
        self.0.get(&addr).copied().unwrap_or_default()
    }
}
