//! The translated objects in force, and what their changes touch.

use super::dirty::Dirty;
use super::parents::{Parent, Parents};
use super::templates::Templates;
use super::{ObjectKey, Sandbox};
use crate::model::ObjectName;
use crate::model::locality::Locality;
use crate::model::template::{GROUP, WORKLOAD_TEMPLATE};
use crate::translate::gateway_api::{BACKEND_TRAFFIC, EXPERIMENTAL_GROUP, GROUP as GROUP_OF_ROUTES};
use crate::translate::{
    ApiGatewaySpec, ApiRouteSpec, BackendTlsSpec, BackendTrafficSpec, DestinationRuleSpec, GatewayClassSpec,
    GatewaySpec, IngressSpec, ListenerSetSpec, MaterialSpec, NamespaceSpec, PeerAuthenticationSpec, PodSpec,
    ReferenceGrantSpec, RouteKind, ServiceEntrySpec, ServiceSpec, SidecarSpec, SliceSpec, Translated,
    VirtualServiceSpec, WorkloadEntrySpec,
};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

/// Objects of one kind: namespace → name → object.
pub(super) type ByNamespace<T> = BTreeMap<Arc<str>, BTreeMap<Arc<str>, T>>;

/// A route of Gateway API.
pub(super) type RouteKey = (RouteKind, ObjectName);

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
    pub(super) nodes: imbl::HashMap<Arc<str>, Arc<Locality>>,
    pub(super) virtual_services: BTreeMap<ObjectName, VirtualServiceSpec>,
    pub(super) destination_rules: BTreeMap<ObjectName, DestinationRuleSpec>,
    pub(super) gateways: BTreeMap<ObjectName, GatewaySpec>,
    /// In a gateway only.
    pub(super) ingresses: BTreeMap<ObjectName, IngressSpec>,
    /// Secrets and ConfigMaps, in a gateway only.
    materials: BTreeMap<(&'static str, ObjectName), MaterialSpec>,
    pub(super) peer_authentications: BTreeMap<ObjectName, PeerAuthenticationSpec>,
    pub(super) api_routes: BTreeMap<RouteKey, ApiRouteSpec>,
    parents: Parents,
    /// Whether Secrets are not given, so that none being there means nothing.
    pub(super) blind: bool,
    pub(super) api_gateways: BTreeMap<ObjectName, ApiGatewaySpec>,
    pub(super) listener_sets: BTreeMap<ObjectName, ListenerSetSpec>,
    pub(super) backend_traffic: BTreeMap<ObjectName, BackendTrafficSpec>,
    pub(super) gateway_classes: BTreeMap<Arc<str>, GatewayClassSpec>,
    pub(super) grants: BTreeMap<ObjectName, ReferenceGrantSpec>,
    pub(super) backend_tls: BTreeMap<ObjectName, BackendTlsSpec>,
    pub(super) service_entries: BTreeMap<ObjectName, ServiceEntrySpec>,
    pub(super) workload_entries: ByNamespace<WorkloadEntrySpec>,
    pub(super) sidecars: BTreeMap<ObjectName, SidecarSpec>,
    /// What names of ServiceEntries resolve to.
    pub(super) resolved: HashMap<Arc<str>, Vec<IpAddr>>,
}

