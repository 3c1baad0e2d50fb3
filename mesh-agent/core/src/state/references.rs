//! Destinations that are not there. Each rule is looked at when it changes, or when something that it names does: not all
//! rules of a mesh at every change of one object.

use super::dirty::Dirty;
use super::findings::Findings;
use super::routes::warning;
use super::status;
use super::tables::{RouteKey, Tables};
use super::world::Warning;
use crate::model::ObjectName;
use crate::model::route::{Destination, Origin, WeightedDestination};
use crate::model::snapshot::Snapshot;
use crate::translate::VirtualServiceSpec;
use crate::translate::gateway_api::Target;
use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::sync::Arc;

/// What was found when each rule was last looked at.
#[derive(Default)]
pub(super) struct References {
    /// VirtualServices name hosts.
    virtual_services: Found<ObjectName, Arc<str>>,
    /// Routes of Gateway API name Services.
    api_routes: Found<RouteKey, ObjectName>,
}

/// Objects of kind `K`, which refer to `T`s.
struct Found<K, T> {
    warnings: Findings<K>,
    names: HashMap<K, Box<[T]>>,
    named_by: HashMap<T, BTreeSet<K>>,
}

impl<K, T> Default for Found<K, T> {
    fn default() -> Self {
        Self {
            warnings: Findings::default(),
            names: HashMap::new(),
            named_by: HashMap::new(),
        }
    }
}

impl<K: Clone + Ord + Hash, T: Clone + Ord + Hash> Found<K, T> {
    /// The objects that refer to it.
    fn naming(&self, to: &T) -> impl Iterator<Item = &K> {
        self.named_by.get(to).into_iter().flatten()
    }

    fn forget(&mut self, key: &K) {
        self.warnings.put(key, Vec::new());
        for name in self.names.remove(key).into_iter().flatten() {
            if let Some(keys) = self.named_by.get_mut(&name) {
                keys.remove(key);
                if keys.is_empty() {
                    self.named_by.remove(&name);
                }
            }
        }
    }

    fn put(&mut self, key: &K, names: BTreeSet<T>, warnings: Vec<Warning>) {
        self.forget(key);
        for name in &names {
            let keys = self.named_by.entry(name.clone()).or_default();
            keys.insert(key.clone());
        }
        self.names.insert(key.clone(), names.into_iter().collect());
        self.warnings.put(key, warnings);
    }
}

/// What has changed since the last time.
pub(super) struct Touched {
    virtual_services: BTreeSet<ObjectName>,
    api_routes: BTreeSet<RouteKey>,
    services: BTreeSet<ObjectName>,
    /// Hosts with other subsets.
    hosts: BTreeSet<Arc<str>>,
    /// ServiceEntries: any host may mean something else.
    any_host: bool,
}

impl Touched {
    /// Of `dirty`, before the snapshot is built from it.
    pub(super) fn of(dirty: &Dirty) -> Self {
        Self {
            virtual_services: dirty.routes.clone(),
            api_routes: dirty.api_routes.clone(),
            services: dirty.services.clone(),
            hosts: BTreeSet::new(),
            any_host: dirty.entries,
        }
    }

    /// Hosts may have come or gone that are no Service's.
    pub(super) fn any_host(&mut self) {
        self.any_host = true;
    }

    /// These hosts have other subsets.
    pub(super) fn hosts(&mut self, hosts: BTreeSet<Arc<str>>) {
        self.hosts = hosts;
    }
}

impl References {
    /// Looks at what the change touches again. `next` has its services and subsets already.
    pub(super) fn rebuild(&mut self, tables: &Tables, touched: Touched, next: &Snapshot) {
        let (mut rules, mut routes) = (touched.virtual_services, touched.api_routes);
        if touched.any_host {
            rules.extend(tables.virtual_services.keys().cloned());
        }
        for host in &touched.hosts {
            rules.extend(self.virtual_services.naming(host).cloned());
        }
        for service in &touched.services {
            let host = next.settings.host_of(service);
            rules.extend(self.virtual_services.naming(&host).cloned());
            routes.extend(self.api_routes.naming(service).cloned());
        }
        for name in &rules {
            match tables
                .virtual_services
                .get(name)
                .filter(|v| v.mesh || v.hosts.is_empty())
            {
                Some(spec) => {
                    let (names, warnings) = look(next, name, spec);
                    self.virtual_services.put(name, names, warnings);
                }
                None => self.virtual_services.forget(name),
            }
        }
        for key in &routes {
            match tables.api_routes.get(key) {
                Some(route) => {
                    let services = route.references.iter().filter_map(|r| match &r.target {
                        Target::Service { name, .. } => Some(name.clone()),
                        _ => None,
                    });
                    let warnings = status::references(tables, key, route);
                    self.api_routes.put(key, services.collect(), warnings);
                }
                None => self.api_routes.forget(key),
            }
        }
    }

