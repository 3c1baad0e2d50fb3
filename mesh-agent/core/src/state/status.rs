//! What is to be said of routes of Gateway API, from the same tables that the data path is built from.

mod backend_tls;
mod backend_traffic;
mod gateways;
mod listener_sets;

use super::parents::Parent;
use super::tables::{RouteKey, Tables};
use super::world::Warning;
use super::{ObjectKey, State};
use crate::model::ObjectName;
use crate::model::status::{Condition, GATEWAY_CONTROLLER, MESH_CONTROLLER, ParentStatus};
use crate::state::attached::key_of;
use crate::translate::gateway_api::{ApiRouteSpec, GROUP, ParentRef, Target};
use crate::translate::{Rejected, RouteKind};

/// A reference that cannot be followed.
pub(super) struct Unresolved {
    pub(super) field: String,
    /// Reason of condition `ResolvedRefs`.
    pub(super) reason: &'static str,
    pub(super) message: String,
}

/// References of a route that lead nowhere. Without a ReferenceGrant they may still lead anywhere: in the mesh none is
/// needed (GEP-1294).
///
/// `at_gateway` is the route's key where it is attached to a Gateway, and grants count.
pub(super) fn unresolved(
    tables: &Tables,
    route: &ApiRouteSpec,
    at_gateway: Option<&RouteKey>,
) -> Vec<Unresolved> {
    let mut found = Vec::new();
    let permitted = |name: &ObjectName| {
        at_gateway.is_none_or(|(kind, route)| {
            tables.permits((GROUP, kind.name(), &route.namespace), ("", "Service"), name)
        })
    };
    for reference in &route.references {
        let mut say = |reason, message| {
            found.push(Unresolved {
                field: reference.field.clone(),
                reason,
                message,
            });
        };
        match &reference.target {
            Target::Other { group, kind, .. } => say(
                "InvalidKind",
                format!("nothing can be sent to a {kind} of group {group:?}: expected a Service"),
            ),
            Target::Host(_) => {}
            Target::Service { name, .. } if !permitted(name) => say(
                "RefNotPermitted",
                format!(
                    "no ReferenceGrant in namespace {} permits Service {name}",
                    name.namespace
                ),
            ),
            Target::Service { name, port, .. } => match tables.service(name) {
                None => say("BackendNotFound", format!("Service {name} is not there")),
                Some(service) if !service.ports.iter().any(|p| p.number == *port) => {
                    say(
                        "BackendNotFound",
                        format!("Service {name} has no TCP port {port}"),
                    );
                }
                Some(_) => {}
            },
        }
    }
    found
}

/// What is said of the references of one route that lead nowhere.
pub(super) fn references(tables: &Tables, key: &RouteKey, route: &ApiRouteSpec) -> Vec<Warning> {
    let warning = |bad: Unresolved| {
        let status = match key.0 {
            _ if bad.field.contains("requestMirror") => "it is not sent",
            RouteKind::Grpc => "requests for it are answered with UNAVAILABLE",
            RouteKind::Http => "requests for it are answered with 500",
            RouteKind::Tls | RouteKind::Tcp | RouteKind::Udp => "connections for it are closed",
        };
        Warning {
            key: key_of(key),
            field: bad.field,
            reason: format!("{}: {status}", bad.message),
        }
    };
    unresolved(tables, route, None).into_iter().map(warning).collect()
}

impl State {
    /// What is to be said of a route to each of `parents`; `None` where it is not ours to speak.
    pub fn route_status(
        &mut self,
        kind: RouteKind,
        key: &ObjectKey,
        parents: &[ParentRef],
    ) -> Vec<Option<ParentStatus>> {
        self.world.rebuild(&self.tables);
        let problem = self.records.get(key).and_then(|r| r.problem.as_ref());
        let name = ObjectName::new(key.namespace.as_str(), key.name.as_str());
        let route = (kind, name);
        let to_parent = |parent: &ParentRef| {
            if !parent.is_service() {
                return self.gateway_parent(&route, parent, problem);
            }
            let conditions = match (problem, self.tables.api_routes.get(&route)) {
                (Some(problem), known) => vec![refused(problem, known.is_some())],
                (None, Some(spec)) => vec![self.accepted(&route, parent), resolved(&self.tables, spec, None)],
                (None, None) => return None,
            };
            Some(ParentStatus {
                controller: MESH_CONTROLLER,
                conditions,
            })
        };
        parents.iter().map(to_parent).collect()
    }

