//! Conditions of HTTPRoutes and GRPCRoutes, and how specific they are.

use super::raw;
use super::{Rank, RouteKind};
use crate::model::route::{RequestMatch, StringMatch, ValueMatch};
use crate::translate::value::{FieldError, is_header_name};
use crate::translate::virtual_service::regex;
use std::sync::Arc;

/// Place of a kind of path match: a regular expression, whose place the API leaves open, comes behind every path that
/// says more than `/` and before `/`, which would leave nothing to it.
mod class {
    pub(super) const EVERYTHING: u32 = 0;
    pub(super) const REGEX: u32 = 1;
    pub(super) const PREFIX: u32 = 2;
    pub(super) const EXACT: u32 = 3;
}

/// Of a rule without `matches`.
pub(super) fn rank_of_everything(kind: RouteKind) -> Rank {
    match kind {
        RouteKind::Http => Rank([class::EVERYTHING, 1, 0, 0, 0]),
        _ => Rank::default(),
    }
}

/// All `matches` of the rule at `at`, each by `one`.
pub(super) fn of_rule<R, M>(
    at: &str,
    raw: Option<Vec<R>>,
    one: fn(&str, R) -> Result<M, FieldError>,
) -> Result<Vec<M>, FieldError> {
    let blocks = raw.into_iter().flatten().enumerate();
    blocks
        .map(|(i, block)| one(&format!("{at}.matches[{i}]"), block))
        .collect()
}

/// One of an HTTPRoute's `matches`.
pub(super) fn http(at: &str, raw: raw::HttpMatch) -> Result<(Rank, RequestMatch), FieldError> {
    let (class, length, uri) = path(&format!("{at}.path"), raw.path)?;
    let method = raw
        .method
        .map(|m| method(&format!("{at}.method"), m))
        .transpose()?;
    let mut block = RequestMatch {
        uri,
        method,
        ..RequestMatch::default()
    };
    let headers = raw.headers.unwrap_or_default();
    let headers = headers_of(&format!("{at}.headers"), headers, &mut block)?;
    block.query = parameters(&format!("{at}.queryParams"), raw.query_params.unwrap_or_default())?;
    let rank = Rank([
        class,
        length,
        u32::from(block.method.is_some()),
        headers,
        size(block.query.len()),
    ]);
    Ok((rank, block))
}

