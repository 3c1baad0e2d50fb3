//! Routes of Gateway API attached to Services: (objects, request) → decision.

use super::*;
use crate::testing::{Request, WEATHER, documents, list, state};

/// An HTTPRoute on `forecast` of namespace `weather` whose `spec.rules` is this flow-style YAML.
fn route(name: &str, rules: &str) -> String {
    route_in("weather", name, "2024-01-01T00:00:00Z", "", rules)
}

fn route_in(namespace: &str, name: &str, created: &str, parent: &str, rules: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\n\
         metadata: {{name: {name}, namespace: {namespace}, creationTimestamp: '{created}'}}\n\
         spec: {{parentRefs: [{{group: '', kind: Service, name: forecast, namespace: weather{parent}}}], rules: {rules}}}"
    )
}

fn snapshot(objects: &[String]) -> Arc<Snapshot> {
    let mut state = state(WEATHER);
    let mut all = documents(WEATHER);
    all.extend(objects.iter().flat_map(|o| documents(o)));
    list(&mut state, &all);
    assert_eq!(state.problems(), [], "{objects:?}");
    state.snapshot()
}

fn request(path: &str) -> Request<'_> {
    Request {
        path,
        ..Request::default()
    }
}

/// Text of a rule that forwards to `forecast` and is called `name`.
fn to(name: &str, rest: &str) -> String {
    format!("{{name: {name}, backendRefs: [{{name: forecast, port: 80}}]{rest}}}")
}

#[test]
fn the_most_specific_match_of_all_routes_wins_then_the_oldest_route_then_the_name_then_the_order() {
    let matching = |name: &str, block: &str| to(name, &format!(", matches: [{block}]"));
    let objects = [
        route_in(
            "weather",
            "young",
            "2025-01-01T00:00:00Z",
            "",
            &format!(
                "[{}, {}, {}]",
                matching("young-exact", "{path: {type: Exact, value: /a/b}}"),
                matching("young-tie", "{path: {value: /tie}}"),
                matching(
                    "young-queries",
                    "{path: {value: /q}, queryParams: [{name: x, value: '1'}, {name: z, value: '2'}]}"
                ),
            ),
        ),
        route(
            "b-old",
            &format!(
                "[{}, {}]",
                matching("b-tie", "{path: {value: /tie}}"),
                matching("b-root", "{}")
            ),
        ),
        route(
            "a-old",
            &format!(
                "[{}, {}, {}, {}, {}, {}, {}, {}, {}]",
                matching("prefix", "{path: {value: /a}}"),
                matching("longer", "{path: {value: /a/b/}}"),
                matching("regex", "{path: {type: RegularExpression, value: '/(a|r)/.*'}}"),
                matching("a-tie", "{path: {value: /tie}}"),
                matching("second-tie", "{path: {value: /tie}}"),
                matching("post", "{path: {value: /q}, method: POST}"),
                matching("headers", "{path: {value: /q}, headers: [{name: X, value: '1'}]}"),
                matching(
                    "query",
                    "{path: {value: /q}, queryParams: [{name: x, value: '1'}]}"
                ),
                matching("plain", "{path: {value: /q}}"),
            ),
        ),
    ];
    let snapshot = snapshot(&objects);
    // HTTPRouteRule.matches: Exact, longest prefix, method, headers, queries; then age, name, place in the list.
    for (path, rule) in [
        ("/a/b", "young-exact"),
        ("/a/b/c", "longer"),
        ("/a/b/", "longer"),
        ("/a/bc", "prefix"),
        ("/a", "prefix"),
        ("/r/x", "regex"),
        ("/ab", "b-root"),
        ("/tie", "a-tie"),
        ("/q?x=1&z=2", "young-queries"),
        ("/q?x=1", "query"),
        ("/q?x=2&x=1", "plain"),
    ] {
        assert_eq!(request(path).outcome(&snapshot), rule, "{path}");
    }
    let headers: &[(&str, &str)] = &[("x", "1")];
    for (method, headers, rule) in [("POST", headers, "post"), ("GET", headers, "headers")] {
        let request = Request {
            method,
            headers,
            ..request("/q?x=1&z=2")
        };
        assert_eq!(request.outcome(&snapshot), rule, "{method}");
    }
}

