//! Metrics as Istio's dashboards ask for them, read by promtool and a real Prometheus, and access lines.

#![allow(
    clippy::unwrap_used,
    reason = "what fails here fails the test that asked for it"
)]

use mesh_tests::eventually;
use mesh_tests::prometheus::{Prometheus, promtool};
use mesh_tests::shop::{self, Shop, everywhere, vips};
use serde_json::Value;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

/// What Kiali, Grafana's Istio dashboards and Flagger group by.
const COMMON: [&str; 23] = [
    "reporter",
    "source_workload",
    "source_workload_namespace",
    "source_principal",
    "source_app",
    "source_version",
    "source_cluster",
    "source_canonical_service",
    "source_canonical_revision",
    "destination_workload",
    "destination_workload_namespace",
    "destination_principal",
    "destination_app",
    "destination_version",
    "destination_service",
    "destination_service_name",
    "destination_service_namespace",
    "destination_cluster",
    "destination_canonical_service",
    "destination_canonical_revision",
    "request_protocol",
    "response_flags",
    "connection_security_policy",
];

fn ask(shop: &Shop, to: SocketAddr, args: &[&str]) -> Value {
    shop.get(to, args).unwrap()
}

fn settles_at(what: &str, want: f64, read: impl Fn() -> f64) {
    let result = eventually(what, Duration::from_secs(5), || (read() >= want).then_some(()));
    result.unwrap_or_else(|error| panic!("{error}: {} and not {want}", read()));
    assert_eq!(read(), want, "{what}");
}

/// Names of the labels of each series of a metric, with empty values too.
fn label_names(text: &str, metric: &str) -> Vec<BTreeSet<String>> {
    let series = text
        .lines()
        .filter(|line| line.starts_with(&format!("{metric}{{")));
    series
        .map(|line| {
            let inside = &line[metric.len() + 1..line.rfind('}').unwrap()];
            inside
                .split("\",")
                .filter_map(|pair| pair.split_once("=\""))
                .map(|(name, _)| name.to_owned())
                .collect()
        })
        .collect()
}

#[test]
fn both_reporters_count_each_request_once_with_every_label() {
    let shop = Shop::open().unwrap();
    for (place, version) in [("near", "v1"), ("far", "v2")] {
        for to in vips(place, shop::HTTP) {
            let answer = ask(
                &shop,
                to,
                &[
                    "--host",
                    place,
                    "--count",
                    "7",
                    "--path",
                    "/status/418",
                    "--method",
                    "POST",
                    "--body",
                    "9",
                ],
            );
            assert_eq!(answer["statuses"]["418"], 7, "{answer}");
        }
        let server = usize::from(place == "far");
        let (workload, host) = (
            format!("{place}-{version}"),
            format!("{place}.shop.svc.cluster.local"),
        );
        for (node, reporter) in [(0, "source"), (server, "destination")] {
            let mut labels = vec![
                ("reporter", reporter),
                ("source_workload", "client-v1"),
                ("source_workload_namespace", "shop"),
                ("source_principal", "spiffe://cluster.local/ns/shop/sa/client"),
                ("source_app", "client"),
                ("source_version", "v1"),
                ("source_cluster", "Kubernetes"),
                ("source_canonical_service", "client"),
                ("source_canonical_revision", "v1"),
                ("destination_workload", &workload),
                ("destination_workload_namespace", "shop"),
                ("destination_principal", "spiffe://cluster.local/ns/shop/sa/shop"),
                ("destination_app", "shop"),
                ("destination_version", version),
                ("destination_service", &host),
                ("destination_service_name", place),
                ("destination_service_namespace", "shop"),
                ("destination_cluster", "Kubernetes"),
                ("destination_canonical_service", "shop"),
                ("destination_canonical_revision", version),
                ("request_protocol", "http"),
                ("response_code", "418"),
                ("response_flags", "-"),
            ];
            if place == "far" {
                labels.push(("connection_security_policy", "mutual_tls"));
            } else {
                // No certificate is shown inside a node; the agent itself knows both ends.
                labels.retain(|(name, _)| !name.ends_with("_principal"));
            }
            let case = format!("{reporter} of {place}");
            settles_at(&case, 14.0, || {
                shop.sum(node, "istio_requests_total", &labels).unwrap()
            });
            for count in [
                "istio_request_duration_milliseconds_count",
                "istio_request_bytes_count",
                "istio_response_bytes_count",
            ] {
                settles_at(&format!("{case}: {count}"), 14.0, || {
                    shop.sum(node, count, &labels).unwrap()
                });
            }
            settles_at(&case, 14.0 * 9.0, || {
                shop.sum(node, "istio_request_bytes_sum", &labels).unwrap()
            });
        }
    }
    for agent in &shop.agents {
        let text = agent.spec.get("/metrics").unwrap().1;
        let want: BTreeSet<String> = COMMON
            .iter()
            .chain(&["response_code", "grpc_response_status"])
            .map(ToString::to_string)
            .collect();
        for names in label_names(&text, "istio_requests_total") {
            assert_eq!(names, want);
        }
    }
}

