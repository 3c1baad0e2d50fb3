//! Mutual TLS: what crosses between the nodes, who may come in, and what happens to certificates.

#![allow(
    clippy::unwrap_used,
    reason = "what fails here fails the test that asked for it"
)]

use mesh_tests::capture::Capture;
use mesh_tests::eventually;
use mesh_tests::podkit::last_json;
use mesh_tests::shop::{self, Shop, vips};
use mesh_tests::topology::{Pod, WIRE};
use serde_json::Value;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

const HBONE: u16 = 15008;
const NEEDLE: &str = "must-not-be-seen-on-the-wire";

fn hbone(pod: &Pod, to: SocketAddr, args: &[&str]) -> Value {
    let to = to.to_string();
    let args: Vec<&str> = ["hbone", "--to", &to].iter().chain(args).copied().collect();
    pod.podkit(&args).unwrap()
}

fn tunnel_ports(shop: &Shop) -> Vec<SocketAddr> {
    [&shop.near, &shop.far]
        .iter()
        .flat_map(|pod| pod.ips())
        .map(|ip| SocketAddr::new(ip, HBONE))
        .collect()
}

/// A shop and a pod that the mesh does not know.
fn with_stranger() -> (Shop, Arc<Pod>, String) {
    let mut shop = Shop::open().unwrap();
    let stranger = shop.ground.pod(1, "stranger").unwrap();
    let ca = shop.ground.run().dir().join("ca").display().to_string();
    (shop, stranger, ca)
}

#[test]
fn nothing_of_a_request_crosses_the_wire_in_plaintext() {
    let shop = Shop::open().unwrap();
    let capture = Capture::start(&shop.ground.nodes[0].netns, WIRE).unwrap();
    let header = format!("x-secret: {NEEDLE}");
    let path = format!("/{NEEDLE}");
    for port in [shop::HTTP, shop::UNNAMED_HTTP, shop::GRPC, shop::TCP_WEB] {
        for to in vips("far", port) {
            let kinds: &[&[&str]] = if port == shop::GRPC {
                &[&["--grpc"]]
            } else {
                &[&[], &["--http2"]]
            };
            for kind in kinds {
                let args = [
                    "--host", "far", "--method", "POST", "--body", "2000", "--header", &header, "--path",
                    &path,
                ];
                let answer = shop.get(to, &[&args[..], kind].concat()).unwrap();
                assert_eq!(answer["statuses"]["200"], 1, "{to} {kind:?}: {answer}");
            }
        }
    }
    for port in [shop::ECHO, shop::UNNAMED_ECHO] {
        for to in vips("far", port) {
            let to = to.to_string();
            let answer = shop
                .client
                .podkit(&["connect", "--to", &to, "--send", NEEDLE, "--half-close"])
                .unwrap();
            assert_eq!(answer["reply"]["line"], NEEDLE, "{answer}");
        }
    }
    eventually("the sniffer to catch up", Duration::from_secs(3), || {
        (capture.seen().bytes_on(HBONE) > 16 * 2_000).then_some(())
    })
    .unwrap();
    std::thread::sleep(Duration::from_millis(200));
    let seen = capture.seen();
    // Header fields of HTTP/2 are compressed; its bodies, a run of one letter, are not.
    for needle in [
        NEEDLE.as_bytes(),
        &[b'b'; 64],
        b"POST /",
        b"PRI * HTTP/2.0",
        b"\"server\":\"far\"",
        b"spiffe://",
    ] {
        assert!(
            seen.with(needle).is_empty(),
            "{} in {:?}",
            needle.escape_ascii(),
            seen.with(needle)
        );
    }
    assert_eq!(seen.bytes_on(HBONE), seen.bytes(), "{:?}", seen.bytes_by_port);
    // Both families were used, or half of this would prove nothing.
    assert!(seen.flows.keys().any(|(_, to)| to.is_ipv4()) && seen.flows.keys().any(|(_, to)| to.is_ipv6()));
}

