//! What the kernel decides alone: refusals, balance, and connections without a proxy.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests end the test, as the tests do"
)]

use mesh_tests::mesh::Mesh;
use mesh_tests::promtext;
use mesh_tests::topology::Pod;
use serde_json::Value;
use std::net::SocketAddr;
use std::time::Duration;

fn refused_at_once(pod: &Pod, to: SocketAddr) {
    for more in [&[][..], &["--nonblocking"]] {
        let to = to.to_string();
        let args: Vec<&str> = ["connect", "--to", &to]
            .into_iter()
            .chain(more.iter().copied())
            .collect();
        let answer = pod.podkit(&args).unwrap();
        assert_eq!(answer["errno_name"], "ECONNREFUSED", "{answer}");
        assert_eq!(answer["stage"], "connect", "{answer}");
        assert!(
            answer["elapsed_us"].as_u64() < Some(500_000),
            "not at once: {answer}"
        );
    }
}

fn connections(mesh: &Mesh, pod: &str, outcome: &str) -> u64 {
    mesh.status(pod).unwrap()["connections"][outcome]
        .as_u64()
        .unwrap()
}

#[test]
fn a_service_without_endpoints_refuses_at_once() {
    let mesh = Mesh::build()
        .pod(1, "client")
        .service("empty", "nobody", 1, "tcp-echo", 7000, 7000)
        .start()
        .unwrap();
    for vip in mesh.service("empty").vips() {
        refused_at_once(mesh.pod("client"), vip);
    }
    assert_eq!(connections(&mesh, "client", "denied"), 4);
}

#[test]
fn registry_only_refuses_unknown_destinations_and_nothing_else() {
    let mesh = Mesh::build()
        .pod(1, "client")
        .pod(1, "near")
        .echo()
        .service("near", "near", 1, "tcp-echo", 7000, 7000)
        .agent_args(&["--outbound-traffic-policy", "REGISTRY_ONLY"])
        .start()
        .unwrap();
    let client = mesh.pod("client");
    for unknown in ["10.77.0.2:22", "203.0.113.7:443", "[fd77::2]:22"] {
        refused_at_once(client, unknown.parse().unwrap());
    }
    for known in mesh.service("near").vips() {
        let answer = client.podkit(&["connect", "--to", &known.to_string()]).unwrap();
        assert_eq!(answer["ok"], true, "{answer}");
    }
    let own = client.podkit(&["connect", "--to", "127.0.0.1:9"]).unwrap();
    assert_eq!(own["errno_name"], "ECONNREFUSED");
    assert_eq!(
        connections(&mesh, "client", "denied"),
        6,
        "loopback is no business of the mesh"
    );
}

#[test]
fn the_kernel_spreads_connections_evenly() {
    let mesh = Mesh::build()
        .pod(1, "client")
        .pod(1, "a")
        .app("web")
        .echo()
        .pod(1, "b")
        .app("web")
        .echo()
        .pod(1, "c")
        .app("web")
        .echo()
        .service("web", "web", 1, "tcp-echo", 7000, 7000)
        .start()
        .unwrap();
    for vip in mesh.service("web").vips() {
        let held = mesh
            .pod("client")
            .podkit(&[
                "hold",
                "--to",
                &vip.to_string(),
                "--connections",
                "300",
                "--seconds",
                "0",
            ])
            .unwrap();
        assert_eq!(held["held"], 300, "{held}");
    }
    let counts = mesh_tests::eventually("every connection at a server", Duration::from_secs(5), || {
        let counts: Vec<usize> = mesh
            .servers
            .iter()
            .map(|(_, server)| server.stdout().matches("\"accept\",\"seen\"").count())
            .collect();
        (counts.iter().sum::<usize>() == 600).then_some(counts)
    })
    .unwrap();
    // 200 each on average; seven standard deviations (11.5) off is no accident.
    assert!(
        counts.iter().all(|count| (120..280).contains(count)),
        "{counts:?}"
    );
    assert_eq!(connections(&mesh, "client", "direct"), 600);
}