#[test]
fn the_address_dialled_decides_and_not_the_host_header() {
    let snapshot = snapshot(&[route("r", &format!("[{}]", to("attached", "")))]);
    // Mission 3.6; MeshFrontendHostname, MeshFrontend, MeshPorts.
    for (authority, to, outcome) in [
        ("forecast", "10.96.0.1:80", "attached"),
        ("database", "10.96.0.1:80", "attached"),
        ("example.com", "[fd00:96::1]:8081", "attached"),
        // The service that was dialled has no endpoint: that Host names another one is no way out.
        ("forecast", "10.96.0.3:80", "503 UH"),
        ("forecast", "10.1.0.2:8080", "default"),
        ("peers", "10.1.0.2:8080", "default"),
    ] {
        let request = Request {
            authority,
            to,
            ..request("/")
        };
        assert_eq!(request.outcome(&snapshot), outcome, "{authority} at {to}");
    }
}

#[test]
fn a_request_that_no_rule_takes_is_answered_404() {
    let rules = format!("[{}]", to("v1", ", matches: [{path: {type: Exact, value: /v1}}]"));
    let snapshot = snapshot(&[route("r", &rules)]);
    assert_eq!(request("/v1").outcome(&snapshot), "v1");
    assert_eq!(request("/v1/").outcome(&snapshot), "404 NR");
}

#[test]
fn a_parents_port_and_section_limit_the_route_to_one_port() {
    let on = |parent: &str| {
        let rules = format!("[{}]", to("here", ""));
        snapshot(&[route_in("weather", "r", "", parent, &rules)])
    };
    for (parent, at_80, at_8081) in [
        ("", "here", "here"),
        (", port: 80", "here", "default"),
        (", port: 8081", "default", "here"),
        (", sectionName: http-alt", "default", "here"),
        (", port: 80, sectionName: http-alt", "default", "default"),
    ] {
        let snapshot = on(parent);
        for (to, outcome) in [("10.96.0.1:80", at_80), ("10.96.0.1:8081", at_8081)] {
            let request = Request { to, ..request("/") };
            assert_eq!(request.outcome(&snapshot), outcome, "{parent} {to}");
        }
    }
}

#[test]
fn a_consumer_route_is_for_clients_of_its_namespace_and_replaces_the_producers_there() {
    let producer = route("p", &format!("[{}]", to("producer", "")));
    let own = "{name: consumer, backendRefs: [{name: forecast, namespace: weather, port: 80}]}";
    let consumer = route_in("other", "c", "2023-01-01T00:00:00Z", "", &format!("[{own}]"));
    let from = |from: &'static str, snapshot: &Snapshot| Request { from, ..request("/") }.outcome(snapshot);
    let both = snapshot(&[producer, consumer.clone()]);
    assert_eq!(from("10.1.0.1", &both), "producer");
    assert_eq!(from("10.1.0.9", &both), "consumer");
    // GEP-1294: backends in other namespaces need no ReferenceGrant in the mesh.
    let alone = snapshot(&[consumer]);
    assert_eq!(from("10.1.0.1", &alone), "default");
    assert_eq!(from("10.1.0.9", &alone), "consumer");
}

#[test]
fn backends_that_are_not_there_answer_500_for_their_share() {
    let split = |refs: &str| {
        let mut state = state(WEATHER);
        let mut all = documents(WEATHER);
        all.extend(documents(&route(
            "r",
            &format!("[{{name: r, backendRefs: [{refs}]}}]"),
        )));
        list(&mut state, &all);
        let snapshot = state.snapshot();
        let draw = |split: u32| {
            Request {
                draws: Draws {
                    split,
                    ..Draws::default()
                },
                ..request("/")
            }
            .outcome(&snapshot)
        };
        (draw(0), draw(u32::MAX))
    };
    let good = "{name: forecast, port: 80";
    // HTTPRouteRule.backendRefs, BackendRef.weight; MeshGRPCRouteWeight's backend of weight 0.
    for (refs, first, last) in [
        (format!("{good}}}, {{name: nobody, port: 80}}"), "r", "500 NC"),
        (
            format!("{good}}}, {{name: nobody, port: 80, weight: 0}}"),
            "r",
            "r",
        ),
        (
            format!("{good}, weight: 0}}, {{name: nobody, port: 80, weight: 0}}"),
            "500 NR",
            "500 NR",
        ),
        (String::new(), "500 NR", "500 NR"),
        (
            format!("{good}}}, {{group: x.io, kind: Bucket, name: b}}"),
            "r",
            "500 NC",
        ),
        ("{name: forecast, port: 9999}".into(), "500 NC", "500 NC"),
        ("{name: empty, port: 80}".into(), "503 UH", "503 UH"),
    ] {
        assert_eq!(split(&refs), (first.into(), last.into()), "{refs}");
    }
}

