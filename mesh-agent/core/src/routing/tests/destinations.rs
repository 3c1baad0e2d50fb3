//! Weights, mirrors, subsets, and the answers where nothing is there.

use super::V1;
use crate::routing::{Decision, Draws};
use crate::testing::{Dial, Request, WEATHER, addrs, state, virtual_service, with_routes};

#[test]
fn weights_are_shares_of_their_sum_and_a_single_destination_gets_all() {
    let split = |a: u32, b: u32| {
        format!(
            "[{{route: [{{destination: {{host: forecast, subset: v1}}, weight: {a}}}, {{destination: {{host: forecast, subset: v2}}, weight: {b}}}]}}]"
        )
    };
    for (a, b, share) in [
        (50, 50, 0.5),
        (1, 3, 0.25),
        (90, 10, 0.9),
        (0, 1, 0.0),
        (7, 0, 1.0),
    ] {
        let snapshot = with_routes(&split(a, b));
        let first = (0..10_000_u32).filter(|i| {
            let draws = Draws {
                split: crate::testing::draw(*i),
                mirror: 0,
                ..Draws::default()
            };
            Request {
                draws,
                ..Default::default()
            }
            .plan(&snapshot)
            .upstream
            .subset
            .as_deref()
                == Some("v1")
        });
        let measured = first.count() as f64 / 10_000.0;
        assert!((measured - share).abs() < 0.01, "{a}:{b} gave {measured}");
    }
    let snapshot = with_routes("[{route: [{destination: {host: forecast, subset: v2}, weight: 0}]}]");
    let plan = Request {
        draws: Draws {
            split: u32::MAX,
            mirror: 0,
            ..Draws::default()
        },
        ..Default::default()
    }
    .plan(&snapshot);
    assert_eq!(
        addrs(&plan.upstream.endpoints),
        ["10.2.0.2:8080", "[fd00:2::2]:8080"]
    );
}

#[test]
fn what_is_not_there_is_answered_as_envoy_does() {
    let mut state = state(&format!(
        "{WEATHER}\n---\n{}",
        virtual_service(
            "r",
            "[{match: [{uri: {exact: /nc}}], route: [{destination: {host: forecast, subset: none}}]}, {match: [{uri: {exact: /uh}}], route: [{destination: {host: forecast, subset: v3}}]}, {match: [{uri: {exact: /host}}], route: [{destination: {host: nowhere}}]}, {match: [{uri: {exact: /port}}], route: [{destination: {host: forecast, port: {number: 9}}}]}]"
        )
    ));
    let snapshot = state.snapshot();
    for (path, answer) in [
        ("/nc", "503 NC"),
        ("/uh", "503 UH"),
        ("/host", "503 NC"),
        ("/port", "503 NC"),
        ("/", "404 NR"),
    ] {
        assert_eq!(
            Request {
                path,
                ..Default::default()
            }
            .outcome(&snapshot),
            answer,
            "{path}"
        );
    }
    let Decision::Refuse(refusal) = (Request {
        path: "/nc",
        ..Default::default()
    })
    .decide(&snapshot) else {
        panic!("forwarded")
    };
    assert_eq!(
        refusal.detail,
        "VirtualService weather/r spec.http[0].route[0].destination: no DestinationRule defines subset none of forecast.weather.svc.cluster.local"
    );
}

#[test]
fn the_port_of_a_destination_is_the_named_one_else_the_one_dialled() {
    let snapshot = with_routes(
        "[{match: [{uri: {exact: /alt}}], route: [{destination: {host: forecast, port: {number: 8081}}}]}, {match: [{uri: {exact: /db}}], route: [{destination: {host: database}}]}, {route: [{destination: {host: forecast}}]}]",
    );
    for (path, port) in [("/alt", 8081), ("/db", 5432), ("/", 80)] {
        let plan = Request {
            path,
            ..Default::default()
        }
        .plan(&snapshot);
        assert_eq!(plan.upstream.port.unwrap().number, port, "{path}");
    }
}

#[test]
fn mirrors_take_their_share_and_never_refuse_the_request() {
    let snapshot = with_routes(
        "[{route: [{destination: {host: forecast, subset: v1}}], mirror: {host: forecast, subset: v2}, mirrorPercentage: {value: 25}}]",
    );
    let mirrored = (0..10_000_u32).filter(|i| {
        let draws = Draws {
            split: 0,
            mirror: crate::testing::draw(*i),
            ..Draws::default()
        };
        !Request {
            draws,
            ..Default::default()
        }
        .plan(&snapshot)
        .mirrors
        .is_empty()
    });
    assert!((2_400..2_600).contains(&mirrored.count()));
    let snapshot = with_routes(
        "[{route: [{destination: {host: forecast}}], mirrors: [{destination: {host: empty}}, {destination: {host: forecast, subset: v2}}]}]",
    );
    let plan = Request {
        draws: Draws {
            split: 0,
            mirror: u32::MAX,
            ..Draws::default()
        },
        ..Default::default()
    }
    .plan(&snapshot);
    assert_eq!(plan.mirrors.len(), 1, "the empty service is left out");
    let snapshot = with_routes(
        "[{route: [{destination: {host: forecast}}], mirror: {host: forecast}, mirror_percent: 0}]",
    );
    assert!(Request::default().plan(&snapshot).mirrors.is_empty());
}

#[test]
fn a_clients_own_destination_rule_comes_before_the_services() {
    let rule = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: mine, namespace: other}\nspec: {host: forecast.weather.svc.cluster.local, subsets: [{name: v1, labels: {version: v2}}]}";
    let mut state = state(&format!(
        "{WEATHER}\n---\n{rule}\n---\n{}",
        virtual_service("r", &format!("[{{route: [{V1}]}}]"))
    ));
    let snapshot = state.snapshot();
    let visitor = Request {
        from: "10.1.0.9",
        authority: "forecast.weather",
        ..Default::default()
    };
    assert_eq!(
        addrs(&visitor.plan(&snapshot).upstream.endpoints)[0],
        "10.2.0.2:8080"
    );
    assert_eq!(
        addrs(&Request::default().plan(&snapshot).upstream.endpoints)[0],
        "10.1.0.2:8080"
    );
}

#[test]
fn connections_go_to_the_service_port_or_to_the_pod_that_was_dialled() {
    let snapshot = with_routes(&format!("[{{route: [{V1}]}}]"));
    let dial = |to: &str| {
        Dial {
            to,
            ..Dial::default()
        }
        .decide(&snapshot)
    };
    let first = |to: &str| addrs(&dial(to).unwrap().upstream.endpoints)[0].clone();
    assert_eq!(first("10.96.0.2:5432"), "10.1.0.2:5432");
    assert_eq!(first("10.2.0.2:99"), "10.2.0.2:99");
    assert_eq!(dial("10.96.0.3:80").unwrap_err().flag, "UH");
    assert_eq!(dial("10.96.0.1:9").unwrap_err().flag, "NR");
    assert_eq!(dial("192.0.2.1:9").unwrap_err().flag, "NR");
}
