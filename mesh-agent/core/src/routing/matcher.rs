//! Finds table, rule and destination of a request.

use super::act;
use super::conditions::{Miss, check};
use super::resolve::{self, no_route};
use super::trace::{Lines, Silent, Trace};
use super::{Decision, Draws, MatchedRule, Refusal, RequestFacts, RoutePlan};
use crate::model::host;
use crate::model::route::{AbortWith, RouteRule, RouteTable};
use crate::model::service::Service;
use crate::model::snapshot::{Snapshot, Target};
use std::sync::Arc;

pub(super) fn route_request(snapshot: &Snapshot, request: &RequestFacts<'_>, draws: Draws) -> Decision {
    decide(snapshot, request, draws, &mut Silent)
}

pub(super) fn explain_request(snapshot: &Snapshot, request: &RequestFacts<'_>) -> Vec<String> {
    let mut lines = Lines::default();
    let _ = decide(snapshot, request, Draws::default(), &mut lines);
    lines.0
}

/// What Host header and original destination come to.
struct Addressed<'a> {
    service: Option<&'a Arc<Service>>,
    table: Option<&'a Arc<RouteTable>>,
}

fn decide(snapshot: &Snapshot, request: &RequestFacts<'_>, draws: Draws, trace: &mut impl Trace) -> Decision {
    let addressed = address(snapshot, request, trace);
    let outcome = match addressed.table {
        Some(table) => by_table(snapshot, request, table, addressed.service, draws, trace),
        None => {
            trace.note(|| "no rules for this host: default route".into());
            by_default(snapshot, request, addressed.service).map(Decision::Forward)
        }
    };
    concluded(outcome, trace)
}

/// Decides by a table that was found already.
pub(super) fn route_by_table(
    snapshot: &Snapshot,
    request: &RequestFacts<'_>,
    table: &Arc<RouteTable>,
    draws: Draws,
    trace: &mut impl Trace,
) -> Decision {
    let outcome = by_table(snapshot, request, table, None, draws, trace);
    concluded(outcome, trace)
}

fn concluded(outcome: Result<Decision, Refusal>, trace: &mut impl Trace) -> Decision {
    match outcome {
        Ok(decision) => {
            trace.note(|| described(&decision));
            decision
        }
        Err(refusal) => {
            trace.note(|| format!("answer {} {}: {}", refusal.status, refusal.flag, refusal.detail));
            Decision::Refuse(refusal)
        }
    }
}

fn described(decision: &Decision) -> String {
    match decision {
        Decision::Forward(plan) => format!(
            "forward to {}{}",
            resolve::describe(&plan.upstream),
            resolve::policy(&plan.upstream)
        ),
        Decision::Answer(answer) => match (&answer.fault, &answer.location) {
            (Some(AbortWith::Grpc(code)), _) => format!("answer with the injected gRPC status {code}"),
            (Some(AbortWith::Http(status)), _) => format!("answer with the injected fault {status}"),
            (None, Some(location)) => format!("answer {}: redirect to {location}", answer.status),
            (None, None) => format!("answer {}", answer.status),
        },
        Decision::Refuse(refusal) => {
            format!("answer {} {}: {}", refusal.status, refusal.flag, refusal.detail)
        }
    }
}

/// What a VirtualService routes is found by the Host header, everything else by the address that was dialled, as the
/// Gateway API asks (`MeshClusterIPMatching`, T-09); of an address that no service has, the Host header tells more.
fn address<'a>(snapshot: &'a Snapshot, request: &RequestFacts<'a>, trace: &mut impl Trace) -> Addressed<'a> {
    let namespace = request.client.map(|c| &*c.pod.namespace);
    if let Some((service, table)) = attached(snapshot, request, namespace) {
        trace.note(|| {
            format!(
                "{} was dialled, which has routes attached to it: Host does not matter",
                service.name
            )
        });
        return Addressed {
            service: Some(service),
            table: Some(table),
        };
    }
    let host = host::canonical(request.authority);
    if let Target::Workload(pod) = request.target {
        let named = host::service_named(snapshot, &host, namespace)
            .filter(|s| s.vips.is_empty())
            .or_else(|| host::headless_parent(snapshot, &host, namespace));
        let Some(service) = named else {
            trace.note(|| format!("pod {} was dialled by its own address: no routes apply", pod.pod));
            return Addressed {
                service: None,
                table: None,
            };
        };
        trace.note(|| format!("Host {host:?} names headless service {}", service.name));
        return Addressed {
            service: Some(service),
            table: table(snapshot, &service.host, namespace),
        };
    }
    let by_host = host::service_named(snapshot, &host, namespace)
        .filter(|s| s.port(request.port).is_some() && snapshot.sees(request.client, s));
    let target = match request.target {
        Target::Service(service, _) => Some(service),
        _ => None,
    };
    if let Some(service) = by_host {
        let table =
            table(snapshot, &service.host, namespace).or_else(|| table_named(snapshot, &host, namespace));
        if table.is_some() || target.is_none() {
            trace.note(|| format!("Host {host:?} names service {}", service.name));
            return Addressed {
                service: Some(service),
                table,
            };
        }
    }
    if let Some(table) = table_named(snapshot, &host, namespace) {
        trace.note(|| {
            format!(
                "Host {host:?} is no service but {} {} routes it",
                table.api.table_kind(),
                table.object
            )
        });
        return Addressed {
            service: target,
            table: Some(table),
        };
    }
    match target {
        Some(service) => {
            trace.note(|| format!("Host {host:?} is no rule's here: {} was dialled", service.name));
            Addressed {
                service: Some(service),
                table: table(snapshot, &service.host, namespace),
            }
        }
        None => {
            trace.note(|| format!("Host {host:?} names no service, and none was dialled"));
            Addressed {
                service: None,
                table: None,
            }
        }
    }
}

