//! Objects → snapshot. Only what a change touches is built anew; the rest is shared with the snapshot before.

use super::ObjectKey;
use super::endpoints::{Namespace, Pods, PortIds, reuse};
use super::ids::Ids;
use super::tables::{ByNamespace, Dirty, Tables};
use super::{routes, workloads};
use crate::model::ObjectName;
use crate::model::service::Service;
use crate::model::snapshot::{MeshSettings, Snapshot};
use crate::model::workload::Workload;
use crate::translate::{Rejected, describe};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::mem;
use std::sync::Arc;

/// Something wrong between objects; all of them are in force.
pub(super) struct Warning {
    pub(super) key: ObjectKey,
    pub(super) field: String,
    pub(super) reason: String,
}

impl Warning {
    pub(super) fn rejected(&self) -> Rejected {
        Rejected {
            object: describe(&self.key),
            field: self.field.clone(),
            reason: self.reason.clone(),
        }
    }
}

/// The model and how it was numbered.
pub(super) struct World {
    snapshot: Arc<Snapshot>,
    dirty: Dirty,
    pub(super) warnings: Vec<Warning>,
    workloads: BTreeMap<Arc<str>, Pods>,
    services: ByNamespace<Arc<Service>>,
    workload_ids: Ids<(ObjectName, Arc<str>)>,
    port_ids: PortIds,
    /// Namespaces with endpoints that are no pod of theirs.
    foreign: BTreeSet<Arc<str>>,
}

impl World {
    pub(super) fn new(settings: MeshSettings) -> Self {
        Self {
            snapshot: Arc::new(Snapshot {
                settings,
                ..Snapshot::default()
            }),
            dirty: Dirty::default(),
            warnings: Vec::new(),
            workloads: BTreeMap::new(),
            services: BTreeMap::new(),
            workload_ids: Ids::default(),
            port_ids: PortIds::default(),
            foreign: BTreeSet::new(),
        }
    }

    pub(super) fn settings(&self) -> &MeshSettings {
        &self.snapshot.settings
    }

    pub(super) fn dirty_mut(&mut self) -> &mut Dirty {
        &mut self.dirty
    }

    /// The snapshot of these objects.
    pub(super) fn rebuild(&mut self, tables: &Tables) -> Arc<Snapshot> {
        if self.dirty.is_clean() {
            return Arc::clone(&self.snapshot);
        }
        let mut dirty = mem::take(&mut self.dirty);
        let mut next = (*self.snapshot).clone();
        next.version += 1;
        if !dirty.pods.is_empty() {
            self.rebuild_workloads(tables, &dirty.pods, &mut next);
            dirty.services.extend(self.foreign.iter().cloned());
        }
        self.warnings = Vec::new();
        if !dirty.services.is_empty() {
            self.rebuild_services(tables, &dirty.services, &mut next);
        }
        duplicate_addresses(&next, &mut self.warnings);
        // Rules are few: naming the host of each again costs less than keeping track of which conflict is over.
        routes::routes(tables, &mut next, &mut self.warnings);
        routes::subsets(tables, &mut next, &mut self.warnings);
        routes::references(tables, &next, &mut self.warnings);
        self.snapshot = Arc::new(next);
        Arc::clone(&self.snapshot)
    }

    fn rebuild_workloads(&mut self, tables: &Tables, dirty: &BTreeSet<Arc<str>>, next: &mut Snapshot) {
        for namespace in dirty {
            let old = self.workloads.remove(namespace).unwrap_or_default();
            let settings = tables.namespaces.get(namespace).copied().unwrap_or_default();
            let mut new = Pods::new();
            for (name, spec) in tables.pods.get(namespace).into_iter().flatten() {
                let pod = ObjectName::new(Arc::clone(namespace), Arc::clone(name));
                let id = self.workload_ids.of((pod.clone(), workloads::uid(&pod, spec)));
                let built = workloads::workload(id, &pod, spec, settings, &next.settings);
                new.insert(Arc::clone(name), reuse(old.get(name), built));
            }
            for (name, gone) in &old {
                if new.get(name).is_none_or(|w| w.uid != gone.uid) {
                    self.workload_ids
                        .release(&(gone.pod.clone(), Arc::clone(&gone.uid)));
                }
            }
            if settings.l4_only {
                next.l4_only.insert(Arc::clone(namespace));
            } else {
                next.l4_only.remove(namespace);
            }
            if !new.is_empty() {
                self.workloads.insert(Arc::clone(namespace), new);
            }
        }
        next.workloads = self
            .workloads
            .values()
            .flat_map(BTreeMap::values)
            .cloned()
            .collect();
        next.workloads_by_ip = HashMap::with_capacity(next.workloads.len());
        for workload in &next.workloads {
            let specs = tables.pods.get(&workload.pod.namespace);
            let Some(spec) = specs.and_then(|pods| pods.get(&workload.pod.name)) else {
                continue;
            };
            for ip in workloads::own_addresses(spec, workload) {
                let holder = workloads::prefer(next.workloads_by_ip.get(ip), workload);
                let holder: Arc<Workload> = Arc::clone(holder);
                next.workloads_by_ip.insert(*ip, holder);
            }
        }
    }

    fn rebuild_services(&mut self, tables: &Tables, dirty: &BTreeSet<Arc<str>>, next: &mut Snapshot) {
        for name in dirty {
            let old = self.services.remove(name);
            let domain = &*next.settings.cluster_domain;
            let pods = self.workloads.get(name);
            let mut namespace = Namespace::new(name, tables, pods, &next.workloads_by_ip, domain);
            let new = namespace.services(old.as_ref(), &mut self.port_ids);
            if namespace.foreign {
                self.foreign.insert(Arc::clone(name));
            } else {
                self.foreign.remove(name);
            }
            for gone in old.iter().flat_map(BTreeMap::values) {
                let still = new.get(&gone.name.name);
                for port in gone
                    .ports
                    .iter()
                    .filter(|p| still.is_none_or(|s| s.port(p.number).is_none()))
                {
                    self.port_ids.release(&(gone.name.clone(), port.number));
                }
            }
            if !new.is_empty() {
                self.services.insert(Arc::clone(name), new);
            }
        }
        next.services = self
            .services
            .values()
            .flat_map(BTreeMap::values)
            .cloned()
            .collect();
        next.services_by_host = next
            .services
            .iter()
            .map(|s| (Arc::clone(&s.host), Arc::clone(s)))
            .collect();
        next.services_by_vip = HashMap::new();
        for service in &next.services {
            for vip in &service.vips {
                next.services_by_vip
                    .entry(*vip)
                    .or_insert_with(|| Arc::clone(service));
            }
        }
    }
}

/// Virtual addresses that two services claim; the first by name has them.
fn duplicate_addresses(snapshot: &Snapshot, warnings: &mut Vec<Warning>) {
    for service in &snapshot.services {
        for (i, vip) in service.vips.iter().enumerate() {
            let Some(holder) = snapshot
                .services_by_vip
                .get(vip)
                .filter(|h| h.name != service.name)
            else {
                continue;
            };
            let key = ObjectKey {
                kind: "Service".into(),
                group: String::new(),
                namespace: service.name.namespace.to_string(),
                name: service.name.name.to_string(),
            };
            let reason = format!("{vip} already belongs to service {}", holder.name);
            warnings.push(Warning {
                key,
                field: format!("spec.clusterIPs[{i}]"),
                reason,
            });
        }
    }
}