#[test]
fn a_peer_without_a_certificate_is_refused() {
    let (shop, stranger, _) = with_stranger();
    for to in tunnel_ports(&shop) {
        let authority = SocketAddr::new(to.ip(), 7000).to_string();
        let answer = hbone(&stranger, to, &["--authority", &authority]);
        assert_eq!(answer["ok"], false, "{to}: {answer}");
        assert!(
            answer["status"].is_null() && answer["elapsed_ms"].as_f64() < Some(5_000.0),
            "{to}: {answer}"
        );
    }
}

#[test]
fn peers_of_another_trust_domain_or_without_a_clear_name_are_refused() {
    let (shop, stranger, ca) = with_stranger();
    for to in tunnel_ports(&shop) {
        let authority = SocketAddr::new(to.ip(), 7000).to_string();
        for identity in [
            "spiffe://other.domain/ns/shop/sa/client",
            "https://cluster.local/ns/shop/sa/client",
            "spiffe://cluster.local/shop/client",
        ] {
            let args = ["--ca-dir", &ca, "--identity", identity, "--authority", &authority];
            let answer = hbone(&stranger, to, &args);
            assert_eq!(answer["ok"], false, "{to} {identity}: {answer}");
            assert!(answer["status"].is_null(), "{to} {identity}: {answer}");
        }
    }
    // A certificate of the right name by another CA.
    let other = shop.ground.run().dir().join("other-ca");
    std::fs::create_dir_all(&other).unwrap();
    let other = other.display().to_string();
    let to = tunnel_ports(&shop)[0];
    let answer = hbone(
        &stranger,
        to,
        &["--ca-dir", &other, "--make-ca", "--authority", "10.77.1.11:7000"],
    );
    assert_eq!(answer["ok"], false, "{answer}");
    assert!(
        answer["status"].is_null() && answer["stage"] != "connect",
        "{answer}"
    );
}

#[test]
fn who_speaks_no_tls_is_hung_up_on_within_the_deadline() {
    let (shop, stranger, _) = with_stranger();
    for to in [tunnel_ports(&shop)[0], tunnel_ports(&shop)[3]] {
        let address = to.to_string();
        for data in [&["--data", "GET / HTTP/1.1\\r\\nhost: x\\r\\n\\r\\n"][..], &[]] {
            let start = Instant::now();
            let args = [&["raw", "--to", &address, "--silence-ms", "12000"][..], data].concat();
            let answer = stranger.podkit(&args).unwrap();
            assert_ne!(answer["closed"], "open", "{to} {data:?}: {answer}");
            assert!(
                start.elapsed() < Duration::from_secs(9),
                "{to} {data:?}: {:?}",
                start.elapsed()
            );
            assert!(
                !answer["reply"].as_str().unwrap_or_default().contains("HTTP/"),
                "{to}: {answer}"
            );
        }
    }
}

#[test]
fn hbone_by_hand_is_served_as_ztunnel_serves_it() {
    let (shop, stranger, ca) = with_stranger();
    let other_pod = SocketAddr::new(shop.client.v4.into(), 7000).to_string();
    for to in tunnel_ports(&shop) {
        let at = |port| SocketAddr::new(to.ip(), port).to_string();
        let ask = |args: &[&str]| hbone(&stranger, to, &[&["--ca-dir", &ca][..], args].concat());
        let answer = ask(&["--authority", &at(7000), "--send", "by hand", "--ping"]);
        assert_eq!(
            (&answer["status"], &answer["pong"]),
            (&200.into(), &true.into()),
            "{to}: {answer}"
        );
        assert_eq!(answer["alpn"], "h2", "{to}: {answer}");
        let reply = answer["reply"].as_str().unwrap();
        assert!(
            reply.contains("\"line\":\"by hand\"") && reply.contains("\"eof\":true"),
            "{to}: {answer}"
        );
        for (what, args, status) in [
            ("the address of another pod", vec!["--authority", &other_pod], 400),
            ("a closed port", vec!["--authority", &at(7009)], 503),
            ("the mesh's own port", vec!["--authority", &at(HBONE)], 503),
            (
                "a method that is not CONNECT",
                vec!["--method", "GET", "--authority", &at(7000)],
                400,
            ),
        ] {
            let answer = ask(&args);
            assert_eq!(answer["status"], status, "{to}: {what}: {answer}");
        }
    }
}

