//! Conditions on a request.

use crate::model::ObjectName;
use regex::Regex;
use std::sync::Arc;

/// Conditions that must all hold: one `match` block.
#[derive(Clone, Debug, Default)]
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
    /// `port`: the service port that the client dialled, at a gateway the server's.
    pub port: Option<u16>,
    /// `sourceLabels`; empty = any client.
    pub source_labels: Vec<(Arc<str>, Arc<str>)>,
    /// `sourceNamespace`.
    pub source_namespace: Option<Arc<str>>,
    /// `gateways` of this block, in place of the object's; empty = the object's.
    pub gateways: Vec<GatewayName>,
}

impl RequestMatch {
    /// Whether nothing is asked for, or only what every path has: prefix `/`, regular expression `.*`.
    #[must_use]
    pub fn is_catch_all(&self) -> bool {
        let any_path = match &self.uri {
            None => true,
            Some(StringMatch::Prefix(prefix)) => &**prefix == "/",
            Some(StringMatch::PathPrefix(prefix)) => prefix.is_empty(),
            Some(StringMatch::Regex(regex)) => regex.as_str() == "^(?:.*)$",
            Some(StringMatch::Exact(_)) => false,
        };
        any_path
            && self.scheme.is_none()
            && self.method.is_none()
            && self.authority.is_none()
            && self.headers.is_empty()
            && self.without_headers.is_empty()
            && self.query.is_empty()
            && self.port.is_none()
            && self.source_labels.is_empty()
            && self.source_namespace.is_none()
            && self.gateways.is_empty()
    }
}

/// Where a request enters the mesh.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum GatewayName {
    /// The reserved word `mesh`: from an enrolled pod.
    Mesh,
    /// Through an Istio `Gateway`.
    Named(ObjectName),
}

/// A condition on a text.
#[derive(Clone, Debug)]
pub enum StringMatch {
    /// Byte equality.
    Exact(Arc<str>),
    /// Raw prefix: `/foo` matches `/foobar` (Istio, T-18).
    Prefix(Arc<str>),
    /// Prefix of whole path segments, without a slash at its end: `/foo` matches `/foo` and `/foo/bar`, not `/foobar`; the
    /// empty one matches everything (Gateway API `PathPrefix`).
    PathPrefix(Arc<str>),
    /// RE2 semantics, the whole value must match; already anchored.
    Regex(Box<Regex>),
}

/// A condition on a header or parameter, or only "is there" (`{}` or regex `*`, T-20).
#[derive(Clone, Debug)]
pub enum ValueMatch {
    /// Any value.
    Present,
    /// This value.
    Value(StringMatch),
}
