//! A service's endpoints: from EndpointSlices where there are any, else from the selector.

use super::pods::{Knowledge, Pods};
use super::tables::Tables;
use crate::model::ObjectName;
use crate::model::service::Endpoint;
use crate::model::snapshot::Snapshot;
use crate::model::workload::Workload;
use crate::translate::{Condition, EndpointSpec, PodSpec, PortSpec, ServiceSpec, SliceSpec, resolve_port};
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;

/// Finds the endpoints of a service's port.
pub(super) enum Finder<'a> {
    /// Those of its slices.
    Slices {
        slices: Vec<&'a SliceSpec>,
        pods: &'a Pods,
        snapshot: &'a Snapshot,
        namespace: &'a Arc<str>,
        /// Whether an endpoint's pod was found by its address, so that a change of any address matters here.
        by_address: bool,
    },
    /// The pods that its selector finds.
    Selector(&'a Selectable<'a>, &'a BTreeMap<Arc<str>, Arc<str>>),
    /// None.
    Nowhere,
}

impl Finder<'_> {
    /// The endpoints, sorted by address.
    pub(super) fn endpoints(&mut self, spec: &ServiceSpec, port: &PortSpec) -> Vec<Arc<Endpoint>> {
        let mut found = match self {
            Self::Slices { .. } => self.sliced(port),
            Self::Selector(selectable, selector) => {
                selectable.endpoints(selector, spec.publish_not_ready, port)
            }
            Self::Nowhere => Vec::new(),
        };
        found.sort_by_key(|e| e.addr);
        found.dedup_by_key(|e| e.addr);
        found
    }

    /// Those that are ready; where there is none, those that drain but still serve (KEP-1669).
    fn sliced(&mut self, port: &PortSpec) -> Vec<Arc<Endpoint>> {
        let ready = self.in_condition(Condition::Ready, port);
        if ready.is_empty() {
            self.in_condition(Condition::Draining, port)
        } else {
            ready
        }
    }

    fn in_condition(&mut self, condition: Condition, port: &PortSpec) -> Vec<Arc<Endpoint>> {
        let Self::Slices {
            slices,
            pods,
            snapshot,
            namespace,
            by_address,
        } = self
        else {
            return Vec::new();
        };
        let mut found = Vec::new();
        for slice in slices.iter() {
            for (_, number) in slice.ports.iter().filter(|(name, _)| *name == port.name) {
                for endpoint in slice.endpoints.iter().filter(|e| e.condition == condition) {
                    *by_address |= endpoint.pod.is_none();
                    add(&mut found, endpoint, *number, namespace, pods, snapshot);
                }
            }
        }
        found
    }
}

/// Adds the addresses of an endpoint, unless nobody is to be sent there.
fn add(
    found: &mut Vec<Arc<Endpoint>>,
    endpoint: &EndpointSpec,
    port: u16,
    namespace: &Arc<str>,
    pods: &Pods,
    snapshot: &Snapshot,
) {
    let mut push = |ip, workload| {
        let addr = SocketAddr::new(ip, port);
        found.push(Arc::new(Endpoint::new(addr, workload)));
    };
    let Some(pod) = &endpoint.pod else {
        for ip in &endpoint.addresses {
            push(*ip, snapshot.workloads_by_ip.get(ip).cloned());
        }
        return;
    };
    let name = ObjectName::new(Arc::clone(namespace), Arc::clone(&pod.name));
    let Some(known) = pods.known.get(&name) else {
        return;
    };
    for ip in &endpoint.addresses {
        match &known.pod {
            // A pod that does not have this address (any more) is not the one that would answer there.
            Knowledge::Workload(workload) if workload.ips.contains(ip) => {
                push(*ip, Some(Arc::clone(workload)))
            }
            Knowledge::Plain => push(*ip, None),
            Knowledge::Workload(_) | Knowledge::HeldOut(_) => {}
        }
    }
}

/// The pods of one namespace, as selectors look for them.
pub(super) struct Selectable<'a> {
    pods: Vec<(&'a PodSpec, &'a Arc<Workload>)>,
    by_label: HashMap<(&'a str, &'a str), Vec<usize>>,
}

impl<'a> Selectable<'a> {
    /// Indexes the namespace's pods.
    pub(super) fn new(namespace: &Arc<str>, tables: &'a Tables, known: &'a Pods) -> Self {
        let specs = tables.pods.get(namespace).into_iter().flatten();
        let workload = |name: &Arc<str>| {
            let name = ObjectName::new(Arc::clone(namespace), Arc::clone(name));
            known.known.get(&name)?.workload()
        };
        let pods: Vec<_> = specs
            .filter_map(|(pod, spec)| Some((spec, workload(pod)?)))
            .filter(|(spec, _)| !spec.ended)
            .collect();
        let mut by_label: HashMap<(&str, &str), Vec<usize>> = HashMap::new();
        for (place, (spec, _)) in pods.iter().enumerate() {
            for (key, value) in spec.labels.iter() {
                by_label.entry((key, value)).or_default().push(place);
            }
        }
        Self { pods, by_label }
    }

    fn endpoints(
        &self,
        selector: &BTreeMap<Arc<str>, Arc<str>>,
        not_ready_too: bool,
        port: &PortSpec,
    ) -> Vec<Arc<Endpoint>> {
        // The label that the fewest pods have is where to look.
        let lists = selector
            .iter()
            .map(|(k, v)| self.by_label.get(&(&**k, &**v)).map_or(&[][..], Vec::as_slice));
        let candidates = lists.min_by_key(|list| list.len()).unwrap_or_default();
        let mut found = Vec::new();
        for (spec, workload) in candidates.iter().filter_map(|place| self.pods.get(*place)) {
            let selected = selector.iter().all(|(k, v)| spec.labels.get(k) == Some(v));
            if !selected || !(spec.ready || not_ready_too) {
                continue;
            }
            let Some(number) = resolve_port(&port.target, &spec.named_ports) else {
                continue;
            };
            for ip in &spec.ips {
                let addr = SocketAddr::new(*ip, number);
                let workload = Some(Arc::clone(workload));
                found.push(Arc::new(Endpoint::new(addr, workload)));
            }
        }
        found
    }
}

/// The old allocation, if the value is the same.
pub(super) fn reuse<T: PartialEq>(old: Option<&Arc<T>>, new: T) -> Arc<T> {
    match old {
        Some(old) if **old == new => Arc::clone(old),
        _ => Arc::new(new),
    }
}
