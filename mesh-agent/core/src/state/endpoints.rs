//! Services with their endpoints: from EndpointSlices where there are any, else from the selector.

use super::ids::Ids;
use super::tables::Tables;
use crate::model::ObjectName;
use crate::model::service::{Endpoint, Protocol, Service, ServicePort};
use crate::model::workload::Workload;
use crate::translate::{PodSpec, PortSpec, ServiceSpec, SliceSpec, resolve_port};
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Numbers of service ports.
pub(super) type PortIds = Ids<(ObjectName, u16)>;
/// Pods of one namespace by name.
pub(super) type Pods = BTreeMap<Arc<str>, Arc<Workload>>;

/// What the services of one namespace are made of.
pub(super) struct Namespace<'a> {
    name: &'a Arc<str>,
    tables: &'a Tables,
    pods: Vec<(&'a PodSpec, &'a Arc<Workload>)>,
    by_label: HashMap<(&'a str, &'a str), Vec<usize>>,
    slices: HashMap<&'a str, Vec<&'a SliceSpec>>,
    by_ip: &'a HashMap<IpAddr, Arc<Workload>>,
    cluster_domain: &'a str,
    /// Whether an endpoint's pod is not of this namespace, so that changes elsewhere matter here.
    pub(super) foreign: bool,
}

impl<'a> Namespace<'a> {
    /// Indexes the namespace's pods and slices.
    pub(super) fn new(
        name: &'a Arc<str>,
        tables: &'a Tables,
        workloads: Option<&'a Pods>,
        by_ip: &'a HashMap<IpAddr, Arc<Workload>>,
        cluster_domain: &'a str,
    ) -> Self {
        let specs = tables.pods.get(name).into_iter().flatten();
        let pods: Vec<_> = specs
            .filter_map(|(pod, spec)| Some((spec, workloads?.get(pod)?)))
            .filter(|(s, _)| !s.ended)
            .collect();
        let mut by_label: HashMap<(&str, &str), Vec<usize>> = HashMap::new();
        for (place, (spec, _)) in pods.iter().enumerate() {
            for (key, value) in spec.labels.iter() {
                by_label.entry((key, value)).or_default().push(place);
            }
        }
        let mut slices: HashMap<&str, Vec<&SliceSpec>> = HashMap::new();
        for slice in tables.slices.get(name).into_iter().flat_map(BTreeMap::values) {
            if let Some(service) = &slice.service {
                slices.entry(service).or_default().push(slice);
            }
        }
        Self {
            name,
            tables,
            pods,
            by_label,
            slices,
            by_ip,
            cluster_domain,
            foreign: false,
        }
    }

    /// Every service of the namespace; those that did not change stay the same allocation.
    pub(super) fn services(
        &mut self,
        old: Option<&BTreeMap<Arc<str>, Arc<Service>>>,
        ids: &mut PortIds,
    ) -> BTreeMap<Arc<str>, Arc<Service>> {
        let specs = self.tables.services.get(self.name).into_iter().flatten();
        specs
            .map(|(name, spec)| {
                let old = old.and_then(|services| services.get(name));
                let new = self.service(name, spec, old, ids);
                (Arc::clone(name), reuse(old, new))
            })
            .collect()
    }

    fn service(
        &mut self,
        name: &Arc<str>,
        spec: &ServiceSpec,
        old: Option<&Arc<Service>>,
        ids: &mut PortIds,
    ) -> Service {
        let object = ObjectName::new(Arc::clone(self.name), Arc::clone(name));
        let l4_only = self.tables.namespaces.get(self.name).is_some_and(|n| n.l4_only);
        let mut ports = Vec::with_capacity(spec.ports.len());
        for port in &spec.ports {
            let old = old.and_then(|s| s.port(port.number));
            let endpoints = self.endpoints(name, spec, port);
            let endpoints = match old {
                Some(old) if *old.endpoints == *endpoints => Arc::clone(&old.endpoints),
                _ => endpoints.into(),
            };
            let protocol = if l4_only && port.protocol != Protocol::Tls {
                Protocol::Tcp
            } else {
                port.protocol
            };
            let id = ids.of((object.clone(), port.number));
            let new = ServicePort {
                id,
                number: port.number,
                name: Arc::clone(&port.name),
                protocol,
                endpoints,
            };
            ports.push(reuse(old, new));
        }
        let host = format!("{name}.{}.svc.{}", self.name, self.cluster_domain);
        Service {
            name: object,
            host: host.into(),
            vips: spec.vips.clone(),
            ports,
        }
    }

    fn endpoints(&mut self, service: &str, spec: &ServiceSpec, port: &PortSpec) -> Vec<Arc<Endpoint>> {
        let mut found = match (self.slices.get(service), &spec.selector) {
            (Some(_), _) => self.sliced(service, port),
            (None, Some(selector)) => self.selected_by(selector, spec.publish_not_ready, port),
            (None, None) => Vec::new(),
        };
        found.sort_by_key(|e| e.addr);
        found.dedup_by_key(|e| e.addr);
        found
    }

    fn sliced(&mut self, service: &str, port: &PortSpec) -> Vec<Arc<Endpoint>> {
        let mut found = Vec::new();
        for slice in self.slices.get(service).into_iter().flatten() {
            for (_, number) in slice.ports.iter().filter(|(name, _)| *name == port.name) {
                for ip in &slice.addresses {
                    let workload = self.by_ip.get(ip).cloned();
                    self.foreign |= workload.as_ref().is_none_or(|w| w.pod.namespace != *self.name);
                    found.push(Arc::new(Endpoint {
                        addr: SocketAddr::new(*ip, *number),
                        workload,
                    }));
                }
            }
        }
        found
    }

    fn selected_by(
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
                found.push(Arc::new(Endpoint {
                    addr,
                    workload: Some(Arc::clone(workload)),
                }));
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
