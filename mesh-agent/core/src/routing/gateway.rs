//! What becomes of a request at a gateway.

use super::matcher;
use super::resolve::no_route;
use super::trace::{Lines, Silent, Trace};
use super::{Decision, Draws, Refusal, RequestFacts};
use crate::model::gateway::{EdgePort, Found, ListenerOrigin};
use crate::model::host;
use crate::model::snapshot::Snapshot;

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
