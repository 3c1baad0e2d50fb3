//! Bytes through the mesh: same node and between nodes, both families, on ports that say they are TCP and on ports
//! that say nothing.

#![allow(
    clippy::unwrap_used,
    reason = "what fails here fails the test that asked for it"
)]

use mesh_tests::eventually;
use mesh_tests::promtext;
use mesh_tests::shop::{self, Shop, everywhere, peak_while, vips};
use std::net::SocketAddr;
use std::time::Duration;

const MIB: u64 = 1 << 20;
/// What an agent may grow by while it carries any number of bytes.
const GROWTH: u64 = 32 * MIB;

fn connect(shop: &Shop, to: SocketAddr, args: &[&str]) -> serde_json::Value {
    let to = to.to_string();
    let args: Vec<&str> = ["connect", "--to", &to].iter().chain(args).copied().collect();
    shop.client.podkit(&args).unwrap()
}

#[test]
fn bytes_come_back_and_the_clients_half_closes_alone() {
    let shop = Shop::open().unwrap();
    for (case, to) in everywhere(&[shop::ECHO, shop::UNNAMED_ECHO]) {
        let answer = connect(&shop, to, &["--send", "hello", "--half-close"]);
        let place = case.split(' ').next().unwrap();
        assert_eq!(answer["ok"], true, "{case}: {answer}");
        assert_eq!(answer["reply"]["line"], "hello", "{case}: {answer}");
        assert_eq!(answer["reply"]["seen"]["server"], place, "{case}: {answer}");
        assert_eq!(answer["replies"][1]["eof"], true, "{case}: {answer}");
        assert_eq!(answer["replies"][1]["bytes"], 6, "{case}: {answer}");
    }
}

#[test]
fn the_servers_half_closes_alone() {
    let shop = Shop::open().unwrap();
    let cases = everywhere(&[shop::EARLY, shop::UNNAMED_EARLY]);
    for (case, to) in &cases {
        let answer = connect(
            &shop,
            *to,
            &["--read-first", "--send", "after the end", "--half-close"],
        );
        assert_eq!(answer["ok"], true, "{case}: {answer}");
        assert_eq!(answer["first"], "{\"early\":true}", "{case}: {answer}");
    }
    for pod in shop::PLACES {
        eventually(
            "what came after the server's half was closed",
            Duration::from_secs(5),
            || {
                let log = shop.log_of(pod, "early");
                (log.matches("\"bytes\":14,\"event\":\"total\"").count() == cases.len() / 2).then_some(())
            },
        )
        .unwrap_or_else(|error| panic!("{error}: {pod}: {}", shop.log_of(pod, "early")));
    }
}

#[test]
fn servers_that_speak_first_are_heard_at_once() {
    let shop = Shop::open().unwrap();
    for (case, to) in everywhere(&[shop::SMTP, shop::UNNAMED_SMTP]) {
        for round in ["first", "second"] {
            let answer = connect(&shop, to, &["--send", ""]);
            assert_eq!(answer["reply"], "220 ready", "{case}, {round}: {answer}");
            assert!(
                answer["elapsed_us"].as_u64().unwrap() < 1_500_000,
                "{case}, {round}: {answer}"
            );
        }
        // The client's turn comes after the banner.
        let answer = connect(&shop, to, &["--send", "EHLO me", "--half-close"]);
        assert_eq!(answer["replies"][1]["line"], "EHLO me", "{case}: {answer}");
    }
    let metrics = shop.metrics(0).unwrap();
    let remembered: f64 = metrics
        .iter()
        .filter(|sample| {
            sample.name.contains("detections") && sample.labels.values().any(|v| v == "remembered")
        })
        .map(|sample| sample.value)
        .sum();
    // Four unnamed ports: each waits once, and later connections do not.
    assert!(
        remembered >= 8.0,
        "the ports that speak first were not remembered: {remembered}"
    );
}

#[test]
fn a_quarter_gibibyte_passes_in_bounded_memory() {
    let shop = Shop::open().unwrap();
    for (case, to) in [
        ("far, declared", vips("far", shop::SINK)[0]),
        ("far, unnamed", vips("far", shop::UNNAMED_SINK)[1]),
        ("near, unnamed", vips("near", shop::UNNAMED_SINK)[0]),
    ] {
        let (before, other) = (shop.resident(0).unwrap(), shop.resident(1).unwrap());
        let (far_peak, (near_peak, answer)) = peak_while(shop.agents[1].proc.pid(), || {
            peak_while(shop.agents[0].proc.pid(), || {
                let (to, bytes) = (to.to_string(), (256 * MIB).to_string());
                shop.client.podkit(&["stream", "--to", &to, "--bytes", &bytes])
            })
        })
        .unwrap();
        assert_eq!(answer["ok"], true, "{case}: {answer}");
        assert_eq!(answer["bytes"], 256 * MIB, "{case}: {answer}");
        assert!(
            near_peak < before + GROWTH,
            "{case}: {before} grew to {near_peak}"
        );
        assert!(far_peak < other + GROWTH, "{case}: {other} grew to {far_peak}");
    }
}

