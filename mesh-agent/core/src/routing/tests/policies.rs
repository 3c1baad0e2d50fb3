//! Which DestinationRule's policy a client gets. Rows name the trap, or the place in pilot, that they follow.

use crate::model::traffic::{Algorithm, HashKey, Simple, TrafficPolicy};
use crate::testing::{self, Request, WEATHER};
use std::fmt::Write as _;
use std::sync::Arc;

/// A DestinationRule by age (older = smaller) and what it says.
fn rule(namespace: &str, age: u32, spec: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: rule-{age}, namespace: {namespace}, creationTimestamp: '2024-01-01T00:00:0{age}Z'}}\nspec: {spec}"
    )
}

/// A policy that is told by the header that it hashes.
fn marked(mark: &str) -> String {
    format!("trafficPolicy: {{loadBalancer: {{consistentHash: {{httpHeaderName: {mark}}}}}}}")
}

fn mark(policy: &TrafficPolicy) -> String {
    match &policy.load_balancer.algorithm {
        Algorithm::Hash(hash) => match &hash.key {
            HashKey::Header(name) => name.to_string(),
            other => other.to_string(),
        },
        Algorithm::Simple(Simple::LeastRequest) => "default".into(),
        Algorithm::Simple(other) => format!("{other:?}"),
    }
}

/// The weather application without a DestinationRule.
fn base() -> String {
    let others = WEATHER
        .split("\n---\n")
        .filter(|d| !d.contains("kind: DestinationRule"));
    others.collect::<Vec<_>>().join("\n---\n")
}

fn snapshot(rules: &[String]) -> Arc<crate::model::snapshot::Snapshot> {
    let mut yaml = base();
    for rule in rules {
        let _ = write!(yaml, "\n---\n{rule}");
    }
    let mut state = testing::state(&yaml);
    assert_eq!(state.problems(), []);
    state.snapshot()
}

const FULL: &str = "forecast.weather.svc.cluster.local";
const FRONTEND: &str = "10.1.0.1";
const VISITOR: &str = "10.1.0.9";

#[test]
fn a_client_gets_the_policy_of_the_first_namespace_that_has_a_rule_for_it() {
    let host = |mark: &str| format!("{{host: {FULL}, {}}}", marked(mark));
    let with = |host: &str, rest: &str, mark: &str| format!("{{host: {host}, {rest}, {}}}", marked(mark));
    type Row<'a> = (&'a str, Vec<String>, &'a str, &'a str);
    let selected = "workloadSelector: {matchLabels: {app: visitor}}";
    let rows: Vec<Row<'_>> = vec![
        ("no rule", vec![], FRONTEND, "default"),
        (
            "T-30: the client's own",
            vec![
                rule("weather", 1, &host("service")),
                rule("other", 2, &host("client")),
            ],
            VISITOR,
            "client",
        ),
        (
            "T-30: the service's",
            vec![
                rule("weather", 1, &host("service")),
                rule("istio-system", 2, &host("root")),
            ],
            VISITOR,
            "service",
        ),
        (
            "T-30: the root's",
            vec![rule("istio-system", 1, &host("root"))],
            VISITOR,
            "root",
        ),
        (
            "T-30: no merge across namespaces",
            vec![
                rule("other", 1, &format!("{{host: {FULL}, subsets: []}}")),
                rule("weather", 2, &host("service")),
            ],
            VISITOR,
            "default",
        ),
        (
            "T-01: a short name is of the rule's namespace",
            vec![rule(
                "weather",
                2,
                &format!("{{host: forecast, {}}}", marked("service")),
            )],
            VISITOR,
            "service",
        ),
        (
            "exportTo hides it from others",
            vec![rule("weather", 1, &with(FULL, "exportTo: [.]", "private"))],
            VISITOR,
            "default",
        ),
        (
            "exportTo: and not from its own",
            vec![rule("weather", 1, &with(FULL, "exportTo: [.]", "private"))],
            FRONTEND,
            "private",
        ),
        (
            "T-31: exact before wildcard",
            vec![
                rule(
                    "weather",
                    1,
                    &with("'*.weather.svc.cluster.local'", "subsets: []", "wild"),
                ),
                rule("weather", 2, &host("exact")),
            ],
            FRONTEND,
            "exact",
        ),
        (
            "T-31: the longest wildcard",
            vec![
                rule(
                    "weather",
                    1,
                    &with("'*.svc.cluster.local'", "subsets: []", "short"),
                ),
                rule(
                    "weather",
                    2,
                    &with("'*.weather.svc.cluster.local'", "subsets: []", "long"),
                ),
            ],
            FRONTEND,
            "long",
        ),
        (
            "T-29: the first policy that says something",
            vec![
                rule("weather", 1, &format!("{{host: {FULL}}}")),
                rule("weather", 3, &host("younger")),
                rule("weather", 2, &host("older")),
            ],
            FRONTEND,
            "older",
        ),
        (
            "a selector's rule comes first",
            vec![
                rule("other", 1, &host("all")),
                rule("other", 2, &with(FULL, selected, "selected")),
            ],
            VISITOR,
            "selected",
        ),
        (
            "a selector that does not select",
            vec![
                rule("weather", 1, &host("all")),
                rule("weather", 2, &with(FULL, selected, "selected")),
            ],
            FRONTEND,
            "all",
        ),
        (
            "a selector is for its own namespace",
            vec![rule("weather", 1, &with(FULL, selected, "selected"))],
            VISITOR,
            "default",
        ),
        (
            "a selector's rule is not merged with the others",
            vec![
                rule("other", 1, &host("all")),
                rule("other", 2, &format!("{{host: {FULL}, {selected}}}")),
            ],
            VISITOR,
            "default",
        ),
        (
            "another port's settings",
            vec![rule(
                "weather",
                1,
                &format!(
                    "{{host: {FULL}, trafficPolicy: {{portLevelSettings: [{{port: {{number: 8081}}, loadBalancer: {{simple: RANDOM}}}}]}}}}"
                ),
            )],
            FRONTEND,
            "default",
        ),
        (
            "the port's settings",
            vec![rule(
                "weather",
                1,
                &format!(
                    "{{host: {FULL}, trafficPolicy: {{portLevelSettings: [{{port: {{number: 80}}, loadBalancer: {{simple: RANDOM}}}}]}}}}"
                ),
            )],
            FRONTEND,
            "Random",
        ),
    ];
    for (what, rules, from, want) in rows {
        let snapshot = snapshot(&rules);
        let request = Request {
            from,
            authority: FULL,
            ..Request::default()
        };
        let policy = request.plan(&snapshot).upstream.policy;
        assert_eq!(mark(&policy), want, "{what}");
    }
}

