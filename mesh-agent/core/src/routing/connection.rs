//! Where a connection goes whose bytes are carried as they are: `tls` and `tcp` rules, else what was dialled.

use super::act::pick_destination;
use super::resolve::{self, no_route};
use super::trace::{Lines, Silent, Trace};
use super::{HeaderView, Refusal, RequestFacts, Upstream};
use crate::model::ObjectName;
use crate::model::connection::{ConnectionMatch, ConnectionRoute, ConnectionRule, ConnectionTable};
use crate::model::route::{GatewayName, RouteApi};
use crate::model::service::Protocol;
use crate::model::snapshot::{Snapshot, Target};
use crate::model::workload::Workload;
use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// A connection as the matcher sees it.
#[derive(Clone, Copy)]
pub struct ConnectionFacts<'a> {
    /// The pod that connects; `None` if it is not known.
    pub client: Option<&'a Workload>,
    /// The client's address.
    pub source: Option<IpAddr>,
    /// The Istio `Gateway` that the connection came through; `None` = from a pod of the mesh.
    pub gateway: Option<&'a ObjectName>,
    /// What the application dialled.
    pub target: &'a Target,
    /// The address that the application dialled.
    pub original: SocketAddr,
    /// The service port of it; at a gateway the server's.
    pub port: u16,
    /// How it begins.
    pub opening: Opening<'a>,
}

/// The first bytes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening<'a> {
    /// No ClientHello, or not looked at.
    Bytes,
    /// A ClientHello with this server name, if it has one.
    Tls(Option<&'a str>),
}

/// Where a connection goes.
#[derive(Debug)]
pub struct ConnectionPlan {
    /// The rule that matched; `None` = what was dialled.
    pub rule: Option<MatchedConnection>,
    /// Where to.
    pub upstream: Upstream,
}

/// A rule inside its table.
#[derive(Clone, Debug)]
pub struct MatchedConnection {
    /// The table.
    pub table: Arc<ConnectionTable>,
    /// Whether the rule is one of `table.tls`.
    pub tls: bool,
    /// Index into `table.tls` or `table.tcp`.
    pub rule: usize,
}

impl MatchedConnection {
    /// The rule.
    #[must_use]
    pub fn rule(&self) -> &ConnectionRule {
        let rules = if self.tls {
            &self.table.tls
        } else {
            &self.table.tcp
        };
        &rules[self.rule]
    }
}

/// Decides on a connection. `draw` picks the destination.
///
/// # Errors
/// No endpoint, no such port, or rules of which none takes the server name.
pub fn route_connection(
    snapshot: &Snapshot,
    connection: &ConnectionFacts<'_>,
    draw: u32,
) -> Result<ConnectionPlan, Refusal> {
    decide(snapshot, connection, draw, &mut Silent)
}

/// One line for each step that [`route_connection`] took, made by the same code.
#[must_use]
pub fn explain_connection(snapshot: &Snapshot, connection: &ConnectionFacts<'_>) -> Vec<String> {
    let mut lines = Lines::default();
    let outcome = decide(snapshot, connection, 0, &mut lines);
    lines.note(|| described(&outcome));
    lines.0
}

/// The last step.
pub(super) fn described(outcome: &Result<ConnectionPlan, Refusal>) -> String {
    match outcome {
        Ok(plan) => {
            let policy = resolve::policy(&plan.upstream);
            format!("carry to {}{policy}", resolve::describe(&plan.upstream))
        }
        Err(refusal) => format!("close with {}: {}", refusal.flag, refusal.detail),
    }
}

/// Whether the ClientHello of a connection must be read before it can be routed.
#[must_use]
pub fn needs_hello(snapshot: &Snapshot, target: &Target) -> bool {
    match target {
        Target::Service(service, port) if port.protocol == Protocol::Tls => {
            let routes = snapshot.connections.of(&service.host).unwrap_or_default();
            // What is TLS already is not sealed once more.
            routes.iter().any(|route| !route.table.tls.is_empty())
                || snapshot.vouched.contains_key(&service.host)
        }
        _ => false,
    }
}

/// Decides by tables that were found already; `None` where no rule takes the connection.
///
/// # Errors
/// The rule leads to what is not there.
pub fn route_connection_by<'a>(
    snapshot: &Snapshot,
    tables: impl IntoIterator<Item = &'a Arc<ConnectionTable>>,
    tls: bool,
    connection: &ConnectionFacts<'_>,
    draw: u32,
) -> Result<Option<ConnectionPlan>, Refusal> {
    by_tables(snapshot, tables, tls, connection, draw, &mut Silent)
}