#[test]
fn filters_redirect_and_rewrite() {
    let rule = |path: &str, filter: &str, backends: &str| {
        format!("{{matches: [{{path: {{value: {path}}}}}], filters: [{filter}]{backends}}}")
    };
    let redirect = |path: &str, rest: &str| {
        rule(
            path,
            &format!("{{type: RequestRedirect, requestRedirect: {{{rest}}}}}"),
            "",
        )
    };
    let rewrite = |path: &str, rest: &str| {
        let backends = ", backendRefs: [{name: forecast, port: 80}]";
        rule(
            path,
            &format!("{{type: URLRewrite, urlRewrite: {{{rest}}}}}"),
            backends,
        )
    };
    let prefix = |to: &str| format!("path: {{type: ReplacePrefixMatch, replacePrefixMatch: '{to}'}}");
    let rules = [
        redirect("/host", "hostname: example.com"),
        redirect("/scheme", "scheme: https"),
        redirect("/port", "port: 8083, statusCode: 301"),
        redirect("/old", &prefix("/new")),
        rewrite("/strip", &prefix("/")),
        rewrite(
            "/full",
            "hostname: one.example.com, path: {type: ReplaceFullPath, replaceFullPath: /one}",
        ),
    ];
    let snapshot = snapshot(&[route("r", &format!("[{}]", rules.join(", ")))]);
    let at = |path: &'static str, to: &'static str| Request {
        to,
        authority: "forecast:80",
        ..request(path)
    };
    for (path, to, answer) in [
        ("/host", "10.96.0.1:80", "302 http://example.com/host"),
        ("/host", "10.96.0.1:8081", "302 http://example.com:8081/host"),
        ("/scheme/x", "10.96.0.1:8081", "302 https://forecast/scheme/x"),
        ("/port", "10.96.0.1:80", "301 http://forecast:8083/port"),
        ("/old/a?b=c", "10.96.0.1:80", "302 http://forecast/new/a?b=c"),
    ] {
        assert_eq!(at(path, to).outcome(&snapshot), answer, "{path} at {to}");
    }
    for (path, sent, authority) in [
        ("/strip/a?b", "/a?b", None),
        ("/strip", "/", None),
        ("/full/x", "/one", Some("one.example.com")),
    ] {
        let plan = at(path, "10.96.0.1:80").plan(&snapshot);
        assert_eq!(
            (plan.path.as_deref(), plan.authority.as_deref()),
            (Some(sent), authority),
            "{path}"
        );
    }
}

#[test]
fn a_grpc_route_matches_services_and_methods_by_path_and_comes_before_http_routes() {
    let grpc = "apiVersion: gateway.networking.k8s.io/v1\nkind: GRPCRoute\n\
                metadata: {name: g, namespace: weather}\n\
                spec: {parentRefs: [{group: '', kind: Service, name: forecast, port: 80}], rules: [\
                {name: method, matches: [{method: {service: a.B, method: Get}}], backendRefs: [{name: forecast, port: 80}]}, \
                {name: service, matches: [{method: {service: a.B}}], backendRefs: [{name: forecast, port: 80}]}, \
                {name: any-service, matches: [{method: {method: List}}], backendRefs: [{name: forecast, port: 80}]}, \
                {name: regex, matches: [{method: {type: RegularExpression, service: 'c[.].+', method: P.*}, headers: [{name: v, value: '2'}]}], backendRefs: [{name: forecast, port: 80}]}]}";
    let http = route("h", &format!("[{}]", to("http", "")));
    let mut state = state(WEATHER);
    let mut all = documents(WEATHER);
    all.extend(documents(grpc));
    all.extend(documents(&http));
    list(&mut state, &all);
    let snapshot = state.snapshot();
    for (path, headers, outcome) in [
        ("/a.B/Get", &[] as &[_], "method"),
        ("/a.B/GetAll", &[], "service"),
        ("/a.Bc/List", &[], "any-service"),
        ("/c.D/Put", &[("v", "2")], "regex"),
        ("/c.D/Put", &[], "404 NR"),
    ] {
        let request = Request {
            method: "POST",
            headers,
            ..request(path)
        };
        assert_eq!(request.outcome(&snapshot), outcome, "{path}");
    }
    // GEP-1294, route types: on one port the more specific kind, elsewhere the other.
    let alt = Request {
        to: "10.96.0.1:8081",
        ..request("/a.B/Get")
    };
    assert_eq!(alt.outcome(&snapshot), "http");
    let problems = state.problems();
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(
        problems[0].rejected.to_string().contains("GRPCRoute routes"),
        "{}",
        problems[0].rejected
    );
}