    /// Routes of Gateway API that name a Service.
    pub(super) fn routes_to(&self, service: &ObjectName) -> impl Iterator<Item = &RouteKey> {
        self.api_routes.naming(service)
    }

    /// What is wrong with VirtualServices and with routes of Gateway API.
    pub(super) fn warnings(&self) -> impl Iterator<Item = &Warning> {
        self.virtual_services
            .warnings
            .iter()
            .chain(self.api_routes.warnings.iter())
    }
}

/// The hosts that a VirtualService names, and what is wrong with them: the rule applies, and answers 503 `NC` where it
/// leads to what is not there.
fn look(
    snapshot: &Snapshot,
    name: &ObjectName,
    spec: &VirtualServiceSpec,
) -> (BTreeSet<Arc<str>>, Vec<Warning>) {
    let (mut names, mut warnings) = (BTreeSet::new(), Vec::new());
    let mut note = |to: &Destination| _ = names.insert(Arc::clone(&to.host));
    for rule in &spec.table.rules {
        for route in rule.action.destinations() {
            route.backend.host().map(&mut note);
        }
        rule.action
            .mirrors
            .iter()
            .for_each(|mirror| note(&mirror.destination));
        destinations(
            snapshot,
            name,
            &rule.origin,
            rule.action.destinations(),
            &mut warnings,
        );
        for mirror in &rule.action.mirrors {
            let at = || format!("{}.mirror", rule.origin.field());
            reference(snapshot, name, at, &mirror.destination, &mut warnings);
        }
    }
    let connections = spec
        .connections
        .iter()
        .flat_map(|table| table.tls.iter().chain(&table.tcp));
    for rule in connections {
        for route in &rule.split.destinations {
            route.backend.host().map(&mut note);
        }
        destinations(
            snapshot,
            name,
            &rule.origin,
            &rule.split.destinations,
            &mut warnings,
        );
    }
    (names, warnings)
}

fn destinations(
    snapshot: &Snapshot,
    name: &ObjectName,
    origin: &Origin,
    routes: &[WeightedDestination],
    warnings: &mut Vec<Warning>,
) {
    for route in routes {
        if let Some(to) = route.backend.host() {
            let at = || origin.destination_field(route.index);
            reference(snapshot, name, at, to, warnings);
        }
    }
}

fn reference(
    snapshot: &Snapshot,
    name: &ObjectName,
    at: impl Fn() -> String,
    wanted: &Destination,
    warnings: &mut Vec<Warning>,
) {
    let mut warn = |field: &str, reason: String| {
        let reason = format!("{reason}: requests that it takes are answered with 503 (NC)");
        warnings.push(warning(
            "VirtualService",
            name,
            format!("{}.{field}", at()),
            reason,
        ));
    };
    let Some(service) = snapshot.service_by_host(&wanted.host, Some(&name.namespace)) else {
        return warn("host", format!("host {} is no service", wanted.host));
    };
    if let Some(number) = wanted.port.filter(|number| service.port(*number).is_none()) {
        warn(
            "port.number",
            format!("service {} has no port {number}", service.name),
        );
    }
    let Some(subset) = &wanted.subset else { return };
    let rules = snapshot
        .subsets
        .get(&wanted.host)
        .into_iter()
        .flat_map(|rules| rules.iter());
    if !rules.flat_map(|r| &r.subsets).any(|s| s.name == *subset) {
        warn(
            "subset",
            format!("no DestinationRule defines subset {subset} of {}", wanted.host),
        );
    }
}
