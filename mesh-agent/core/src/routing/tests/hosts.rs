//! What Host header and dialled address lead to.

use super::V1;
use crate::testing::{Request, WEATHER, addrs, state, virtual_service, with_routes};

#[test]
fn every_spelling_of_a_host_reaches_the_same_route() {
    let snapshot = with_routes(&format!("[{{name: r, route: [{V1}]}}]"));
    for authority in [
        "forecast",
        "forecast:80",
        "FORECAST",
        "forecast.weather",
        "forecast.weather:80",
        "forecast.weather.svc",
        "forecast.weather.svc.cluster.local",
        "forecast.weather.svc.cluster.local.",
        "Forecast.Weather.svc.cluster.local.:80",
        "10.96.0.1",
        "10.96.0.1:80",
        "[fd00:96::1]:80",
    ] {
        assert_eq!(
            Request {
                authority,
                ..Default::default()
            }
            .outcome(&snapshot),
            "r",
            "{authority}"
        );
    }
}

#[test]
fn a_short_name_counts_only_inside_its_namespace_but_the_address_dialled_still_leads() {
    let snapshot = with_routes(&format!("[{{name: r, route: [{V1}]}}]"));
    let visitor = Request {
        from: "10.1.0.9",
        to: "10.96.0.3:80",
        ..Default::default()
    };
    assert_eq!(
        visitor.outcome(&snapshot),
        "503 UH",
        "falls back to the service dialled, which is empty"
    );
    assert_eq!(
        Request {
            authority: "forecast.weather",
            ..visitor
        }
        .outcome(&snapshot),
        "r"
    );
    assert_eq!(
        Request {
            to: "10.96.0.1:80",
            ..visitor
        }
        .outcome(&snapshot),
        "r",
        "ClusterIP of forecast"
    );
}

#[test]
fn a_pod_dialled_by_its_own_address_keeps_that_pod_and_gets_no_routes() {
    let snapshot = with_routes("[{name: r, route: [{destination: {host: forecast, subset: v1}}]}]");
    let plan = Request {
        to: "10.2.0.2:8080",
        ..Default::default()
    }
    .plan(&snapshot);
    assert!(plan.rule.is_none() && plan.upstream.service.is_none());
    assert_eq!(
        addrs(&plan.upstream.endpoints),
        ["10.2.0.2:8080", "[fd00:2::2]:8080"]
    );
}

#[test]
fn a_headless_service_gets_its_routes_and_the_dialled_pod_stays_chosen() {
    let vs = virtual_service("r", "[{name: r, route: [{destination: {host: peers}}]}]")
        .replace("[forecast]", "[peers]");
    let mut state = state(&format!("{WEATHER}\n---\n{vs}"));
    let snapshot = state.snapshot();
    for authority in ["peers:8080", "forecast-v2.peers.weather.svc.cluster.local"] {
        let plan = Request {
            to: "10.2.0.2:8080",
            authority,
            ..Default::default()
        }
        .plan(&snapshot);
        assert_eq!(&*plan.rule.unwrap().rule().name, "r");
        assert_eq!(
            addrs(&plan.upstream.endpoints),
            ["10.2.0.2:8080", "[fd00:2::2]:8080"]
        );
        assert_eq!(plan.upstream.port.unwrap().number, 8080);
    }
}

#[test]
fn a_wildcard_is_used_where_nothing_exact_is_and_the_longest_one_first() {
    let vs = |name: &str, host: &str| {
        virtual_service(name, &format!("[{{name: {name}, route: [{V1}]}}]"))
            .replace("[forecast]", &format!("['{host}']"))
    };
    let mut state = state(&format!(
        "{WEATHER}\n---\n{}\n---\n{}\n---\n{}",
        vs("wide", "*.example.com"),
        vs("narrow", "*.a.example.com"),
        vs("exact", "x.a.example.com")
    ));
    let snapshot = state.snapshot();
    for (authority, rule) in [
        ("x.example.com", "wide"),
        ("y.a.example.com:80", "narrow"),
        ("x.a.example.com", "exact"),
        ("example.com", "default"),
    ] {
        assert_eq!(
            Request {
                authority,
                ..Default::default()
            }
            .outcome(&snapshot),
            rule,
            "{authority}"
        );
    }
}

#[test]
fn a_rule_that_is_not_exported_is_not_seen_elsewhere() {
    let vs = virtual_service("r", &format!("[{{name: r, route: [{V1}]}}]"))
        .replace("{hosts", "{exportTo: ['.'], hosts");
    let mut state = state(&format!("{WEATHER}\n---\n{vs}"));
    let snapshot = state.snapshot();
    assert_eq!(Request::default().outcome(&snapshot), "r");
    let visitor = Request {
        from: "10.1.0.9",
        authority: "forecast.weather",
        ..Default::default()
    };
    assert_eq!(visitor.outcome(&snapshot), "default");
}
