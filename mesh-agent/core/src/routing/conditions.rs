//! Whether one `match` block holds for a request.

use super::RequestFacts;
use crate::model::route::{GatewayName, RequestMatch, StringMatch, ValueMatch};
use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

/// Why a block does not hold: the field that failed.
#[derive(Debug)]
pub(super) enum Miss<'a> {
    /// `gateways`, `sourceNamespace`, `sourceLabels` or `port`: the block is not there for this client at all (T-13).
    Static(&'static str),
    /// A field of the request.
    Field(&'static str),
    /// A named header or query parameter.
    Named(&'static str, &'a str),
}

impl fmt::Display for Miss<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Static(field) => write!(f, "{field} is not this client's"),
            Self::Field(field) => write!(f, "{field} does not match"),
            Self::Named(field, name) => write!(f, "{field}.{name} does not match"),
        }
    }
}

/// The first field that does not hold, `None` if the block matches.
pub(super) fn check<'a>(block: &'a RequestMatch, request: &RequestFacts<'_>) -> Option<Miss<'a>> {
    check_client(block, request)
        .map(Miss::Static)
        .or_else(|| check_head(block, request))
}

/// What is settled before any byte of the request: pilot compiles such blocks away (T-13, T-17).
fn check_client(block: &RequestMatch, request: &RequestFacts<'_>) -> Option<&'static str> {
    let here = |name: &GatewayName| match (name, request.gateway) {
        (GatewayName::Mesh, None) => true,
        (GatewayName::Named(named), Some(gateway)) => named == gateway,
        _ => false,
    };
    if !block.gateways.is_empty() && !block.gateways.iter().any(here) {
        return Some("gateways");
    }
    if block.port.is_some_and(|port| port != request.port) {
        return Some("port");
    }
    let elsewhere = |namespace: &Arc<str>| request.client.is_none_or(|c| c.pod.namespace != *namespace);
    if block.source_namespace.as_ref().is_some_and(elsewhere) {
        return Some("sourceNamespace");
    }
    let has = |key: &str, value: &str| {
        request
            .client
            .is_some_and(|c| c.labels.get(key).is_some_and(|v| &**v == value))
    };
    if block.source_labels.iter().any(|(key, value)| !has(key, value)) {
        return Some("sourceLabels");
    }
    None
}

fn check_head<'a>(block: &'a RequestMatch, request: &RequestFacts<'_>) -> Option<Miss<'a>> {
    let (path, query) = request.path.split_once('?').unwrap_or((request.path, ""));
    let fails = |wanted: &Option<StringMatch>, value: &str| wanted.as_ref().is_some_and(|m| !holds(m, value));
    if block
        .uri
        .as_ref()
        .is_some_and(|m| !uri_holds(m, path, block.ignore_uri_case))
    {
        return Some(Miss::Field("uri"));
    }
    if fails(&block.scheme, request.scheme) {
        return Some(Miss::Field("scheme"));
    }
    if fails(&block.method, request.method) {
        return Some(Miss::Field("method"));
    }
    if fails(&block.authority, request.authority) {
        return Some(Miss::Field("authority"));
    }
    for (name, wanted) in &block.headers {
        if !value_holds(wanted, request.headers.joined(name)) {
            return Some(Miss::Named("headers", name));
        }
    }
    for (name, unwanted) in &block.without_headers {
        if !absent_holds(unwanted, request.headers.joined(name)) {
            return Some(Miss::Named("withoutHeaders", name));
        }
    }
    for (name, wanted) in &block.query {
        if !value_holds(wanted, query_value(query, name).map(Cow::Borrowed)) {
            return Some(Miss::Named("queryParams", name));
        }
    }
    None
}

pub(super) fn holds(wanted: &StringMatch, value: &str) -> bool {
    match wanted {
        StringMatch::Exact(exact) => &**exact == value,
        StringMatch::Prefix(prefix) => value.starts_with(&**prefix),
        StringMatch::PathPrefix(prefix) => value
            .strip_prefix(&**prefix)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
        StringMatch::Regex(regex) => regex.is_match(value),
    }
}

fn uri_holds(wanted: &StringMatch, path: &str, ignore_case: bool) -> bool {
    match wanted {
        StringMatch::Exact(exact) if ignore_case => exact.eq_ignore_ascii_case(path),
        StringMatch::Prefix(prefix) if ignore_case => path
            .as_bytes()
            .get(..prefix.len())
            .is_some_and(|p| p.eq_ignore_ascii_case(prefix.as_bytes())),
        _ => holds(wanted, path),
    }
}

fn value_holds(wanted: &ValueMatch, value: Option<Cow<'_, str>>) -> bool {
    match (wanted, value) {
        (_, None) => false,
        (ValueMatch::Present, Some(_)) => true,
        (ValueMatch::Value(m), Some(value)) => holds(m, &value),
    }
}

/// A missing header counts as the empty string (T-21).
fn absent_holds(unwanted: &ValueMatch, value: Option<Cow<'_, str>>) -> bool {
    match unwanted {
        ValueMatch::Present => value.is_none(),
        ValueMatch::Value(m) => !holds(m, value.as_deref().unwrap_or("")),
    }
}

/// The first value of the key; a key without `=` has the empty value (T-23). Not percent-decoded, as in Envoy.
fn query_value<'q>(query: &'q str, name: &str) -> Option<&'q str> {
    query
        .split('&')
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .find(|(k, _)| *k == name)
        .map(|(_, v)| v)
}
