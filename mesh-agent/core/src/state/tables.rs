//! The translated objects in force, and what their changes touch.

use super::dirty::Dirty;
use super::templates::Templates;
use super::{ObjectKey, Sandbox};
use crate::model::ObjectName;
use crate::model::template::{GROUP, WORKLOAD_TEMPLATE};
use crate::translate::{
    DestinationRuleSpec, GatewaySpec, Head, MaterialSpec, NamespaceSpec, PodSpec, ServiceSpec, SliceSpec,
    Translated, VirtualServiceSpec,
};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// Objects of one kind: namespace → name → object.
pub(super) type ByNamespace<T> = BTreeMap<Arc<str>, BTreeMap<Arc<str>, T>>;

/// Every object in force.
#[derive(Default)]
pub(super) struct Tables {
    pub(super) namespaces: BTreeMap<Arc<str>, NamespaceSpec>,
    pub(super) pods: ByNamespace<PodSpec>,
    /// By the pod's `metadata.uid`.
    pub(super) sandboxes: HashMap<Arc<str>, Sandbox>,
    pub(super) services: ByNamespace<ServiceSpec>,
    pub(super) slices: ByNamespace<Arc<SliceSpec>>,
    /// Service → its slices.
    slices_of: HashMap<ObjectName, BTreeSet<Arc<str>>>,
    pub(super) templates: Templates,
    pub(super) virtual_services: BTreeMap<ObjectName, VirtualServiceSpec>,
    pub(super) destination_rules: BTreeMap<ObjectName, DestinationRuleSpec>,
    pub(super) gateways: BTreeMap<ObjectName, GatewaySpec>,
    /// Secrets and ConfigMaps, in a gateway only.
    materials: BTreeMap<(&'static str, ObjectName), MaterialSpec>,
}

impl Tables {
    /// Puts an object in force; whether it differs from the version before.
    pub(super) fn put(&mut self, head: &Head, object: Translated, dirty: &mut Dirty) -> bool {
        let name = head.name();
        match object {
            Translated::Namespace(spec) => {
                let changed = put(&mut self.namespaces, Arc::clone(&name.name), spec);
                if changed {
                    dirty.namespaces.insert(name.name);
                }
                changed
            }
            Translated::Pod(spec) => {
                let changed = put_in(&mut self.pods, &name, spec);
                if changed {
                    dirty.pods.insert(name);
                }
                changed
            }
            Translated::Service(spec) => {
                let changed = put_in(&mut self.services, &name, spec);
                if changed {
                    dirty.services.insert(name);
                }
                changed
            }
            Translated::EndpointSlice(spec) => self.put_slice(name, spec, dirty),
            Translated::WorkloadTemplate(spec) => self.templates.put(name, spec, dirty),
            Translated::VirtualService(spec) => {
                let changed = put(&mut self.virtual_services, name, spec);
                dirty.routes |= changed;
                changed
            }
            Translated::DestinationRule(spec) => {
                let changed = put(&mut self.destination_rules, name, spec);
                dirty.subsets |= changed;
                changed
            }
            Translated::Gateway(spec) => {
                let changed = put(&mut self.gateways, name, spec);
                dirty.edge |= changed;
                changed
            }
            Translated::Material(spec) => {
                let changed = put(&mut self.materials, (spec.kind, name), spec);
                dirty.edge |= changed;
                changed
            }
            Translated::Nothing => false,
        }
    }

    /// Takes an object out of force.
    pub(super) fn remove(&mut self, key: &ObjectKey, dirty: &mut Dirty) {
        let name = ObjectName::new(key.namespace.as_str(), key.name.as_str());
        match (key.group.as_str(), key.kind.as_str()) {
            ("", "Namespace") => {
                let gone = self.namespaces.remove(&name.name);
                dirty.namespaces.extend(gone.map(|_| name.name));
            }
            ("", "Pod") => {
                let gone = take(&mut self.pods, &name);
                dirty.pods.extend(gone.map(|_| name));
            }
            ("", "Service") => {
                let gone = take(&mut self.services, &name);
                dirty.services.extend(gone.map(|_| name));
            }
            ("discovery.k8s.io", "EndpointSlice") => {
                let old = take(&mut self.slices, &name);
                if let Some(old) = &old {
                    self.unlink_slice(&name, old, dirty);
                    dirty.slice(name, Some(Arc::clone(old)));
                }
            }
            (GROUP, WORKLOAD_TEMPLATE) => self.templates.remove(&name, dirty),
            ("networking.istio.io", "VirtualService") => {
                dirty.routes |= self.virtual_services.remove(&name).is_some();
            }
            ("networking.istio.io", "DestinationRule") => {
                dirty.subsets |= self.destination_rules.remove(&name).is_some();
            }
            ("networking.istio.io", "Gateway") => dirty.edge |= self.gateways.remove(&name).is_some(),
            ("", "Secret") => dirty.edge |= self.materials.remove(&("Secret", name)).is_some(),
            ("", "ConfigMap") => dirty.edge |= self.materials.remove(&("ConfigMap", name)).is_some(),
            _ => {}
        }
    }

