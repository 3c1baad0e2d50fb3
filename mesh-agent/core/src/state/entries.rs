//! ServiceEntries and WorkloadEntries → services of the snapshot.

use super::endpoints::reuse;
use super::pods::Pods;
use super::services::Services;
use super::tables::Tables;
use super::vips;
use super::world::Warning;
use crate::model::ObjectName;
use crate::model::identity::SpiffeId;
use crate::model::registry::Registry;
use crate::model::service::{Distribution, Endpoint, External, Resolution, Service};
use crate::model::snapshot::{MeshSettings, Snapshot};
use crate::model::workload::{Enrollment, FailMode, Labels, Names, Workload};
use crate::state::ObjectKey;
use crate::translate::{EntryAddress, EntryPort, ServiceEntrySpec, WorkloadEntrySpec};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// The services that ServiceEntries made.
#[derive(Default)]
pub(super) struct Entries {
    made: BTreeSet<ObjectName>,
    warnings: Vec<(ObjectName, String, String)>,
    /// Workloads of WorkloadEntries, kept so that endpoints that did not change stay the same.
    workloads: BTreeMap<ObjectName, Arc<Workload>>,
}

impl Entries {
    /// Builds them all anew: they are few, and what is equal stays shared.
    pub(super) fn rebuild(
        &mut self,
        tables: &Tables,
        pods: &Pods,
        services: &mut Services,
        next: &mut Snapshot,
    ) {
        self.warnings.clear();
        let mut by_age: Vec<(&ObjectName, &ServiceEntrySpec)> = tables.service_entries.iter().collect();
        by_age.sort_by_key(|(name, spec)| (&spec.created, *name));
        let mut names = BTreeSet::new();
        let mut wanted: BTreeMap<ObjectName, Service> = BTreeMap::new();
        let mut order = Vec::new();
        for (name, spec) in by_age {
            for (i, host) in spec.hosts.iter().enumerate() {
                let key = ObjectName::new(Arc::clone(&name.namespace), service_name(host));
                let mut made = self.service(tables, pods, services, &key, name, spec, host, next, &mut names);
                match wanted.get_mut(&key) {
                    None => {
                        order.push((key.clone(), name.clone(), i));
                        wanted.insert(key, made);
                    }
                    Some(first) => {
                        made.ports.retain(|port| first.port(port.number).is_none());
                        first.ports.append(&mut made.ports);
                    }
                }
            }
        }
        if next.settings.capture_names {
            let given = tables.service_entries.values().flat_map(|spec| &spec.vips);
            vips::allocate(order.iter().map(|(key, ..)| key), &mut wanted, given);
        }
        let gone: Vec<ObjectName> = self
            .made
            .iter()
            .filter(|n| !wanted.contains_key(*n))
            .cloned()
            .collect();
        self.made = wanted.keys().cloned().collect();
        for name in gone {
            services.put(&name, None, next);
        }
        for (name, service) in wanted {
            services.put(&name, Some(service), next);
        }
        self.register(&order, names, next);
    }

    /// Hosts in the order of age: the oldest has a host that several name.
    fn register(
        &mut self,
        order: &[(ObjectName, ObjectName, usize)],
        names: BTreeSet<Arc<str>>,
        next: &mut Snapshot,
    ) {
        let mut registry = Registry::default();
        registry.names = names;
        for (key, entry, i) in order {
            let Some(service) = next.service(key).cloned() else {
                continue;
            };
            if next.services_by_host.contains_key(&service.host) {
                let reason = format!("host {} is a Kubernetes Service: that one is used", service.host);
                self.warnings
                    .push((entry.clone(), format!("spec.hosts[{i}]"), reason));
                continue;
            }
            if let Err(holder) = registry.add(&service) {
                let of = holder.external.as_ref().map_or(&holder.name, |e| &e.object);
                let reason = format!(
                    "host {} already belongs to the older ServiceEntry {of}",
                    service.host
                );
                self.warnings
                    .push((entry.clone(), format!("spec.hosts[{i}]"), reason));
            }
        }
        registry.finish();
        next.registry = Arc::new(registry);
    }

