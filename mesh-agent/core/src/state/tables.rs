//! The translated objects in force, and what their changes touch.

use super::ObjectKey;
use crate::model::ObjectName;
use crate::translate::{
    DestinationRuleSpec, Head, NamespaceSpec, PodSpec, ServiceSpec, SliceSpec, Translated, VirtualServiceSpec,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Objects of one kind: namespace → name → object.
pub(super) type ByNamespace<T> = BTreeMap<Arc<str>, BTreeMap<Arc<str>, T>>;

/// Every object in force.
#[derive(Default)]
pub(super) struct Tables {
    pub(super) namespaces: BTreeMap<Arc<str>, NamespaceSpec>,
    pub(super) pods: ByNamespace<PodSpec>,
    pub(super) services: ByNamespace<ServiceSpec>,
    pub(super) slices: ByNamespace<SliceSpec>,
    pub(super) virtual_services: BTreeMap<ObjectName, VirtualServiceSpec>,
    pub(super) destination_rules: BTreeMap<ObjectName, DestinationRuleSpec>,
}

/// What must be built anew.
#[derive(Default)]
pub(super) struct Dirty {
    /// Namespaces whose pods changed, or what they mean.
    pub(super) pods: BTreeSet<Arc<str>>,
    /// Namespaces whose services or endpoints changed.
    pub(super) services: BTreeSet<Arc<str>>,
    /// VirtualServices.
    pub(super) routes: bool,
    /// DestinationRules.
    pub(super) subsets: bool,
}

impl Dirty {
    pub(super) fn is_clean(&self) -> bool {
        self.pods.is_empty() && self.services.is_empty() && !self.routes && !self.subsets
    }

    /// Endpoints are pods: their services are touched as well.
    fn pods(&mut self, namespace: &Arc<str>, changed: bool) -> bool {
        if changed {
            self.pods.insert(Arc::clone(namespace));
        }
        self.services(namespace, changed)
    }

    fn services(&mut self, namespace: &Arc<str>, changed: bool) -> bool {
        if changed {
            self.services.insert(Arc::clone(namespace));
        }
        changed
    }
}

impl Tables {
    /// Puts an object in force; whether it differs from the version before.
    pub(super) fn put(&mut self, head: &Head, object: Translated, dirty: &mut Dirty) -> bool {
        let name = head.name();
        let namespace = Arc::clone(&name.namespace);
        match object {
            Translated::Namespace(spec) => {
                let changed = put(&mut self.namespaces, Arc::clone(&name.name), spec);
                dirty.pods(&name.name, changed)
            }
            Translated::Pod(spec) => {
                let changed = put(self.pods.entry(name.namespace).or_default(), name.name, spec);
                dirty.pods(&namespace, changed)
            }
            Translated::Service(spec) => {
                let changed = put(self.services.entry(name.namespace).or_default(), name.name, spec);
                dirty.services(&namespace, changed)
            }
            Translated::EndpointSlice(spec) => {
                let changed = put(self.slices.entry(name.namespace).or_default(), name.name, spec);
                dirty.services(&namespace, changed)
            }
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
            Translated::Nothing => false,
        }
    }

    /// Takes an object out of force.
    pub(super) fn remove(&mut self, key: &ObjectKey, dirty: &mut Dirty) {
        let name = ObjectName::new(key.namespace.as_str(), key.name.as_str());
        let namespace = &name.namespace;
        match (key.group.as_str(), key.kind.as_str()) {
            ("", "Namespace") => _ = dirty.pods(&name.name, self.namespaces.remove(&name.name).is_some()),
            ("", "Pod") => _ = dirty.pods(namespace, take(&mut self.pods, &name)),
            ("", "Service") => _ = dirty.services(namespace, take(&mut self.services, &name)),
            ("discovery.k8s.io", "EndpointSlice") => {
                _ = dirty.services(namespace, take(&mut self.slices, &name));
            }
            ("networking.istio.io", "VirtualService") => {
                dirty.routes |= self.virtual_services.remove(&name).is_some();
            }
            ("networking.istio.io", "DestinationRule") => {
                dirty.subsets |= self.destination_rules.remove(&name).is_some();
            }
            _ => {}
        }
    }
}

fn put<K: Ord, T: PartialEq>(table: &mut BTreeMap<K, T>, key: K, object: T) -> bool {
    if table.get(&key) == Some(&object) {
        return false;
    }
    table.insert(key, object);
    true
}

fn take<T>(table: &mut ByNamespace<T>, name: &ObjectName) -> bool {
    let Some(objects) = table.get_mut(&name.namespace) else {
        return false;
    };
    let taken = objects.remove(&name.name).is_some();
    if objects.is_empty() {
        table.remove(&name.namespace);
    }
    taken
}