/// The routes attached to the port that a pod dialled by the service's virtual address (GEP-1294).
fn attached<'a>(
    snapshot: &'a Snapshot,
    request: &RequestFacts<'a>,
    namespace: Option<&str>,
) -> Option<(&'a Arc<Service>, &'a Arc<RouteTable>)> {
    let Target::Service(service, port) = request.target else {
        return None;
    };
    if snapshot.attached.is_empty() || request.gateway.is_some() {
        return None;
    }
    let table = snapshot
        .attached
        .get(&service.name)?
        .table(port.number, namespace)?;
    Some((service, table))
}

/// As [`table`]; a host that Kubernetes would take as its own short name has nothing but exact rules.
fn table_named<'a>(
    snapshot: &'a Snapshot,
    host: &str,
    namespace: Option<&str>,
) -> Option<&'a Arc<RouteTable>> {
    if host.is_empty() {
        None
    } else {
        table(snapshot, host, namespace)
    }
}

/// The VirtualService for a host: exact before wildcard, the most specific wildcard first (T-07), and at each step what
/// only some namespaces see before what all see.
fn table<'a>(snapshot: &'a Snapshot, host: &str, namespace: Option<&str>) -> Option<&'a Arc<RouteTable>> {
    let scoped = namespace.and_then(|ns| snapshot.scoped_routes.get(ns));
    let Some(scoped) = scoped.filter(|routes| !routes.is_empty()) else {
        return super::table_for(&snapshot.routes, host);
    };
    let of = |key: &str| scoped.get(key).or_else(|| snapshot.routes.get(key));
    let mut suffixes = host.char_indices().filter(|(_, c)| *c == '.');
    of(host).or_else(|| suffixes.find_map(|(dot, _)| of(&host[dot..])))
}

fn by_default(
    snapshot: &Snapshot,
    request: &RequestFacts<'_>,
    named: Option<&Arc<Service>>,
) -> Result<RoutePlan, Refusal> {
    let client = request.client;
    let upstream = match (request.target, named) {
        (Target::Workload(pod), service) => resolve::chosen_pod(snapshot, client, pod, request.port, service),
        (_, Some(service)) => match service.port(request.port) {
            Some(port) => resolve::service_port(snapshot, client, service, port, request.dialled)?,
            None => return Err(resolve::no_such_port(service, request.port)),
        },
        (Target::Service(service, port), None) => {
            resolve::service_port(snapshot, client, service, port, request.dialled)?
        }
        (Target::NoSuchPort(service), None) => return Err(resolve::no_such_port(service, request.port)),
        (Target::Unknown, None) => resolve::unknown(snapshot, request)?,
    };
    Ok(RoutePlan {
        rule: None,
        upstream,
        mirrors: Vec::new(),
        path: None,
        authority: None,
        cors: Vec::new(),
        delay: None,
    })
}

fn by_table(
    snapshot: &Snapshot,
    request: &RequestFacts<'_>,
    table: &Arc<RouteTable>,
    named: Option<&Arc<Service>>,
    draws: Draws,
    trace: &mut impl Trace,
) -> Result<Decision, Refusal> {
    let kind = table.api.table_kind();
    trace.note(|| format!("{kind} {}: {} rules", table.object, table.rules.len()));
    let mut for_this_client = false;
    for (place, rule) in table.rules.iter().enumerate() {
        if let Some(matched) = matching_block(rule, request, &mut for_this_client, trace) {
            let matched = MatchedRule {
                table: Arc::clone(table),
                rule: place,
                matched,
                destination: 0,
            };
            return act::act(snapshot, request, matched, draws, trace);
        }
    }
    if for_this_client {
        return Err(no_route(|| {
            format!("no rule of {kind} {} matches the request", table.object)
        }));
    }
    trace.note(|| "no rule is there for this client: default route".into());
    by_default(snapshot, request, named).map(Decision::Forward)
}

/// `Some(None)` for a rule without blocks, `Some(Some(i))` for block `i`. Raises `for_this_client` if any block could
/// have matched another request of the same client (T-13, T-14).
fn matching_block(
    rule: &RouteRule,
    request: &RequestFacts<'_>,
    for_this_client: &mut bool,
    trace: &mut impl Trace,
) -> Option<Option<usize>> {
    if rule.matches.is_empty() {
        trace.note(|| {
            format!(
                "{}{}: no match block: matches everything",
                rule.origin,
                named(rule)
            )
        });
        *for_this_client = true;
        return Some(None);
    }
    for (place, block) in rule.matches.iter().enumerate() {
        let at = |outcome: &str| {
            let blocks = rule.matches.len();
            format!(
                "{}{} match {} of {blocks}: {outcome}",
                rule.origin,
                named(rule),
                place + 1
            )
        };
        match check(block, request) {
            None => {
                trace.note(|| at("matches"));
                *for_this_client = true;
                return Some(Some(place));
            }
            Some(miss) => {
                *for_this_client |= !matches!(miss, Miss::Static(_));
                trace.note(|| at(&miss.to_string()));
            }
        }
    }
    None
}

fn named(rule: &RouteRule) -> String {
    if rule.name.is_empty() {
        String::new()
    } else {
        format!(" ({})", rule.name)
    }
}