    pub(super) fn warn(&self, warnings: &mut Vec<Warning>) {
        warnings.extend(self.warnings.iter().map(|(name, field, reason)| Warning {
            key: ObjectKey::of("networking.istio.io", "ServiceEntry", name),
            field: field.clone(),
            reason: reason.clone(),
        }));
    }

    #[allow(
        clippy::too_many_arguments,
        reason = "one call, with everything that a host is made of"
    )]
    fn service(
        &mut self,
        tables: &Tables,
        pods: &Pods,
        services: &mut Services,
        key: &ObjectName,
        name: &ObjectName,
        spec: &ServiceEntrySpec,
        host: &Arc<str>,
        next: &Snapshot,
        names: &mut BTreeSet<Arc<str>>,
    ) -> Service {
        let places = self.places(tables, pods, name, spec, host, &next.settings);
        let old = next.service(key);
        let port = |port: &EntryPort| {
            let endpoints = endpoints(&places, port, spec.resolution, &tables.resolved, names);
            let old = old.and_then(|s| s.port(port.number));
            services.numbered(key, port, endpoints, old)
        };
        let ports = spec.ports.iter().map(port).collect();
        let external = External {
            object: name.clone(),
            internal: spec.internal,
            resolution: spec.resolution,
            cidrs: spec.cidrs.clone(),
            allocated: false,
            subject_alt_names: spec.subject_alt_names.clone(),
            visibility: spec.export_to.clone(),
            weighted: places.iter().any(|place| place.weight != 1),
        };
        let old_external = old.and_then(|s| s.external.as_ref());
        Service {
            name: key.clone(),
            host: Arc::clone(host),
            vips: spec.vips.clone(),
            ports,
            distribution: Distribution::Any,
            external: Some(reuse(old_external, external)),
        }
    }

    /// Where a host is served.
    fn places(
        &mut self,
        tables: &Tables,
        pods: &Pods,
        name: &ObjectName,
        spec: &ServiceEntrySpec,
        host: &Arc<str>,
        settings: &MeshSettings,
    ) -> Vec<Place> {
        if let Some(selector) = &spec.selector {
            return self.selected(tables, pods, &name.namespace, selector, settings);
        }
        let resolves = matches!(spec.resolution, Resolution::Names | Resolution::FirstName);
        if spec.endpoints.is_empty() && resolves {
            return vec![Place {
                address: EntryAddress::Name(Arc::clone(host)),
                ports: BTreeMap::new(),
                workload: None,
                weight: 1,
            }];
        }
        let place = |(i, entry): (usize, &WorkloadEntrySpec)| {
            let named = ObjectName::new(Arc::clone(&name.namespace), format!("{}#{i}", name.name));
            self.place(named, entry, settings)
        };
        spec.endpoints.iter().enumerate().map(place).collect()
    }

    fn place(&mut self, name: ObjectName, entry: &WorkloadEntrySpec, settings: &MeshSettings) -> Place {
        let new = workload(&name, entry, settings);
        let workload = reuse(self.workloads.get(&name), new);
        self.workloads.insert(name, Arc::clone(&workload));
        Place {
            address: entry.address.clone(),
            ports: entry.ports.clone(),
            workload: Some(workload),
            weight: entry.weight,
        }
    }

    /// WorkloadEntries and known pods of a namespace that have the labels.
    fn selected(
        &mut self,
        tables: &Tables,
        pods: &Pods,
        namespace: &Arc<str>,
        selector: &Labels,
        settings: &MeshSettings,
    ) -> Vec<Place> {
        let has = |labels: &Labels| selector.iter().all(|(k, v)| labels.get(k) == Some(v));
        let mut places = Vec::new();
        let entries = tables.workload_entries.get(namespace).into_iter().flatten();
        for (name, entry) in entries.filter(|(_, entry)| has(&entry.labels)) {
            let name = ObjectName::new(Arc::clone(namespace), Arc::clone(name));
            places.push(self.place(name, entry, settings));
        }
        let first = ObjectName::new(Arc::clone(namespace), "");
        let of_namespace = pods
            .known
            .range(first..)
            .take_while(|(pod, _)| pod.namespace == *namespace);
        for workload in of_namespace.filter_map(|(_, known)| known.workload()) {
            if !workload.ready || !has(&workload.labels) {
                continue;
            }
            places.extend(workload.ips.iter().map(|ip| Place {
                address: EntryAddress::Ip(*ip),
                ports: BTreeMap::new(),
                workload: Some(Arc::clone(workload)),
                weight: 1,
            }));
        }
        places
    }
}

