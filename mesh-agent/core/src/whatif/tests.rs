use super::*;
use crate::testing::{WEATHER, state, virtual_service};

fn request(json: &str) -> Request {
    serde_json::from_str(json).unwrap()
}

/// Differences between the weather application without and with these objects.
fn of(yaml: &str, requests: &[&str]) -> Vec<Difference> {
    let before = state(WEATHER).snapshot();
    let after = state(&format!("{WEATHER}\n---\n{yaml}")).snapshot();
    let requests: Vec<Request> = requests.iter().map(|r| request(r)).collect();
    differences(&before, &after, &requests).unwrap()
}

#[test]
fn only_requests_that_would_be_routed_otherwise_are_named_with_shares_and_steps() {
    let canary = virtual_service(
        "canary",
        "[{match: [{headers: {x-tester: {exact: 'yes'}}}], route: [{destination: {host: forecast, subset: v2}}]},
          {match: [{uri: {prefix: /new}}], timeout: 2s, route: [{destination: {host: forecast, subset: v1}, weight: 90},
           {destination: {host: forecast, subset: v2}, weight: 10}]},
          {route: [{destination: {host: forecast}}]}]",
    );
    let client = r#""client": "weather/frontend", "host": "forecast""#;
    let found = of(
        &canary,
        &[
            &format!("{{{client}, \"path\": \"/new/thing\"}}"),
            &format!("{{{client}, \"headers\": {{\"X-Tester\": \"yes\"}}}}"),
            r#"{"client": "weather/frontend", "host": "database:5432"}"#,
        ],
    );
    let places: Vec<usize> = found.iter().map(|d| d.index).collect();
    assert_eq!(places, [0, 1]);
    assert_eq!(found[0].before.rule, None);
    assert_eq!(
        found[0].before.outcomes,
        BTreeMap::from([("weather/forecast:80".into(), 1_000)])
    );
    assert_eq!(
        found[0].after.rule.as_deref(),
        Some("VirtualService weather/canary spec.http[1]")
    );
    assert_eq!(
        found[0].after.outcomes,
        BTreeMap::from([
            ("weather/forecast:80 subset v1".into(), 900),
            ("weather/forecast:80 subset v2".into(), 100)
        ])
    );
    assert_eq!(found[0].after.timeout_ms, Some(2_000));
    assert!(
        found[0].steps.iter().any(|s| s.contains("spec.http[1]")),
        "{:?}",
        found[0].steps
    );
    assert_eq!(found[1].after.outcomes.len(), 1);
}

#[test]
fn a_share_that_would_be_refused_is_seen() {
    let broken = virtual_service(
        "broken",
        "[{route: [{destination: {host: forecast, subset: v1}, weight: 75}, {destination: {host: forecast, subset: nine}, weight: 25}]}]",
    );
    let found = of(&broken, &[r#"{"namespace": "weather", "host": "forecast"}"#]);
    let refused = found[0]
        .after
        .outcomes
        .iter()
        .find(|(what, _)| what.contains("503 NC"));
    assert_eq!(
        refused.map(|(_, share)| *share),
        Some(250),
        "{:?}",
        found[0].after
    );
}

#[test]
fn clients_are_told_apart_by_namespace_and_labels() {
    let rule = virtual_service(
        "testers",
        "[{match: [{sourceLabels: {app: tester}, sourceNamespace: weather}], route: [{destination: {host: forecast, subset: v2}}]}]",
    );
    let found = of(
        &rule,
        &[
            r#"{"namespace": "weather", "labels": {"app": "tester"}, "host": "forecast"}"#,
            r#"{"namespace": "weather", "labels": {"app": "other"}, "host": "forecast"}"#,
            r#"{"namespace": "other", "labels": {"app": "tester"}, "host": "forecast.weather"}"#,
        ],
    );
    let places: Vec<usize> = found.iter().map(|d| d.index).collect();
    assert_eq!(places, [0]);
}

#[test]
fn a_client_that_nobody_knows_is_an_error_that_names_the_request() {
    let world = state(WEATHER).snapshot();
    let requests = [request(r#"{"client": "weather/nobody", "host": "forecast"}"#)];
    let error = differences(&world, &world, &requests).unwrap_err();
    assert!(
        error.contains("request 1") && error.contains("weather/nobody"),
        "{error}"
    );
    assert!(serde_json::from_str::<Request>(r#"{"host": "a", "hots": "b"}"#).is_err());
}

#[test]
fn lines_of_the_access_log_are_requests_of_the_pod_that_sent_them() {
    let line = r#"{"timestamp":"2026-01-01T00:00:00Z","target":"access","src.addr":"10.1.0.1:4000","src.namespace":"weather",
        "dst.addr":"10.1.0.2:8080","direction":"outbound","method":"GET","path":"/new","authority":"forecast"}"#;
    let read = Request::read(line).unwrap().unwrap();
    assert_eq!(
        (read.method.as_str(), read.path.as_str(), read.host.as_str()),
        ("GET", "/new", "forecast")
    );
    let world = state(WEATHER).snapshot();
    assert_eq!(
        client::of(&world, &read).unwrap().pod.to_string(),
        "weather/frontend"
    );
    assert_eq!(Request::read(&line.replace("outbound", "inbound")), Ok(None));
    assert_eq!(
        Request::read(r#"{"timestamp":"2026-01-01T00:00:00Z","message":"started"}"#),
        Ok(None)
    );
    assert!(Request::read(r#"{"host": 5}"#).unwrap_err().contains("host"));
    assert!(Request::read("GET /").is_err());
}
