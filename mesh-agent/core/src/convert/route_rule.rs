//! RouteRule → one `http` entry of a VirtualService.

use super::hosts::{Host, Hosts};
use super::matching::{Around, block};
use super::raw::{Abort, Delay, Fault, IstioService, Redirect, RouteRule, Weighted};
use super::{Head, Notes, put, spec};
use crate::translate::value::FieldError;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// What Envoy did where a rule said nothing; now there is no limit.
const THEN_TIMEOUT: &str = "15s";
/// What `simpleRetry` came to.
const THEN_RETRY_ON: &str = "5xx,connect-failure,refused-stream";

/// Reads a rule and files it under its destination.
pub(super) fn take(
    head: &Head,
    object: &Value,
    services: &BTreeMap<(String, String), Value>,
    hosts: &mut Hosts,
    notes: &mut Notes<'_>,
) -> Result<(), FieldError> {
    let raw: RouteRule = spec(object)?;
    refuse_unknown_ways(&raw)?;
    let namespace = head.key.namespace.as_str();
    let host = Host::of("spec.destination", &raw.destination, namespace)?;
    if raw.destination.labels.as_ref().is_some_and(|l| !l.is_empty()) {
        return Err(FieldError::new(
            "spec.destination.labels",
            "a rule is for all versions of its destination: write them in route",
        ));
    }
    let around = Around { namespace, services };
    let mut http = Map::new();
    http.insert("name".into(), head.key.name.as_str().into());
    let matching = raw
        .r#match
        .map(|given| block(given, &around, notes))
        .transpose()?;
    put(&mut http, "match", matching.flatten().map(|block| json!([block])));
    // Names of subsets are taken only once nothing can be refused any more.
    let websocket = raw.websocket_upgrade == Some(true);
    let redirects = raw.redirect.is_some();
    match raw.redirect {
        Some(redirect) => {
            put(&mut http, "redirect", Some(redirection(redirect)));
            notes.add(
                "spec.redirect",
                "the status was 302; 301 is the default now: redirectCode says 302",
            );
        }
        None => put(&mut http, "rewrite", raw.rewrite.map(Redirect::json)),
    }
    if let Some(timeout) = &raw.http_req_timeout {
        let simple = timeout.simple_timeout.as_ref();
        put(
            &mut http,
            "timeout",
            simple.and_then(|simple| simple.timeout.clone()),
        );
    } else if !redirects && !websocket {
        http.insert("timeout".into(), THEN_TIMEOUT.into());
        notes.add(
            "spec.httpReqTimeout",
            "requests ended after 15 s by default; now they never do: timeout says 15s",
        );
    }
    if let Some(retry) = raw.http_req_retries.and_then(|retries| retries.simple_retry) {
        let mut retries = Map::new();
        put(&mut retries, "attempts", retry.attempts);
        put(&mut retries, "perTryTimeout", retry.per_try_timeout);
        retries.insert("retryOn".into(), THEN_RETRY_ON.into());
        http.insert("retries".into(), retries.into());
        notes.add(
            "spec.httpReqRetries",
            format!("the conditions were {THEN_RETRY_ON}; the default is another now: retryOn says them"),
        );
    }
    put(
        &mut http,
        "fault",
        raw.http_fault.map(|fault| faults(fault, notes)),
    );
    put(
        &mut http,
        "corsPolicy",
        raw.cors_policy
            .map(|cors| super::legacy::cors("spec.corsPolicy", cors, notes)),
    );
    if let Some(add) = raw.append_headers.filter(|headers| !headers.is_empty()) {
        notes.add("spec.appendHeaders", "is headers.request.add now");
        http.insert("headers".into(), json!({"request": {"add": add}}));
    }
    if raw.websocket_upgrade.is_some() {
        notes.add(
            "spec.websocketUpgrade",
            "is gone: upgrades are always allowed now",
        );
    }
    if !redirects {
        let mut to = Destinations {
            rule: &raw.destination,
            namespace,
            at_home: host.namespace.clone(),
            hosts,
            notes,
        };
        let route = to.route(raw.route.unwrap_or_default())?;
        http.insert("route".into(), route);
        if let Some(mirror) = &raw.mirror {
            let mirror = to.destination("spec.mirror", mirror, None)?;
            http.insert("mirror".into(), mirror);
        }
    }
    let precedence = raw.precedence.unwrap_or(0);
    let target = host.seen_from(&host.namespace);
    if let Some(other) = hosts.add_rule(host.clone(), precedence, &head.key.name, http.into()) {
        notes.add(
            "spec.precedence",
            format!("RouteRule {other} has the same precedence: their order was open, now it is that of their names"),
        );
    }
    notes.add(
        "",
        format!(
            "is an http rule of VirtualService {}/{target}; precedence {precedence} became its place in the list",
            host.namespace
        ),
    );
    Ok(())
}

