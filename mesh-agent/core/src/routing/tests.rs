use super::*;
use crate::testing::{Request, WEATHER, addrs, state, virtual_service, with_routes};
use proptest::prelude::*;

const V1: &str = "{destination: {host: forecast, subset: v1}}";

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
                split: i.wrapping_mul(2_654_435_761),
                mirror: 0,
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
fn mirrors_take_their_share_and_never_refuse_the_request() {
    let snapshot = with_routes(
        "[{route: [{destination: {host: forecast, subset: v1}}], mirror: {host: forecast, subset: v2}, mirrorPercentage: {value: 25}}]",
    );
    let mirrored = (0..10_000_u32).filter(|i| {
        let draws = Draws {
            split: 0,
            mirror: i.wrapping_mul(2_654_435_761),
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
    let dial = |addr: &str| {
        let addr: std::net::SocketAddr = addr.parse().unwrap();
        route_connection(&snapshot.target(addr), addr.port())
    };
    assert_eq!(
        addrs(&dial("10.96.0.2:5432").unwrap().endpoints)[0],
        "10.1.0.2:5432"
    );
    assert_eq!(addrs(&dial("10.2.0.2:99").unwrap().endpoints)[0], "10.2.0.2:99");
    assert_eq!(dial("10.96.0.3:80").unwrap_err().flag, "UH");
    assert_eq!(dial("10.96.0.1:9").unwrap_err().flag, "NR");
    assert_eq!(dial("192.0.2.1:9").unwrap_err().flag, "NR");
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
            let draws = Draws { split, mirror: split };
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
