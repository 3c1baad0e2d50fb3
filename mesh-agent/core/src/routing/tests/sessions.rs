//! Sessions of Gateway API, and XBackendTrafficPolicies: (objects, request) → decision.

use super::*;
use crate::model::ObjectName;
use crate::model::traffic::Carrier;
use crate::state::{ObjectKey, State};
use crate::testing::{Fields, Request, WEATHER, documents, list, state};
use crate::translate::gateway_api::{BACKEND_TRAFFIC, EXPERIMENTAL_GROUP};

fn route(rule: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: r, namespace: weather}}\n\
         spec: {{parentRefs: [{{group: '', kind: Service, name: forecast}}], rules: [{rule}]}}"
    )
}

fn policy(name: &str, created: u32, services: &str, rest: &str) -> String {
    let targets: Vec<String> = services
        .split_whitespace()
        .map(|name| format!("{{group: '', kind: Service, name: {name}}}"))
        .collect();
    format!(
        "apiVersion: gateway.networking.x-k8s.io/v1alpha1\nkind: XBackendTrafficPolicy\n\
         metadata: {{name: {name}, namespace: weather, creationTimestamp: '2024-01-0{created}T00:00:00Z'}}\n\
         spec: {{targetRefs: [{}]{rest}}}",
        targets.join(", ")
    )
}

fn with(objects: &[String]) -> State {
    let mut state = state(WEATHER);
    let mut all = documents(WEATHER);
    all.extend(objects.iter().flat_map(|o| documents(o)));
    list(&mut state, &all);
    state
}

/// The cookie that says that this endpoint served, as a client sends it.
fn shown(plan: &RoutePlan, endpoint: &str) -> String {
    let session = Session::of(plan.persistence().unwrap(), &Fields(&[]), 1);
    let (field, cookie) = session.begins(endpoint.parse().unwrap()).unwrap();
    assert_eq!(field, "set-cookie");
    cookie.split(';').next().unwrap().to_owned()
}

/// GEP-1619: weights are for those who have no session.
#[test]
fn a_session_stays_with_its_service_whatever_the_weights_say() {
    let refs = "backendRefs: [{name: forecast, port: 80}, {name: database, port: 5432}]";
    let mut state = with(&[route(&format!("{{{refs}, sessionPersistence: {{}}}}"))]);
    let snapshot = state.snapshot();
    let service = |cookie: Option<&str>, split: u32| {
        let headers: Vec<_> = cookie.map(|cookie| ("cookie", cookie)).into_iter().collect();
        let draws = Draws {
            split,
            ..Draws::default()
        };
        let plan = Request {
            headers: &headers,
            draws,
            ..Request::default()
        }
        .plan(&snapshot);
        plan.upstream.service.unwrap().name.name.to_string()
    };
    let plan = Request::default().plan(&snapshot);
    let (forecast, database) = (shown(&plan, "10.1.0.2:8080"), shown(&plan, "10.2.0.2:5432"));
    let gone = shown(&plan, "10.9.9.9:8080");
    for (cookie, split, wanted) in [
        (None, 0, "forecast"),
        (None, u32::MAX, "database"),
        (Some(&forecast), u32::MAX, "forecast"),
        (Some(&database), 0, "database"),
        (Some(&gone), 0, "forecast"),
        (Some(&gone), u32::MAX, "database"),
    ] {
        let found = service(cookie.map(String::as_str), split);
        assert_eq!(found, wanted, "{cookie:?} {split}");
    }
}

/// `heddle why`.
#[test]
fn an_explanation_names_the_session_and_the_policy_of_the_service() {
    let policy = policy("p", 1, "forecast", ", retryConstraint: {}");
    let own = route("{backendRefs: [{name: forecast, port: 80}], sessionPersistence: {sessionName: mine}}");
    let snapshot = with(&[policy, own]).snapshot();
    let lines = Request::default().facts(&snapshot, |facts| explain_request(&snapshot, facts));
    let text = lines.join("\n");
    assert!(
        text.contains("sessions by cookie mine: the client has none"),
        "{text}"
    );
    let of_service = "by XBackendTrafficPolicy weather/p: at most 20 % retries";
    assert!(text.contains(of_service), "{text}");
}

