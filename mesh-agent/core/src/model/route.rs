//! Compiled routes: what VirtualServices, HTTPRoutes and GRPCRoutes come to for the data path.

mod answer;
mod headers;
mod matches;
mod retry;

pub use super::subset::{HostSubsets, Subset};
pub use super::visibility::Visibility;
pub use answer::{
    Abort, AbortWith, Cors, Delay, DirectResponse, Fault, PathChange, Redirect, RedirectPort, RegexChange,
    Rewrite,
};
pub use headers::{HeaderEdits, HeaderOps};
pub use matches::{GatewayName, RequestMatch, StringMatch, ValueMatch};
pub use retry::{RetryOn, RetryPolicy};

use super::ObjectName;
use super::traffic::Persistence;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Rules in the order in which they are tried: the first that matches takes the request.
#[derive(Clone, Debug)]
pub struct RouteTable {
    /// Whose semantics answer where a destination is not there.
    pub api: RouteApi,
    /// What the table is called in reports: the VirtualService, or what the routes are attached to.
    pub object: ObjectName,
    /// Rules, already in their API's order.
    pub rules: Vec<RouteRule>,
}

/// Where rules come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RouteApi {
    /// `networking.istio.io`: a destination that is not there is 503 `NC`.
    Istio,
    /// `gateway.networking.k8s.io`: a backend that is not there is 500 for its share.
    Gateway,
}

impl RouteApi {
    /// Kind of the object that [`RouteTable::object`] names.
    #[must_use]
    pub const fn table_kind(self) -> &'static str {
        match self {
            Self::Istio => "VirtualService",
            Self::Gateway => "routes of",
        }
    }
}

/// One rule.
#[derive(Clone, Debug)]
pub struct RouteRule {
    /// The object and field it was written in.
    pub origin: Origin,
    /// `name`, empty if none.
    pub name: Arc<str>,
    /// Blocks are ORed; empty matches everything.
    pub matches: Vec<RequestMatch>,
    /// What becomes of the requests that it takes.
    pub action: Arc<RouteAction>,
}

impl RouteRule {
    /// Whether every request matches: nothing behind it in its list is ever tried (T-12).
    #[must_use]
    pub fn is_catch_all(&self) -> bool {
        self.matches.is_empty() || self.matches.iter().any(RequestMatch::is_catch_all)
    }
}

/// The place of a rule: `VirtualService shop/cart spec.http[2]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    /// `VirtualService`, `HTTPRoute`, `GRPCRoute`.
    pub kind: &'static str,
    /// The object.
    pub object: ObjectName,
    /// The list: `spec.http`, `spec.rules`.
    pub list: &'static str,
    /// Place in it.
    pub index: usize,
}

impl Origin {
    /// `spec.http[2]`.
    #[must_use]
    pub fn field(&self) -> String {
        format!("{}[{}]", self.list, self.index)
    }

    /// `spec.http[2].route[0].destination`, `spec.rules[2].backendRefs[0]`.
    #[must_use]
    pub fn destination_field(&self, index: usize) -> String {
        let field = self.field();
        match self.list {
            "spec.rules" => format!("{field}.backendRefs[{index}]"),
            _ => format!("{field}.route[{index}].destination"),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}[{}]", self.kind, self.object, self.list, self.index)
    }
}

/// What becomes of a request. What few rules say is in a box: there are many rules.
#[derive(Clone, Debug)]
pub struct RouteAction {
    /// Where it goes, or what is answered.
    pub outcome: Outcome,
    /// Copies.
    pub mirrors: Vec<Mirror>,
    /// Time for the whole request with all of its tries; `None` = no end.
    pub timeout: Option<Duration>,
    /// `retries`, or the mesh's default.
    pub retries: Arc<RetryPolicy>,
    /// Header operations, applied before the destination's.
    pub headers: Option<Box<HeaderOps>>,
    /// Changes of path and authority.
    pub rewrite: Option<Box<Rewrite>>,
    /// Injected faults.
    pub fault: Option<Box<Fault>>,
    /// CORS.
    pub cors: Option<Box<Cors>>,
    /// `sessionPersistence` of Gateway API.
    pub session: Option<Arc<Persistence>>,
}

/// The first thing that a rule decides.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// To one of these.
    Forward(Split),
    /// 3xx.
    Redirect(Box<Redirect>),
    /// A fixed answer.
    Respond(DirectResponse),
    /// Nothing to forward to by the API's own rule (HTTPRoute without a valid backend): this status.
    Fail {
        /// Status.
        status: u16,
        /// Why, for people.
        reason: Arc<str>,
    },
}

/// Weighted destinations.
#[derive(Clone, Debug, Default)]
pub struct Split {
    /// Entries of weight 0 are dropped unless alone.
    pub destinations: Vec<WeightedDestination>,
    /// Sum of the weights.
    pub total_weight: u32,
}

impl RouteAction {
    /// Forwards and does nothing else.
    #[must_use]
    pub fn forward(split: Split) -> Self {
        Self::new(Outcome::Forward(split))
    }

    /// Nothing but the outcome.
    #[must_use]
    pub fn new(outcome: Outcome) -> Self {
        Self {
            outcome,
            mirrors: Vec::new(),
            timeout: None,
            retries: RetryPolicy::shared_default(),
            headers: None,
            rewrite: None,
            fault: None,
            cors: None,
            session: None,
        }
    }

    /// The destinations; none where the proxy answers itself.
    #[must_use]
    pub fn destinations(&self) -> &[WeightedDestination] {
        match &self.outcome {
            Outcome::Forward(split) => &split.destinations,
            _ => &[],
        }
    }
}

/// One of a rule's destinations.
#[derive(Clone, Debug)]
pub struct WeightedDestination {
    /// `weight`; 1 for a single destination.
    pub weight: u32,
    /// Place in the list: `spec.http[i].route[index]`, `spec.rules[i].backendRefs[index]`.
    pub index: usize,
    /// Where to.
    pub backend: Backend,
    /// Header operations of this destination.
    pub headers: Option<Box<HeaderOps>>,
}

/// A destination, or what stands where one should.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backend {
    /// A host of the registry.
    Host(Destination),
    /// A reference that must not or cannot be followed (HTTPRoute: kind unknown, no ReferenceGrant): its share of the
    /// requests is answered with 500.
    Invalid(Arc<str>),
}

impl Backend {
    /// The host, if it is one.
    #[must_use]
    pub const fn host(&self) -> Option<&Destination> {
        match self {
            Self::Host(destination) => Some(destination),
            Self::Invalid(_) => None,
        }
    }
}

/// A host with its name made absolute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// Fully qualified, lower case.
    pub host: Arc<str>,
    /// `subset`.
    pub subset: Option<Arc<str>>,
    /// Service port; `None` = the service's only port, else the one the client used.
    pub port: Option<u16>,
}

/// A copy of each request, or of a share of them.
#[derive(Clone, Debug)]
pub struct Mirror {
    /// Where the copy goes.
    pub destination: Destination,
    /// Share of the requests in millionths: 1_000_000 = all.
    pub per_million: u32,
}
