//! XBackendTrafficPolicy (`gateway.networking.x-k8s.io`, experimental): how a service is used by everybody.

use super::session;
use crate::model::ObjectName;
use crate::model::traffic::{BackendPolicy, RetryConstraint};
use crate::translate::head::Head;
use crate::translate::value::{FieldError, decode, duration, is_subdomain, spec_of};
use serde::Deserialize;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;

/// Group of the API's experiments.
pub const EXPERIMENTAL_GROUP: &str = "gateway.networking.x-k8s.io";
/// The kind.
pub const BACKEND_TRAFFIC: &str = "XBackendTrafficPolicy";

/// The CRD's own bounds.
const MAX_RATE: u32 = 1_000_000;
const HOUR: Duration = Duration::from_secs(3_600);

/// An XBackendTrafficPolicy.
#[derive(Clone, Debug, PartialEq)]
pub struct BackendTrafficSpec {
    /// `targetRefs` that are Services, with their places in the list.
    pub services: Vec<(usize, ObjectName)>,
    /// What it asks for.
    pub policy: Arc<BackendPolicy>,
    /// `creationTimestamp`.
    pub created: Arc<str>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Spec {
    target_refs: Vec<RawTarget>,
    retry_constraint: Option<RawConstraint>,
    session_persistence: Option<session::Raw>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTarget {
    group: String,
    kind: String,
    name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawConstraint {
    budget: Option<RawBudget>,
    min_retry_rate: Option<RawRate>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawBudget {
    percent: Option<u32>,
    interval: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawRate {
    count: Option<u32>,
    interval: Option<String>,
}

fn is_core(group: &str) -> bool {
    matches!(group, "" | "core")
}

pub(super) fn backend_traffic(head: &Head, value: &Value) -> Result<BackendTrafficSpec, FieldError> {
    let raw: Spec = decode(spec_of(value)?, "spec")?;
    let mut services = Vec::new();
    for (i, target) in raw.target_refs.into_iter().enumerate() {
        let at = format!("spec.targetRefs[{i}]");
        if !is_subdomain(&target.name) {
            return Err(FieldError::new(format!("{at}.name"), "is no name of an object"));
        }
        if !is_core(&target.group) {
            return Err(FieldError::new(
                format!("{at}.group"),
                "only the core group is supported",
            ));
        }
        if target.kind != "Service" {
            return Err(FieldError::new(format!("{at}.kind"), "only Service is supported"));
        }
        let name = ObjectName::new(head.key.namespace.as_str(), target.name);
        if !services.iter().any(|(_, known)| *known == name) {
            services.push((i, name));
        }
    }
    if services.is_empty() {
        return Err(FieldError::new(
            "spec.targetRefs",
            "is missing: at least one Service",
        ));
    }
    let place = format!("{BACKEND_TRAFFIC} {}", head.name());
    Ok(BackendTrafficSpec {
        services,
        policy: Arc::new(BackendPolicy {
            object: head.name(),
            session: session::persistence("spec.sessionPersistence", raw.session_persistence, &place)?,
            retries: raw.retry_constraint.map(constraint).transpose()?,
        }),
        created: Arc::clone(&head.created),
    })
}

/// With the CRD's defaults: 20 % within 10 s, and 10 retries a second in any case.
fn constraint(raw: RawConstraint) -> Result<RetryConstraint, FieldError> {
    let at = "spec.retryConstraint";
    let bad = |field: &str, reason: &str| FieldError::new(format!("{at}.{field}"), reason);
    let (budget, rate) = (
        raw.budget.unwrap_or_default(),
        raw.min_retry_rate.unwrap_or_default(),
    );
    let percent = budget.percent.unwrap_or(20);
    if percent > 100 {
        return Err(bad("budget.percent", "expected 0 to 100"));
    }
    let least = rate.count.unwrap_or(10);
    if !(1..=MAX_RATE).contains(&least) {
        return Err(bad("minRetryRate.count", "expected 1 to 1000000"));
    }
    let time = |field: &str, text: Option<String>, default: u64| match text {
        None => Ok(Duration::from_secs(default)),
        Some(text) => duration(&text).map_err(|reason| bad(field, &reason)),
    };
    let interval = time("budget.interval", budget.interval, 10)?;
    if !(Duration::from_secs(1)..=HOUR).contains(&interval) {
        return Err(bad("budget.interval", "expected one second to one hour"));
    }
    let least_in = time("minRetryRate.interval", rate.interval, 1)?;
    if least_in.is_zero() || least_in > HOUR {
        return Err(bad(
            "minRetryRate.interval",
            "expected more than nothing and at most one hour",
        ));
    }
    Ok(RetryConstraint {
        percent,
        interval,
        least,
        least_in,
    })
}

/// The Services that a policy names, as `targetRefs` are written; of one that is refused otherwise, as much as can be.
#[must_use]
pub fn services_of_policy(object: &Value) -> Vec<ObjectName> {
    let namespace = object.pointer("/metadata/namespace").and_then(Value::as_str);
    let targets = object.pointer("/spec/targetRefs").and_then(Value::as_array);
    let mut services: Vec<ObjectName> = Vec::new();
    for target in targets.into_iter().flatten() {
        let text = |field: &str| target.get(field).and_then(Value::as_str).unwrap_or_default();
        let name = ObjectName::new(namespace.unwrap_or("default"), text("name"));
        let is_service = is_core(text("group")) && text("kind") == "Service";
        if is_service && !text("name").is_empty() && !services.contains(&name) {
            services.push(name);
        }
    }
    services
}
