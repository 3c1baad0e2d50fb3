//! Each field of a VirtualService's rule beyond `match` and `route`, and what it makes of a request. The names of the rows
//! are their sources: the field's documentation in istio/api, or a trap of the mission (T-nn).

use super::V1;
use crate::model::route::AbortWith;
use crate::routing::{Decision, Draws};
use crate::testing::WEATHER;
use crate::testing::{Request, state, virtual_service, with_routes};
use std::time::Duration;

/// `answer STATUS location|body`, or what is sent: `path authority`.
fn sent(rule: &str, request: Request<'_>) -> String {
    let snapshot = with_routes(&format!("[{{{rule}}}]"));
    match request.decide(&snapshot) {
        Decision::Forward(plan) => {
            let path = plan.path.as_deref().unwrap_or(request.path);
            format!(
                "{path} {}",
                plan.authority.as_deref().unwrap_or(request.authority)
            )
        }
        Decision::Answer(answer) => {
            let body = String::from_utf8_lossy(&answer.body).into_owned();
            format!("answer {} {}", answer.status, answer.location.unwrap_or(body))
        }
        Decision::Refuse(refusal) => format!("{} {}", refusal.status, refusal.flag),
    }
}

fn at(path: &'static str) -> Request<'static> {
    Request {
        path,
        ..Request::default()
    }
}

#[test]
fn rewrites_redirects_and_answers_are_those_of_istio() {
    let prefixed = |rest: &str| format!("match: [{{uri: {{prefix: /demo/}}}}], {rest}");
    let table: Vec<(&str, String, Request<'_>, &str)> = vec![
        (
            "HTTPRewrite.uri: the prefix that matched is replaced",
            prefixed(&format!("rewrite: {{uri: /}}, route: [{V1}]")),
            at("/demo/x?q=1"),
            "/x?q=1 forecast",
        ),
        (
            "HTTPRewrite.uri as text: /demo -> / gives //x",
            format!("match: [{{uri: {{prefix: /demo}}}}], rewrite: {{uri: /}}, route: [{V1}]"),
            at("/demo/x"),
            "//x forecast",
        ),
        (
            "T-49: with exact the whole path",
            format!("match: [{{uri: {{exact: /a/b}}}}], rewrite: {{uri: /c}}, route: [{V1}]"),
            at("/a/b?q"),
            "/c?q forecast",
        ),
        (
            "T-49: with a regular expression the whole path",
            format!("match: [{{uri: {{regex: '/a/.*'}}}}], rewrite: {{uri: /c}}, route: [{V1}]"),
            at("/a/b"),
            "/c forecast",
        ),
        (
            "HTTPRewrite.authority",
            format!("rewrite: {{authority: 'other.example:81'}}, route: [{V1}]"),
            at("/x"),
            "/x other.example:81",
        ),
        (
            "RegexRewrite: \\1 is a group",
            format!(
                "rewrite: {{uriRegexRewrite: {{match: '^/service/([^/]+)(/.*)$', rewrite: '\\2/instance/\\1'}}}}, route: [{V1}]"
            ),
            at("/service/foo/v1/api?q"),
            "/v1/api/instance/foo?q forecast",
        ),
        (
            "RegexRewrite: a dollar is a dollar",
            format!("rewrite: {{uriRegexRewrite: {{match: 'a', rewrite: '$1'}}}}, route: [{V1}]"),
            at("/aa"),
            "/$1$1 forecast",
        ),
        (
            "HTTPRedirect.uri: the whole path, the query is kept, 301",
            "redirect: {uri: /new}".into(),
            at("/old?q"),
            "answer 301 http://forecast/new?q",
        ),
        (
            "HTTPRedirect.authority and redirectCode",
            "redirect: {authority: new.example, redirectCode: 307}".into(),
            at("/old"),
            "answer 307 http://new.example/old",
        ),
        (
            "HTTPRedirect.prefixRewrite",
            prefixed("redirect: {prefixRewrite: /new/}"),
            at("/demo/x"),
            "answer 301 http://forecast/new/x",
        ),
        (
            "HTTPRedirect.scheme: the old scheme's port goes",
            "redirect: {scheme: https}".into(),
            Request {
                authority: "forecast:80",
                ..at("/x")
            },
            "answer 301 https://forecast/x",
        ),
        (
            "HTTPRedirect.port",
            "redirect: {port: 8443, scheme: https}".into(),
            at("/x"),
            "answer 301 https://forecast:8443/x",
        ),
        (
            "HTTPRedirect.derivePort FROM_REQUEST_PORT",
            "redirect: {derivePort: FROM_REQUEST_PORT, authority: n.example}".into(),
            Request {
                to: "10.96.0.1:8081",
                ..at("/x")
            },
            "answer 301 http://n.example:8081/x",
        ),
        (
            "HTTPRedirect.derivePort FROM_PROTOCOL_DEFAULT",
            "redirect: {derivePort: FROM_PROTOCOL_DEFAULT}".into(),
            Request {
                authority: "forecast:8081",
                ..at("/x")
            },
            "answer 301 http://forecast/x",
        ),
        (
            "HTTPDirectResponse.body.string",
            "directResponse: {status: 503, body: {string: closed}}".into(),
            at("/"),
            "answer 503 closed",
        ),
        (
            "HTTPDirectResponse.body.bytes is base64",
            "directResponse: {status: 200, body: {bytes: aGVsbG8=}}".into(),
            at("/"),
            "answer 200 hello",
        ),
        (
            "HTTPDirectResponse without a body",
            "directResponse: {status: 204}".into(),
            at("/"),
            "answer 204 ",
        ),
    ];
    for (source, rule, request, expected) in table {
        assert_eq!(sent(&rule, request), expected, "{source}");
    }
}

#[test]
fn faults_hit_their_share_and_default_to_none() {
    let rule = |fault: &str| with_routes(&format!("[{{fault: {{{fault}}}, route: [{V1}]}}]"));
    let draws = |delay: u32, abort: u32| Request {
        draws: Draws {
            delay,
            abort,
            ..Draws::default()
        },
        ..Request::default()
    };
    let delay = |fault: &str, draw: u32| draws(draw, 0).plan(&rule(fault)).delay;
    let second = Some(Duration::from_secs(1));
    assert_eq!(
        delay("delay: {fixedDelay: 1s}", 0),
        None,
        "Delay.percentage: absent is 0 %"
    );
    assert_eq!(
        delay("delay: {fixedDelay: 1s, percent: 100}", u32::MAX),
        second,
        "Delay.percent"
    );
    assert_eq!(
        delay("delay: {fixedDelay: 1s, percent: 100, percentage: {value: 0}}", 0),
        None,
        "percentage wins over percent"
    );
    let half = "delay: {fixedDelay: 1s, percentage: {value: 50}}";
    assert_eq!(delay(half, u32::MAX / 2 - 9_999), second);
    assert_eq!(delay(half, u32::MAX / 2 + 9_999), None);
    let abort = |fault: &str, draw: u32| match draws(0, draw).decide(&rule(fault)) {
        Decision::Answer(answer) => answer.fault,
        _ => None,
    };
    assert_eq!(abort("abort: {httpStatus: 555}", 0), None, "T-45");
    let all = "percentage: {value: 100}";
    assert_eq!(
        abort(&format!("abort: {{httpStatus: 555, {all}}}"), u32::MAX),
        Some(AbortWith::Http(555))
    );
    assert_eq!(
        abort(&format!("abort: {{grpcStatus: UNAVAILABLE, {all}}}"), 0),
        Some(AbortWith::Grpc(14))
    );
    let tenth = "abort: {httpStatus: 500, percentage: {value: 0.1}}";
    assert_eq!(abort(tenth, u32::MAX / 1_000 + 9_999), None);
    assert_eq!(abort(tenth, u32::MAX / 1_000 - 9_999), Some(AbortWith::Http(500)));
    let both = format!("delay: {{fixedDelay: 1s, {all}}}, abort: {{httpStatus: 500, {all}}}");
    let Decision::Answer(answer) = draws(0, 0).decide(&rule(&both)) else {
        panic!("forwarded");
    };
    assert_eq!(
        (answer.delay, answer.status),
        (second, 500),
        "rolled independently"
    );
}

#[test]
fn mirrors_are_drawn_each_for_itself() {
    let mirror = "{destination: {host: forecast}, percentage: {value: 50}}";
    let snapshot = with_routes(&format!("[{{mirrors: [{mirror}, {mirror}], route: [{V1}]}}]"));
    let mut counts = [0; 3];
    for i in 0..2_000_u32 {
        let draws = Draws {
            mirror: crate::testing::draw(i),
            ..Draws::default()
        };
        let plan = Request {
            draws,
            ..Request::default()
        };
        counts[plan.plan(&snapshot).mirrors.len()] += 1;
    }
    assert!((400..600).contains(&counts[0]), "{counts:?}");
    assert!((900..1_100).contains(&counts[1]), "{counts:?}");
}

#[test]
fn cors_answers_preflights_before_anything_else_and_dresses_what_is_forwarded() {
    let snapshot = with_routes(&format!(
        "[{{corsPolicy: {{allowOrigins: [{{regex: 'https://[a-z]+\\.example'}}], allowMethods: [PUT], maxAge: 24h}}, \
          fault: {{abort: {{httpStatus: 500, percentage: {{value: 100}}}}}}, route: [{V1}]}}]"
    ));
    let request = |method: &'static str, headers: &'static [(&'static str, &'static str)]| {
        let request = Request {
            method,
            headers,
            ..Request::default()
        };
        match request.decide(&snapshot) {
            Decision::Answer(answer) => (answer.status, answer.cors),
            other => panic!("{other:?}"),
        }
    };
    let (status, fields) = request(
        "OPTIONS",
        &[
            ("origin", "https://a.example"),
            ("access-control-request-method", "PUT"),
        ],
    );
    assert_eq!(status, 200);
    assert!(
        fields.contains(&("access-control-max-age", "86400".into())),
        "{fields:?}"
    );
    let (status, fields) = request("GET", &[("origin", "https://a.example")]);
    assert_eq!((status, fields[0].1.as_str()), (500, "https://a.example"));
    assert_eq!(request("GET", &[("origin", "http://a.example")]).1, []);
}

#[test]
fn the_deprecated_list_of_origins_is_exact() {
    let snapshot = with_routes(&format!(
        "[{{corsPolicy: {{allowOrigin: [a.example]}}, route: [{V1}]}}]"
    ));
    let dressed = |headers: &'static [(&'static str, &'static str)]| {
        let request = Request {
            headers,
            ..Request::default()
        };
        !request.plan(&snapshot).cors.is_empty()
    };
    assert!(dressed(&[("origin", "a.example")]));
    assert!(!dressed(&[("origin", "b.a.example")]));
}

