//! The matcher's promises; `hosts` and `destinations` hold those of its two ends.

mod actions;
mod attached;
mod connections;
mod destinations;
mod external;
mod hosts;
mod policies;
mod sessions;

use super::*;
use crate::testing::{Request, with_routes};
use proptest::prelude::*;

const V1: &str = "{destination: {host: forecast, subset: v1}}";

#[test]
fn first_match_wins_in_written_order_and_a_rule_without_match_ends_the_list() {
    let snapshot = with_routes(&format!(
        "[{{name: a, match: [{{uri: {{prefix: /a}}}}], route: [{V1}]}}, {{name: ab, match: [{{uri: {{prefix: /ab}}}}], route: [{V1}]}}, {{name: all, route: [{V1}]}}]"
    ));
    for (path, rule) in [
        ("/a", "a"),
        ("/abc", "a"),
        ("/ab?x=/c", "a"),
        ("/b", "all"),
        ("/A", "all"),
    ] {
        assert_eq!(
            Request {
                path,
                ..Default::default()
            }
            .outcome(&snapshot),
            rule,
            "{path}"
        );
    }
}

#[test]
fn each_field_of_a_match_means_what_istio_says() {
    let table: &[(&str, Request<'_>, bool)] = &[
        (
            "uri: {exact: /x}",
            Request {
                path: "/x?q",
                ..Default::default()
            },
            true,
        ),
        (
            "uri: {exact: /x}",
            Request {
                path: "/x/",
                ..Default::default()
            },
            false,
        ),
        (
            "uri: {exact: /x}, ignoreUriCase: true",
            Request {
                path: "/X",
                ..Default::default()
            },
            true,
        ),
        (
            "uri: {prefix: /foo}",
            Request {
                path: "/foobar",
                ..Default::default()
            },
            true,
        ),
        (
            "uri: {prefix: /foo}, ignoreUriCase: true",
            Request {
                path: "/FOObar",
                ..Default::default()
            },
            true,
        ),
        (
            "uri: {regex: '/v[0-9]+'}",
            Request {
                path: "/v12",
                ..Default::default()
            },
            true,
        ),
        (
            "uri: {regex: '/v[0-9]+'}",
            Request {
                path: "/v12/x",
                ..Default::default()
            },
            false,
        ),
        (
            "uri: {regex: '/a|/b'}",
            Request {
                path: "/bc",
                ..Default::default()
            },
            false,
        ),
        (
            "method: {exact: GET}",
            Request {
                method: "get",
                ..Default::default()
            },
            false,
        ),
        (
            "method: {prefix: P}",
            Request {
                method: "POST",
                ..Default::default()
            },
            true,
        ),
        ("scheme: {exact: http}", Request::default(), true),
        ("scheme: {exact: https}", Request::default(), false),
        (
            "authority: {exact: 'forecast:80'}",
            Request {
                authority: "forecast:80",
                ..Default::default()
            },
            true,
        ),
        (
            "authority: {exact: forecast}",
            Request {
                authority: "forecast:80",
                ..Default::default()
            },
            false,
        ),
        (
            "headers: {x-user: {exact: a}}",
            Request {
                headers: &[("x-user", "a")],
                ..Default::default()
            },
            true,
        ),
        (
            "headers: {X-User: {exact: a}}",
            Request {
                headers: &[("x-user", "a")],
                ..Default::default()
            },
            true,
        ),
        (
            "headers: {x: {exact: 'a,b'}}",
            Request {
                headers: &[("x", "a"), ("x", "b")],
                ..Default::default()
            },
            true,
        ),
        ("headers: {x: {exact: a}}", Request::default(), false),
        (
            "headers: {x: {}}",
            Request {
                headers: &[("x", "")],
                ..Default::default()
            },
            true,
        ),
        ("headers: {x: {}}", Request::default(), false),
        (
            "headers: {x: {regex: '*'}}",
            Request {
                headers: &[("x", "y")],
                ..Default::default()
            },
            true,
        ),
        (
            "headers: {x: {regex: '.*Chrome.*'}}",
            Request {
                headers: &[("x", "a Chrome/1")],
                ..Default::default()
            },
            true,
        ),
        ("withoutHeaders: {x: {}}", Request::default(), true),
        (
            "withoutHeaders: {x: {}}",
            Request {
                headers: &[("x", "")],
                ..Default::default()
            },
            false,
        ),
        (
            "withoutHeaders: {x: {exact: a}}",
            Request {
                headers: &[("x", "b")],
                ..Default::default()
            },
            true,
        ),
        (
            "withoutHeaders: {x: {exact: a}}",
            Request {
                headers: &[("x", "a")],
                ..Default::default()
            },
            false,
        ),
        ("withoutHeaders: {x: {regex: '.*'}}", Request::default(), false),
        (
            "queryParams: {q: {exact: '1'}}",
            Request {
                path: "/?a&q=1&q=2",
                ..Default::default()
            },
            true,
        ),
        (
            "queryParams: {q: {exact: '2'}}",
            Request {
                path: "/?q=1&q=2",
                ..Default::default()
            },
            false,
        ),
        (
            "queryParams: {q: {exact: ''}}",
            Request {
                path: "/?q",
                ..Default::default()
            },
            true,
        ),
        (
            "queryParams: {q: {}}",
            Request {
                path: "/?qq=1",
                ..Default::default()
            },
            false,
        ),
        ("sourceLabels: {app: frontend}", Request::default(), true),
        ("sourceNamespace: weather", Request::default(), true),
        ("port: 80", Request::default(), true),
        (
            "uri: {prefix: /a}, headers: {x: {}}",
            Request {
                path: "/a",
                ..Default::default()
            },
            false,
        ),
    ];
    for (block, request, matches) in table {
        let http =
            format!("[{{name: hit, match: [{{{block}}}], route: [{V1}]}}, {{name: miss, route: [{V1}]}}]");
        let outcome = request.outcome(&with_routes(&http));
        assert_eq!(
            outcome,
            if *matches { "hit" } else { "miss" },
            "{block} on {} {:?}",
            request.path,
            request.headers
        );
    }
}

#[test]
fn blocks_are_ored() {
    let snapshot = with_routes(&format!(
        "[{{name: r, match: [{{uri: {{exact: /a}}}}, {{uri: {{exact: /b}}}}], route: [{V1}]}}]"
    ));
    let plan = Request {
        path: "/b",
        ..Default::default()
    }
    .plan(&snapshot);
    assert_eq!(plan.rule.unwrap().matched, Some(1));
    assert_eq!(
        Request {
            path: "/c",
            ..Default::default()
        }
        .outcome(&snapshot),
        "404 NR"
    );
}

#[test]
fn a_virtual_service_that_has_no_rule_for_this_client_is_as_if_absent() {
    for block in [
        "sourceLabels: {app: other}",
        "sourceNamespace: other",
        "port: 8081",
        "gateways: [ingress]",
    ] {
        let snapshot = with_routes(&format!("[{{name: r, match: [{{{block}}}], route: [{V1}]}}]"));
        let plan = Request::default().plan(&snapshot);
        assert!(plan.rule.is_none(), "{block}");
        assert_eq!(plan.upstream.endpoints.len(), 4, "{block}");
    }
}

#[test]
fn a_block_that_names_the_mesh_gateway_is_not_asked_about_its_client() {
    let snapshot = with_routes(&format!(
        "[{{name: r, match: [{{gateways: [mesh], sourceLabels: {{app: other}}}}], route: [{V1}]}}]"
    ));
    assert_eq!(Request::default().outcome(&snapshot), "r");
}

#[test]
fn the_explanation_names_each_rule_tried_and_what_did_not_match() {
    let snapshot = with_routes(&format!(
        "[{{name: chrome, match: [{{headers: {{user-agent: {{regex: '.*Chrome.*'}}}}}}], route: [{V1}]}}, {{name: rest, route: [{V1}]}}]"
    ));
    let lines = Request::default()
        .facts(&snapshot, |facts| explain_request(&snapshot, facts))
        .join("\n");
    for part in [
        "names service weather/forecast",
        "VirtualService weather/routes: 2 rules",
        "spec.http[0] (chrome) match 1 of 1: headers.user-agent does not match",
        "spec.http[1] (rest): no match block: matches everything",
        "forward to service weather/forecast port 80 subset v1",
    ] {
        assert!(lines.contains(part), "{part:?} is not in\n{lines}");
    }
}

proptest! {
    #[test]
    fn no_request_head_makes_the_matcher_panic(
        authority in "\\PC{0,40}|[a-z.:\\[\\]*]{0,20}",
        path in "\\PC{0,40}",
        value in "\\PC{0,20}",
        port in any::<u16>(),
        split in any::<u32>(),
    ) {
        let snapshot = with_routes(&format!("[{{match: [{{uri: {{prefix: /é}}, ignoreUriCase: true}}, {{headers: {{x: {{regex: 'a+'}}}}}}, {{queryParams: {{q: {{}}}}}}], route: [{V1}]}}]"));
        for to in [format!("10.96.0.1:{port}"), format!("10.2.0.2:{port}"), "192.0.2.1:80".into()] {
            let draws = Draws { split, mirror: split, ..Draws::default() };
            let headers = [("x", value.as_str())];
            let request = Request { authority: &authority, path: &path, headers: &headers, to: &to, draws, ..Default::default() };
            if let Decision::Forward(plan) = request.decide(&snapshot) {
                prop_assert!(!plan.upstream.endpoints.is_empty());
            }
            let lines = request.facts(&snapshot, |facts| explain_request(&snapshot, facts));
            prop_assert!(!lines.is_empty());
        }
    }
}