#[test]
fn a_same_node_l4_connection_has_no_proxy_on_it() {
    let mesh = Mesh::build()
        .pod(1, "client")
        .pod(1, "near")
        .echo()
        .serve(&["sink"])
        .service("near", "near", 1, "tcp-echo", 7000, 7000)
        .service("sink", "near", 2, "tcp-sink", 7001, 7001)
        .start()
        .unwrap();
    let client = mesh.pod("client");
    let near = mesh.pod("near");
    let before = bytes(&mesh);
    let sink = mesh.service("sink").vips()[0].to_string();
    let stream = client
        .podkit(&["stream", "--to", &sink, "--seconds", "0.5"])
        .unwrap();
    assert!(stream["bytes"].as_u64() > Some(1_000_000), "{stream}");
    let vip = mesh.service("near").vips()[0].to_string();
    let mut chat = client
        .start_podkit(&["chat", "--to", &vip, "--seconds", "30"])
        .unwrap();
    let (ours, theirs) = mesh_tests::eventually("the connection", Duration::from_secs(5), || {
        let found = (established(client), established(near));
        (!found.0.is_empty() && !found.1.is_empty()).then_some(found)
    })
    .unwrap();
    chat.kill();
    assert_eq!(ours.len(), 1, "the client pod has one socket: {ours:?}");
    assert_eq!(theirs.len(), 1, "the server pod has one socket: {theirs:?}");
    let (client_end, server_end) = (ours[0].0, ours[0].1);
    assert_eq!(
        (theirs[0].1, theirs[0].0),
        (client_end, server_end),
        "they are one connection"
    );
    assert_eq!(
        (client_end.ip(), server_end),
        (client.v4.into(), SocketAddr::new(near.v4.into(), 7000))
    );
    assert_eq!(bytes(&mesh), before, "the agent's byte counters moved");
    assert_eq!(connections(&mesh, "client", "proxied"), 0);
    assert_eq!(connections(&mesh, "near", "steered"), 0);
}

/// All bytes that the agents have carried.
fn bytes(mesh: &Mesh) -> f64 {
    let of = |agent: &mesh_tests::agent::Agent| {
        let samples = agent.spec.metrics().unwrap();
        promtext::sum(&samples, "istio_tcp_sent_bytes_total", &[])
            + promtext::sum(&samples, "istio_tcp_received_bytes_total", &[])
    };
    mesh.agents.iter().map(of).sum()
}

/// Both ends, own first, of every connection that lives in a pod, by the kernel's table.
fn established(pod: &Pod) -> Vec<(SocketAddr, SocketAddr)> {
    pod.netns
        .run(|| {
            let mut found = Vec::new();
            for table in ["tcp", "tcp6"] {
                let text = std::fs::read_to_string(format!("/proc/thread-self/net/{table}"))?;
                for line in text.lines().skip(1) {
                    let fields: Vec<&str> = line.split_whitespace().collect();
                    if fields[3] == "01" {
                        found.push((address(fields[1]), address(fields[2])));
                    }
                }
            }
            Ok(found)
        })
        .unwrap()
}

/// An address of `/proc/net/tcp*`: words in host byte order, port in hexadecimal.
fn address(text: &str) -> SocketAddr {
    let (ip, port) = text.split_once(':').unwrap();
    let words: Vec<u8> = (0..ip.len() / 8)
        .flat_map(|i| {
            u32::from_str_radix(&ip[i * 8..i * 8 + 8], 16)
                .unwrap()
                .to_ne_bytes()
        })
        .collect();
    let ip: std::net::IpAddr = match <[u8; 4]>::try_from(words.as_slice()) {
        Ok(v4) => v4.into(),
        Err(_) => std::net::Ipv6Addr::from(<[u8; 16]>::try_from(words.as_slice()).unwrap()).to_canonical(),
    };
    SocketAddr::new(ip, u16::from_str_radix(port, 16).unwrap())
}

#[test]
fn refusals_say_why() {
    let mesh = Mesh::build()
        .pod(1, "client")
        .service("empty", "nobody", 1, "tcp-echo", 7000, 7000)
        .start()
        .unwrap();
    refused_at_once(mesh.pod("client"), mesh.service("empty").vips()[0]);
    let spec = &mesh.agents[0].spec;
    let status = spec.heddle_json(&["status"]).unwrap();
    assert_eq!(status["decisions"]["no_backend"], 2, "{}", status["decisions"]);
    let why: Value = spec
        .heddle_json(&["why", "mesh/client", "10.96.1.1:7000"])
        .unwrap();
    assert!(why.to_string().contains("no_backend"), "{why}");
}