#[test]
fn of_a_virtual_service_and_a_route_for_one_service_the_older_applies_and_the_other_is_told() {
    let vs = |created: &str, export: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\n\
             metadata: {{name: v, namespace: weather, creationTimestamp: '{created}'}}\n\
             spec: {{hosts: [forecast], {export}http: [{{name: istio, route: [{{destination: {{host: forecast}}}}]}}]}}"
        )
    };
    let http = route("r", &format!("[{}]", to("gateway", "")));
    let decide = |vs: String, from: &'static str| {
        let mut state = state(WEATHER);
        let mut all = documents(WEATHER);
        all.extend(documents(&vs));
        all.extend(documents(&http));
        list(&mut state, &all);
        let outcome = Request { from, ..request("/") }.outcome(&state.snapshot());
        let told = state.problems().first().map(|p| p.rejected.object.clone());
        (outcome, told.unwrap_or_default())
    };
    let (old, young) = ("2023-01-01T00:00:00Z", "2025-01-01T00:00:00Z");
    let told = |outcome: &str, object: &str| (outcome.to_owned(), object.to_owned());
    // T-09.
    assert_eq!(
        decide(vs(old, ""), "10.1.0.1"),
        told("istio", "HTTPRoute weather/r")
    );
    assert_eq!(
        decide(vs(young, ""), "10.1.0.1"),
        told("gateway", "VirtualService weather/v")
    );
    let scoped = "exportTo: ['.'], ";
    assert_eq!(
        decide(vs(old, scoped), "10.1.0.1"),
        told("istio", "HTTPRoute weather/r")
    );
    assert_eq!(
        decide(vs(old, scoped), "10.1.0.9"),
        told("gateway", "HTTPRoute weather/r")
    );
}

#[test]
fn attached_routes_follow_what_they_depend_on() {
    let mut state = state(WEATHER);
    let apply = |state: &mut crate::state::State, yaml: &str| {
        for object in documents(yaml) {
            state.apply(crate::state::Change::Apply {
                object,
                origin: "x".into(),
            });
        }
    };
    apply(
        &mut state,
        &route_in(
            "weather",
            "r",
            "",
            ", sectionName: extra",
            &format!("[{}]", to("extra", "")),
        ),
    );
    let at_82 = Request {
        to: "10.96.0.1:82",
        ..request("/")
    };
    assert_eq!(at_82.outcome(&state.snapshot()), "404 NR");
    let service = documents(WEATHER)
        .into_iter()
        .find(|d| d["metadata"]["name"] == "forecast")
        .unwrap();
    let mut service = service;
    service["spec"]["ports"] = serde_json::json!([
        {"name": "http", "port": 80, "targetPort": "web"},
        {"name": "extra", "port": 82, "targetPort": "web"},
    ]);
    state.apply(crate::state::Change::Apply {
        object: service,
        origin: "y".into(),
    });
    assert_eq!(at_82.outcome(&state.snapshot()), "extra");
    state.apply(crate::state::Change::Delete(crate::state::ObjectKey {
        kind: "HTTPRoute".into(),
        group: "gateway.networking.k8s.io".into(),
        namespace: "weather".into(),
        name: "r".into(),
    }));
    assert_eq!(at_82.outcome(&state.snapshot()), "default");
    assert!(state.snapshot().attached.is_empty());
}
