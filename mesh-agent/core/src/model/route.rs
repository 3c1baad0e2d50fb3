//! Compiled routes: what a VirtualService and a DestinationRule come to for the data path.

use super::ObjectName;
use super::service::Endpoint;
use super::workload::Labels;
use regex::Regex;
use std::sync::Arc;
use std::time::Duration;

/// All rules of one VirtualService for one host.
#[derive(Debug)]
pub struct RouteTable {
    /// The VirtualService.
    pub object: ObjectName,
    /// Rules in written order.
    pub rules: Vec<RouteRule>,
}

/// One entry of `spec.http`.
#[derive(Debug)]
pub struct RouteRule {
    /// `http[i].name`, empty if none.
    pub name: Arc<str>,
    /// Place in `spec.http`: the field path `spec.http[index]`.
    pub index: usize,
    /// Blocks are ORed; empty matches everything.
    pub matches: Vec<RequestMatch>,
    /// Weighted destinations; weight-0 entries are dropped unless alone.
    pub destinations: Vec<WeightedDestination>,
    /// Sum of the weights.
    pub total_weight: u32,
    /// Copies.
    pub mirrors: Vec<Mirror>,
    /// `timeout`; `None` = none.
    pub timeout: Option<Duration>,
    /// `retries`, or the mesh's default.
    pub retries: RetryPolicy,
    /// `headers`, applied before the destination's.
    pub headers: HeaderOps,
}

/// One `http[i].match[j]`; fields are ANDed.
#[derive(Debug, Default)]
pub struct RequestMatch {
    /// `name`.
    pub name: Arc<str>,
    /// `uri`, on the path without the query.
    pub uri: Option<StringMatch>,
    /// `ignoreUriCase`.
    pub ignore_uri_case: bool,
    /// `scheme`.
    pub scheme: Option<StringMatch>,
    /// `method`.
    pub method: Option<StringMatch>,
    /// `authority`.
    pub authority: Option<StringMatch>,
    /// `headers`: lower-case name and what its value must match.
    pub headers: Vec<(Arc<str>, ValueMatch)>,
    /// `withoutHeaders`: inverted; a missing header counts as the empty string (T-21).
    pub without_headers: Vec<(Arc<str>, ValueMatch)>,
    /// `queryParams`: first value of the key.
    pub query: Vec<(Arc<str>, ValueMatch)>,
    /// `port`: the service port that the client dialled.
    pub port: Option<u16>,
    /// `sourceLabels`; empty = any client.
    pub source_labels: Vec<(Arc<str>, Arc<str>)>,
    /// `sourceNamespace`.
    pub source_namespace: Option<Arc<str>>,
}

/// `StringMatch` of the Istio API.
#[derive(Clone, Debug)]
pub enum StringMatch {
    /// Byte equality.
    Exact(Arc<str>),
    /// Raw prefix: `/foo` matches `/foobar` (T-18).
    Prefix(Arc<str>),
    /// RE2 semantics, the whole value must match; already anchored.
    Regex(Regex),
}

/// A `StringMatch`, or only "is there" (`{}` or regex `*`, T-20).
#[derive(Clone, Debug)]
pub enum ValueMatch {
    /// Any value.
    Present,
    /// This value.
    Value(StringMatch),
}

/// `http[i].route[j]`.
#[derive(Debug)]
pub struct WeightedDestination {
    /// `weight`; 1 for a single destination.
    pub weight: u32,
    /// Place in `route`: the field path `spec.http[i].route[index]`.
    pub index: usize,
    /// Where to.
    pub destination: Destination,
    /// `headers`.
    pub headers: HeaderOps,
}

/// `destination` with its host made absolute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// Fully qualified, lower case.
    pub host: Arc<str>,
    /// `subset`.
    pub subset: Option<Arc<str>>,
    /// `port.number`; `None` = the service's only port, else the one the client used.
    pub port: Option<u16>,
}

/// `mirror` or one of `mirrors`.
#[derive(Debug)]
pub struct Mirror {
    /// Where the copy goes.
    pub destination: Destination,
    /// Share of the requests in millionths: 1_000_000 = all.
    pub per_million: u32,
}