#[test]
fn a_subset_has_its_own_policy_and_explains_itself() {
    let subset = "{name: v1, labels: {version: v1}, trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}}";
    let spec = format!(
        "{{host: forecast, trafficPolicy: {{connectionPool: {{tcp: {{maxConnections: 7}}}}, tls: {{mode: DISABLE}}}}, subsets: [{subset}]}}"
    );
    let routes = testing::virtual_service(
        "routes",
        "[{match: [{uri: {prefix: /v1}}], route: [{destination: {host: forecast, subset: v1}}]}, {route: [{destination: {host: forecast}}]}]",
    );
    let mut state = testing::state(&format!(
        "{}\n---\n{}\n---\n{routes}",
        base(),
        rule("weather", 1, &spec)
    ));
    let snapshot = state.snapshot();
    let at = |path| Request {
        path,
        ..Request::default()
    };
    let (of_subset, of_host) = (
        at("/v1").plan(&snapshot).upstream.policy,
        at("/").plan(&snapshot).upstream.policy,
    );
    assert_eq!(
        (mark(&of_subset), mark(&of_host)),
        ("RoundRobin".into(), "default".into())
    );
    assert_eq!(
        of_subset.connection_pool.tcp.max_connections,
        Some(7),
        "what it leaves out is the host's"
    );
    let lines = at("/v1").facts(&snapshot, |facts| {
        crate::routing::explain_request(&snapshot, facts)
    });
    let told = lines.iter().any(|line| {
        line.contains("DestinationRule weather/rule-1: ROUND_ROBIN, maxConnections 7")
            && line.contains("plaintext")
    });
    assert!(told, "{lines:#?}");
}

/// What is built from a policy is kept by its allocation: a change elsewhere must not drop it.
#[test]
fn a_change_elsewhere_keeps_policies_and_endpoint_lists() {
    let rules = rule(
        "weather",
        1,
        &format!(
            "{{host: {FULL}, {}, subsets: [{{name: x1, labels: {{version: v1}}}}]}}",
            marked("m")
        ),
    );
    let yaml = format!("{}\n---\n{rules}", base());
    let mut state = testing::state(&yaml);
    let request = Request::default();
    let before = request.plan(&state.snapshot()).upstream;
    let more = format!(
        "{yaml}\n---\napiVersion: v1\nkind: Service\nmetadata: {{name: more, namespace: other}}\nspec: {{clusterIP: 10.96.9.9, ports: [{{port: 80}}]}}"
    );
    testing::list(&mut state, &testing::documents(&more));
    let snapshot = state.snapshot();
    let after = request.plan(&snapshot).upstream;
    assert!(Arc::ptr_eq(&before.policy, &after.policy));
    assert!(Arc::ptr_eq(&before.endpoints, &after.endpoints));
}
