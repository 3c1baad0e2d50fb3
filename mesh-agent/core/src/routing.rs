//! What becomes of a request or of a connection: the one matcher that the proxy, `heddle why` and tests call.

mod act;
mod arrival;
mod balance;
mod conditions;
mod connection;
mod cors;
mod deadline;
mod gateway;
mod matcher;
mod resolve;
mod session;
mod trace;
mod url;

use crate::model::ObjectName;
use crate::model::route::{AbortWith, HeaderOps, RetryPolicy, RouteAction, RouteRule, RouteTable};
use crate::model::service::{Endpoint, Service, ServicePort};
use crate::model::snapshot::{Snapshot, Target};
use crate::model::traffic::{BackendPolicy, Persistence, TrafficPolicy};
use crate::model::workload::Workload;
use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

pub use arrival::{Arrival, Course, Outcome, course_of};
pub use balance::{Affinity, Balancer, Choice, PickDraws, Place, affinity, pick_endpoint};
pub use connection::{
    ConnectionFacts, ConnectionPlan, MatchedConnection, Opening, explain_connection, needs_hello,
    route_connection, route_connection_by,
};
pub use cors::Fields;
pub use deadline::{grpc_timeout, timeout};
pub use gateway::{connect_at_gateway, explain_at_gateway, explain_connection_at_gateway, route_at_gateway};
pub use session::{Held, Session, held};
pub use url::covers;

/// A request's head as the matcher sees it.
pub struct RequestFacts<'a> {
    /// The pod that sends; `None` if it is not known.
    pub client: Option<&'a Workload>,
    /// The Istio `Gateway` that the request came through; `None` = from a pod of the mesh.
    pub gateway: Option<&'a ObjectName>,
    /// What the application dialled.
    pub target: &'a Target,
    /// The port that the application dialled.
    pub port: u16,
    /// The address that the application dialled, where it may be dialled on.
    pub dialled: Option<SocketAddr>,
    /// Method, as sent.
    pub method: &'a str,
    /// `http` or `https`.
    pub scheme: &'a str,
    /// Host header or `:authority`, as sent.
    pub authority: &'a str,
    /// Path and query, as sent.
    pub path: &'a str,
    /// Header fields.
    pub headers: &'a dyn HeaderView,
}

/// Read access to header fields without naming an HTTP library.
pub trait HeaderView {
    /// All values of `name` (lower case) joined with `,`; `None` if there is none.
    fn joined(&self, name: &str) -> Option<Cow<'_, str>>;
}

/// Random draws made by the caller; the same draws give the same decision.
#[derive(Clone, Copy, Debug, Default)]
pub struct Draws {
    /// Picks the weighted destination.
    pub split: u32,
    /// Each mirror has its own draw of it, compared with the mirror's share.
    pub mirror: u32,
    /// Compared with the share of an injected delay.
    pub delay: u32,
    /// Compared with the share of an injected abort.
    pub abort: u32,
    /// No draw but the time, in seconds since 1970: whether a session is over.
    pub now: u64,
}

/// What becomes of a request.
#[derive(Debug)]
pub enum Decision {
    /// Forward it.
    Forward(RoutePlan),
    /// Answer it, because a rule says so.
    Answer(Answer),
    /// Answer it, because it cannot be forwarded.
    Refuse(Refusal),
}

/// An answer that a rule gives: a redirect, a direct response, an injected fault, or what a CORS preflight asks for.
#[derive(Debug)]
pub struct Answer {
    /// The rule; its header operations apply, unless a fault is answered.
    pub rule: MatchedRule,
    /// Status.
    pub status: u16,
    /// `Location`, for a redirect.
    pub location: Option<String>,
    /// Body, perhaps empty.
    pub body: Arc<[u8]>,
    /// An injected fault, which is all there is then; flag `FI`.
    pub fault: Option<AbortWith>,
    /// Fields that CORS adds.
    pub cors: Fields,
    /// Time to wait first: an injected fault.
    pub delay: Option<Duration>,
}

/// Where a request goes and how.
#[derive(Debug)]
pub struct RoutePlan {
    /// The rule that matched; `None` = default route to the service.
    pub rule: Option<MatchedRule>,
    /// Where to.
    pub upstream: Upstream,
    /// Copies to send.
    pub mirrors: Vec<Upstream>,
    /// Path and query to send, where the rule rewrites them.
    pub path: Option<String>,
    /// Authority to send, where the rule rewrites it; a destination's own `Host` operation comes after it.
    pub authority: Option<Arc<str>>,
    /// Fields that CORS sets on the answer.
    pub cors: Fields,
    /// Time to wait first: an injected fault.
    pub delay: Option<Duration>,
}

