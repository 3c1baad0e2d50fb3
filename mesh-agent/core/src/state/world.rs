//! Objects → snapshot. Only what a change touches is built anew; the rest is shared with the snapshot before.

use super::ObjectKey;
use super::attached::{self, Attachments};
use super::backend_tls::{self, Claims, Shown};
use super::backends::{self, Backends};
use super::dirty::Dirty;
use super::entries::Entries;
use super::gateways;
use super::hosts::Hosts;
use super::listener_sets;
use super::peers;
use super::pods::{HeldOut, Pods};
use super::references::{References, Touched};
use super::routes::Routes;
use super::scopes;
use super::services::Services;
use super::steering;
use super::subsets::Subsets;
use super::tables::{RouteKey, Tables};
use crate::changes::changes;
use crate::model::ObjectName;
use crate::model::gateway::GatewayRole;
use crate::model::service::Service;
use crate::model::snapshot::{MeshSettings, Snapshot};
use crate::translate::{Rejected, describe};
use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::sync::Arc;

/// Something before and after.
pub(super) type Changed<T> = (Option<Arc<T>>, Option<Arc<T>>);

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
    pods: Pods,
    services: Services,
    entries: Entries,
    hosts: Hosts,
    routes: Routes,
    attachments: Attachments,
    subsets: Subsets,
    /// Which BackendTLSPolicy has which Service.
    pub(super) claims: Claims,
    /// What this gateway shows to servers of which such a policy speaks.
    shown: Option<Shown>,
    backends: Backends,
    references: References,
    /// What a gateway process is; none in an agent.
    role: Option<GatewayRole>,
    /// Whether this is a controller's.
    judging: bool,
    /// What is wrong between services and pods now.
    warnings: Vec<Warning>,
    /// What is wrong with PeerAuthentications, until one of them changes.
    peer_warnings: Vec<Warning>,
    /// What is wrong at the gateway, until it is looked at again.
    edge_warnings: Vec<Warning>,
    /// What is wrong with ListenerSets, until they are looked at again.
    set_warnings: Vec<Warning>,
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
            pods: Pods::new(node),
            services: Services::default(),
            entries: Entries::default(),
            hosts: Hosts::default(),
            routes: Routes::default(),
            attachments: Attachments::default(),
            subsets: Subsets::default(),
            claims: Claims::default(),
            shown: None,
            backends: Backends::default(),
            references: References::default(),
            role: None,
            judging: false,
            warnings: Vec::new(),
            peer_warnings: Vec::new(),
            edge_warnings: Vec::new(),
            set_warnings: Vec::new(),
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
        let mut touched = Touched::of(&dirty);
        let effects = self.pods.rebuild(tables, &dirty, &mut next);
        let entries = dirty.entries
            || effects.namespaces.iter().any(|ns| tables.entries_select_in(ns))
            || self.entries_give_way_otherwise(tables, &dirty, &next);
        self.services
            .rebuild(tables, &self.pods, dirty.services.clone(), effects, &mut next);
        if entries {
            touched.any_host();
            self.entries
                .rebuild(tables, &self.pods, &mut self.services, &mut next);
        }
        if dirty.sidecars {
            scopes::scopes(tables, &mut next);
        }
        if dirty.nodes {
            next.nodes = tables.nodes.clone();
        }
        if dirty.peers {
            next.peers = peers::policies(tables);
            self.peer_warnings = peers::conflicts(tables);
        }
        touched.hosts(self.policies(tables, &dirty, entries, &mut next));
        self.references.rebuild(tables, touched, &next);
        self.edge(tables, &dirty, &mut next);
        self.warnings = Vec::new();
        self.entries.warn(&mut self.warnings);
        self.services.duplicate_addresses(&next, &mut self.warnings);
        held_out(&self.pods.held_out, &mut self.warnings);
        self.attachments.warn(&mut self.warnings);
        self.snapshot = Arc::new(next);
        Arc::clone(&self.snapshot)
    }

    /// Whether a Service came or went since `next` was built, and a ServiceEntry names its host: it gives way to a Service.
    fn entries_give_way_otherwise(&self, tables: &Tables, dirty: &Dirty, next: &Snapshot) -> bool {
        let moved = |name: &&ObjectName| next.service(name).is_some() != tables.service(name).is_some();
        let is_named = |name: &ObjectName| {
            let host = next.settings.host_of(name);
            self.hosts.services(next, &host).any(|s| s.external.is_some())
        };
        dirty.services.iter().filter(moved).any(is_named)
    }

    /// What is wrong between objects.
    pub(super) fn warnings(&self) -> impl Iterator<Item = &Warning> {
        self.warnings
            .iter()
            .chain(self.routes.warnings())
            .chain(self.subsets.warnings())
            .chain(self.claims.warnings())
            .chain(self.backends.warnings())
            .chain(self.references.warnings())
            .chain(&self.peer_warnings)
            .chain(&self.edge_warnings)
            .chain(&self.set_warnings)
    }

    /// What is said of services, which `next` has already: routes, subsets, policies. `entries`: whether those that
    /// ServiceEntries made were built anew. Returns the hosts with other subsets.
    fn policies(
        &mut self,
        tables: &Tables,
        dirty: &Dirty,
        entries: bool,
        next: &mut Snapshot,
    ) -> BTreeSet<Arc<str>> {
        let changed: Vec<Changed<Service>> = changes(&self.snapshot.services, &next.services, |s| &s.name)
            .into_iter()
            .map(|(old, new)| (old.cloned(), new.cloned()))
            .collect();
        let mut hosts = BTreeSet::new();
        self.hosts.follow(&changed, &mut hosts);
        let keys = self.routes.rebuild(tables, &dirty.routes, next);
        let routed = keys
            .iter()
            .flat_map(|key| self.hosts.matching(key))
            .cloned()
            .collect();
        let concerned = attached::concerned(tables, dirty, &routed, &self.hosts, next);
        self.attachments.rebuild(tables, concerned, &dirty.attached, next);
        self.subsets.follow(tables, &dirty.rules, &self.hosts, &mut hosts);
        let mut vouched = self.claims.follow(tables, &dirty.backend_tls);
        let shown = backend_tls::shown(tables, self.role.as_ref());
        if dirty.materials || shown != self.shown {
            vouched.extend(self.claims.services().cloned());
            self.shown = shown;
        }
        hosts.extend(hosts_of(&vouched, next));
        if entries {
            // Another of several may be the one that everybody sees.
            let external = next.services.iter().filter(|s| s.external.is_some());
            hosts.extend(external.map(|s| Arc::clone(&s.host)));
        }
        self.subsets.rebuild(
            tables,
            &self.claims,
            self.shown.as_ref(),
            &self.hosts,
            &hosts,
            next,
        );
        self.subsets.look(tables, &hosts, entries, next);
        // Files may be a part of what there is.
        let whole = self.reads_material() || (self.of_one_node() && !tables.blind);
        vouched.extend(dirty.services.iter().cloned());
        self.claims.look(tables, &dirty.backend_tls, &vouched, whole);
        let limited = self.backends.rebuild(
            tables,
            &dirty.backends,
            &dirty.services,
            &mut next.backend_policies,
        );
        let mut spoken_of: BTreeSet<Arc<str>> = hosts.union(&routed).cloned().collect();
        spoken_of.extend(hosts_of(&limited, next));
        steering::steer(&changed, &self.hosts, &spoken_of, next);
        hosts
    }

    /// What a gateway serves, and what is wrong with what only gateways read.
    fn edge(&mut self, tables: &Tables, dirty: &Dirty, next: &mut Snapshot) {
        let changed = dirty.edge
            || dirty.materials
            || !dirty.routes.is_empty()
            || dirty.grants
            || !dirty.namespaces.is_empty()
            || self.touches_edge(tables, dirty);
        if !changed {
            return;
        }
        if let Some(role) = &self.role {
            self.edge_warnings = Vec::new();
            next.edge = Arc::new(gateways::edge(
                role,
                tables,
                &next.settings,
                &mut self.edge_warnings,
            ));
        }
        self.set_warnings = Vec::new();
        listener_sets::warn(tables, &mut self.set_warnings);
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

/// The hosts of those services that are there.
fn hosts_of<'a>(
    services: &'a BTreeSet<ObjectName>,
    next: &'a Snapshot,
) -> impl Iterator<Item = Arc<str>> + use<'a> {
    let found = services.iter().filter_map(|name| next.service(name));
    found.map(|service| Arc::clone(&service.host))
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
