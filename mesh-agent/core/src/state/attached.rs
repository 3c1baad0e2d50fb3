//! Routes of Gateway API on Services: which apply to which clients, in which order, and what they lose to.

use super::ObjectKey;
use super::dirty::Dirty;
use super::hosts::Hosts;
use super::parents::Parent;
use super::tables::{RouteKey, Tables};
use super::world::Warning;
use crate::model::ObjectName;
use crate::model::attached::{Attached, AttachedPort};
use crate::model::route::{RouteApi, RouteTable};
use crate::model::snapshot::Snapshot;
use crate::translate::gateway_api::{ApiRouteSpec, GROUP, precedence};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What was attached when the snapshot was built.
#[derive(Default)]
pub(super) struct Attachments {
    services: BTreeMap<ObjectName, Built>,
    /// Those of them with findings, which are few.
    found: BTreeSet<ObjectName>,
}

/// One service with routes, and what the result rests on.
struct Built {
    ports: Vec<(u16, Arc<str>)>,
    rivals: Vec<Rival>,
    findings: Vec<Finding>,
}

/// A VirtualService that routes the same service.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Rival {
    /// The namespace whose clients see it; `None` = all.
    clients: Option<Arc<str>>,
    object: ObjectName,
    created: Arc<str>,
}

/// Routes, or a VirtualService, that do not apply on one port to some clients.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Finding {
    loser: ObjectKey,
    port: u16,
    reason: String,
}

/// Services to look at: their own ports, the routes attached to them, or VirtualServices for one of `hosts` changed.
pub(super) fn concerned(
    tables: &Tables,
    dirty: &Dirty,
    hosts: &BTreeSet<Arc<str>>,
    services: &Hosts,
    next: &Snapshot,
) -> BTreeSet<ObjectName> {
    let mut concerned = dirty.attached.clone();
    let routed = hosts.iter().flat_map(|host| services.services(next, host));
    let routed = routed.map(|service| &service.name);
    let touched = dirty.services.iter().chain(routed);
    concerned.extend(touched.filter(|name| tables.has_routes(name)).cloned());
    concerned
}

impl Attachments {
    /// Builds what of `concerned` has changed. The routes of VirtualServices are in `next` already.
    pub(super) fn rebuild(
        &mut self,
        tables: &Tables,
        concerned: BTreeSet<ObjectName>,
        changed: &BTreeSet<ObjectName>,
        next: &mut Snapshot,
    ) {
        for name in concerned {
            let routes: Vec<_> = tables.routes_to(&Parent::Service(name.clone())).collect();
            if routes.is_empty() {
                self.services.remove(&name);
                self.found.remove(&name);
                next.attached.remove(&name);
                continue;
            }
            let spec = tables.service(&name);
            let mut ports: Vec<(u16, Arc<str>)> = spec
                .iter()
                .flat_map(|s| &s.ports)
                .map(|p| (p.number, Arc::clone(&p.name)))
                .collect();
            ports.sort();
            let rivals = rivals(tables, next, &name);
            let same = |b: &Built| b.ports == ports && b.rivals == rivals;
            if !changed.contains(&name) && self.services.get(&name).is_some_and(same) {
                continue;
            }
            let mut built = Built {
                ports,
                rivals,
                findings: Vec::new(),
            };
            let attached = built.attach(&name, &routes);
            next.attached.insert(name.clone(), Arc::new(attached));
            if built.findings.is_empty() {
                self.found.remove(&name);
            } else {
                self.found.insert(name.clone());
            }
            self.services.insert(name, built);
        }
    }

    /// Reports everything that does not apply.
    pub(super) fn warn(&self, warnings: &mut Vec<Warning>) {
        let found = self.found.iter().filter_map(|name| self.services.get(name));
        for finding in found.flat_map(|b| &b.findings) {
            warnings.push(Warning {
                key: finding.loser.clone(),
                field: match finding.loser.group.as_str() {
                    GROUP => "spec.parentRefs".into(),
                    _ => "spec.hosts".into(),
                },
                reason: finding.reason.clone(),
            });
        }
    }

    /// Ports of a service on which a route does not apply, and why.
    pub(super) fn lost(&self, service: &ObjectName, route: &RouteKey) -> Vec<(u16, &str)> {
        let key = key_of(route);
        let built = self.services.get(service);
        let findings = built.into_iter().flat_map(|b| &b.findings);
        findings
            .filter(|f| f.loser == key)
            .map(|f| (f.port, f.reason.as_str()))
            .collect()
    }
}

type Route<'a> = (&'a RouteKey, &'a ApiRouteSpec);

impl Built {
    fn attach(&mut self, service: &ObjectName, routes: &[Route<'_>]) -> Attached {
        let mut attached = Attached::default();
        for (number, port_name) in self.ports.clone() {
            let here = |(_, route): &&Route<'_>| {
                let parents = route.parents.iter();
                parents
                    .filter(|p| p.is_service() && p.name == *service)
                    .any(|p| p.covers(number, &port_name))
            };
            // Routes of the service's own namespace are for everyone, others for clients of theirs.
            let mut scopes: BTreeMap<Arc<str>, Vec<Route<'_>>> = BTreeMap::new();
            for route in routes.iter().filter(here) {
                let namespace = Arc::clone(&route.0.1.namespace);
                scopes.entry(namespace).or_default().push(*route);
            }
            let producers = scopes.remove(&service.namespace).unwrap_or_default();
            let mut port = AttachedPort {
                number,
                producer: self.scope(service, number, None, &producers),
                consumers: Vec::new(),
            };
            for (namespace, consumers) in scopes {
                let table = self.scope(service, number, Some(&namespace), &consumers);
                // Routes that lost to a VirtualService must not give way to the producer's.
                port.consumers.push((namespace, table));
            }
            self.give_way(service, &producers, &mut port);
            if port.producer.is_some() || !port.consumers.is_empty() {
                attached.ports.push(port);
            }
        }
        attached
    }