#[test]
fn grpc_is_counted_with_its_status_and_messages() {
    let shop = Shop::open().unwrap();
    for (place, node) in [("near", 0), ("far", 1)] {
        for to in vips(place, shop::GRPC) {
            let answer = ask(
                &shop,
                to,
                &["--host", place, "--grpc", "--body", "10", "--count", "3"],
            );
            assert_eq!(answer["last"]["trailers"]["grpc-status"], "0", "{answer}");
        }
        let host = format!("{place}.shop.svc.cluster.local");
        for (node, reporter) in [(0, "source"), (node, "destination")] {
            let labels = [
                ("reporter", reporter),
                ("request_protocol", "grpc"),
                ("grpc_response_status", "0"),
                ("response_code", "200"),
                ("destination_service", host.as_str()),
            ];
            for metric in [
                "istio_requests_total",
                "istio_request_messages_total",
                "istio_response_messages_total",
            ] {
                settles_at(&format!("{metric} {reporter} {place}"), 6.0, || {
                    shop.sum(node, metric, &labels).unwrap()
                });
            }
        }
    }
    let answer = ask(&shop, vips("none", shop::GRPC)[0], &["--host", "none", "--grpc"]);
    assert_eq!(answer["statuses"]["200"], 1, "{answer}");
    let labels = [
        ("grpc_response_status", "14"),
        ("response_flags", "UH"),
        ("request_protocol", "grpc"),
    ];
    settles_at("a call without an upstream", 1.0, || {
        shop.sum(0, "istio_requests_total", &labels).unwrap()
    });
}

#[test]
fn bytes_are_counted_on_both_sides() {
    let shop = Shop::open().unwrap();
    for (place, server) in [("near", 0), ("far", 1)] {
        for to in vips(place, shop::UNNAMED_SINK) {
            let answer = shop
                .client
                .podkit(&["stream", "--to", &to.to_string(), "--bytes", "1000000"])
                .unwrap();
            assert_eq!(answer["bytes"], 1_000_000, "{answer}");
        }
        let host = format!("{place}.shop.svc.cluster.local");
        for (node, reporter) in [(0, "source"), (server, "destination")] {
            let labels = [
                ("reporter", reporter),
                ("destination_service", host.as_str()),
                ("request_protocol", "tcp"),
            ];
            for (metric, want) in [
                ("istio_tcp_connections_opened_total", 2.0),
                ("istio_tcp_connections_closed_total", 2.0),
                ("istio_tcp_received_bytes_total", 2_000_000.0),
                (
                    "istio_tcp_sent_bytes_total",
                    2.0 * "{\"bytes\":1000000}\n".len() as f64,
                ),
            ] {
                settles_at(&format!("{metric} {reporter} {place}"), want, || {
                    shop.sum(node, metric, &labels).unwrap()
                });
            }
        }
    }
    for agent in &shop.agents {
        let text = agent.spec.get("/metrics").unwrap().1;
        let want: BTreeSet<String> = COMMON.iter().map(ToString::to_string).collect();
        for names in label_names(&text, "istio_tcp_sent_bytes_total") {
            assert_eq!(names, want);
        }
    }
}

