//! Objects → snapshot. Only what a change touches is built anew; the rest is shared with the snapshot before.

use super::ObjectKey;
use super::attached::Attachments;
use super::backend_tls::{self, Claims};
use super::backends;
use super::connections;
use super::dirty::Dirty;
use super::entries::Entries;
use super::gateways;
use super::listener_sets;
use super::peers;
use super::pods::{HeldOut, Pods};
use super::references::{References, Touched};
use super::routes;
use super::scopes;
use super::services::Services;
use super::subsets;
use super::tables::{RouteKey, Tables};
use crate::model::ObjectName;
use crate::model::gateway::GatewayRole;
use crate::model::snapshot::{MeshSettings, Snapshot};
use crate::translate::{Rejected, describe};
use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::sync::Arc;

/// Something wrong between objects; all of them are in force.
#[derive(Clone)]
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
    /// What is wrong between VirtualServices, until one of them changes.
    route_warnings: Vec<Warning>,
    pods: Pods,
    services: Services,
    /// What a gateway process is; none in an agent.
    role: Option<GatewayRole>,
    /// Whether this is a controller's.
    judging: bool,
    /// What is wrong at the gateway, until it is looked at again.
    pub(super) edge_warnings: Vec<Warning>,
    /// What is wrong with ListenerSets, until they are looked at again.
    set_warnings: Vec<Warning>,
    attachments: Attachments,
    entries: Entries,
    references: References,
    /// Which BackendTLSPolicy has which Service.
    pub(super) claims: Claims,
}

impl World {
    /// `node`: the one whose pods the source gives in full; `None` if it gives all pods.
    pub(super) fn new(settings: MeshSettings, node: Option<Arc<str>>) -> Self {
        Self {
            snapshot: Arc::new(Snapshot {
                settings,
                ..Snapshot::default()
            }),
            dirty: Dirty::default(),
            warnings: Vec::new(),
            route_warnings: Vec::new(),
            pods: Pods::new(node),
            services: Services::default(),
            role: None,
            judging: false,
            edge_warnings: Vec::new(),
            set_warnings: Vec::new(),
            attachments: Attachments::default(),
            entries: Entries::default(),
            references: References::default(),
            claims: Claims::default(),
        }
    }

    /// From now on the snapshots say what a gateway process serves.
    pub(super) fn serve(&mut self, role: GatewayRole) {
        self.dirty.edge = true;
        self.role = Some(role);
    }

    /// From now on Secrets count.
    pub(super) fn judge(&mut self) {
        self.judging = true;
    }

    pub(super) fn reads_material(&self) -> bool {
        self.role.is_some() || self.judging
    }

    pub(super) fn settings(&self) -> &MeshSettings {
        &self.snapshot.settings
    }

    pub(super) fn dirty_mut(&mut self) -> &mut Dirty {
        &mut self.dirty
    }

    pub(super) fn of_one_node(&self) -> bool {
        self.pods.of_one_node()
    }

    pub(super) fn held_out(&self) -> &BTreeMap<ObjectName, HeldOut> {
        &self.pods.held_out
    }

    /// The XBackendTrafficPolicies of services.
    pub(super) fn backend_policies(&self) -> &backends::Policies {
        &self.snapshot.backend_policies
    }

    /// Ports of a service on which a route that names it does not apply, and why.
    pub(super) fn lost(&self, service: &ObjectName, route: &RouteKey) -> Vec<(u16, &str)> {
        self.attachments.lost(service, route)
    }

    /// Routes of Gateway API whose rules name a Service.
    pub(super) fn routes_to(&self, service: &ObjectName) -> impl Iterator<Item = &RouteKey> {
        self.references.routes_to(service)
    }

