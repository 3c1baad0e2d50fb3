//! VirtualServices → what applies to each host, and what is wrong between objects.

use super::ObjectKey;
use super::delegates;
use super::tables::Tables;
use super::world::Warning;
use crate::model::ObjectName;
use crate::model::route::{RouteTable, Visibility};
use crate::model::snapshot::Snapshot;
use crate::translate::VirtualServiceSpec;
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

pub(super) fn warning(kind: &str, name: &ObjectName, field: String, reason: String) -> Warning {
    let key = ObjectKey::of("networking.istio.io", kind, name);
    Warning { key, field, reason }
}