#[test]
fn certificates_rotate_under_load_and_no_request_is_lost() {
    let shop = Shop::open_with(&["--cert-ttl", "4"]).unwrap();
    let serials = || -> Vec<String> {
        let status = shop.status(0).unwrap();
        let certificates = status["certificates"].as_array().unwrap();
        let own = certificates.iter().filter(|c| {
            c["identity"]
                .as_str()
                .is_some_and(|id| id.ends_with("/sa/client"))
        });
        own.map(|c| c["serial"].as_str().unwrap_or_default().to_owned())
            .collect()
    };
    let to = vips("far", shop::HTTP)[0].to_string();
    let mut load = shop
        .client
        .serve(&["load", "--to", &to, "--host", "far", "--rate", "100"])
        .unwrap();
    let start = Instant::now();
    let mut seen = std::collections::BTreeSet::new();
    eventually(
        "three certificates one after another",
        Duration::from_secs(40),
        || {
            seen.extend(serials().into_iter().filter(|serial| !serial.is_empty()));
            (seen.len() >= 3 && start.elapsed() > Duration::from_secs(9)).then_some(())
        },
    )
    .unwrap_or_else(|error| panic!("{error}: {seen:?}: {}", shop.status(0).unwrap()["certificates"]));
    load.stop(Duration::from_secs(10)).unwrap();
    let summary = last_json(&load.stdout()).unwrap();
    assert!(summary["sent"].as_u64() > Some(300), "{summary}");
    assert_eq!(summary["ok"], summary["sent"], "{summary}");
}

#[test]
fn without_a_ca_what_is_there_goes_on_and_what_expires_is_never_plaintext() {
    let shop = Shop::open_with(&["--cert-ttl", "6"]).unwrap();
    let capture = Capture::start(&shop.ground.nodes[0].netns, WIRE).unwrap();
    let to = vips("far", shop::HTTP)[0];
    let header = format!("x-secret: {NEEDLE}");
    let ask = || shop.get(to, &["--host", "far", "--header", &header]).unwrap();
    assert_eq!(ask()["statuses"]["200"], 1);
    let (ca, away) = (
        shop.ground.run().dir().join("ca"),
        shop.ground.run().dir().join("ca.away"),
    );
    std::fs::rename(&ca, &away).unwrap();
    assert_eq!(ask()["statuses"]["200"], 1, "what is valid goes on");
    let states = || shop.status(0).unwrap()["certificates"].clone();
    eventually("certificates to expire", Duration::from_secs(30), || {
        states()
            .as_array()?
            .iter()
            .all(|c| c["state"] == "Expired")
            .then_some(())
    })
    .unwrap_or_else(|error| panic!("{error}: {}", states()));
    // Each connection of bytes needs a tunnel of its own.
    for port in [shop::ECHO, shop::UNNAMED_ECHO] {
        for to in vips("far", port) {
            let to = to.to_string();
            let answer = shop
                .client
                .podkit(&["connect", "--to", &to, "--send", NEEDLE])
                .unwrap();
            assert!(answer["reply"].is_null(), "{to}: {answer}");
        }
    }
    // Requests may go on over connections that were authenticated before; nothing goes in plaintext.
    let _either = ask();
    let seen = capture.seen();
    assert!(
        seen.with(NEEDLE.as_bytes()).is_empty(),
        "{:?}",
        seen.bytes_by_port
    );
    assert_eq!(seen.bytes_on(HBONE), seen.bytes(), "{:?}", seen.bytes_by_port);
    std::fs::rename(&away, &ca).unwrap();
    let to = vips("far", shop::ECHO)[0].to_string();
    eventually(
        "the mesh to come back with its CA",
        Duration::from_secs(60),
        || {
            let answer = shop
                .client
                .podkit(&["connect", "--to", &to, "--send", "back"])
                .ok()?;
            (answer["reply"]["line"] == "back").then_some(())
        },
    )
    .unwrap();
}
