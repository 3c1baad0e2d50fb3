//! `http[i].retries`.

use super::{Scope, raw};
use crate::model::route::{RetryOn, RetryPolicy};
use crate::translate::value::{FieldError, timeout};
use std::sync::Arc;

/// The mesh's default where nothing is written; zero attempts turn retries off (T-40).
pub(super) fn policy(
    at: &str,
    raw: Option<raw::Retry>,
    scope: &Scope<'_>,
) -> Result<Arc<RetryPolicy>, FieldError> {
    let default = RetryPolicy::mesh_default();
    let Some(raw) = raw else {
        return Ok(RetryPolicy::shared_default());
    };
    let attempts = raw.attempts.unwrap_or(0);
    let attempts = u32::try_from(attempts)
        .map_err(|_| FieldError::new(format!("{at}.attempts"), "attempts cannot be negative"))?;
    if attempts == 0 && (raw.per_try_timeout.is_some() || raw.retry_on.is_some()) {
        let reason = "http retry policy configured when attempts are set to 0 (disabled)";
        return Err(FieldError::new(format!("{at}.attempts"), reason));
    }
    let time = |field: &str, text: Option<String>| match text {
        None => Ok(None),
        Some(text) => timeout(&text)
            .map(|t| Some(t).filter(|t| !t.is_zero()))
            .map_err(|reason| FieldError::new(format!("{at}.{field}"), reason)),
    };
    let policy = RetryPolicy {
        attempts,
        per_try_timeout: time("perTryTimeout", raw.per_try_timeout)?,
        on: match raw.retry_on.filter(|list| !list.trim().is_empty()) {
            None => default.on.clone(),
            Some(list) => {
                let at = format!("{at}.retryOn");
                conditions(&at, &list, scope).map_err(|e| FieldError::new(at, e))?
            }
        },
        backoff: time("backoff", raw.backoff)?.unwrap_or(default.backoff),
        previous_hosts: raw.retry_ignore_previous_hosts == Some(false),
        remote_localities: raw.retry_remote_localities.unwrap_or(false),
    };
    Ok(Arc::new(policy))
}

fn conditions(at: &str, list: &str, scope: &Scope<'_>) -> Result<RetryOn, String> {
    let mut on = RetryOn::default();
    for word in list.split(',').map(str::trim).filter(|w| !w.is_empty()) {
        match word {
            "connect-failure" => on.connect_failure = true,
            "refused-stream" => on.refused_stream = true,
            "reset" | "reset-before-request" => on.reset = true,
            "5xx" => on.server_error = true,
            "gateway-error" => on.gateway_error = true,
            "retriable-4xx" => on.retriable_4xx = true,
            // Stands beside the codes it refers to; on its own it names none.
            "retriable-status-codes" => {}
            "cancelled" => on.grpc.push(1),
            "deadline-exceeded" => on.grpc.push(4),
            "resource-exhausted" => on.grpc.push(8),
            "internal" => on.grpc.push(13),
            "unavailable" => on.grpc.push(14),
            "envoy-ratelimited" => on.rate_limited = true,
            // Accepted by Istio, which has no field to name the headers, and speaks no HTTP/3 inside of the mesh.
            "retriable-headers" | "http3-post-connect-failure" => {
                scope.note(
                    at.to_owned(),
                    &format!("condition {word} is ignored: it never applies in the mesh"),
                );
            }
            code => match code.parse::<u16>() {
                Ok(status) if (100..600).contains(&status) => on.statuses.push(status),
                _ => return Err(format!("{code:?} is no retry condition")),
            },
        }
    }
    Ok(on)
}