/// What has no modern form, or never had any.
fn refuse_unknown_ways(raw: &RouteRule) -> Result<(), FieldError> {
    let custom = "is the proxy's own configuration of then, and has no modern form";
    let header = "timeouts and retries by a header of the rule's choice have no modern form";
    let timeout = raw.http_req_timeout.as_ref();
    let retries = raw.http_req_retries.as_ref();
    let fault = raw.http_fault.as_ref();
    let delay = fault.and_then(|f| f.delay.as_ref());
    let abort = fault.and_then(|f| f.abort.as_ref());
    let simple_timeout = timeout.and_then(|t| t.simple_timeout.as_ref());
    let simple_retry = retries.and_then(|r| r.simple_retry.as_ref());
    let table = [
        (
            raw.l4_fault.is_some(),
            "spec.l4Fault",
            "was never implemented, and has no modern form",
        ),
        (
            timeout.is_some_and(|t| t.custom.is_some()),
            "spec.httpReqTimeout.custom",
            custom,
        ),
        (
            retries.is_some_and(|r| r.custom.is_some()),
            "spec.httpReqRetries.custom",
            custom,
        ),
        (
            simple_timeout.is_some_and(|t| t.override_header_name.is_some()),
            "spec.httpReqTimeout.simpleTimeout.overrideHeaderName",
            header,
        ),
        (
            simple_retry.is_some_and(|r| r.override_header_name.is_some()),
            "spec.httpReqRetries.simpleRetry.overrideHeaderName",
            header,
        ),
        (
            delay.is_some_and(|d| d.exponential_delay.is_some()),
            "spec.httpFault.delay.exponentialDelay",
            "was never implemented: write fixedDelay",
        ),
        (
            delay.is_some_and(|d| d.override_header_name.is_some()),
            "spec.httpFault.delay.overrideHeaderName",
            "faults by a header have no modern form",
        ),
        (
            abort.is_some_and(|a| a.override_header_name.is_some()),
            "spec.httpFault.abort.overrideHeaderName",
            "faults by a header have no modern form",
        ),
        (
            abort.is_some_and(|a| a.http2_error.is_some()),
            "spec.httpFault.abort.http2Error",
            "was never implemented: write httpStatus",
        ),
        (
            raw.redirect.is_some() && (raw.route.is_some() || raw.rewrite.is_some()),
            "spec.redirect",
            "HTTP route cannot contain both route and redirect, or rewrite and redirect",
        ),
    ];
    match table.into_iter().find(|(there, ..)| *there) {
        Some((_, field, reason)) => Err(FieldError::new(field, reason)),
        None => Ok(()),
    }
}

fn redirection(redirect: Redirect) -> Value {
    let mut value = redirect.json();
    value["redirectCode"] = 302.into();
    value
}

impl Redirect {
    fn json(self) -> Value {
        let mut value = Map::new();
        put(&mut value, "uri", self.uri);
        put(&mut value, "authority", self.authority);
        value.into()
    }
}