    /// A Secret or ConfigMap.
    pub(super) fn material(&self, kind: &'static str, name: &ObjectName) -> Option<&MaterialSpec> {
        self.materials.get(&(kind, name.clone()))
    }

    /// Facts of a pod that runs on this node; whether they change anything known.
    pub(super) fn sandbox(&mut self, uid: &Arc<str>, sandbox: Option<Sandbox>, dirty: &mut Dirty) -> bool {
        let before = match &sandbox {
            Some(new) => self.sandboxes.insert(Arc::clone(uid), new.clone()),
            None => self.sandboxes.remove(uid),
        };
        if before == sandbox {
            return false;
        }
        let of_uid = |spec: &PodSpec| spec.uid.as_ref() == Some(uid);
        let mut changed = false;
        for (namespace, pods) in &self.pods {
            for (name, _) in pods.iter().filter(|(_, spec)| of_uid(spec)) {
                changed = true;
                dirty
                    .pods
                    .insert(ObjectName::new(Arc::clone(namespace), Arc::clone(name)));
            }
        }
        changed
    }

    pub(super) fn pod(&self, name: &ObjectName) -> Option<&PodSpec> {
        self.pods.get(&name.namespace)?.get(&name.name)
    }

    pub(super) fn service(&self, name: &ObjectName) -> Option<&ServiceSpec> {
        self.services.get(&name.namespace)?.get(&name.name)
    }

    pub(super) fn slice(&self, namespace: &str, name: &str) -> Option<&Arc<SliceSpec>> {
        self.slices.get(namespace)?.get(name)
    }

    /// The slices of a service, sorted by name; `None` if there are none.
    pub(super) fn slices_of<'a>(
        &'a self,
        service: &'a ObjectName,
    ) -> Option<impl Iterator<Item = &'a Arc<SliceSpec>> + 'a> {
        let slices = self.slices_of.get(service)?;
        Some(
            slices
                .iter()
                .filter_map(|name| self.slice(&service.namespace, name)),
        )
    }

    fn put_slice(&mut self, name: ObjectName, spec: SliceSpec, dirty: &mut Dirty) -> bool {
        let slices = self.slices.entry(Arc::clone(&name.namespace)).or_default();
        let old = slices.get(&name.name).cloned();
        if old.as_deref() == Some(&spec) {
            return false;
        }
        let new = Arc::new(spec);
        slices.insert(Arc::clone(&name.name), Arc::clone(&new));
        if let Some(old) = &old {
            self.unlink_slice(&name, old, dirty);
        }
        if let Some(service) = &new.service {
            let service = ObjectName::new(Arc::clone(&name.namespace), Arc::clone(service));
            let slices = self.slices_of.entry(service.clone()).or_default();
            slices.insert(Arc::clone(&name.name));
            dirty.services.insert(service);
        }
        dirty.slice(name, old);
        true
    }

    fn unlink_slice(&mut self, name: &ObjectName, old: &SliceSpec, dirty: &mut Dirty) {
        let Some(service) = &old.service else { return };
        let service = ObjectName::new(Arc::clone(&name.namespace), Arc::clone(service));
        if let Some(slices) = self.slices_of.get_mut(&service) {
            slices.remove(&name.name);
            if slices.is_empty() {
                self.slices_of.remove(&service);
            }
        }
        dirty.services.insert(service);
    }
}

fn put<K: Ord, T: PartialEq>(table: &mut BTreeMap<K, T>, key: K, object: T) -> bool {
    if table.get(&key) == Some(&object) {
        return false;
    }
    table.insert(key, object);
    true
}

fn put_in<T: PartialEq>(table: &mut ByNamespace<T>, name: &ObjectName, object: T) -> bool {
    let objects = table.entry(Arc::clone(&name.namespace)).or_default();
    put(objects, Arc::clone(&name.name), object)
}

fn take<T>(table: &mut ByNamespace<T>, name: &ObjectName) -> Option<T> {
    let objects = table.get_mut(&name.namespace)?;
    let taken = objects.remove(&name.name);
    if objects.is_empty() {
        table.remove(&name.namespace);
    }
    taken
}