    /// The rules for one group of clients: those of the most specific kind, unless a VirtualService is older.
    fn scope(
        &mut self,
        service: &ObjectName,
        port: u16,
        clients: Option<&Arc<str>>,
        routes: &[Route<'_>],
    ) -> Option<Arc<RouteTable>> {
        let kind = routes.iter().map(|(_, route)| route.kind).min()?;
        for (key, route) in routes.iter().filter(|(_, r)| r.kind != kind) {
            let reason = format!(
                "port {port} of service {service} has {} routes, before which those of kind {} give way",
                kind.name(),
                route.kind.name()
            );
            self.lose(key_of(key), port, reason);
        }
        let of_kind: Vec<Route<'_>> = routes.iter().filter(|(_, r)| r.kind == kind).copied().collect();
        if !kind.of_requests() {
            return None;
        }
        let rival = self
            .rivals
            .iter()
            .find(|r| r.clients.as_ref() == clients || r.clients.is_none())
            .cloned();
        if let Some(rival) = rival
            && self.is_older(service, port, &rival, &of_kind)
        {
            return None;
        }
        Some(Arc::new(merged(service, &of_kind)))
    }

    /// Clients of namespaces that see an older VirtualService of their own keep it.
    fn give_way(&mut self, service: &ObjectName, producers: &[Route<'_>], port: &mut AttachedPort) {
        if port.producer.is_none() {
            return;
        }
        for rival in self.rivals.clone() {
            let Some(clients) = &rival.clients else { continue };
            let Err(at) = port.consumers.binary_search_by(|(ns, _)| ns.cmp(clients)) else {
                continue;
            };
            if self.is_older(service, port.number, &rival, producers) {
                port.consumers.insert(at, (Arc::clone(clients), None));
            }
        }
    }

    /// Whether the VirtualService is the older (T-09). Whoever loses is told.
    fn is_older(&mut self, service: &ObjectName, port: u16, rival: &Rival, routes: &[Route<'_>]) -> bool {
        let oldest = routes.iter().min_by(|a, b| order(a, b));
        let Some((first, oldest)) = oldest else {
            return false;
        };
        if rival.created < oldest.created {
            for (key, _) in routes {
                let reason = format!(
                    "port {port} of service {service} is already routed by the older VirtualService {}",
                    rival.object
                );
                self.lose(key_of(key), port, reason);
            }
            return true;
        }
        let loser = ObjectKey::of("networking.istio.io", "VirtualService", &rival.object);
        let reason = format!(
            "port {port} of service {service} is already routed by the older {} {}",
            first.0.name(),
            first.1
        );
        self.lose(loser, port, reason);
        false
    }

    fn lose(&mut self, loser: ObjectKey, port: u16, reason: String) {
        let finding = Finding { loser, port, reason };
        if !self.findings.contains(&finding) {
            self.findings.push(finding);
        }
    }
}

fn order(a: &Route<'_>, b: &Route<'_>) -> std::cmp::Ordering {
    precedence((&a.1.created, &a.0.1), (&b.1.created, &b.0.1))
}

/// The rules of several routes in the API's order: the more specific, then the older route, then as written.
fn merged(service: &ObjectName, routes: &[Route<'_>]) -> RouteTable {
    let mut routes = routes.to_vec();
    routes.sort_by(order);
    let mut rules: Vec<_> = routes.iter().flat_map(|(_, route)| &route.rules).collect();
    rules.sort_by_key(|ranked| Reverse(ranked.rank));
    RouteTable {
        api: RouteApi::Gateway,
        object: service.clone(),
        rules: rules.into_iter().map(|ranked| ranked.rule.clone()).collect(),
    }
}

/// The VirtualServices that clients find by the service's host.
fn rivals(tables: &Tables, next: &Snapshot, service: &ObjectName) -> Vec<Rival> {
    let host = next.settings.host_of(service);
    let found = |clients: Option<&Arc<str>>, object: &ObjectName| {
        Some(Rival {
            clients: clients.cloned(),
            object: object.clone(),
            created: Arc::clone(&tables.virtual_services.get(object)?.created),
        })
    };
    let mut rivals: Vec<Rival> = next
        .scoped_routes
        .iter()
        .filter_map(|(namespace, routes)| {
            let table = crate::routing::table_for(routes, &host)?;
            found(Some(namespace), &table.object)
        })
        .collect();
    // Those that only some see come before what all see, as in routing.
    rivals.sort_by(|a, b| a.clients.cmp(&b.clients));
    let for_all = crate::routing::table_for(&next.routes, &host);
    rivals.extend(for_all.and_then(|table| found(None, &table.object)));
    rivals
}

/// The key of a route in reports.
pub(super) fn key_of((kind, name): &RouteKey) -> ObjectKey {
    ObjectKey::of(GROUP, kind.name(), name)
}