/// One place where a host is served.
struct Place {
    address: EntryAddress,
    ports: BTreeMap<Arc<str>, u16>,
    workload: Option<Arc<Workload>>,
    weight: u32,
}

/// A host that looks like a service's name cannot be mistaken for it: no Service has a dot in its name.
fn service_name(host: &Arc<str>) -> Arc<str> {
    if host.contains('.') {
        Arc::clone(host)
    } else {
        format!("{host}.").into()
    }
}

fn endpoints(
    places: &[Place],
    port: &EntryPort,
    resolution: Resolution,
    resolved: &std::collections::HashMap<Arc<str>, Vec<IpAddr>>,
    names: &mut BTreeSet<Arc<str>>,
) -> Vec<Arc<Endpoint>> {
    let mut found = Vec::new();
    for place in places {
        let number = place.ports.get(&port.name).copied().unwrap_or(port.target);
        let mut push = |ip: &IpAddr| {
            found.push(Arc::new(Endpoint {
                addr: SocketAddr::new(*ip, number),
                workload: place.workload.clone(),
                weight: place.weight,
            }));
        };
        match &place.address {
            EntryAddress::Ip(ip) => push(ip),
            EntryAddress::Name(name) => {
                names.insert(Arc::clone(name));
                let most = if resolution == Resolution::FirstName {
                    1
                } else {
                    usize::MAX
                };
                resolved
                    .get(name)
                    .into_iter()
                    .flatten()
                    .take(most)
                    .for_each(&mut push);
            }
        }
    }
    found.sort_by_key(|e| e.addr);
    found.dedup_by_key(|e| e.addr);
    found
}

/// A WorkloadEntry is a workload that no agent captures.
fn workload(name: &ObjectName, entry: &WorkloadEntrySpec, settings: &MeshSettings) -> Workload {
    let label = |keys: &[&str], other: &str| -> Arc<str> {
        let found = keys.iter().find_map(|k| entry.labels.get(*k)).cloned();
        found.unwrap_or_else(|| other.into())
    };
    let canonical = ["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"];
    let ips = match &entry.address {
        EntryAddress::Ip(ip) => vec![*ip],
        EntryAddress::Name(_) => Vec::new(),
    };
    Workload {
        id: 0,
        pod: name.clone(),
        uid: name.to_string().into(),
        node: "".into(),
        ips,
        labels: Arc::clone(&entry.labels),
        identity: SpiffeId::new(
            Arc::clone(&settings.trust_domain),
            Arc::clone(&name.namespace),
            Arc::clone(&entry.service_account),
        ),
        names: Arc::new(Names {
            workload: Arc::clone(&name.name),
            kind: "workloadentry".into(),
            app: label(&["app"], &name.name),
            version: label(&["version"], "unknown"),
            canonical_service: label(&canonical, &name.name),
            canonical_revision: label(&["service.istio.io/canonical-revision", "version"], "latest"),
        }),
        enrollment: Enrollment::NotAsked,
        ready: true,
        netns: None,
        probe_ports: Vec::new(),
        fail_mode: FailMode::default(),
        resolves_itself: false,
    }
}