    /// The snapshot of these objects.
    pub(super) fn rebuild(&mut self, tables: &Tables) -> Arc<Snapshot> {
        if self.dirty.is_clean() {
            return Arc::clone(&self.snapshot);
        }
        let mut dirty = mem::take(&mut self.dirty);
        let mut next = (*self.snapshot).clone();
        next.version += 1;
        l4_only(tables, &mut dirty, &mut next);
        let edge_changed = dirty.edge
            || !dirty.routes.is_empty()
            || dirty.grants
            || !dirty.namespaces.is_empty()
            || self.touches_edge(tables, &dirty);
        let concerned = self.attachments.concerned(tables, &dirty);
        let effects = self.pods.rebuild(tables, &dirty, &mut next);
        let entries = dirty.entries || effects.namespaces.iter().any(|ns| tables.entries_select_in(ns));
        let mut touched = Touched::of(&dirty);
        let services = mem::take(&mut dirty.services);
        self.services
            .rebuild(tables, &self.pods, services, effects, &mut next);
        if entries {
            touched.any_host();
            self.entries
                .rebuild(tables, &self.pods, &mut self.services, &mut next);
        }
        if dirty.sidecars {
            scopes::scopes(tables, &mut next);
        }
        self.warnings = Vec::new();
        self.entries.warn(&mut self.warnings);
        self.services.duplicate_addresses(&next, &mut self.warnings);
        held_out(&self.pods.held_out, &mut self.warnings);
        if !dirty.routes.is_empty() {
            self.route_warnings = Vec::new();
            routes::routes(tables, &mut next, &mut self.route_warnings);
            connections::routes(tables, &mut next);
        }
        self.warnings.extend(self.route_warnings.iter().cloned());
        next.steered = imbl::HashSet::default();
        self.attachments
            .rebuild(tables, concerned, &dirty.attached, &mut next);
        self.attachments.warn(&mut self.warnings);
        if dirty.nodes {
            next.nodes = tables.nodes.clone();
        }
        if dirty.subsets {
            self.claims = Claims::of(tables);
        }
        let shown = backend_tls::shown(tables, self.role.as_ref());
        subsets::subsets(
            tables,
            &self.claims,
            shown.as_ref(),
            &mut next,
            &mut self.warnings,
        );
        // Files may be a part of what there is.
        let whole = self.reads_material() || (self.of_one_node() && !tables.blind);
        backend_tls::warn(tables, &self.claims, whole, &mut self.warnings);
        connections::steer(&mut next);
        if dirty.backends {
            next.backend_policies = Arc::new(backends::policies(tables));
        }
        backends::warn(tables, &next.backend_policies, &mut self.warnings);
        backends::steer(&mut next);
        if dirty.peers {
            next.peers = peers::policies(tables);
        }
        peers::conflicts(tables, &mut self.warnings);
        self.references.rebuild(tables, touched, &next);
        self.references.warn_rules(&mut self.warnings);
        if let Some(role) = self.role.as_ref().filter(|_| edge_changed) {
            self.edge_warnings = Vec::new();
            next.edge = Arc::new(gateways::edge(
                role,
                tables,
                &next.settings,
                &mut self.edge_warnings,
            ));
        }
        if edge_changed {
            self.set_warnings = Vec::new();
            listener_sets::warn(tables, &mut self.set_warnings);
        }
        self.warnings.extend(self.set_warnings.iter().cloned());
        self.references.warn_routes(&mut self.warnings);
        self.snapshot = Arc::new(next);
        Arc::clone(&self.snapshot)
    }

    /// Services of the gateway's own namespace say where it listens.
    fn touches_edge(&self, tables: &Tables, dirty: &Dirty) -> bool {
        if self.role.is_some() && !dirty.services.is_empty() && gateways::reads_services(tables) {
            return true;
        }
        let own = |name: &ObjectName| {
            let role = self.role.as_ref();
            role.is_some_and(|role| role.pod.namespace == name.namespace)
        };
        dirty.services.iter().chain(&dirty.pods).any(own)
    }
}

/// Follows `heddle.io/l7` of namespaces.
fn l4_only(tables: &Tables, dirty: &mut Dirty, next: &mut Snapshot) {
    for namespace in &dirty.namespaces {
        let now = tables.namespaces.get(namespace).is_some_and(|n| n.l4_only);
        let before = if now {
            !next.l4_only.insert(Arc::clone(namespace))
        } else {
            next.l4_only.remove(namespace)
        };
        if now != before {
            let services = tables.services.get(namespace).into_iter().flatten();
            let names = services.map(|(name, _)| ObjectName::new(Arc::clone(namespace), Arc::clone(name)));
            dirty.services.extend(names);
        }
    }
}

/// One warning for a namespace, the same for any number of its pods: rollouts pass through this state.
fn held_out(pods: &BTreeMap<ObjectName, HeldOut>, warnings: &mut Vec<Warning>) {
    let without_template = pods.iter().filter(|(_, why)| **why == HeldOut::NoTemplate);
    let namespaces: BTreeSet<&Arc<str>> = without_template.map(|(pod, _)| &pod.namespace).collect();
    for namespace in namespaces {
        warnings.push(Warning {
            key: ObjectKey {
                kind: "Namespace".into(),
                group: String::new(),
                namespace: String::new(),
                name: namespace.to_string(),
            },
            field: String::new(),
            reason: "has endpoints of which no WorkloadTemplate says who they are: nobody is sent there"
                .into(),
        });
    }
}