fn faults(fault: Fault, notes: &mut Notes<'_>) -> Value {
    let mut value = Map::new();
    put(
        &mut value,
        "delay",
        fault.delay.map(|delay| delayed(delay, notes)),
    );
    put(
        &mut value,
        "abort",
        fault.abort.map(|abort| aborted(abort, notes)),
    );
    value.into()
}

fn percentage(at: &str, percent: Option<f64>, notes: &mut Notes<'_>) -> Value {
    match percent {
        Some(_) => notes.add(format!("{at}.percent"), "is percentage.value now"),
        None => notes.add(
            format!("{at}.percent"),
            "is missing, which is and was 0: no request is affected",
        ),
    }
    json!({"value": percent.unwrap_or(0.0)})
}

fn delayed(delay: Delay, notes: &mut Notes<'_>) -> Value {
    let mut value = Map::new();
    put(&mut value, "fixedDelay", delay.fixed_delay);
    value.insert(
        "percentage".into(),
        percentage("spec.httpFault.delay", delay.percent, notes),
    );
    value.into()
}

fn aborted(abort: Abort, notes: &mut Notes<'_>) -> Value {
    let mut value = Map::new();
    put(&mut value, "httpStatus", abort.http_status);
    put(&mut value, "grpcStatus", abort.grpc_status);
    value.insert(
        "percentage".into(),
        percentage("spec.httpFault.abort", abort.percent, notes),
    );
    value.into()
}

/// Where a rule sends requests.
struct Destinations<'a, 'n> {
    rule: &'a IstioService,
    /// Of the RouteRule.
    namespace: &'a str,
    /// Of the VirtualService.
    at_home: String,
    hosts: &'a mut Hosts,
    notes: &'a mut Notes<'n>,
}

impl Destinations<'_, '_> {
    fn route(&mut self, given: Vec<Weighted>) -> Result<Value, FieldError> {
        if given.is_empty() {
            let destination = self.destination("spec.destination", &self.rule.clone(), None)?;
            return Ok(json!([{"destination": destination}]));
        }
        let alone = given.len() == 1;
        let weights: i64 = given.iter().map(|w| i64::from(w.weight.unwrap_or(0))).sum();
        if let Some(i) = given.iter().position(|w| w.weight.is_some_and(|w| w < 0)) {
            return Err(FieldError::new(format!("spec.route[{i}].weight"), "weight < 0"));
        }
        if !alone && weights == 0 {
            return Err(FieldError::new("spec.route", "total destination weight = 0"));
        }
        if !alone && weights != 100 {
            self.notes.add(
                "spec.route",
                format!("weights sum up to {weights}, not 100: they are shares of their sum now"),
            );
        }
        let mut route = Vec::new();
        for (i, weighted) in given.into_iter().enumerate() {
            let at = format!("spec.route[{i}]");
            let rule = self.rule.clone();
            let service = weighted.destination.as_ref().unwrap_or(&rule);
            let labels = weighted.labels.as_ref().or(service.labels.as_ref());
            let mut entry = Map::new();
            entry.insert("destination".into(), self.destination(&at, service, labels)?);
            if !alone {
                entry.insert("weight".into(), weighted.weight.unwrap_or(0).into());
            }
            route.push(Value::Object(entry));
        }
        Ok(route.into())
    }

    fn destination(
        &mut self,
        at: &str,
        service: &IstioService,
        labels: Option<&BTreeMap<String, String>>,
    ) -> Result<Value, FieldError> {
        let host = Host::of(at, service, self.namespace)?;
        let labels = labels.or(service.labels.as_ref());
        let subset = self.hosts.subset(&host, labels);
        if let (Some(subset), Some(labels)) = (&subset, labels) {
            let pairs: Vec<String> = labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
            self.notes.add(
                format!("{at}.labels"),
                format!(
                    "{} is subset {subset} of the DestinationRule for {}",
                    pairs.join(","),
                    host.host
                ),
            );
        }
        let mut value = Map::new();
        value.insert("host".into(), host.seen_from(&self.at_home).into());
        put(&mut value, "subset", subset);
        Ok(value.into())
    }
}
