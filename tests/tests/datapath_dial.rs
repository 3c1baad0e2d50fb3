//! The ways in which applications open a connection: each works in the mesh as it does without.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests end the test, as the tests do"
)]

use mesh_tests::mesh::Mesh;
use mesh_tests::topology::Pod;
use serde_json::Value;
use std::net::SocketAddr;

/// A service of each way that a connection can take: in the kernel, through one proxy, and between nodes.
const WAYS: [&str; 3] = ["near", "near-proxied", "far"];

fn mesh() -> Mesh {
    Mesh::build()
        .pod(1, "client")
        .pod(1, "near")
        .serve(&["echo-server", "--name", "NAME", "--ports", "300"])
        .pod(2, "far")
        .echo()
        .service("near", "near", 1, "tcp-echo", 7000, 7000)
        .service("near-proxied", "near", 2, "echo", 7100, 7000)
        .service("far", "far", 3, "tcp-echo", 7000, 7000)
        .service("headless", "near", 0, "tcp-echo", 7000, 7000)
        .start()
        .unwrap()
}

fn dial(pod: &Pod, to: SocketAddr, more: &[&str]) -> Value {
    let to = to.to_string();
    let args: Vec<&str> = ["connect", "--to", &to]
        .into_iter()
        .chain(more.iter().copied())
        .collect();
    pod.podkit(&args).unwrap()
}

fn answered(answer: &Value, by: &str) {
    assert_eq!(answer["ok"], true, "{answer}");
    assert_eq!(answer["reply"]["seen"]["server"], by, "{answer}");
}

fn server(way: &str) -> &str {
    way.trim_end_matches("-proxied")
}

#[test]
fn non_blocking_connects_complete_in_both_families() {
    let mesh = mesh();
    for way in WAYS {
        for vip in mesh.service(way).vips() {
            answered(&dial(mesh.pod("client"), vip, &["--nonblocking"]), server(way));
        }
    }
}

#[test]
fn v4_mapped_addresses_are_served_as_ipv4() {
    let mesh = mesh();
    for way in WAYS {
        let vip = mesh.service(way).vips()[0];
        let answer = dial(mesh.pod("client"), vip, &["--v4-mapped"]);
        answered(&answer, server(way));
        assert_eq!(
            answer["getpeername"],
            format!("[::ffff:{}]:{}", vip.ip(), vip.port())
        );
    }
}

#[test]
fn an_address_and_port_bound_before_connect_stay() {
    let mesh = mesh();
    let client = mesh.pod("client");
    for (port, way) in (41_000..).zip(WAYS) {
        for (vip, own) in mesh.service(way).vips().into_iter().zip(client.ips()) {
            answered(&dial(client, vip, &["--bind", &own.to_string()]), server(way));
            let bound = SocketAddr::new(own, port).to_string();
            let answer = dial(client, vip, &["--bind", &bound]);
            answered(&answer, server(way));
            assert_eq!(answer["getsockname"], bound, "{answer}");
        }
    }
}

#[test]
fn a_socket_bound_to_the_pods_device_is_served() {
    let mesh = mesh();
    for way in WAYS {
        for vip in mesh.service(way).vips() {
            answered(&dial(mesh.pod("client"), vip, &["--device", "eth0"]), server(way));
        }
    }
}

#[test]
fn fast_open_clients_are_served() {
    let mesh = mesh();
    for pod in ["client", "near"] {
        mesh.pod(pod)
            .netns
            .sysctl(&[("net/ipv4/tcp_fastopen", "1027")])
            .unwrap();
    }
    for way in WAYS {
        for vip in mesh.service(way).vips() {
            // The first gets a cookie, the second may send its line by the first packet.
            for _ in 0..3 {
                answered(&dial(mesh.pod("client"), vip, &["--fast-open"]), server(way));
            }
        }
    }
}

