//! DestinationPolicy → `trafficPolicy` of a DestinationRule, or of one of its subsets.

use super::hosts::{Host, Hosts};
use super::raw::{DestinationPolicy, LoadBalancing, SimpleCb};
use super::{Head, Notes, put, spec};
use crate::translate::value::FieldError;
use serde_json::{Map, Value, json};

/// Envoy's limits of then, which held where a policy named none.
const THEN_PENDING: i32 = 1_024;
const THEN_REQUESTS: i32 = 1_024;
const THEN_RETRIES: i32 = 3;
const THEN_ERRORS: i32 = 5;

/// Reads a policy and files it under its destination.
pub(super) fn take(
    head: &Head,
    object: &Value,
    hosts: &mut Hosts,
    notes: &mut Notes<'_>,
) -> Result<(), FieldError> {
    let raw: DestinationPolicy = spec(object)?;
    let custom = "is the proxy's own configuration of then, and has no modern form";
    let source = raw.source.as_ref();
    let refused = [
        (
            source.is_some_and(|s| s.name.is_some() || s.service.is_some() || s.labels.is_some()),
            "spec.source",
            "a DestinationRule is for all callers: there is no modern form of a policy for one of them",
        ),
        (raw.custom.is_some(), "spec.custom", custom),
        (
            raw.load_balancing.as_ref().is_some_and(|l| l.custom.is_some()),
            "spec.loadBalancing.custom",
            custom,
        ),
        (
            raw.circuit_breaker.as_ref().is_some_and(|c| c.custom.is_some()),
            "spec.circuitBreaker.custom",
            custom,
        ),
    ];
    if let Some((_, field, reason)) = refused.into_iter().find(|(there, ..)| *there) {
        return Err(FieldError::new(field, reason));
    }
    let mut policy = Map::new();
    if let Some(balancing) = raw.load_balancing {
        put(&mut policy, "loadBalancer", balancer(balancing, notes)?);
    }
    if let Some(breaker) = raw.circuit_breaker.and_then(|c| c.simple_cb) {
        policy.insert("connectionPool".into(), pool(&breaker, notes));
        policy.insert("outlierDetection".into(), outliers(&breaker, notes));
    }
    if policy.is_empty() {
        return Err(FieldError::new(
            "spec",
            "says nothing: loadBalancing or circuitBreaker",
        ));
    }
    let host = Host::of("spec.destination", &raw.destination, &head.key.namespace)?;
    let subset = hosts.subset(&host, raw.destination.labels.as_ref());
    let place = match &subset {
        None => format!(
            "trafficPolicy of DestinationRule {}/{}",
            host.namespace, host.host
        ),
        Some(subset) => format!(
            "trafficPolicy of subset {subset} of DestinationRule {}/{}",
            host.namespace, host.host
        ),
    };
    if hosts.set_policy(&host, subset.as_deref(), policy.into()) {
        return Err(FieldError::new(
            "spec.destination",
            "another DestinationPolicy is for the same destination: which of them held was open",
        ));
    }
    notes.add("", format!("is the {place}"));
    Ok(())
}

fn balancer(given: LoadBalancing, notes: &mut Notes<'_>) -> Result<Option<Value>, FieldError> {
    let at = "spec.loadBalancing.name";
    let name = match given.name.as_deref() {
        None => return Ok(None),
        Some(name @ ("ROUND_ROBIN" | "RANDOM")) => name,
        Some("LEAST_CONN") => {
            notes.add(at, "LEAST_CONN is LEAST_REQUEST now");
            "LEAST_REQUEST"
        }
        Some(other) => {
            let reason =
                format!("{other:?} was never a load balancer: expected ROUND_ROBIN, LEAST_CONN or RANDOM");
            return Err(FieldError::new(at, reason));
        }
    };
    Ok(Some(json!({"simple": name})))
}

fn pool(given: &SimpleCb, notes: &mut Notes<'_>) -> Value {
    let defaults = [
        (
            "httpMaxPendingRequests",
            given.http_max_pending_requests,
            THEN_PENDING,
        ),
        ("httpMaxRequests", given.http_max_requests, THEN_REQUESTS),
        ("httpMaxRetries", given.http_max_retries, THEN_RETRIES),
    ];
    for (field, _, then) in defaults.iter().filter(|(_, given, _)| given.is_none()) {
        notes.add(
            format!("spec.circuitBreaker.simpleCb.{field}"),
            format!("was {then} by default; there is no limit now: the limit of then is written"),
        );
    }
    let mut http = Map::new();
    http.insert(
        "http1MaxPendingRequests".into(),
        given.http_max_pending_requests.unwrap_or(THEN_PENDING).into(),
    );
    http.insert(
        "http2MaxRequests".into(),
        given.http_max_requests.unwrap_or(THEN_REQUESTS).into(),
    );
    http.insert(
        "maxRetries".into(),
        given.http_max_retries.unwrap_or(THEN_RETRIES).into(),
    );
    put(
        &mut http,
        "maxRequestsPerConnection",
        given.http_max_requests_per_connection,
    );
    let mut pool = Map::new();
    if let Some(connections) = given.max_connections {
        pool.insert("tcp".into(), json!({"maxConnections": connections}));
    }
    pool.insert("http".into(), http.into());
    pool.into()
}

fn outliers(given: &SimpleCb, notes: &mut Notes<'_>) -> Value {
    notes.add(
        "spec.circuitBreaker.simpleCb",
        "also took hosts that fail out of balancing, by default after 5 errors: outlierDetection says so",
    );
    let mut outliers = Map::new();
    outliers.insert(
        "consecutive5xxErrors".into(),
        given.http_consecutive_errors.unwrap_or(THEN_ERRORS).into(),
    );
    put(&mut outliers, "interval", given.http_detection_interval.clone());
    put(&mut outliers, "baseEjectionTime", given.sleep_window.clone());
    put(
        &mut outliers,
        "maxEjectionPercent",
        given.http_max_ejection_percent,
    );
    outliers.into()
}