/// A rule inside its table.
#[derive(Clone, Debug)]
pub struct MatchedRule {
    /// The VirtualService.
    pub table: Arc<RouteTable>,
    /// Index into `table.rules`.
    pub rule: usize,
    /// Index into `matches`, `None` for a rule without.
    pub matched: Option<usize>,
    /// Index into the action's destinations; 0 where the proxy answers itself.
    pub destination: usize,
}

impl MatchedRule {
    /// The rule.
    #[must_use]
    pub fn rule(&self) -> &RouteRule {
        &self.table.rules[self.rule]
    }

    /// What the rule does.
    #[must_use]
    pub fn action(&self) -> &RouteAction {
        &self.rule().action
    }

    /// Route-level header operations, then those of the chosen destination.
    pub fn headers(&self) -> impl DoubleEndedIterator<Item = &HeaderOps> {
        let chosen = self.action().destinations().get(self.destination);
        let route = self.action().headers.as_deref();
        route.into_iter().chain(chosen.and_then(|d| d.headers.as_deref()))
    }
}

/// A set of endpoints and what they are called.
#[derive(Clone, Debug)]
pub struct Upstream {
    /// The service; `None` for a pod dialled by its own address.
    pub service: Option<Arc<Service>>,
    /// Its port.
    pub port: Option<Arc<ServicePort>>,
    /// Subset, if the route names one.
    pub subset: Option<Arc<str>>,
    /// Ready endpoints, never empty.
    pub endpoints: Arc<[Arc<Endpoint>]>,
    /// How they are used.
    pub policy: Arc<TrafficPolicy>,
    /// What XBackendTrafficPolicies say of the service.
    pub backend: Option<Arc<BackendPolicy>>,
}

/// Why a request is not forwarded. Status and flag are those of Envoy in the same case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Status to answer.
    pub status: u16,
    /// Istio's response flag: `NR`, `NC`, `UH`.
    pub flag: &'static str,
    /// What and why, with the object and field that led here.
    pub detail: String,
}

impl RoutePlan {
    /// Whole-request timeout.
    #[must_use]
    pub fn timeout(&self) -> Option<Duration> {
        self.rule.as_ref().and_then(|m| m.action().timeout)
    }

    /// Retry policy of the rule, or the mesh's default.
    #[must_use]
    pub fn retries(&self) -> &RetryPolicy {
        match &self.rule {
            Some(matched) => &matched.action().retries,
            None => RetryPolicy::mesh_default(),
        }
    }

    /// What keeps a session with one endpoint: the rule's word on it, or the service's.
    #[must_use]
    pub fn persistence(&self) -> Option<&Arc<Persistence>> {
        let rule = self.rule.as_ref().and_then(|m| m.action().session.as_ref());
        rule.or_else(|| self.upstream.backend.as_ref()?.session.as_ref())
    }
}

/// Decides on a request.
///
/// The Host header finds the service (VirtualService semantics, T-03…T-05, T-09); where it names none, the original
/// destination does. A pod dialled by its own address keeps that pod.
#[must_use]
pub fn route_request(snapshot: &Snapshot, request: &RequestFacts<'_>, draws: Draws) -> Decision {
    matcher::route_request(snapshot, request, draws)
}

/// Which DestinationRule applies to an upstream, and what it says; empty for the mesh's default.
#[must_use]
pub fn explain_policy(upstream: &Upstream) -> String {
    resolve::policy(upstream).trim_start().to_owned()
}

/// One line a human can follow for each step that [`route_request`] took: rules tried in order, what did not match,
/// what did. Made by the same code.
#[must_use]
pub fn explain_request(snapshot: &Snapshot, request: &RequestFacts<'_>) -> Vec<String> {
    matcher::explain_request(snapshot, request)
}

/// The rules for a host among `routes` (wildcards are kept as `.suffix`): exact before wildcard, the most specific
/// wildcard first (T-07).
#[must_use]
pub(crate) fn table_for<'a>(
    routes: &'a imbl::HashMap<Arc<str>, Arc<RouteTable>>,
    host: &str,
) -> Option<&'a Arc<RouteTable>> {
    routes.get(host).or_else(|| {
        host.char_indices()
            .filter(|(_, c)| *c == '.')
            .find_map(|(dot, _)| routes.get(&host[dot..]))
    })
}

#[cfg(test)]
mod tests;