#[test]
fn a_pod_reaches_itself_by_its_service_and_by_its_own_address() {
    let mesh = mesh();
    let near = mesh.pod("near");
    for way in ["near", "near-proxied"] {
        for vip in mesh.service(way).vips() {
            let answer = dial(near, vip, &[]);
            answered(&answer, "near");
            assert_eq!(answer["getpeername"], vip.to_string(), "{answer}");
        }
    }
    for ip in near.ips() {
        answered(&dial(near, SocketAddr::new(ip, 7000), &[]), "near");
    }
}

#[test]
fn loopback_and_the_unspecified_address_are_left_alone() {
    let mesh = mesh();
    for to in [
        "127.0.0.1:7000",
        "127.8.9.1:7000",
        "[::1]:7000",
        "0.0.0.0:7000",
        "[::]:7000",
    ] {
        let answer = dial(mesh.pod("near"), to.parse().unwrap(), &[]);
        answered(&answer, "near");
        let seen: SocketAddr = answer["reply"]["seen"]["accept"]
            .as_str()
            .unwrap()
            .parse()
            .unwrap();
        let peer: SocketAddr = answer["getpeername"].as_str().unwrap().parse().unwrap();
        for address in [seen, peer] {
            assert!(address.ip().to_canonical().is_loopback(), "{to}: {answer}");
        }
    }
    let refused = dial(mesh.pod("client"), "127.0.0.1:7000".parse().unwrap(), &[]);
    assert_eq!(
        refused["errno_name"], "ECONNREFUSED",
        "the client has no server: {refused}"
    );
    for pod in ["near", "client"] {
        let connections = &mesh.status(pod).unwrap()["connections"];
        for outcome in ["direct", "proxied", "steered", "passed"] {
            assert_eq!(connections[outcome], 0, "{pod}: {connections}");
        }
    }
}

#[test]
fn pods_are_reached_by_their_own_addresses_on_both_nodes() {
    let mesh = mesh();
    for pod in ["near", "far"] {
        for ip in mesh.pod(pod).ips() {
            let to = SocketAddr::new(ip, 7000);
            let answer = dial(mesh.pod("client"), to, &[]);
            answered(&answer, pod);
            assert_eq!(answer["getpeername"], to.to_string(), "{answer}");
        }
    }
    // "near" is behind a headless service too: clients resolve it to the same addresses.
    let nobody = dial(
        mesh.pod("client"),
        SocketAddr::new(mesh.pod("far").v4.into(), 9),
        &[],
    );
    assert!(nobody["reply"].is_null(), "nobody listens there: {nobody}");
}

#[test]
fn a_multipath_client_does_not_get_around_the_mesh() {
    let mesh = mesh();
    let client = mesh.pod("client");
    for way in WAYS {
        for vip in mesh.service(way).vips() {
            let answer = dial(client, vip, &["--mptcp"]);
            if answer["stage"] == "socket" {
                continue;
            }
            answered(&answer, server(way));
        }
    }
    // An address that routes without a service's translation would show a client that was not captured.
    let capture =
        mesh_tests::capture::Capture::start(&mesh.ground.nodes[0].netns, mesh_tests::topology::WIRE).unwrap();
    for ip in mesh.pod("far").ips() {
        let to = SocketAddr::new(ip, 7000);
        dial(client, to, &["--mptcp", "--send", "multipath-in-plaintext"]);
    }
    std::thread::sleep(std::time::Duration::from_millis(300));
    let plain = capture.seen().with(b"multipath-in-plaintext");
    assert!(plain.is_empty(), "plaintext between the nodes: {plain:?}");
}

#[test]
fn three_hundred_destinations_do_not_exhaust_the_ports_of_a_pod() {
    let mesh = mesh();
    let client = mesh.pod("client");
    // As few as would be used up at once if every destination were rewritten to one address and port.
    client
        .netns
        .sysctl(&[("net/ipv4/ip_local_port_range", "40000 40099")])
        .unwrap();
    let to = SocketAddr::new(mesh.pod("near").v4.into(), 7000).to_string();
    let held = client
        .podkit(&[
            "hold",
            "--to",
            &to,
            "--ports",
            "300",
            "--connections",
            "300",
            "--seconds",
            "0",
        ])
        .unwrap();
    assert_eq!(held["held"], 300, "{held}");
}