#[test]
fn a_stream_that_nobody_reads_holds_up_no_other() {
    let shop = Shop::open().unwrap();
    let before = [shop.resident(0).unwrap(), shop.resident(1).unwrap()];
    let mut held = Vec::new();
    for (case, to) in everywhere(&[shop::TCP_WEB, shop::HTTP]) {
        let to = to.to_string();
        let args = [
            "hold",
            "--to",
            &to,
            "--host",
            "far",
            "--path",
            "/bytes/67108864",
            "--connections",
            "1",
        ];
        let hold = shop.client.serve(&args).unwrap();
        assert!(hold.stdout().contains("\"held\":1"), "{case}: {}", hold.stdout());
        held.push(hold);
    }
    for (case, to) in everywhere(&[shop::ECHO, shop::UNNAMED_ECHO]) {
        let to = to.to_string();
        let chat = shop
            .client
            .podkit(&["chat", "--to", &to, "--seconds", "0.5"])
            .unwrap();
        assert_eq!(chat["ok"], true, "{case}: {chat}");
        assert!(chat["longest_ms"].as_f64().unwrap() < 1_000.0, "{case}: {chat}");
    }
    for (case, to) in everywhere(&[shop::TCP_WEB, shop::HTTP]) {
        let answer = shop
            .get(to, &["--count", "10", "--host", case.split(' ').next().unwrap()])
            .unwrap();
        assert_eq!(answer["statuses"]["200"], 10, "{case}: {answer}");
    }
    for (node, before) in before.iter().enumerate() {
        let now = shop.resident(node).unwrap();
        assert!(
            now < before + GROWTH,
            "node {node}: {before} grew to {now} with 8 unread streams"
        );
    }
}

#[test]
fn a_refused_connection_ends_at_once() {
    let shop = Shop::open().unwrap();
    for (case, to) in everywhere(&[shop::CLOSED, shop::UNNAMED_CLOSED]) {
        let answer = connect(&shop, to, &[]);
        assert!(answer["reply"].is_null(), "{case}: {answer}");
        assert!(answer["errno_name"] != "EAGAIN", "hangs: {case}: {answer}");
        assert!(
            answer["elapsed_us"].as_u64().unwrap() < 3_000_000,
            "{case}: {answer}"
        );
    }
}

#[test]
fn a_reset_reaches_the_other_side_as_a_reset() {
    let shop = Shop::open().unwrap();
    for (case, to) in everywhere(&[shop::RESET, shop::UNNAMED_RESET]) {
        let answer = connect(&shop, to, &[]);
        assert_eq!(answer["errno_name"], "ECONNRESET", "{case}: {answer}");
    }
    let cases = everywhere(&[shop::ECHO, shop::UNNAMED_ECHO]);
    for (case, to) in &cases {
        let answer = connect(&shop, *to, &["--reset"]);
        assert_eq!(answer["ok"], true, "{case}: {answer}");
    }
    for pod in shop::PLACES {
        eventually("the client's resets", Duration::from_secs(5), || {
            let resets = shop
                .log_of(pod, "echo")
                .matches("Connection reset by peer")
                .count();
            (resets == cases.len() / 2).then_some(())
        })
        .unwrap_or_else(|error| panic!("{error}: {pod}: {}", shop.log_of(pod, "echo")));
    }
}

#[test]
fn connections_are_counted_once_on_each_side() {
    let shop = Shop::open().unwrap();
    for to in vips("far", shop::UNNAMED_ECHO) {
        let answer = connect(&shop, to, &["--half-close"]);
        assert_eq!(answer["ok"], true, "{answer}");
    }
    for (node, reporter) in [(0, "source"), (1, "destination")] {
        let labels = [
            ("reporter", reporter),
            ("destination_workload", "far-v2"),
            ("source_workload", "client-v1"),
        ];
        eventually(
            &format!("two closed connections of {reporter}"),
            Duration::from_secs(5),
            || {
                let metrics = shop.metrics(node).ok()?;
                let of = |name| promtext::sum(&metrics, name, &labels);
                let counts = [
                    of("istio_tcp_connections_opened_total"),
                    of("istio_tcp_connections_closed_total"),
                ];
                (counts == [2.0, 2.0] && of("istio_tcp_received_bytes_total") == 12.0).then_some(())
            },
        )
        .unwrap();
    }
}