/// One of a GRPCRoute's `matches`: its method is a path.
pub(super) fn grpc(at: &str, raw: raw::GrpcMatch) -> Result<(Rank, RequestMatch), FieldError> {
    let mut block = RequestMatch::default();
    let (mut service, mut method) = (0, 0);
    if let Some(wanted) = raw.method {
        let given = |text: Option<String>| text.filter(|t| !t.is_empty());
        let (of_service, of_method) = (given(wanted.service), given(wanted.method));
        service = size(of_service.as_deref().map_or(0, |t| t.chars().count()));
        method = size(of_method.as_deref().map_or(0, |t| t.chars().count()));
        let at = format!("{at}.method");
        block.uri = Some(grpc_path(&at, wanted.r#type.as_deref(), of_service, of_method)?);
    }
    let headers = raw.headers.unwrap_or_default();
    let headers = headers_of(&format!("{at}.headers"), headers, &mut block)?;
    Ok((Rank([service, method, headers, 0, 0]), block))
}

fn grpc_path(
    at: &str,
    kind: Option<&str>,
    service: Option<String>,
    method: Option<String>,
) -> Result<StringMatch, FieldError> {
    let exact = match kind {
        None | Some("Exact") => true,
        Some("RegularExpression") => false,
        Some(other) => return Err(unsupported(at, other, "Exact or RegularExpression")),
    };
    let slash = |text: &Option<String>| text.as_ref().is_some_and(|t| t.contains('/'));
    if exact && (slash(&service) || slash(&method)) {
        return Err(FieldError::new(at, "a name of a service or method has no slash"));
    }
    let pattern = match (exact, service, method) {
        (_, None, None) => return Err(FieldError::new(at, "expected service or method")),
        (true, Some(service), Some(method)) => {
            return Ok(StringMatch::Exact(format!("/{service}/{method}").into()));
        }
        (true, Some(service), None) => return Ok(StringMatch::Prefix(format!("/{service}/").into())),
        (true, None, Some(method)) => format!("/[^/]+/{}", regex::escape(&method)),
        (false, service, method) => {
            let part = |text: Option<String>| text.map_or_else(|| "[^/]+".to_owned(), |t| format!("(?:{t})"));
            format!("/{}/{}", part(service), part(method))
        }
    };
    compile(at, &pattern)
}

fn path(at: &str, raw: Option<raw::ValueMatch>) -> Result<(u32, u32, Option<StringMatch>), FieldError> {
    let (kind, value) = raw.map_or((None, None), |raw| (raw.r#type, raw.value));
    let value = value.unwrap_or_else(|| "/".into());
    let kind = kind.as_deref().unwrap_or("PathPrefix");
    let length = |text: &str| size(text.chars().count());
    if matches!(kind, "Exact" | "PathPrefix") {
        check_path(at, &value)?;
    }
    match kind {
        "Exact" => Ok((
            class::EXACT,
            length(&value),
            Some(StringMatch::Exact(value.into())),
        )),
        "PathPrefix" => match value.trim_end_matches('/') {
            "" => Ok((class::EVERYTHING, 1, None)),
            prefix => Ok((
                class::PREFIX,
                length(prefix),
                Some(StringMatch::PathPrefix(prefix.into())),
            )),
        },
        "RegularExpression" => Ok((class::REGEX, length(&value), Some(compile(at, &value)?))),
        other => Err(unsupported(at, other, "Exact, PathPrefix or RegularExpression")),
    }
}

fn check_path(at: &str, value: &str) -> Result<(), FieldError> {
    let reason = if !value.starts_with('/') {
        "must begin with /"
    } else if value.contains("//") {
        "must not contain //"
    } else if value.split('/').any(|segment| segment == "." || segment == "..") {
        "must not contain /./ or /../"
    } else if value.contains(['#', '?']) {
        "must not contain # or ?"
    } else {
        return Ok(());
    };
    Err(FieldError::new(format!("{at}.value"), reason))
}

fn method(at: &str, given: String) -> Result<StringMatch, FieldError> {
    match given.as_str() {
        "GET" | "HEAD" | "POST" | "PUT" | "DELETE" | "CONNECT" | "OPTIONS" | "TRACE" | "PATCH" => {
            Ok(StringMatch::Exact(given.into()))
        }
        other => Err(FieldError::new(at, format!("{other:?} is no method"))),
    }
}

/// Returns the number of conditions. `Host` is a request's authority, whichever version of HTTP carries it.
fn headers_of(at: &str, given: Vec<raw::NamedMatch>, block: &mut RequestMatch) -> Result<u32, FieldError> {
    let mut count = 0;
    for (i, raw) in given.into_iter().enumerate() {
        let at = format!("{at}[{i}]");
        let name = raw.name.to_ascii_lowercase();
        if !is_header_name(&name) {
            return Err(FieldError::new(format!("{at}.name"), "is no header name"));
        }
        let value = value_match(&at, raw.r#type.as_deref(), raw.value)?;
        if name == "host" {
            if block.authority.is_none() {
                block.authority = Some(value);
                count += 1;
            }
        } else if !block.headers.iter().any(|(n, _)| **n == name) {
            // Of equivalent names only the first counts.
            block.headers.push((name.into(), ValueMatch::Value(value)));
            count += 1;
        }
    }
    Ok(count)
}

fn parameters(at: &str, given: Vec<raw::NamedMatch>) -> Result<Vec<(Arc<str>, ValueMatch)>, FieldError> {
    let mut parameters: Vec<(Arc<str>, ValueMatch)> = Vec::new();
    for (i, raw) in given.into_iter().enumerate() {
        let at = format!("{at}[{i}]");
        if raw.name.is_empty() {
            return Err(FieldError::new(format!("{at}.name"), "is missing"));
        }
        let value = value_match(&at, raw.r#type.as_deref(), raw.value)?;
        if !parameters.iter().any(|(n, _)| **n == raw.name) {
            parameters.push((raw.name.into(), ValueMatch::Value(value)));
        }
    }
    Ok(parameters)
}

fn value_match(at: &str, kind: Option<&str>, value: String) -> Result<StringMatch, FieldError> {
    match kind {
        None | Some("Exact") => Ok(StringMatch::Exact(value.into())),
        Some("RegularExpression") => compile(&format!("{at}.value"), &value),
        Some(other) => Err(unsupported(at, other, "Exact or RegularExpression")),
    }
}

fn compile(at: &str, pattern: &str) -> Result<StringMatch, FieldError> {
    regex(pattern)
        .map(Box::new)
        .map(StringMatch::Regex)
        .map_err(|reason| FieldError::new(at, reason))
}

fn unsupported(at: &str, given: &str, expected: &str) -> FieldError {
    FieldError::new(
        format!("{at}.type"),
        format!("{given:?} is not known: expected {expected}"),
    )
}

fn size(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