impl Tables {
    /// Puts an object in force; whether it differs from the version before.
    pub(super) fn put(&mut self, name: ObjectName, object: Translated, dirty: &mut Dirty) -> bool {
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
            Translated::Node(locality) => {
                let changed = self.nodes.get(&name.name).is_none_or(|old| **old != locality);
                if changed {
                    self.nodes.insert(name.name, Arc::new(locality));
                    dirty.nodes = true;
                }
                changed
            }
            Translated::VirtualService(spec) => {
                let changed = put(&mut self.virtual_services, name.clone(), spec);
                if changed {
                    dirty.routes.insert(name);
                }
                changed
            }
            Translated::DestinationRule(spec) => {
                let changed = put(&mut self.destination_rules, name.clone(), *spec);
                if changed {
                    dirty.rules.insert(name);
                }
                changed
            }
            Translated::Gateway(spec) => {
                let changed = put(&mut self.gateways, name, spec);
                dirty.edge |= changed;
                changed
            }
            Translated::Ingress(spec) => {
                let changed = put(&mut self.ingresses, name, spec);
                dirty.edge |= changed;
                changed
            }
            Translated::Material(spec) => {
                let changed = put(&mut self.materials, (spec.kind, name), spec);
                dirty.materials |= changed;
                changed
            }
            Translated::PeerAuthentication(spec) => {
                let changed = put(&mut self.peer_authentications, name, spec);
                dirty.peers |= changed;
                changed
            }
            Translated::ApiRoute(spec) => self.put_route((spec.kind, name), spec, dirty),
            Translated::ApiGateway(spec) => {
                let changed = put(&mut self.api_gateways, name, spec);
                dirty.grants |= changed;
                changed
            }
            Translated::ListenerSet(spec) => {
                let changed = put(&mut self.listener_sets, name, spec);
                dirty.grants |= changed;
                changed
            }
            Translated::BackendTraffic(spec) => {
                let changed = put(&mut self.backend_traffic, name.clone(), spec);
                if changed {
                    dirty.backends.insert(name);
                }
                changed
            }
            Translated::GatewayClass(spec) => {
                let changed = put(&mut self.gateway_classes, name.name, spec);
                dirty.grants |= changed;
                changed
            }
            Translated::ReferenceGrant(spec) => {
                let changed = put(&mut self.grants, name, spec);
                dirty.grants |= changed;
                changed
            }
            Translated::BackendTls(spec) => {
                let changed = put(&mut self.backend_tls, name.clone(), spec);
                if changed {
                    dirty.backend_tls.insert(name);
                }
                changed
            }
            Translated::ServiceEntry(spec) => {
                let changed = put(&mut self.service_entries, name, spec);
                dirty.entries |= changed;
                changed
            }
            Translated::WorkloadEntry(spec) => {
                let changed = put_in(&mut self.workload_entries, &name, spec);
                dirty.entries |= changed;
                changed
            }
            Translated::Sidecar(spec) => {
                let changed = put(&mut self.sidecars, name, spec);
                dirty.sidecars |= changed;
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
            ("", "Node") => dirty.nodes |= self.nodes.remove(&name.name).is_some(),
            ("networking.istio.io", "VirtualService") => {
                let gone = self.virtual_services.remove(&name);
                dirty.routes.extend(gone.map(|_| name));
            }
            ("networking.istio.io", "DestinationRule") => {
                let gone = self.destination_rules.remove(&name);
                dirty.rules.extend(gone.map(|_| name));
            }
            ("networking.istio.io", "Gateway") => dirty.edge |= self.gateways.remove(&name).is_some(),
            ("networking.k8s.io", "Ingress") => dirty.edge |= self.ingresses.remove(&name).is_some(),
            ("", "Secret") => dirty.materials |= self.materials.remove(&("Secret", name)).is_some(),
            ("", "ConfigMap") => dirty.materials |= self.materials.remove(&("ConfigMap", name)).is_some(),
            ("security.istio.io", "PeerAuthentication") => {
                dirty.peers |= self.peer_authentications.remove(&name).is_some();
            }
            (GROUP_OF_ROUTES, "ReferenceGrant") => {
                dirty.grants |= self.grants.remove(&name).is_some();
            }
            (GROUP_OF_ROUTES, "Gateway") => {
                dirty.grants |= self.api_gateways.remove(&name).is_some();
            }
            (EXPERIMENTAL_GROUP, BACKEND_TRAFFIC) => {
                let gone = self.backend_traffic.remove(&name);
                dirty.backends.extend(gone.map(|_| name));
            }
            (GROUP_OF_ROUTES, "ListenerSet") => {
                dirty.grants |= self.listener_sets.remove(&name).is_some();
            }
            (GROUP_OF_ROUTES, "GatewayClass") => {
                dirty.grants |= self.gateway_classes.remove(&name.name).is_some();
            }
            (GROUP_OF_ROUTES, "BackendTLSPolicy") => {
                let gone = self.backend_tls.remove(&name);
                dirty.backend_tls.extend(gone.map(|_| name));
            }
            (GROUP_OF_ROUTES, kind) => {
                if let Some(kind) = RouteKind::named(kind) {
                    self.remove_route(&(kind, name), dirty);
                }
            }
            ("networking.istio.io", "ServiceEntry") => {
                dirty.entries |= self.service_entries.remove(&name).is_some();
            }
            ("networking.istio.io", "WorkloadEntry") => {
                dirty.entries |= take(&mut self.workload_entries, &name).is_some();
            }
            ("networking.istio.io", "Sidecar") => {
                dirty.sidecars |= self.sidecars.remove(&name).is_some();
            }
            _ => {}
        }
    }

    /// A Secret or ConfigMap.
    pub(super) fn material(&self, kind: &'static str, name: &ObjectName) -> Option<&MaterialSpec> {
        self.materials.get(&(kind, name.clone()))
    }