/// As [`route_connection_by`], telling what it does.
pub(super) fn by_tables<'a>(
    snapshot: &Snapshot,
    tables: impl IntoIterator<Item = &'a Arc<ConnectionTable>>,
    tls: bool,
    connection: &ConnectionFacts<'_>,
    draw: u32,
    trace: &mut impl Trace,
) -> Result<Option<ConnectionPlan>, Refusal> {
    match find(tables, tls, connection, trace) {
        Found::Rule(matched) => take(snapshot, connection, matched, draw, trace).map(Some),
        Found::Missed | Found::Nothing => Ok(None),
    }
}

fn decide(
    snapshot: &Snapshot,
    connection: &ConnectionFacts<'_>,
    draw: u32,
    trace: &mut impl Trace,
) -> Result<ConnectionPlan, Refusal> {
    let sni = match connection.opening {
        Opening::Tls(Some(name)) => Some(name),
        _ => None,
    };
    let (routes, tls, strict) = match (connection.target, sni) {
        (Target::Service(service, port), _) => {
            let tls = match port.protocol {
                Protocol::Tls => true,
                Protocol::Tcp => false,
                _ => connection.opening != Opening::Bytes,
            };
            let routes = snapshot.connections.of(&service.host);
            (routes, tls, port.protocol == Protocol::Tls)
        }
        (Target::Unknown, Some(name)) => (snapshot.connections.of(&name.to_ascii_lowercase()), true, false),
        _ => (None, false, false),
    };
    let namespace = connection.client.map(|c| &*c.pod.namespace);
    let seen = |route: &&ConnectionRoute| route.seen_by.admits(namespace);
    let tables = routes
        .unwrap_or_default()
        .iter()
        .filter(seen)
        .map(|route| &route.table);
    match find(tables, tls, connection, trace) {
        Found::Rule(matched) => return take(snapshot, connection, matched, draw, trace),
        Found::Missed if strict => {
            return Err(no_route(|| match sni {
                Some(name) => format!("no tls rule takes server name {name:?}"),
                None => "no tls rule takes a connection without a server name".into(),
            }));
        }
        Found::Missed | Found::Nothing => {
            trace.note(|| "no rule takes this connection: it goes where it was dialled".into());
        }
    }
    as_dialled(snapshot, connection).map(|upstream| ConnectionPlan { rule: None, upstream })
}

fn as_dialled(snapshot: &Snapshot, connection: &ConnectionFacts<'_>) -> Result<Upstream, Refusal> {
    match connection.target {
        Target::Service(service, port) => {
            resolve::service_port(snapshot, connection.client, service, port, dialled(connection))
        }
        Target::Workload(workload) => Ok(resolve::pod(workload, connection.port)),
        Target::NoSuchPort(service) => Err(resolve::no_such_port(service, connection.port)),
        Target::Unknown => Err(no_route(|| {
            "no service or pod of the mesh has this address".into()
        })),
    }
}

/// What may be dialled on: not the gateway's own address.
fn dialled(connection: &ConnectionFacts<'_>) -> Option<SocketAddr> {
    Some(connection.original).filter(|_| connection.gateway.is_none())
}

/// What a search comes to.
enum Found {
    Rule(MatchedConnection),
    /// There are rules for this client, but not for this connection.
    Missed,
    /// There are no rules for this client (T-13).
    Nothing,
}

fn find<'a>(
    tables: impl IntoIterator<Item = &'a Arc<ConnectionTable>>,
    tls: bool,
    connection: &ConnectionFacts<'_>,
    trace: &mut impl Trace,
) -> Found {
    let mut missed = false;
    for table in tables {
        let rules = if tls { &table.tls } else { &table.tcp };
        for (place, rule) in rules.iter().enumerate() {
            if takes(rule, connection, &mut missed, trace) {
                return Found::Rule(MatchedConnection {
                    table: Arc::clone(table),
                    tls,
                    rule: place,
                });
            }
        }
    }
    if missed { Found::Missed } else { Found::Nothing }
}

fn takes(
    rule: &ConnectionRule,
    connection: &ConnectionFacts<'_>,
    missed: &mut bool,
    trace: &mut impl Trace,
) -> bool {
    if rule.matches.is_empty() {
        trace.note(|| format!("{}: no match block: matches everything", rule.origin));
        return true;
    }
    for (place, block) in rule.matches.iter().enumerate() {
        let at = |outcome: &str| {
            let blocks = rule.matches.len();
            format!("{} match {} of {blocks}: {outcome}", rule.origin, place + 1)
        };
        if let Some(field) = client_miss(block, connection) {
            trace.note(|| at(&format!("{field} is not this client's")));
        } else if let Some(field) = connection_miss(block, connection) {
            *missed = true;
            trace.note(|| at(&format!("{field} does not match")));
        } else {
            trace.note(|| at("matches"));
            return true;
        }
    }
    false
}

