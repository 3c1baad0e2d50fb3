//! VirtualServices and DestinationRules → what applies to each host, and what is wrong between objects.

use super::ObjectKey;
use super::delegates;
use super::tables::Tables;
use super::world::Warning;
use crate::model::ObjectName;
use crate::model::route::{
    Destination, HostSubsets, Origin, RouteTable, Subset, Visibility, WeightedDestination,
};
use crate::model::service::{Endpoint, Service};
use crate::model::snapshot::Snapshot;
use crate::translate::{DestinationRuleSpec, VirtualServiceSpec};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

type Routes = HashMap<Arc<str>, Arc<RouteTable>>;

/// Fills `routes` and `scoped_routes`: for each host the oldest VirtualService that a client sees (T-33).
pub(super) fn routes(tables: &Tables, next: &mut Snapshot, warnings: &mut Vec<Warning>) {
    next.routes = Routes::with_capacity(next.routes.len());
    next.scoped_routes = HashMap::new();
    let mut by_age: Vec<(&ObjectName, &VirtualServiceSpec)> = tables.virtual_services.iter().collect();
    // They are in the order of their names, which decides among those of one age.
    by_age.sort_by(|(_, a), (_, b)| a.created.cmp(&b.created));
    for (name, spec) in by_age {
        for (field, reason) in &spec.notes {
            warnings.push(warning("VirtualService", name, field.clone(), reason.clone()));
        }
        if !spec.routes_http() || spec.hosts.is_empty() {
            continue;
        }
        // Of an object that is for gateways only, too: what is wrong with its delegates is told.
        let table = delegates::table(tables, name, spec, warnings);
        for (i, host) in spec.hosts.iter().enumerate().filter(|_| spec.mesh) {
            if let Some(winner) = claim(next, &spec.export_to, host, &table) {
                let reason = format!("host {host} is already routed by the older VirtualService {winner}");
                let field = format!("spec.hosts[{i}]");
                warnings.push(warning("VirtualService", name, field, reason));
            }
        }
    }
    delegates::unused(tables, warnings);
}

/// Gives a host to a table for the clients that see it, or returns who has it for some of them.
fn claim(
    next: &mut Snapshot,
    seen_by: &Visibility,
    host: &Arc<str>,
    table: &Arc<RouteTable>,
) -> Option<ObjectName> {
    let key = host
        .strip_prefix('*')
        .map_or_else(|| Arc::clone(host), Into::into);
    let Visibility::Namespaces(names) = seen_by else {
        return put(&mut next.routes, key, table);
    };
    let mut winner = None;
    for namespace in names {
        // What all see and is older comes first for these as well.
        let older = match next.routes.get(&key) {
            Some(all) if Arc::ptr_eq(all, table) => None,
            Some(all) => Some(all.object.clone()),
            None => {
                let routes = next.scoped_routes.entry(Arc::clone(namespace)).or_default();
                put(routes, Arc::clone(&key), table)
            }
        };
        winner = older.or(winner);
    }
    winner
}

fn put(routes: &mut Routes, key: Arc<str>, table: &Arc<RouteTable>) -> Option<ObjectName> {
    match routes.entry(key) {
        // One object may spell a host in two ways.
        Entry::Occupied(holder) if Arc::ptr_eq(holder.get(), table) => None,
        Entry::Occupied(holder) => Some(holder.get().object.clone()),
        Entry::Vacant(place) => {
            place.insert(Arc::clone(table));
            None
        }
    }
}