#[test]
fn the_number_of_series_does_not_follow_what_requests_contain() {
    let shop = Shop::open().unwrap();
    let series = || -> usize {
        let count = |node: usize| shop.metrics(node).unwrap().len();
        count(0) + count(1)
    };
    let args = [
        "--host",
        "h{seq}.example.com",
        "--path",
        "/p{seq}?q={seq}",
        "--header",
        "x-h{seq}: {seq}",
        "--header",
        "user-agent: a{seq}",
        "--keepalive",
    ];
    let to = vips("far", shop::HTTP)[0];
    ask(&shop, to, &[&args[..], &["--count", "100"]].concat());
    // Methods are contents too.
    ask(&shop, to, &["--host", "far", "--method", "BREW"]);
    let before = series();
    let answer = ask(&shop, to, &[&args[..], &["--count", "10000"]].concat());
    assert_eq!(answer["failed"], 0, "{answer}");
    for method in ["A", "B-C", "LONGER"] {
        ask(&shop, to, &["--host", "far", "--method", method]);
    }
    assert_eq!(series(), before);
}

#[test]
fn promtool_and_prometheus_read_the_metrics() {
    let shop = Shop::open().unwrap();
    for (case, to) in everywhere(&[shop::HTTP, shop::UNNAMED_ECHO]) {
        let place = case.split(' ').next().unwrap();
        if to.port() == shop::HTTP {
            ask(&shop, to, &["--host", place, "--count", "5"]);
            ask(&shop, to, &["--host", place, "--grpc"]);
        } else {
            shop.client.podkit(&["connect", "--to", &to.to_string()]).unwrap();
        }
    }
    for agent in &shop.agents {
        let (status, text) = agent.spec.get("/metrics").unwrap();
        assert_eq!(status, 200);
        assert_eq!(promtool(&text).unwrap(), Vec::<String>::new());
    }
    let prometheus = Prometheus::start(&shop.ground).unwrap();
    let query = "sum by (reporter, source_workload, destination_workload, destination_version) (istio_requests_total{response_code=\"200\", request_protocol=\"http\"})";
    let rows = eventually("both reporters in Prometheus", Duration::from_secs(30), || {
        let rows = prometheus.query(query).ok()?;
        (rows.len() >= 4).then_some(rows)
    })
    .unwrap();
    for reporter in ["source", "destination"] {
        for (workload, version) in [("near-v1", "v1"), ("far-v2", "v2")] {
            let row = rows.iter().find(|row| {
                let metric = &row["metric"];
                metric["reporter"] == reporter
                    && metric["destination_workload"] == workload
                    && metric["destination_version"] == version
            });
            let row = row.unwrap_or_else(|| panic!("{reporter} {workload}: {rows:?}"));
            assert_eq!(row["value"][1], "10", "{row}");
        }
    }
    let up = prometheus.query("sum(up)").unwrap();
    assert_eq!(up[0]["value"][1], "2", "{up:?}");
}

/// All lines of one agent's log; each must be a JSON object.
fn lines(shop: &Shop, node: usize) -> Vec<Value> {
    let text = shop.agents[node].proc.stderr();
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    whole
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect()
}

fn access(shop: &Shop, node: usize, message: &str) -> Vec<Value> {
    let all = lines(shop, node)
        .into_iter()
        .filter(|line| line["target"] == "access");
    all.filter(|line| line["message"] == message).collect()
}

#[test]
fn each_request_is_one_line_on_each_side() {
    let shop = Shop::open().unwrap();
    for (case, to) in everywhere(&[shop::HTTP]) {
        let place = case.split(' ').next().unwrap();
        for version in [&[][..], &["--http2"]] {
            let id = format!("line-{}-{}-{}", place, to.is_ipv6(), version.len());
            let header = format!("x-request-id: {id}-{{seq}}");
            let args = [
                "--host",
                place,
                "--count",
                "20",
                "--header",
                &header,
                "--path",
                "/lines?secret=1",
            ];
            ask(&shop, to, &[&args[..], version].concat());
            let of = |node: usize, direction: &str| -> Vec<Value> {
                let fields = access(&shop, node, "request complete").into_iter();
                fields
                    .filter(|f| f["direction"] == direction)
                    .filter(|f| f["request_id"].as_str().is_some_and(|text| text.starts_with(&id)))
                    .collect()
            };
            let server = usize::from(place == "far");
            for (node, direction) in [(0, "outbound"), (server, "inbound")] {
                eventually("the lines", Duration::from_secs(5), || {
                    (of(node, direction).len() >= 20).then_some(())
                })
                .unwrap_or_else(|error| panic!("{error}: {case} {direction}: {}", of(node, direction).len()));
                let found = of(node, direction);
                assert_eq!(found.len(), 20, "{case} {direction}");
                let line = &found[0];
                for key in [
                    "src.addr",
                    "src.workload",
                    "src.namespace",
                    "src.identity",
                    "dst.addr",
                    "dst.hbone_addr",
                    "dst.service",
                    "dst.workload",
                    "dst.namespace",
                    "dst.identity",
                    "direction",
                    "bytes_sent",
                    "bytes_recv",
                    "duration",
                    "error",
                    "method",
                    "path",
                    "authority",
                    "response_code",
                    "response_flags",
                    "protocol",
                ] {
                    assert!(!line[key].is_null(), "{case} {direction} has no {key}: {line}");
                }
                assert_eq!(
                    (&line["path"], &line["method"]),
                    (&"/lines".into(), &"GET".into()),
                    "{line}"
                );
                assert_eq!(line["src.workload"], "client-v1", "{line}");
                assert!(
                    line["src.addr"]
                        .as_str()
                        .unwrap()
                        .contains(&shop.client.ips()[usize::from(to.is_ipv6())].to_string()),
                    "{line}"
                );
            }
        }
    }
    for node in 0..2 {
        assert!(
            !shop.agents[node].proc.stderr().contains("secret"),
            "a query string is in the log"
        );
    }
}

