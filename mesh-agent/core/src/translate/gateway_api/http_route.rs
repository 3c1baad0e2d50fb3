//! HTTPRoute.

use super::common::{self, Scope, rule_name};
use super::filters::{self, Action, session};
use super::{ApiRouteSpec, RouteKind, matches, raw};
use crate::model::route::{PathChange, RequestMatch, RetryOn, RetryPolicy, StringMatch};
use crate::model::snapshot::MeshSettings;
use crate::translate::head::Head;
use crate::translate::value::{FieldError, duration};
use serde_json::Value;
use std::time::Duration;

pub(super) fn http_route(
    head: &Head,
    value: &Value,
    settings: &MeshSettings,
) -> Result<ApiRouteSpec, FieldError> {
    common::route(RouteKind::Http, head, value, settings, compile)
}

fn compile(
    rules: Option<Vec<raw::HttpRule>>,
    scope: &mut Scope<'_>,
    spec: &mut ApiRouteSpec,
) -> Result<(), FieldError> {
    let rules = rules.filter(|r| !r.is_empty()).unwrap_or_else(everything);
    let mut names = Vec::new();
    for (index, raw) in rules.into_iter().enumerate() {
        let at = format!("spec.rules[{index}]");
        let name = rule_name(&at, raw.name, &mut names)?;
        let blocks = matches::of_rule(&at, raw.matches, matches::http)?;
        let filters = filters::rule_filters(&at, raw.filters.unwrap_or_default(), scope)?;
        let split = common::split(&at, raw.backend_refs.unwrap_or_default(), scope)?;
        if filters.redirect.is_some() && !split.destinations.is_empty() {
            let reason = "a rule that redirects has no backends";
            return Err(FieldError::new(format!("{at}.backendRefs"), reason));
        }
        if let Some(change) = filters.path_change() {
            check_prefix(&at, change, blocks.iter().map(|(_, block)| block))?;
        }
        let (timeout, per_try) = timeouts(&format!("{at}.timeouts"), raw.timeouts)?;
        let retries = retries(&format!("{at}.retry"), raw.retry, per_try)?;
        let action = Action {
            filters,
            split,
            timeout,
            retries,
            session: session(&at, index, raw.session_persistence, scope)?,
        };
        action.into_rules(index, name, blocks, scope, &mut spec.rules);
    }
    Ok(())
}

/// The CRD's default where `rules` is absent: a rule that matches everything and has nowhere to send it.
fn everything() -> Vec<raw::HttpRule> {
    serde_json::from_str("[{}]").unwrap_or_default()
}

/// `ReplacePrefixMatch` only where every match is a prefix: elsewhere there is nothing to replace.
fn check_prefix<'a>(
    at: &str,
    change: &PathChange,
    mut blocks: impl Iterator<Item = &'a RequestMatch>,
) -> Result<(), FieldError> {
    let prefixed = |block: &RequestMatch| matches!(block.uri, None | Some(StringMatch::PathPrefix(_)));
    if matches!(change, PathChange::PrefixSegments(_)) && !blocks.all(prefixed) {
        let reason = "ReplacePrefixMatch needs matches of type PathPrefix";
        return Err(FieldError::new(format!("{at}.filters"), reason));
    }
    Ok(())
}

/// Time for the request, and for each try. Zero is no end.
fn timeouts(
    at: &str,
    raw: Option<raw::Timeouts>,
) -> Result<(Option<Duration>, Option<Duration>), FieldError> {
    let Some(raw) = raw else {
        return Ok((None, None));
    };
    let time = |field: &str, text: Option<String>| match text {
        None => Ok(None),
        Some(text) => duration(&text)
            .map(|t| Some(t).filter(|t| !t.is_zero()))
            .map_err(|reason| FieldError::new(format!("{at}.{field}"), reason)),
    };
    let request = time("request", raw.request)?;
    let backend = time("backendRequest", raw.backend_request)?;
    match (request, backend) {
        (Some(request), Some(backend)) if backend > request => Err(FieldError::new(
            format!("{at}.backendRequest"),
            "cannot be longer than request",
        )),
        _ => Ok((request, backend)),
    }
}

fn retries(
    at: &str,
    raw: Option<raw::Retry>,
    per_try_timeout: Option<Duration>,
) -> Result<Option<RetryPolicy>, FieldError> {
    let default = RetryPolicy::mesh_default();
    let Some(raw) = raw else {
        return Ok(per_try_timeout.map(|_| RetryPolicy {
            per_try_timeout,
            ..default.clone()
        }));
    };
    let codes = raw.codes.unwrap_or_default();
    if let Some(i) = codes.iter().position(|code| !(400..600).contains(code)) {
        return Err(FieldError::new(format!("{at}.codes[{i}]"), "expected 400 to 599"));
    }
    let backoff = match raw.backoff {
        None => default.backoff,
        Some(text) => duration(&text).map_err(|e| FieldError::new(format!("{at}.backoff"), e))?,
    };
    Ok(Some(RetryPolicy {
        attempts: raw.attempts.unwrap_or(default.attempts),
        per_try_timeout,
        on: RetryOn {
            connect_failure: true,
            refused_stream: true,
            reset: true,
            try_timeout: true,
            statuses: codes,
            ..RetryOn::default()
        },
        backoff,
        ..default.clone()
    }))
}
