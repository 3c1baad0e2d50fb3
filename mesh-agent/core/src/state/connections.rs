//! `tls` and `tcp` of VirtualServices: for which hosts they are, and which ports the kernel must leave to the proxy for
//! their sake.

use super::tables::Tables;
use crate::model::ObjectName;
use crate::model::connection::{ConnectionRoute, ConnectionRoutes};
use crate::model::service::{Protocol, Service};
use crate::model::snapshot::Snapshot;
use crate::translate::VirtualServiceSpec;
use std::sync::Arc;

/// Fills `connections`: for each host everything that is written for it, oldest object first. Unlike rules for requests
/// those of several objects are one list.
pub(super) fn routes(tables: &Tables, next: &mut Snapshot) {
    let concerned = |(_, spec): &(&ObjectName, &VirtualServiceSpec)| spec.mesh && spec.connections.is_some();
    let mut by_age: Vec<_> = tables.virtual_services.iter().filter(concerned).collect();
    if by_age.is_empty() && next.connections.is_empty() {
        return;
    }
    by_age.sort_by_key(|(name, spec)| (&spec.created, *name));
    let mut routes = ConnectionRoutes::default();
    for (_, spec) in by_age {
        for host in &spec.hosts {
            let key = host.strip_prefix('*').unwrap_or(host);
            routes.extend(
                key.into(),
                spec.connections.iter().map(|table| ConnectionRoute {
                    seen_by: spec.export_to.clone(),
                    table: Arc::clone(table),
                }),
            );
        }
    }
    next.connections = Arc::new(routes);
}

/// Adds to `steered` the ports whose connections do not simply go to the service's own endpoints.
pub(super) fn steer(next: &mut Snapshot) {
    if next.connections.is_empty() {
        return;
    }
    let mut steered = next.steered.clone();
    for service in &next.services {
        let Some(routes) = next.connections.of(&service.host) else {
            continue;
        };
        let ports = service.ports.iter().filter(|p| !p.protocol.needs_bytes());
        steered.extend(
            ports
                .filter(|p| speaks_of(routes, service, p.number))
                .map(|p| p.id),
        );
    }
    next.steered = steered;
}

fn speaks_of(routes: &[ConnectionRoute], service: &Service, port: u16) -> bool {
    let tls = service.port(port).is_some_and(|p| p.protocol == Protocol::Tls);
    routes.iter().any(|route| {
        let rules = if tls { &route.table.tls } else { &route.table.tcp };
        rules.iter().any(|rule| {
            rule.matches.is_empty()
                || rule
                    .matches
                    .iter()
                    .any(|m| m.port.is_none_or(|wanted| wanted == port))
        })
    })
}
