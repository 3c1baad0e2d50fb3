//! `http[i].match[j]`.

use super::{Scope, raw};
use crate::model::ObjectName;
use crate::model::route::{GatewayName, RequestMatch, StringMatch, ValueMatch};
use crate::translate::value::{FieldError, is_header_name, is_label, is_subdomain};
use regex::{Regex, RegexBuilder};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Istio's validation has the same bound.
const MAX_REGEX: usize = 1_024;
/// Memory that one compiled expression may take.
const MAX_PROGRAM: usize = 256 * 1_024;

pub(super) fn block(at: &str, raw: raw::Match, scope: &Scope<'_>) -> Result<RequestMatch, FieldError> {
    let part = |name: &str, given| match given {
        None => Ok(None),
        Some(m) => string_match(&format!("{at}.{name}"), m),
    };
    if raw.port == Some(0) {
        return Err(FieldError::new(format!("{at}.port"), "expected 1 to 65535"));
    }
    let source_namespace = raw.source_namespace.filter(|ns| !ns.is_empty());
    if source_namespace.as_ref().is_some_and(|ns| !is_label(ns)) {
        return Err(FieldError::new(
            format!("{at}.sourceNamespace"),
            "is no namespace",
        ));
    }
    let gateways = gateways(
        &format!("{at}.gateways"),
        raw.gateways.unwrap_or_default(),
        scope.namespace,
    )?;
    if raw.stat_prefix.is_some_and(|prefix| !prefix.is_empty()) {
        let reason = "is ignored: there are no statistics of single routes to prefix";
        scope.note(format!("{at}.statPrefix"), reason);
    }
    let mut compiled = RequestMatch {
        name: raw.name.unwrap_or_default().into(),
        uri: part("uri", raw.uri)?,
        ignore_uri_case: raw.ignore_uri_case.unwrap_or(false),
        scheme: part("scheme", raw.scheme)?,
        method: part("method", raw.method)?,
        authority: part("authority", raw.authority)?,
        headers: headers(&format!("{at}.headers"), raw.headers)?,
        without_headers: headers(&format!("{at}.withoutHeaders"), raw.without_headers)?,
        query: values(&format!("{at}.queryParams"), raw.query_params, str::to_owned)?,
        port: raw.port,
        source_labels: raw
            .source_labels
            .unwrap_or_default()
            .into_iter()
            .map(|(k, v)| (k.into(), v.into()))
            .collect(),
        source_namespace: source_namespace.map(Into::into),
        gateways,
    };
    if !compiled.gateways.is_empty() {
        // A block that names gateways is not asked about its client (T-15).
        compiled.source_labels = Vec::new();
        compiled.source_namespace = None;
    }
    Ok(compiled)
}

/// `gateways` of an object or block: `mesh`, `namespace/name`, or a name in the object's own namespace.
pub(super) fn gateways(
    at: &str,
    given: Vec<String>,
    namespace: &str,
) -> Result<Vec<GatewayName>, FieldError> {
    let name = |(i, given): (usize, String)| {
        if given == "mesh" {
            return Ok(GatewayName::Mesh);
        }
        let (namespace, name) = given.split_once('/').unwrap_or((namespace, &given));
        if is_label(namespace) && is_subdomain(name) {
            Ok(GatewayName::Named(ObjectName::new(namespace, name)))
        } else {
            let field = format!("{at}[{i}]");
            Err(FieldError::new(
                field,
                "expected mesh, a name or namespace/name of a Gateway",
            ))
        }
    };
    given.into_iter().enumerate().map(name).collect()
}

fn headers(
    at: &str,
    given: Option<BTreeMap<String, Option<raw::StringMatch>>>,
) -> Result<Vec<(Arc<str>, ValueMatch)>, FieldError> {
    for name in given.iter().flat_map(BTreeMap::keys) {
        if name.starts_with('@') {
            return Err(FieldError::new(
                format!("{at}.{name}"),
                "claims of tokens cannot be matched: no token is validated before the route is chosen",
            ));
        }
        if !is_header_name(name) {
            return Err(FieldError::new(format!("{at}.{name}"), "is no header name"));
        }
    }
    values(at, given, str::to_ascii_lowercase)
}

fn values(
    at: &str,
    given: Option<BTreeMap<String, Option<raw::StringMatch>>>,
    key: fn(&str) -> String,
) -> Result<Vec<(Arc<str>, ValueMatch)>, FieldError> {
    let compile = |(name, wanted): (String, Option<raw::StringMatch>)| {
        let presence = wanted.as_ref().is_none_or(|m| m.regex.as_deref() == Some("*"));
        let compiled = match wanted {
            Some(m) if !presence => string_match(&format!("{at}.{name}"), m)?,
            _ => None,
        };
        Ok((
            key(&name).into(),
            compiled.map_or(ValueMatch::Present, ValueMatch::Value),
        ))
    };
    given.unwrap_or_default().into_iter().map(compile).collect()
}

/// `None` for `{}`, which matches anything.
pub(super) fn string_match(at: &str, raw: raw::StringMatch) -> Result<Option<StringMatch>, FieldError> {
    match (raw.exact, raw.prefix, raw.regex) {
        (None, None, None) => Ok(None),
        (Some(exact), None, None) => Ok(Some(StringMatch::Exact(exact.into()))),
        (None, Some(prefix), None) => Ok(Some(StringMatch::Prefix(prefix.into()))),
        (None, None, Some(pattern)) => regex(&pattern)
            .map(|regex| Some(StringMatch::Regex(Box::new(regex))))
            .map_err(|reason| FieldError::new(format!("{at}.regex"), reason)),
        _ => Err(FieldError::new(
            at,
            "expected only one of exact, prefix and regex",
        )),
    }
}

/// RE2 semantics: the whole value must match (T-19).
pub(in crate::translate) fn regex(pattern: &str) -> Result<Regex, String> {
    if pattern.is_empty() {
        return Err("an empty regular expression matches nothing".into());
    }
    if pattern.len() > MAX_REGEX {
        return Err(format!("regular expression is longer than {MAX_REGEX} bytes"));
    }
    // On its own first: `a)|(b` is wrong although it would be right inside of the anchors.
    regex_syntax_check(pattern)?;
    RegexBuilder::new(&format!("^(?:{pattern})$"))
        .size_limit(MAX_PROGRAM)
        .dfa_size_limit(MAX_PROGRAM * 4)
        .nest_limit(100)
        .build()
        .map_err(|e| explain(&e))
}

/// As it is written: it may match anywhere.
pub(super) fn unanchored(pattern: &str) -> Result<Regex, String> {
    if pattern.is_empty() || pattern.len() > MAX_REGEX {
        return Err(format!("expected a regular expression of 1 to {MAX_REGEX} bytes"));
    }
    RegexBuilder::new(pattern)
        .size_limit(MAX_PROGRAM)
        .dfa_size_limit(MAX_PROGRAM * 4)
        .nest_limit(100)
        .build()
        .map_err(|e| explain(&e))
}

fn regex_syntax_check(pattern: &str) -> Result<(), String> {
    RegexBuilder::new(pattern)
        .size_limit(MAX_PROGRAM)
        .nest_limit(100)
        .build()
        .map(drop)
        .map_err(|e| explain(&e))
}

/// The last line of the library's message says what is wrong; the ones before draw it.
fn explain(error: &regex::Error) -> String {
    let text = error.to_string();
    let last = text.lines().last().unwrap_or_default();
    format!(
        "invalid regular expression: {}",
        last.trim_start_matches("error: ")
    )
}