    fn put_route(&mut self, key: RouteKey, spec: ApiRouteSpec, dirty: &mut Dirty) -> bool {
        if self.api_routes.get(&key) == Some(&spec) {
            return false;
        }
        self.remove_route(&key, dirty);
        dirty.api_routes.insert(key.clone());
        self.parents.put(&key, &spec, dirty);
        dirty.grants = true;
        self.api_routes.insert(key, spec);
        true
    }

    fn remove_route(&mut self, key: &RouteKey, dirty: &mut Dirty) {
        let Some(old) = self.api_routes.remove(key) else {
            return;
        };
        dirty.api_routes.insert(key.clone());
        self.parents.remove(key, &old, dirty);
        dirty.grants = true;
    }

    /// The routes that name the object as parent, in the order of their keys.
    pub(super) fn routes_to<'a>(
        &'a self,
        parent: &Parent,
    ) -> impl Iterator<Item = (&'a RouteKey, &'a ApiRouteSpec)> + use<'a> {
        let keys = self.parents.routes(parent);
        keys.filter_map(|key| Some((key, self.api_routes.get(key)?)))
    }

    /// Whether any route names the service as parent.
    pub(super) fn has_routes(&self, service: &ObjectName) -> bool {
        self.parents
            .routes(&Parent::Service(service.clone()))
            .next()
            .is_some()
    }

    /// What a name resolves to now; whether that is new.
    pub(super) fn resolve(&mut self, name: Arc<str>, mut ips: Vec<IpAddr>, dirty: &mut Dirty) -> bool {
        // Resolvers turn the answers round; only the set counts.
        ips.sort();
        ips.dedup();
        let changed = self.resolved.get(&name) != Some(&ips);
        if changed {
            self.resolved.insert(name, ips);
            dirty.entries = true;
        }
        changed
    }

    /// Whether some version of an object is in force.
    pub(super) fn has(&self, key: &ObjectKey) -> bool {
        let name = ObjectName::new(key.namespace.as_str(), key.name.as_str());
        match (key.group.as_str(), key.kind.as_str()) {
            ("", "Namespace") => self.namespaces.contains_key(&name.name),
            ("", "Pod") => self.pod(&name).is_some(),
            ("", "Service") => self.service(&name).is_some(),
            ("", "Node") => self.nodes.contains_key(&name.name),
            ("", "Secret") => self.material("Secret", &name).is_some(),
            ("", "ConfigMap") => self.material("ConfigMap", &name).is_some(),
            ("discovery.k8s.io", "EndpointSlice") => self.slice(&name.namespace, &name.name).is_some(),
            (GROUP, WORKLOAD_TEMPLATE) => self.templates.has(&name),
            ("networking.k8s.io", "Ingress") => self.ingresses.contains_key(&name),
            ("networking.istio.io", "Gateway") => self.gateways.contains_key(&name),
            ("networking.istio.io", "VirtualService") => self.virtual_services.contains_key(&name),
            ("networking.istio.io", "DestinationRule") => self.destination_rules.contains_key(&name),
            ("networking.istio.io", "ServiceEntry") => self.service_entries.contains_key(&name),
            ("networking.istio.io", "WorkloadEntry") => {
                let of_namespace = self.workload_entries.get(&name.namespace);
                of_namespace.is_some_and(|entries| entries.contains_key(&name.name))
            }
            ("networking.istio.io", "Sidecar") => self.sidecars.contains_key(&name),
            ("security.istio.io", "PeerAuthentication") => self.peer_authentications.contains_key(&name),
            (GROUP_OF_ROUTES, "ReferenceGrant") => self.grants.contains_key(&name),
            (GROUP_OF_ROUTES, "BackendTLSPolicy") => self.backend_tls.contains_key(&name),
            (GROUP_OF_ROUTES, "Gateway") => self.api_gateways.contains_key(&name),
            (GROUP_OF_ROUTES, "GatewayClass") => self.gateway_classes.contains_key(&name.name),
            (EXPERIMENTAL_GROUP, BACKEND_TRAFFIC) => self.backend_traffic.contains_key(&name),
            (GROUP_OF_ROUTES, "ListenerSet") => self.listener_sets.contains_key(&name),
            (GROUP_OF_ROUTES, kind) => {
                RouteKind::named(kind).is_some_and(|kind| self.api_routes.contains_key(&(kind, name)))
            }
            _ => false,
        }
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

    /// Whether a ServiceEntry of a namespace selects pods.
    pub(super) fn entries_select_in(&self, namespace: &Arc<str>) -> bool {
        let first = ObjectName::new(Arc::clone(namespace), "");
        let of_namespace = self.service_entries.range(first..);
        of_namespace
            .take_while(|(name, _)| name.namespace == *namespace)
            .any(|(_, spec)| spec.selector.is_some())
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
