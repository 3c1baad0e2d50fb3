//! Which PeerAuthentication speaks for a port of a pod.

use super::*;
use crate::model::peer::PeerMode;

fn policy(namespace: &str, name: &str, spec: &str) -> Value {
    let text = format!(
        "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\n\
         metadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n"
    );
    documents(&text).remove(0)
}

fn deleted(name: &str) -> Change {
    Change::Delete(ObjectKey {
        kind: "PeerAuthentication".into(),
        group: "security.istio.io".into(),
        namespace: "weather".into(),
        name: name.into(),
    })
}

fn aged(mut object: Value, created: &str) -> Value {
    object["metadata"]["creationTimestamp"] = created.into();
    object
}

/// Mode of a port of pod `forecast-v1`, and who says so.
fn rule(state: &mut State, port: u16) -> (PeerMode, String) {
    let pod = pod(state, "forecast-v1");
    let rule = state.snapshot().peer_rule(&pod, port);
    let by = rule.by.map(|(object, field)| format!("{object} {field}"));
    (rule.mode, by.unwrap_or_default())
}

#[test]
fn the_narrowest_peer_authentication_that_says_something_wins() {
    let mut state = state(WEATHER);
    assert_eq!(rule(&mut state, 8080), (PeerMode::Permissive, String::new()));
    let strict = "{mtls: {mode: STRICT}}";
    let steps = [
        (
            policy("istio-system", "mesh", strict),
            PeerMode::Strict,
            "istio-system/mesh spec.mtls.mode",
        ),
        (
            policy("weather", "inherits", "{mtls: {mode: UNSET}}"),
            PeerMode::Strict,
            "istio-system/mesh spec.mtls.mode",
        ),
        (
            policy("weather", "inherits", "{mtls: {mode: DISABLE}}"),
            PeerMode::Disable,
            "weather/inherits spec.mtls.mode",
        ),
        (
            policy(
                "istio-system",
                "all-forecasts",
                "{selector: {matchLabels: {app: forecast}}, mtls: {mode: STRICT}}",
            ),
            PeerMode::Strict,
            "istio-system/all-forecasts spec.mtls.mode",
        ),
        (
            policy(
                "weather",
                "others",
                "{selector: {matchLabels: {app: database}}, mtls: {mode: PERMISSIVE}}",
            ),
            PeerMode::Strict,
            "istio-system/all-forecasts spec.mtls.mode",
        ),
        (
            policy(
                "weather",
                "forecast",
                "{selector: {matchLabels: {app: forecast}}, mtls: {mode: STRICT}, \
                 portLevelMtls: {8080: {mode: PERMISSIVE}, 9090: {mode: UNSET}}}",
            ),
            PeerMode::Permissive,
            "weather/forecast spec.portLevelMtls.8080.mode",
        ),
    ];
    for (object, mode, by) in steps {
        apply(&mut state, object.clone(), "policy.yaml");
        assert_eq!(rule(&mut state, 8080), (mode, by.to_owned()), "after {object}");
    }
    let of_port = (PeerMode::Strict, "weather/forecast spec.mtls.mode".to_owned());
    assert_eq!(rule(&mut state, 9090), of_port, "UNSET of a port is the pod's");
    assert_eq!(state.problems(), []);
}

#[test]
fn of_two_peer_authentications_for_the_same_pods_the_older_wins_and_the_other_is_told() {
    let mut state = state(WEATHER);
    let young = policy("weather", "a-young", "{mtls: {mode: PERMISSIVE}}");
    let old = policy("weather", "b-old", "{mtls: {mode: STRICT}}");
    apply(&mut state, aged(young, "2026-02-02T00:00:00Z"), "a.yaml");
    apply(&mut state, aged(old, "2026-01-01T00:00:00Z"), "b.yaml");
    assert_eq!(rule(&mut state, 1).1, "weather/b-old spec.mtls.mode");
    let problems = state.problems();
    assert_eq!(
        problems[0].rejected.to_string(),
        "PeerAuthentication weather/a-young: spec.selector: the older PeerAuthentication weather/b-old speaks of the \
         same pods: this one has no effect"
    );
    assert_eq!(problems.len(), 1);
}

#[test]
fn a_peer_authentication_that_cannot_be_read_is_strict_for_what_it_selects() {
    let mut state = state(WEATHER);
    let wrong = "{selector: {matchLabels: {app: forecast}}, mtls: {mode: STRIKT}}";
    apply(&mut state, policy("weather", "wrong", wrong), "p.yaml");
    let told = state.problems()[0].rejected.to_string();
    assert_eq!(
        told,
        "PeerAuthentication weather/wrong: spec.mtls.mode: expected STRICT, PERMISSIVE, DISABLE or UNSET"
    );
    assert_eq!(rule(&mut state, 8080).0, PeerMode::Strict);
    let frontend = pod(&mut state, "frontend");
    let snapshot = state.snapshot();
    assert_eq!(snapshot.peer_rule(&frontend, 8080).mode, PeerMode::Permissive);

    let everyone = policy("weather", "unreadable", "{selector: {labels: {app: forecast}}}");
    apply(&mut state, everyone, "q.yaml");
    let snapshot = state.snapshot();
    assert_eq!(snapshot.peer_rule(&frontend, 8080).mode, PeerMode::Strict);
    state.apply(deleted("unreadable"));

    let right = "{selector: {matchLabels: {app: forecast}}, mtls: {mode: PERMISSIVE}}";
    apply(&mut state, policy("weather", "wrong", right), "p.yaml");
    assert_eq!(rule(&mut state, 8080).0, PeerMode::Permissive);
    apply(&mut state, policy("weather", "wrong", wrong), "p.yaml");
    assert_eq!(
        rule(&mut state, 8080).0,
        PeerMode::Permissive,
        "the last good version stays"
    );
    assert!(state.problems()[0].last_good_in_force);
    state.apply(deleted("wrong"));
    assert_eq!(rule(&mut state, 8080), (PeerMode::Permissive, String::new()));
}

#[test]
fn a_broken_peer_authentication_is_answered_with_object_field_and_reason() {
    let table = [
        ("{mtls: {mod: STRICT}}", "spec.mtls.mod: unknown field"),
        (
            "{portLevelMtls: {8080: {mode: STRICT}}}",
            "spec.portLevelMtls: needs spec.selector.matchLabels",
        ),
        (
            "{selector: {matchLabels: {a: b}}, portLevelMtls: {http: {mode: STRICT}}}",
            "spec.portLevelMtls.http: is no port",
        ),
        (
            "{selector: {matchLabels: {a: b}}, portLevelMtls: {0: {mode: STRICT}}}",
            "spec.portLevelMtls.0: is no port",
        ),
        (
            "{selector: {labels: {a: b}}}",
            "spec.selector.labels: unknown field",
        ),
        ("{mtls: STRICT}", "spec.mtls: invalid type"),
    ];
    for (spec, told) in table {
        let mut state = state(WEATHER);
        apply(&mut state, policy("weather", "p", spec), "p.yaml");
        let words = state.problems()[0].rejected.to_string();
        let expected = format!("PeerAuthentication weather/p: {told}");
        assert!(words.starts_with(&expected), "{spec}: {words}");
    }
}