/// Fills `subsets`: for each service the DestinationRules that name it, exactly or by the longest wildcard (T-31).
pub(super) fn subsets(tables: &Tables, next: &mut Snapshot, warnings: &mut Vec<Warning>) {
    let mut by_age: Vec<(&ObjectName, &DestinationRuleSpec)> = tables.destination_rules.iter().collect();
    by_age.sort_by_key(|(name, spec)| (&spec.created, *name));
    let mut exact: HashMap<&str, Vec<(&ObjectName, &DestinationRuleSpec)>> = HashMap::new();
    let mut wildcards = Vec::new();
    for (name, rule) in by_age {
        match rule.host.strip_prefix('*') {
            Some(suffix) => wildcards.push((suffix, name, rule)),
            None => {
                exact.entry(&rule.host).or_default().push((name, rule));
                if next.service_by_host(&rule.host, Some(&name.namespace)).is_none() {
                    let reason = format!("host {} is no service", rule.host);
                    warnings.push(warning("DestinationRule", name, "spec.host".into(), reason));
                }
            }
        }
    }
    wildcards.sort_by_key(|(suffix, ..)| std::cmp::Reverse(suffix.len()));
    // Without wildcards only the services that rules name: not a walk through tens of thousands at every change of a pod.
    let concerned: Vec<&Arc<Service>> = if wildcards.is_empty() {
        let named = exact.keys();
        named
            .filter_map(|host| next.services_by_host.get(*host))
            .collect()
    } else {
        next.services.iter().collect()
    };
    let mut filled = HashMap::new();
    for service in concerned {
        let mut rules = exact.get(&*service.host).cloned().unwrap_or_default();
        for (suffix, name, rule) in wildcards
            .iter()
            .filter(|(suffix, ..)| service.host.ends_with(suffix))
        {
            let answered = |(n, r): &(&ObjectName, &DestinationRuleSpec)| {
                n.namespace == name.namespace && r.host.strip_prefix('*') != Some(*suffix)
            };
            if !rules.iter().any(answered) {
                rules.push((name, rule));
            }
        }
        if !rules.is_empty() {
            filled.insert(Arc::clone(&service.host), merged(service, &rules));
        }
    }
    next.subsets = filled;
}

/// Rules of one namespace that the same clients see are one; of a subset that is there twice the older stays (T-29).
fn merged(service: &Service, rules: &[(&ObjectName, &DestinationRuleSpec)]) -> Vec<HostSubsets> {
    let mut merged: Vec<HostSubsets> = Vec::new();
    for (name, rule) in rules {
        let same = |m: &HostSubsets| m.namespace == name.namespace && m.export_to == rule.export_to;
        let place = merged.iter().position(same).unwrap_or_else(|| {
            merged.push(HostSubsets {
                namespace: Arc::clone(&name.namespace),
                export_to: rule.export_to.clone(),
                subsets: Vec::new(),
            });
            merged.len() - 1
        });
        let Some(into) = merged.get_mut(place) else {
            continue;
        };
        for subset in &rule.subsets {
            if into.subsets.iter().any(|s| s.name == subset.name) {
                continue;
            }
            let matching = |e: &Arc<Endpoint>| {
                e.workload
                    .as_ref()
                    .is_some_and(|w| subset.labels.iter().all(|(k, v)| w.labels.get(k) == Some(v)))
            };
            let of_port = |all: &Arc<[Arc<Endpoint>]>| {
                if subset.labels.is_empty() {
                    Arc::clone(all)
                } else {
                    all.iter().filter(|e| matching(e)).cloned().collect()
                }
            };
            into.subsets.push(Subset {
                name: Arc::clone(&subset.name),
                labels: Arc::clone(&subset.labels),
                object: (*name).clone(),
                endpoints: service.ports.iter().map(|p| of_port(&p.endpoints)).collect(),
            });
        }
    }
    merged
}

/// Destinations that are not there: the rule applies, and answers 503 `NC` where it leads to them.
pub(super) fn references(tables: &Tables, snapshot: &Snapshot, warnings: &mut Vec<Warning>) {
    for (name, spec) in tables
        .virtual_services
        .iter()
        .filter(|(_, v)| v.mesh || v.hosts.is_empty())
    {
        for rule in &spec.table.rules {
            destinations(snapshot, name, &rule.origin, rule.action.destinations(), warnings);
            for mirror in &rule.action.mirrors {
                let at = || format!("{}.mirror", rule.origin.field());
                reference(snapshot, name, at, &mirror.destination, warnings);
            }
        }
        let connections = spec
            .connections
            .iter()
            .flat_map(|table| table.tls.iter().chain(&table.tcp));
        for rule in connections {
            destinations(snapshot, name, &rule.origin, &rule.split.destinations, warnings);
        }
    }
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
    let rules = snapshot.subsets.get(&wanted.host).into_iter().flatten();
    if !rules.flat_map(|r| &r.subsets).any(|s| s.name == *subset) {
        warn(
            "subset",
            format!("no DestinationRule defines subset {subset} of {}", wanted.host),
        );
    }
}

pub(super) fn warning(kind: &str, name: &ObjectName, field: String, reason: String) -> Warning {
    let key = ObjectKey {
        kind: kind.into(),
        group: "networking.istio.io".into(),
        namespace: name.namespace.to_string(),
        name: name.name.to_string(),
    };
    Warning { key, field, reason }
}
