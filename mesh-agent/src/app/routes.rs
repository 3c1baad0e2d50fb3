//! The route tables in force, as `heddle routes` shows them.

use mesh_core::model::route::{
    Destination, Outcome, RouteAction, RouteRule, RouteTable, WeightedDestination,
};
use mesh_core::model::snapshot::Snapshot;
use serde_json::{Value, json};
use std::sync::Arc;

/// Every table: host, who sees it, the object behind it and its rules. Sorted by host.
#[must_use]
pub fn routes(snapshot: &Snapshot) -> Value {
    let for_all = snapshot.routes.iter().map(|(host, table)| (host, None, table));
    let scoped = snapshot.scoped_routes.iter().flat_map(|(namespace, tables)| {
        tables
            .iter()
            .map(move |(host, table)| (host, Some(namespace), table))
    });
    let mut tables: Vec<(_, Option<&Arc<str>>, &Arc<RouteTable>)> = for_all.chain(scoped).collect();
    tables.sort_by_key(|(host, namespace, _)| (*host, *namespace));
    let rows: Vec<Value> = tables
        .into_iter()
        .map(|(host, namespace, table)| {
            json!({
                "host": if host.starts_with('.') { format!("*{host}") } else { host.to_string() },
                "clients": namespace.map_or_else(|| "*".to_owned(), ToString::to_string),
                "object": format!("{} {}", table.api.table_kind(), table.object),
                "rules": table.rules.iter().map(|rule| row(snapshot, rule)).collect::<Vec<_>>(),
            })
        })
        .collect();
    json!({"snapshot": snapshot.version, "routes": rows})
}

/// As [`routes`], of a gateway: a table for each host of each listener.
#[must_use]
pub fn at_gateway(snapshot: &Snapshot, pod: &str) -> Value {
    let listeners = snapshot.edge.ports.values().flat_map(|port| &port.listeners);
    let sites = listeners.flat_map(|listener| {
        let sites = listener.sites.iter();
        sites.map(move |(host, site)| (host, site.port, &listener.origin, &site.table))
    });
    let mut sites: Vec<_> = sites.collect();
    sites.sort_by(|a, b| (&a.0, a.1, a.2).cmp(&(&b.0, b.1, b.2)));
    let rows: Vec<Value> = sites
        .into_iter()
        .map(|(host, port, listener, table)| {
            json!({
                "host": host,
                "clients": format!("port {port} of {listener}"),
                "object": format!("{} {}", table.api.table_kind(), table.object),
                "rules": table.rules.iter().map(|rule| row(snapshot, rule)).collect::<Vec<_>>(),
            })
        })
        .collect();
    json!({"gateway": pod, "snapshot": snapshot.version, "routes": rows})
}

fn row(snapshot: &Snapshot, rule: &RouteRule) -> Value {
    let mut row = action(&rule.action);
    row["object"] = json!(format!("{} {}", rule.origin.kind, rule.origin.object));
    row["field"] = json!(rule.origin.field());
    row["name"] = json!(rule.name);
    row["matches"] = json!(rule.matches.len());
    if let Some(destinations) = row["destinations"].as_array_mut() {
        for (shown, to) in destinations.iter_mut().zip(rule.action.destinations()) {
            shown["endpoints"] = json!(to.backend.host().and_then(|to| endpoints(snapshot, to)));
        }
    }
    row
}

/// What a rule does with the requests that it takes.
pub(super) fn action(action: &RouteAction) -> Value {
    let total = match &action.outcome {
        Outcome::Forward(split) => split.total_weight.max(1),
        _ => 1,
    };
    let destination = |to: &WeightedDestination| {
        let named = to.backend.host();
        json!({
            "host": named.map(|d| &d.host),
            "subset": named.and_then(|d| d.subset.as_ref()),
            "weight": to.weight,
            "share": f64::from(to.weight) / f64::from(total),
        })
    };
    let answers = match &action.outcome {
        Outcome::Forward(_) => None,
        Outcome::Redirect(redirect) => Some(redirect.status),
        Outcome::Respond(response) => Some(response.status),
        Outcome::Fail { status, .. } => Some(*status),
    };
    json!({
        "answers": answers,
        "destinations": action.destinations().iter().map(destination).collect::<Vec<_>>(),
        "mirrors": action.mirrors.iter().map(|mirror| json!({
            "host": mirror.destination.host, "subset": mirror.destination.subset,
            "share": f64::from(mirror.per_million) / 1e6,
        })).collect::<Vec<_>>(),
        "timeout_ms": action.timeout.map(|timeout| timeout.as_millis()),
        "retries": action.retries.attempts,
    })
}

/// How many ready endpoints the destination has on its port that has most; none if the host or subset is not known.
fn endpoints(snapshot: &Snapshot, to: &Destination) -> Option<usize> {
    let service = snapshot.service_by_host(&to.host, None)?;
    let Some(subset) = &to.subset else {
        return Some(
            service
                .ports
                .iter()
                .map(|port| port.endpoints.len())
                .max()
                .unwrap_or(0),
        );
    };
    let rules = snapshot.subsets_for(service, None)?;
    let subset = rules.subsets.iter().find(|found| found.name == *subset)?;
    Some(subset.endpoints.iter().map(|list| list.len()).max().unwrap_or(0))
}
