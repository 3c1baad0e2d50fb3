//! What a rule does besides forwarding: answers of the proxy's own, rewrites, faults, CORS.

use super::matches::StringMatch;
use regex::Regex;
use std::sync::Arc;
use std::time::Duration;

/// An answer that sends the client elsewhere: VirtualService `redirect`, HTTPRoute `RequestRedirect`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Redirect {
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
    /// New scheme; `None` = the request's.
    pub scheme: Option<Arc<str>>,
    /// New host; `None` = the request's.
    pub host: Option<Arc<str>>,
    /// New port.
    pub port: RedirectPort,
    /// New path; `None` = the request's. The query is kept.
    pub path: Option<PathChange>,
}

/// Port of a `Location`. 80 with `http` and 443 with `https` are never written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RedirectPort {
    /// VirtualService without `port`: the one in the request's own authority, if the host is not replaced.
    #[default]
    OfAuthority,
    /// The scheme's own: `FROM_PROTOCOL_DEFAULT`, and HTTPRoute with a `scheme` and no `port`.
    OfScheme,
    /// That of the listener or service that the request came to: `FROM_REQUEST_PORT`, and HTTPRoute with neither `port`
    /// nor `scheme`.
    OfRequest,
    /// This one.
    Number(u16),
}

/// A change of the path. The query is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathChange {
    /// The whole path.
    Full(Arc<str>),
    /// The part that the rule's prefix matched, as text (VirtualService `rewrite.uri`, `prefixRewrite`): without a prefix
    /// match the whole path (T-49).
    Prefix(Arc<str>),
    /// The segments that the rule's `PathPrefix` matched (HTTPRoute `ReplacePrefixMatch`): never two slashes in a row,
    /// never an empty path.
    PrefixSegments(Arc<str>),
    /// Substitution (VirtualService `uriRegexRewrite`).
    Regex(RegexChange),
}

/// `uriRegexRewrite`: the first match… of the pattern becomes `rewrite`, where `\1` is a group.
#[derive(Clone, Debug)]
pub struct RegexChange {
    /// `match`, not anchored.
    pub pattern: Regex,
    /// `rewrite` in the notation of the `regex` crate (`${1}`).
    pub replacement: Arc<str>,
}

impl PartialEq for RegexChange {
    fn eq(&self, other: &Self) -> bool {
        self.pattern.as_str() == other.pattern.as_str() && self.replacement == other.replacement
    }
}

impl Eq for RegexChange {}

/// VirtualService `rewrite`, HTTPRoute `URLRewrite`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rewrite {
    /// New `Host`.
    pub authority: Option<Arc<str>>,
    /// New path.
    pub path: Option<PathChange>,
}

/// VirtualService `directResponse`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectResponse {
    /// 200 to 599.
    pub status: u16,
    /// `body`, empty if none.
    pub body: Arc<[u8]>,
}

/// VirtualService `fault`. Delay and abort are rolled independently of each other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fault {
    /// `delay`.
    pub delay: Option<Delay>,
    /// `abort`.
    pub abort: Option<Abort>,
}

/// `fault.delay`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delay {
    /// `fixedDelay`, at least 1 ms.
    pub time: Duration,
    /// Share of the requests in millionths; 0 where `percentage` and `percent` are absent.
    pub per_million: u32,
}

/// `fault.abort`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abort {
    /// What is answered.
    pub with: AbortWith,
    /// Share of the requests in millionths; 0 where `percentage` is absent (T-45).
    pub per_million: u32,
}

/// `fault.abort.httpStatus` or `grpcStatus`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AbortWith {
    /// An HTTP status, 200 to 599.
    Http(u16),
    /// A gRPC code, 0 to 16, in a response of trailers only.
    Grpc(u8),
}

/// VirtualService `corsPolicy`, HTTPRoute `CORS`.
#[derive(Clone, Debug, Default)]
pub struct Cors {
    /// `allowOrigins`; one that matches is echoed.
    pub allow_origins: Vec<StringMatch>,
    /// `allowMethods`.
    pub allow_methods: Vec<Arc<str>>,
    /// `allowHeaders`.
    pub allow_headers: Vec<Arc<str>>,
    /// `exposeHeaders`.
    pub expose_headers: Vec<Arc<str>>,
    /// `maxAge`.
    pub max_age: Option<Duration>,
    /// `allowCredentials`.
    pub allow_credentials: bool,
    /// Whether a preflight of an origin that is not allowed goes on to the destination (`unmatchedPreflights: FORWARD`,
    /// the default) or is answered here without CORS fields (`IGNORE`, and HTTPRoute).
    pub forward_unmatched: bool,
}