/// What is settled before the connection is made.
fn client_miss(block: &ConnectionMatch, connection: &ConnectionFacts<'_>) -> Option<&'static str> {
    let here = |name: &GatewayName| match (name, connection.gateway) {
        (GatewayName::Mesh, None) => true,
        (GatewayName::Named(named), Some(gateway)) => named == gateway,
        _ => false,
    };
    if !block.gateways.is_empty() && !block.gateways.iter().any(here) {
        return Some("gateways");
    }
    if block.port.is_some_and(|port| port != connection.port) {
        return Some("port");
    }
    let elsewhere = |namespace: &Arc<str>| connection.client.is_none_or(|c| c.pod.namespace != *namespace);
    if block.source_namespace.as_ref().is_some_and(elsewhere) {
        return Some("sourceNamespace");
    }
    let has = |(key, value): &(Arc<str>, Arc<str>)| {
        connection
            .client
            .is_some_and(|c| c.labels.get(&**key).is_some_and(|v| v == value))
    };
    if !block.source_labels.iter().all(has) {
        return Some("sourceLabels");
    }
    None
}

fn connection_miss(block: &ConnectionMatch, connection: &ConnectionFacts<'_>) -> Option<&'static str> {
    let named = |name: &str| block.sni.iter().any(|pattern| covers(pattern, name));
    let sni = match connection.opening {
        _ if block.sni.is_empty() => true,
        Opening::Tls(Some(name)) => named(&name.trim_end_matches('.').to_ascii_lowercase()),
        Opening::Tls(None) | Opening::Bytes => false,
    };
    if !sni {
        return Some("sniHosts");
    }
    let original = connection.original.ip().to_canonical();
    if !block.destinations.is_empty() && !block.destinations.iter().any(|net| net.contains(&original)) {
        return Some("destinationSubnets");
    }
    let outside = |net: &ipnet::IpNet| {
        connection
            .source
            .is_none_or(|ip| !net.contains(&ip.to_canonical()))
    };
    if block.source.as_ref().is_some_and(outside) {
        return Some("sourceSubnet");
    }
    None
}

/// Whether a pattern of `sniHosts` covers a name: `*.com` covers `a.com` and `a.b.com`.
fn covers(pattern: &str, name: &str) -> bool {
    match pattern {
        "" => true,
        suffix if suffix.starts_with('.') => name.len() > suffix.len() && name.ends_with(suffix),
        exact => exact == name,
    }
}

fn take(
    snapshot: &Snapshot,
    connection: &ConnectionFacts<'_>,
    matched: MatchedConnection,
    draw: u32,
    trace: &mut impl Trace,
) -> Result<ConnectionPlan, Refusal> {
    let rule = matched.rule();
    let split = &rule.split;
    let Some(chosen) = split.destinations.get(pick_destination(split, draw)) else {
        return Err(no_route(|| format!("{} has no destination", rule.origin)));
    };
    for d in &split.destinations {
        trace.note(|| {
            let host = d.backend.host().map_or("nothing", |to| &*to.host);
            format!("[{}]: {host}, {} of {}", d.index, d.weight, split.total_weight)
        });
    }
    let Some(wanted) = chosen.backend.host() else {
        return Err(no_route(|| format!("{} leads nowhere", rule.origin)));
    };
    let upstream =
        resolve::destination(snapshot, &as_request(connection), wanted).map_err(|mut refusal| {
            let field = rule.origin.destination_field(chosen.index);
            refusal.detail = format!(
                "{} {} {field}: {}",
                rule.origin.kind, rule.origin.object, refusal.detail
            );
            if matched.table.api == RouteApi::Gateway && refusal.flag == "NC" {
                refusal.status = 500;
            }
            refusal
        })?;
    Ok(ConnectionPlan {
        rule: Some(matched),
        upstream,
    })
}

/// A connection as a request of which nothing is known: destinations are found alike.
fn as_request<'a>(connection: &ConnectionFacts<'a>) -> RequestFacts<'a> {
    RequestFacts {
        client: connection.client,
        gateway: connection.gateway,
        target: connection.target,
        port: connection.port,
        dialled: dialled(connection),
        method: "",
        scheme: "",
        authority: "",
        path: "",
        headers: &NoHeaders,
    }
}

struct NoHeaders;

impl HeaderView for NoHeaders {
    fn joined(&self, _: &str) -> Option<Cow<'_, str>> {
        None
    }
}