/// GEP-1619, GEP-3388: a rule's own word comes before the service's, which comes before none.
#[test]
fn what_a_service_asks_for_holds_for_its_clients_unless_their_rule_says_otherwise() {
    let session = ", sessionPersistence: {type: Header, sessionName: X-Session, absoluteTimeout: 1h}";
    let retries = ", retryConstraint: {budget: {percent: 30, interval: 5s}}";
    let policy = policy("p", 1, "forecast", &format!("{session}{retries}"));
    let mut state = with(std::slice::from_ref(&policy));
    let snapshot = state.snapshot();
    let plan = Request::default().plan(&snapshot);
    let found = plan.persistence().unwrap();
    assert_eq!((found.carrier, &*found.name), (Carrier::Header, "x-session"));
    let constraint = plan.upstream.backend.as_ref().unwrap().retries.as_ref().unwrap();
    let (percent, interval, least) = (constraint.percent, constraint.interval, constraint.least);
    assert_eq!(
        (percent, interval.as_secs(), least, constraint.least_in.as_secs()),
        (30, 5, 10, 1)
    );
    let service = plan.upstream.service.as_ref().unwrap();
    assert!(
        service.ports.iter().all(|p| snapshot.steered.contains(&p.id)),
        "the kernel sees no request"
    );
    let other = Request {
        authority: "database",
        to: "10.96.0.2:5432",
        ..Request::default()
    };
    assert!(other.plan(&snapshot).upstream.backend.is_none());
    let own = route("{backendRefs: [{name: forecast, port: 80}], sessionPersistence: {sessionName: mine}}");
    let mut state = with(&[policy, own]);
    let plan = Request::default().plan(&state.snapshot());
    assert_eq!(&*plan.persistence().unwrap().name, "mine");
    assert!(plan.upstream.backend.is_some(), "its constraint still holds");
}

#[test]
fn of_two_policies_for_a_service_the_older_applies_and_each_is_told() {
    let session = |name: &str| format!(", sessionPersistence: {{sessionName: {name}}}");
    let young = policy("a-young", 2, "forecast database", &session("young"));
    let old = policy("b-old", 1, "forecast gone", &session("old"));
    let mut state = with(&[young, old]);
    let plan = Request::default().plan(&state.snapshot());
    assert_eq!(&*plan.persistence().unwrap().name, "old");
    let mut said = |name: &str, service: &str| {
        let key = ObjectKey {
            kind: BACKEND_TRAFFIC.into(),
            group: EXPERIMENTAL_GROUP.into(),
            namespace: "weather".into(),
            name: name.into(),
        };
        let said = state.backend_traffic_status(&key, &[ObjectName::new("weather", service)]);
        (said[0].holds, said[0].reason)
    };
    assert_eq!(said("a-young", "forecast"), (false, "Conflicted"));
    assert_eq!(said("a-young", "database"), (true, "Accepted"));
    assert_eq!(said("b-old", "forecast"), (true, "Accepted"));
    assert_eq!(said("b-old", "gone"), (false, "TargetNotFound"));
    let problems: Vec<String> = state.problems().iter().map(|p| p.rejected.to_string()).collect();
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(
        problems[0].contains("spec.targetRefs[0]: Service weather/forecast has the older"),
        "{problems:?}"
    );
    assert!(
        problems[1].contains("spec.targetRefs[1]: Service weather/gone is not there"),
        "{problems:?}"
    );
}

/// The CRD's bounds, and those of HTTP.
#[test]
fn a_policy_that_cannot_be_kept_is_refused_by_its_field() {
    for (rest, field) in [
        (
            ", retryConstraint: {budget: {percent: 101}}",
            "retryConstraint.budget.percent",
        ),
        (
            ", retryConstraint: {budget: {interval: 2h}}",
            "retryConstraint.budget.interval",
        ),
        (
            ", retryConstraint: {minRetryRate: {count: 0}}",
            "retryConstraint.minRetryRate.count",
        ),
        (
            ", retryConstraint: {minRetryRate: {interval: 0s}}",
            "retryConstraint.minRetryRate.interval",
        ),
        (
            ", sessionPersistence: {absoluteTimeout: soon}",
            "sessionPersistence.absoluteTimeout",
        ),
        (", sessionPersistence: {type: Query}", "sessionPersistence.type"),
        (", timeout: 1s", "timeout"),
    ] {
        let mut state = with(&[policy("p", 1, "forecast", rest)]);
        assert!(state.snapshot().backend_policies.is_empty());
        let problems = state.problems();
        assert_eq!(
            problems[0].rejected.field,
            format!("spec.{field}"),
            "{problems:?}"
        );
    }
}
