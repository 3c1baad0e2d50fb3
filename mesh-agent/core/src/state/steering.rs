//! Ports whose connections the kernel must leave to the proxy, for the sake of a policy or a route.

use super::hosts::Hosts;
use super::world::Changed;
use crate::model::connection::ConnectionRoute;
use crate::model::service::{Protocol, Service, ServicePort};
use crate::model::snapshot::Snapshot;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Brings `steered` up to date for services that changed and those of `hosts`, of which something else is said now. All
/// else of the snapshot is there already.
pub(super) fn steer(
    changed: &[Changed<Service>],
    services: &Hosts,
    hosts: &BTreeSet<Arc<str>>,
    next: &mut Snapshot,
) {
    // Another service's port may have the number of one that is gone by now: what is wanted of a number is said last.
    let gone = changed.iter().filter_map(|(old, _)| old.as_ref());
    let gone = gone.flat_map(|old| &old.ports).map(|port| (port.id, false));
    let mut wanted: BTreeMap<u32, bool> = gone.collect();
    let changed = changed.iter().filter_map(|(_, new)| new.as_ref());
    let of_hosts = hosts.iter().flat_map(|host| services.services(next, host));
    for service in changed.chain(of_hosts) {
        for (place, port) in service.ports.iter().enumerate() {
            wanted.insert(port.id, is_steered(next, service, place, port));
        }
    }
    for (id, wanted) in wanted {
        // A set that stays as it was is the same set to those who compare.
        match (wanted, next.steered.contains(&id)) {
            (true, false) => _ = next.steered.insert(id),
            (false, true) => _ = next.steered.remove(&id),
            _ => {}
        }
    }
}

fn is_steered(next: &Snapshot, service: &Service, place: usize, port: &ServicePort) -> bool {
    let rules = next
        .subsets
        .get(&service.host)
        .into_iter()
        .flat_map(|rules| rules.iter());
    let vouched = next.vouched.get(&service.host).into_iter();
    let policies = rules
        .map(|rules| &rules.policies[..])
        .chain(vouched.map(|all| &all[..]));
    let mut of_port = policies.filter_map(|policies| policies.get(place));
    if of_port.any(|policy| !policy.kernel_can()) {
        return true;
    }
    if port.protocol.needs_bytes() {
        // Requests are counted, or belong to sessions: the kernel sees none.
        return next.backend_policies.contains_key(&service.name);
    }
    let routes = next.connections.of(&service.host).unwrap_or_default();
    speaks_of(routes, port)
}

fn speaks_of(routes: &[ConnectionRoute], port: &ServicePort) -> bool {
    routes.iter().any(|route| {
        let rules = match port.protocol {
            Protocol::Tls => &route.table.tls,
            _ => &route.table.tcp,
        };
        rules.iter().any(|rule| {
            let here = |wanted: Option<u16>| wanted.is_none_or(|wanted| wanted == port.number);
            rule.matches.is_empty() || rule.matches.iter().any(|m| here(m.port))
        })
    })
}
