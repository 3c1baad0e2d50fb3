//! What becomes of a request or connection at a gateway.

use super::connection::{ConnectionFacts, ConnectionPlan, Opening, by_tables, described};
use super::matcher;
use super::resolve::no_route;
use super::trace::{Lines, Silent, Trace};
use super::{Decision, Draws, Refusal, RequestFacts};
use crate::model::ObjectName;
use crate::model::connection::{ConnectionRule, ConnectionTable};
use crate::model::gateway::{EdgePort, Found, Listener, ListenerOrigin, ListenerProtocol};
use crate::model::host;
use crate::model::route::{Backend, Destination, Origin, RouteApi, Split, WeightedDestination};
use crate::model::snapshot::Snapshot;
use crate::translate::gateway_api::GROUP;
use std::sync::Arc;

/// Decides on a request that came to `port` of a gateway. `by_sni` is the listener that the connection's SNI chose, where
/// it is TLS. Whatever `request.gateway` and `request.port` say, they are the site's (T-16).
///
/// Envoy's answers: 404 `NR` for a Host that nobody has (T-50), and where no rule matches; 421 for a Host of another listener
/// of the port.
#[must_use]
pub fn route_at_gateway(
    snapshot: &Snapshot,
    port: &EdgePort,
    by_sni: Option<&ListenerOrigin>,
    request: &RequestFacts<'_>,
    draws: Draws,
) -> Decision {
    decide(snapshot, port, by_sni, request, draws, &mut Silent)
}

/// As [`super::explain_request`], for [`route_at_gateway`].
#[must_use]
pub fn explain_at_gateway(
    snapshot: &Snapshot,
    port: &EdgePort,
    by_sni: Option<&ListenerOrigin>,
    request: &RequestFacts<'_>,
) -> Vec<String> {
    let mut lines = Lines::default();
    let _ = decide(snapshot, port, by_sni, request, Draws::default(), &mut lines);
    lines.0
}

fn decide(
    snapshot: &Snapshot,
    port: &EdgePort,
    by_sni: Option<&ListenerOrigin>,
    request: &RequestFacts<'_>,
    draws: Draws,
    trace: &mut impl Trace,
) -> Decision {
    let host = host::canonical(request.authority);
    let refused = Decision::Refuse;
    let (listener, site) = match port.site(&host, by_sni) {
        Found::Site(listener, site) => (listener, site),
        Found::Nothing => {
            trace.note(|| format!("no listener of the port has rules for Host {host:?}: answer 404 NR"));
            return refused(no_route(|| format!("no route for host {host:?}")));
        }
        Found::Misdirected => {
            trace.note(|| {
                format!("Host {host:?} is another listener's than the connection's SNI: answer 421")
            });
            return refused(Refusal {
                status: 421,
                flag: "NR",
                detail: format!(
                    "host {host:?} is served by another listener than the one of this connection"
                ),
            });
        }
    };
    trace.note(|| format!("Host {host:?} is one of {}", listener.origin));
    let here = RequestFacts {
        gateway: Some(&site.gateway),
        port: site.port,
        ..*request
    };
    matcher::route_by_table(snapshot, &here, &site.table, draws, trace)
}

/// Where the bytes of a connection go that came to `port` of a gateway. `by_sni` is the listener that its SNI chose, where
/// it is TLS. `connection.gateway` and `port` are the listener's, whatever they say.
///
/// # Errors
/// No rule takes it, or the rule leads to what is not there.
pub fn connect_at_gateway(
    snapshot: &Snapshot,
    port: &EdgePort,
    by_sni: Option<&ListenerOrigin>,
    connection: &ConnectionFacts<'_>,
    draw: u32,
) -> Result<ConnectionPlan, Refusal> {
    connect(snapshot, port, by_sni, connection, draw, &mut Silent)
}

/// As [`super::explain_connection`], for [`connect_at_gateway`].
#[must_use]
pub fn explain_connection_at_gateway(
    snapshot: &Snapshot,
    port: &EdgePort,
    by_sni: Option<&ListenerOrigin>,
    connection: &ConnectionFacts<'_>,
) -> Vec<String> {
    let mut lines = Lines::default();
    let outcome = connect(snapshot, port, by_sni, connection, 0, &mut lines);
    lines.note(|| described(&outcome));
    lines.0
}

fn connect(
    snapshot: &Snapshot,
    port: &EdgePort,
    by_sni: Option<&ListenerOrigin>,
    connection: &ConnectionFacts<'_>,
    draw: u32,
    trace: &mut impl Trace,
) -> Result<ConnectionPlan, Refusal> {
    let chosen = |l: &&Arc<Listener>| by_sni.is_none_or(|origin| l.origin == *origin);
    for listener in port.listeners.iter().filter(chosen) {
        let here = ConnectionFacts {
            gateway: Some(&listener.origin.object),
            port: listener.port,
            ..*connection
        };
        // TLSRoutes name hosts wherever TLS ends; rules of Istio do so only where it does not.
        let by_name = listener.protocol == ListenerProtocol::TlsTerminate && listener.origin.group == GROUP;
        let passes = by_name || listener.protocol == ListenerProtocol::TlsPassthrough;
        let found = match (listener.protocol, connection.opening) {
            (ListenerProtocol::TlsAutoPassthrough, Opening::Tls(Some(name))) => match named_by(name) {
                Some(table) => by_tables(snapshot, [&table], true, &here, draw, trace)?,
                None => None,
            },
            _ => by_tables(snapshot, &listener.connections, passes, &here, draw, trace)?,
        };
        if let Some(plan) = found {
            return Ok(plan);
        }
    }
    Err(no_route(|| "no rule of the gateway takes the connection".into()))
}

/// The destination that a server name of `AUTO_PASSTHROUGH` is: `outbound_.80_.subset_.host`.
fn named_by(sni: &str) -> Option<Arc<ConnectionTable>> {
    let mut parts = sni.splitn(4, "_.");
    let (Some("outbound"), Some(port), Some(subset), Some(host)) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return None;
    };
    let object = ObjectName::new("", host);
    let destination = WeightedDestination {
        weight: 1,
        index: 0,
        backend: Backend::Host(Destination {
            host: host.into(),
            subset: Some(subset).filter(|s| !s.is_empty()).map(Into::into),
            port: Some(port.parse().ok()?),
        }),
        headers: None,
    };
    Some(Arc::new(ConnectionTable {
        api: RouteApi::Istio,
        object: object.clone(),
        tls: vec![ConnectionRule {
            origin: Origin {
                kind: "SNI",
                object,
                list: "",
                index: 0,
            },
            matches: Vec::new(),
            split: Split {
                destinations: vec![destination],
                total_weight: 1,
            },
        }],
        tcp: Vec::new(),
    }))
}
