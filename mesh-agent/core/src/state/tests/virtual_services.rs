//! VirtualServices among each other: delegates, who comes first for a host, and what is told.

use crate::state::State;
use crate::testing::{Request, WEATHER, state};

fn with(objects: &[(&str, &str, &str)]) -> State {
    let mut yaml = WEATHER.to_owned();
    for (name, namespace, spec) in objects {
        let (name, created) = name.split_once('@').unwrap_or((name, "1"));
        yaml += &format!(
            "\n---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {name}, namespace: {namespace}, \
             creationTimestamp: '{created}'}}\nspec: {spec}"
        );
    }
    state(&yaml)
}

fn told(state: &mut State) -> Vec<String> {
    let problems = state.problems();
    problems
        .iter()
        .map(|p| format!("{}: {}", p.rejected.field, p.rejected.reason))
        .collect()
}

fn outcome(state: &mut State, path: &str) -> String {
    let request = Request {
        path,
        ..Request::default()
    };
    request.outcome(&state.snapshot())
}

const ROUTE: &str = "route: [{destination: {host: forecast.weather.svc.cluster.local}}]";

#[test]
fn a_delegates_rules_stand_where_the_root_names_them_and_only_for_what_the_root_takes() {
    let root = format!(
        "{{hosts: [forecast], http: [\
         {{name: first, match: [{{uri: {{exact: /first}}}}], {ROUTE}}}, \
         {{name: root, match: [{{uri: {{prefix: /a}}}}, {{uri: {{prefix: /b}}}}], timeout: 3s, delegate: {{name: d, namespace: other}}}}, \
         {{name: last, {ROUTE}}}]}}"
    );
    let delegate = format!(
        "{{http: [\
         {{name: one, match: [{{uri: {{prefix: /a/1}}}}], timeout: 1s, {ROUTE}}}, \
         {{name: stray, match: [{{uri: {{prefix: /c}}}}], {ROUTE}}}, \
         {{name: exact, match: [{{uri: {{exact: /b/2}}, method: {{exact: GET}}}}], {ROUTE}}}, \
         {{{ROUTE}}}]}}"
    );
    let mut state = with(&[("r", "weather", &root), ("d", "other", &delegate)]);
    let problems = told(&mut state);
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(
        problems[0].starts_with("spec.http[1].match: takes requests that spec.http[1] of"),
        "{problems:?}"
    );
    for (path, rule) in [
        ("/first", "first"),
        ("/a/1x", "root-one"),
        ("/b/2", "root-exact"),
        ("/b/3", "root"),
        ("/a/2", "root"),
        ("/c", "last"),
    ] {
        assert_eq!(outcome(&mut state, path), rule, "{path}");
    }
    let timeout = |state: &mut State, path| {
        let request = Request {
            path,
            ..Request::default()
        };
        request.plan(&state.snapshot()).timeout().map(|t| t.as_secs())
    };
    assert_eq!(timeout(&mut state, "/a/1"), Some(1), "its own");
    assert_eq!(timeout(&mut state, "/b/2"), Some(3), "the root's");
}

#[test]
fn a_delegate_that_is_not_there_or_not_exported_leaves_its_rule_out() {
    let root = format!(
        "{{hosts: [forecast], http: [{{match: [{{uri: {{prefix: /a}}}}], delegate: {{name: d, namespace: other}}}}, {{name: last, {ROUTE}}}]}}"
    );
    let delegate = |export: &str| format!("{{exportTo: [{export}], http: [{{name: d, {ROUTE}}}]}}");
    let mut missing = with(&[("r", "weather", &root)]);
    assert_eq!(outcome(&mut missing, "/a"), "last");
    assert!(told(&mut missing)[0].contains("there is no VirtualService other/d"));
    let mut hidden = with(&[("r", "weather", &root), ("d", "other", &delegate("."))]);
    assert_eq!(outcome(&mut hidden, "/a"), "last");
    assert!(told(&mut hidden)[0].contains("is not exported to namespace weather"));
    let mut seen = with(&[("r", "weather", &root), ("d", "other", &delegate("weather"))]);
    assert_eq!(outcome(&mut seen, "/a"), "d");
    assert_eq!(told(&mut seen), [""; 0]);
    let mut no_delegate = with(&[
        ("r", "weather", &root),
        (
            "d",
            "other",
            &format!("{{hosts: [x.example], http: [{{{ROUTE}}}]}}"),
        ),
    ]);
    assert_eq!(outcome(&mut no_delegate, "/a"), "last");
    assert!(told(&mut no_delegate)[0].contains("it is no delegate"));
}

#[test]
fn an_object_without_hosts_that_nobody_delegates_to_is_told() {
    let mut state = with(&[("d", "weather", &format!("{{http: [{{{ROUTE}}}]}}"))]);
    assert_eq!(outcome(&mut state, "/"), "default");
    assert!(told(&mut state)[0].starts_with("spec.hosts: is missing"));
}

#[test]
fn of_two_objects_the_older_wins_even_if_the_younger_is_seen_by_fewer() {
    let rules = |name: &str, export: &str| {
        format!("{{hosts: [forecast], exportTo: [{export}], http: [{{name: {name}, {ROUTE}}}]}}")
    };
    let all = rules("all", "'*'");
    let own = rules("own", "weather");
    let mut younger = with(&[("a@1", "weather", &all), ("b@2", "weather", &own)]);
    assert_eq!(outcome(&mut younger, "/"), "all");
    let mut older = with(&[("a@2", "weather", &all), ("b@1", "weather", &own)]);
    assert_eq!(outcome(&mut older, "/"), "own");
    let visitor = Request {
        from: "10.1.0.9",
        authority: "forecast.weather",
        ..Request::default()
    };
    assert_eq!(visitor.outcome(&older.snapshot()), "all");
}

#[test]
fn an_exact_host_that_all_see_comes_before_a_wildcard_that_some_see() {
    let rules = |host: &str, name: &str, export: &str| {
        format!("{{hosts: ['{host}'], exportTo: [{export}], http: [{{name: {name}, {ROUTE}}}]}}")
    };
    let exact = rules("forecast", "exact", "'*'");
    let wild = rules("*.weather.svc.cluster.local", "wild", "weather");
    let mut state = with(&[("w@1", "weather", &wild), ("e@2", "weather", &exact)]);
    assert_eq!(outcome(&mut state, "/"), "exact", "T-07");
}

#[test]
fn rules_for_connections_only_leave_requests_to_others() {
    let tcp = format!("{{hosts: [forecast], tcp: [{{{ROUTE}}}]}}");
    let http = format!("{{hosts: [forecast], http: [{{name: http, {ROUTE}}}]}}");
    let mut state = with(&[("a@1", "weather", &tcp), ("b@2", "weather", &http)]);
    assert_eq!(outcome(&mut state, "/"), "http");
    assert_eq!(told(&mut state), [""; 0]);
}

#[test]
fn a_host_that_is_no_service_is_routed_on_any_port() {
    // T-08.
    let rules = format!("{{hosts: [legacy.example], http: [{{name: legacy, {ROUTE}}}]}}");
    let mut state = with(&[("l", "weather", &rules)]);
    for to in ["10.96.0.1:80", "10.96.0.1:8081"] {
        let request = Request {
            authority: "legacy.example",
            to,
            ..Request::default()
        };
        assert_eq!(request.outcome(&state.snapshot()), "legacy", "{to}");
    }
}