/// `retries`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Tries after the first; 0 = off.
    pub attempts: u32,
    /// `perTryTimeout`.
    pub per_try_timeout: Option<Duration>,
    /// `retryOn`, parsed.
    pub on: RetryOn,
    /// `backoff`: base of the exponential delay (default 25 ms, at most ten times as much).
    pub backoff: Duration,
}

/// Conditions of `retryOn`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RetryOn {
    /// `connect-failure`.
    pub connect_failure: bool,
    /// `refused-stream`.
    pub refused_stream: bool,
    /// `reset`, `reset-before-request`.
    pub reset: bool,
    /// `5xx`.
    pub server_error: bool,
    /// `gateway-error`: 502, 503, 504.
    pub gateway_error: bool,
    /// `retriable-4xx`: 409.
    pub retriable_4xx: bool,
    /// Numbers in the list.
    pub statuses: Vec<u16>,
    /// gRPC codes: `cancelled` 1, `deadline-exceeded` 4, `resource-exhausted` 8, `internal` 13, `unavailable` 14.
    pub grpc: Vec<u8>,
}

/// `headers.request` and `headers.response`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderOps {
    /// On the way to the destination.
    pub request: HeaderEdits,
    /// On the way back.
    pub response: HeaderEdits,
}

/// `HeaderOperations`: `remove`, then `set`, then `add`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderEdits {
    /// Overwrite; `host` or `:authority` rewrites the authority.
    pub set: Vec<(Arc<str>, Arc<str>)>,
    /// Append.
    pub add: Vec<(Arc<str>, Arc<str>)>,
    /// Remove.
    pub remove: Vec<Arc<str>>,
}

impl HeaderEdits {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.add.is_empty() && self.remove.is_empty()
    }
}

/// The namespaces whose clients see a rule (`exportTo`).
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Visibility {
    /// `*`, the default.
    #[default]
    All,
    /// These only; `.` has become the rule's own namespace, `~` nothing.
    Namespaces(Vec<Arc<str>>),
}

impl Visibility {
    /// Whether a client of this namespace sees the rule; a client that is not known sees what all see.
    #[must_use]
    pub fn admits(&self, client_namespace: Option<&str>) -> bool {
        match self {
            Self::All => true,
            Self::Namespaces(names) => client_namespace.is_some_and(|ns| names.iter().any(|n| &**n == ns)),
        }
    }
}

/// The DestinationRules of one namespace for one host, concatenated (T-29).
#[derive(Clone, Debug, PartialEq)]
pub struct HostSubsets {
    /// Namespace of the rules.
    pub namespace: Arc<str>,
    /// Who sees them.
    pub export_to: Visibility,
    /// Every subset, oldest rule first.
    pub subsets: Vec<Subset>,
}

/// One named subset of a service.
#[derive(Clone, Debug, PartialEq)]
pub struct Subset {
    /// `name`.
    pub name: Arc<str>,
    /// `labels`.
    pub labels: Labels,
    /// The DestinationRule.
    pub object: ObjectName,
    /// Ready endpoints that have the labels, one list for each of `Service::ports`, in that order.
    pub endpoints: Vec<Arc<[Arc<Endpoint>]>>,
}

impl RetryPolicy {
    /// What Istio does where a rule says nothing (`defaultHttpRetryPolicy`, T-40): two more tries, on failures that
    /// cannot have had an effect, and on gRPC `unavailable` and `cancelled`.
    #[must_use]
    pub fn mesh_default() -> &'static Self {
        static DEFAULT: std::sync::OnceLock<RetryPolicy> = std::sync::OnceLock::new();
        DEFAULT.get_or_init(|| Self {
            attempts: 2,
            per_try_timeout: None,
            on: RetryOn {
                connect_failure: true,
                refused_stream: true,
                grpc: vec![1, 14],
                ..RetryOn::default()
            },
            backoff: Duration::from_millis(25),
        })
    }
}