#[test]
fn retries_say_where_and_when() {
    let retries = |written: &str| {
        let snapshot = with_routes(&format!("[{{{written}route: [{V1}]}}]"));
        Request::default().plan(&snapshot).retries().clone()
    };
    let default = retries("");
    assert_eq!((default.attempts, default.previous_hosts), (2, false), "T-40");
    assert_eq!(retries("retries: {attempts: 0}, ").attempts, 0);
    let all = retries(
        "retries: {attempts: 3, perTryTimeout: 2s, backoff: 1s, retryIgnorePreviousHosts: false, \
         retryRemoteLocalities: true, retryOn: 'reset,envoy-ratelimited,retriable-4xx,503,unavailable'}, ",
    );
    assert_eq!(all.per_try_timeout, Some(Duration::from_secs(2)));
    assert_eq!(all.backoff, Duration::from_secs(1));
    assert!(all.previous_hosts && all.remote_localities);
    assert!(all.on.reset && all.on.rate_limited && all.on.retriable_4xx);
    assert_eq!((all.on.statuses, all.on.grpc), (vec![503], vec![14]));
}

#[test]
fn a_rule_that_leads_nowhere_still_aborts() {
    let rules = "[{fault: {abort: {httpStatus: 400, percentage: {value: 100}}}, route: [{destination: {host: nobody}}]}]";
    let mut state = state(&format!("{WEATHER}\n---\n{}", virtual_service("routes", rules)));
    assert_eq!(Request::default().outcome(&state.snapshot()), "400 ");
}