#[test]
fn each_connection_is_one_line_on_each_side() {
    let shop = Shop::open().unwrap();
    for (place, server) in [("near", 0), ("far", 1)] {
        for to in vips(place, shop::UNNAMED_ECHO) {
            let answer = shop
                .client
                .podkit(&["connect", "--to", &to.to_string(), "--half-close"])
                .unwrap();
            assert_eq!(answer["ok"], true, "{answer}");
        }
        for (node, direction) in [(0, "outbound"), (server, "inbound")] {
            let of = || -> Vec<Value> {
                let fields = access(&shop, node, "connection complete").into_iter();
                fields
                    .filter(|f| {
                        f["direction"] == direction
                            && f["dst.workload"].as_str().is_some_and(|w| w.starts_with(place))
                    })
                    .collect()
            };
            settles_at(&format!("{direction} lines of {place}"), 2.0, || {
                of().len() as f64
            });
            let line = &of()[0];
            assert_eq!(
                (&line["protocol"], &line["bytes_recv"]),
                (&"tcp".into(), &6.into()),
                "{line}"
            );
            assert_eq!(
                line["dst.service"],
                format!("{place}.shop.svc.cluster.local"),
                "{line}"
            );
        }
    }
    // Without a proxy there is one line, by the kernel's event.
    for to in vips("near", shop::ECHO) {
        shop.client.podkit(&["connect", "--to", &to.to_string()]).unwrap();
    }
    settles_at("lines of direct connections", 2.0, || {
        access(&shop, 0, "direct connection").len() as f64
    });
}

#[test]
fn hostile_bytes_cannot_forge_a_line() {
    let shop = Shop::open().unwrap();
    let forged = "x\\\",\\\"level\\\":\\\"ERROR\\\",\\\"forged\\\":\\\"";
    for (case, to) in everywhere(&[shop::HTTP]) {
        let place = case.split(' ').next().unwrap();
        let request = format!(
            "GET /a%0a\\x22{forged} HTTP/1.1\\r\\nhost: {place}\\r\\nx-request-id: id-\\xff\\x1b[31m{forged}\\r\\nuser-agent: \\xc3\\x28\\r\\n\\r\\n"
        );
        shop.raw(to, &[&request], &[]).unwrap();
        let long = format!(
            "GET /{} HTTP/1.1\\r\\nhost: {place}\\r\\nx-request-id: long\\r\\n\\r\\n",
            "x".repeat(20_000)
        );
        shop.raw(to, &[&long], &[]).unwrap();
        ask(&shop, to, &["--host", place]);
    }
    eventually("lines of all requests", Duration::from_secs(5), || {
        (access(&shop, 0, "request complete").len() >= 12).then_some(())
    })
    .unwrap();
    for node in 0..2 {
        for line in lines(&shop, node) {
            assert!(line["forged"].is_null(), "{line}");
        }
        let text = shop.agents[node].proc.stderr();
        assert!(
            text.bytes().all(|byte| byte == b'\n' || byte >= b' '),
            "control characters in the log"
        );
        assert!(
            text.lines().all(|line| line.len() < 4_096),
            "a line of the log has no bound"
        );
    }
}