    /// What is said of a route to a Gateway or ListenerSet, if that is ours.
    fn gateway_parent(
        &self,
        route: &RouteKey,
        parent: &ParentRef,
        problem: Option<&Rejected>,
    ) -> Option<ParentStatus> {
        let gateway = match Parent::of(parent)? {
            Parent::Gateway(name) => name,
            Parent::ListenerSet(name) => self.tables.listener_sets.get(&name)?.gateway.clone(),
            Parent::Service(_) => return None,
        };
        let class = &self.tables.api_gateways.get(&gateway)?.class;
        if !self.tables.is_our_class(class) {
            return None;
        }
        match (problem, self.tables.api_routes.get(route)) {
            (Some(problem), known) => Some(ParentStatus {
                controller: GATEWAY_CONTROLLER,
                conditions: vec![refused(problem, known.is_some())],
            }),
            (None, Some(spec)) => self.to_gateway(&gateway, route, spec, parent),
            (None, None) => None,
        }
    }

    /// Whether any rule of a route applies to a Service.
    fn accepted(&self, route: &RouteKey, parent: &ParentRef) -> Condition {
        let no = |reason, message| Condition::no("Accepted", reason, message);
        let name = &parent.name;
        let Some(service) = self.tables.service(name) else {
            return no("NoMatchingParent", format!("Service {name} is not there"));
        };
        if service.vips.is_empty() {
            let message = format!("Service {name} is headless: routes apply where a ClusterIP is dialled");
            return no("NoMatchingParent", message);
        }
        let ports: Vec<u16> = service
            .ports
            .iter()
            .filter(|p| parent.covers(p.number, &p.name))
            .map(|p| p.number)
            .collect();
        if ports.is_empty() {
            return no("NoMatchingParent", format!("Service {name} has no such TCP port"));
        }
        if !route.0.of_requests() {
            let message = format!("{} is not supported on a Service", route.0.name());
            return no("UnsupportedValue", message);
        }
        let mut lost = self.world.lost(name, route);
        lost.retain(|(port, _)| ports.contains(port));
        let everywhere = ports.iter().all(|port| lost.iter().any(|(p, _)| p == port));
        match lost.first() {
            Some((_, why)) if everywhere => no("Conflicted", (*why).to_owned()),
            Some((_, why)) => Condition::yes("Accepted", "Accepted", format!("but {why}")),
            None => Condition::yes("Accepted", "Accepted", format!("applies to clients of {name}")),
        }
    }
}

fn refused(problem: &Rejected, known: bool) -> Condition {
    let kept = if known {
        "; the last good version stays in force"
    } else {
        ""
    };
    let message = match problem.field.as_str() {
        "" => format!("{}{kept}", problem.reason),
        field => format!("{field}: {}{kept}", problem.reason),
    };
    Condition::no("Accepted", "UnsupportedValue", message)
}

fn resolved(tables: &Tables, route: &ApiRouteSpec, at_gateway: Option<&RouteKey>) -> Condition {
    let bad = unresolved(tables, route, at_gateway);
    match bad.first() {
        None => Condition::yes("ResolvedRefs", "ResolvedRefs", "every reference is there"),
        Some(first) => {
            let all: Vec<String> = bad
                .iter()
                .map(|b| format!("{}: {}", b.field, b.message))
                .collect();
            Condition::no("ResolvedRefs", first.reason, all.join("; "))
        }
    }
}
