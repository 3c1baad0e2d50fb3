//! Where the mesh ends: pods and processes outside of it, the agent's own ports, probes.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests end the test, as the tests do"
)]

use mesh_tests::mesh::Mesh;
use mesh_tests::podkit::last_json;
use mesh_tests::process::built;
use mesh_tests::topology::Node;
use serde_json::Value;
use std::net::{IpAddr, SocketAddr};

fn mesh() -> Mesh {
    Mesh::build()
        .pod(1, "client")
        .pod(1, "near")
        .echo()
        .http()
        .probe(8080)
        .outsider(1, "stranger")
        .echo()
        .outsider(2, "distant")
        .echo()
        .service("near", "near", 1, "tcp-echo", 7000, 7000)
        .service("near-proxied", "near", 2, "echo", 7100, 7000)
        .start()
        .unwrap()
}

/// A podkit process of the node itself.
fn on_node(node: &Node, args: &[&str]) -> Value {
    let mut command = node.system.command(built("podkit").unwrap()).unwrap();
    let output = command.args(args).output().unwrap();
    last_json(&String::from_utf8_lossy(&output.stdout)).unwrap()
}

fn ip(value: &Value) -> IpAddr {
    let address: SocketAddr = value
        .as_str()
        .unwrap_or_else(|| panic!("{value}"))
        .parse()
        .unwrap();
    address.ip().to_canonical()
}

fn connections(mesh: &Mesh, pod: &str) -> Value {
    mesh.status(pod).unwrap()["connections"].clone()
}

#[test]
fn pods_outside_of_the_mesh_are_untouched() {
    let mesh = mesh();
    let before = decisions(&mesh);
    let stranger = mesh.pod("stranger");
    for (to, own) in mesh.pod("distant").ips().into_iter().zip(stranger.ips()) {
        let to = SocketAddr::new(to, 7000).to_string();
        let answer = stranger.podkit(&["connect", "--to", &to]).unwrap();
        assert_eq!(answer["ok"], true, "{answer}");
        assert_eq!(ip(&answer["reply"]["seen"]["accept"]), own, "{answer}");
        assert_eq!(answer["getpeername"], to, "{answer}");
    }
    assert!(mesh.status("stranger").unwrap()["connections"].is_null());
    let after = decisions(&mesh);
    for reason in [
        "needs_bytes",
        "needs_tls",
        "spliced",
        "plaintext",
        "unknown_destination",
        "no_backend",
    ] {
        assert_eq!(before[reason], after[reason], "{reason}");
    }
}

fn decisions(mesh: &Mesh) -> Value {
    mesh.agents[0].spec.heddle_json(&["status"]).unwrap()["decisions"].clone()
}

#[test]
fn plaintext_from_outside_arrives_with_its_callers_address() {
    let mesh = mesh();
    for outsider in ["stranger", "distant"] {
        let outsider = mesh.pod(outsider);
        for (to, own) in mesh.pod("near").ips().into_iter().zip(outsider.ips()) {
            let answer = outsider
                .podkit(&[
                    "connect",
                    "--to",
                    &SocketAddr::new(to, 7000).to_string(),
                    "--half-close",
                ])
                .unwrap();
            assert_eq!(answer["ok"], true, "{answer}");
            let seen = &answer["reply"]["seen"];
            assert_eq!(ip(&seen["accept"]), own, "{answer}");
            assert_eq!(ip(&seen["getpeername"]), own, "{answer}");
            assert_eq!(answer["replies"][1]["eof"], true, "half-close: {answer}");
        }
    }
    assert_eq!(connections(&mesh, "near")["steered"], 4);
}

#[test]
fn pods_of_the_mesh_reach_pods_outside_of_it() {
    let mesh = mesh();
    let client = mesh.pod("client");
    for outsider in ["stranger", "distant"] {
        for (to, own) in mesh.pod(outsider).ips().into_iter().zip(client.ips()) {
            let answer = client
                .podkit(&["connect", "--to", &SocketAddr::new(to, 7000).to_string()])
                .unwrap();
            assert_eq!(answer["ok"], true, "{answer}");
            assert_eq!(ip(&answer["reply"]["seen"]["accept"]), own, "{answer}");
        }
    }
}

#[test]
fn processes_of_the_node_are_untouched() {
    let mesh = mesh();
    let node = &mesh.ground.nodes[0];
    for outsider in ["stranger", "distant"] {
        let to = SocketAddr::new(mesh.pod(outsider).v4.into(), 7000).to_string();
        let answer = on_node(node, &["connect", "--to", &to]);
        assert_eq!(answer["ok"], true, "{answer}");
    }
    // Over kube-proxy's rules, which would not be met if the connection had been rewritten.
    for vip in mesh.service("near").vips() {
        let answer = on_node(node, &["connect", "--to", &vip.to_string()]);
        assert_eq!(answer["ok"], true, "{answer}");
        assert_eq!(answer["getpeername"], vip.to_string());
    }
    let before = connections(&mesh, "client");
    let refused = on_node(node, &["connect", "--to", "127.0.0.1:9"]);
    assert_eq!(refused["errno_name"], "ECONNREFUSED", "{refused}");
    assert_eq!(before, connections(&mesh, "client"));
}

#[test]
fn strangers_do_not_get_into_the_agents_ports() {
    let mesh = mesh();
    let near = mesh.pod("near");
    for address in near.ips() {
        for port in [15_100, 15_333, 15_611] {
            let to = SocketAddr::new(address, port).to_string();
            let args = ["connect", "--to", &to];
            for answer in [
                mesh.pod("stranger").podkit(&args).unwrap(),
                mesh.pod("distant").podkit(&args).unwrap(),
                on_node(&mesh.ground.nodes[0], &args),
            ] {
                assert_eq!(answer["errno_name"], "ECONNREFUSED", "{answer}");
            }
        }
        // The listeners' own ports take a connection like any other port, and lead nowhere.
        for port in [15_001, 15_006] {
            let to = SocketAddr::new(address, port).to_string();
            for answer in [
                mesh.pod("stranger").podkit(&["connect", "--to", &to]).unwrap(),
                near.podkit(&["connect", "--to", &to]).unwrap(),
            ] {
                assert!(answer["reply"].is_null(), "{answer}");
                assert_ne!(answer["errno_name"], "EAGAIN", "it hangs: {answer}");
            }
        }
    }
    let decisions = mesh.agents[0].spec.heddle_json(&["status"]).unwrap()["decisions"].clone();
    // Each of the 18 dials at least once: the kernel may send a SYN again before neighbour discovery lets the reset out.
    assert!(decisions["stranger"].as_u64() >= Some(18), "{decisions}");
    // A pod may not dress up as the proxy's client by dialling a capture port itself.
    let own = SocketAddr::new(near.v4.into(), 15_100).to_string();
    let answer = near.podkit(&["connect", "--to", &own]).unwrap();
    assert!(answer["reply"].is_null(), "{answer}");
    // Nor reach the agent's ports through the mesh.
    for port in [15_001, 15_006, 15_100] {
        let to = SocketAddr::new(near.v4.into(), port).to_string();
        let answer = mesh.pod("client").podkit(&["connect", "--to", &to]).unwrap();
        assert!(answer["reply"].is_null(), "{answer}");
    }
}

#[test]
fn probes_of_the_kubelet_pass_and_nothing_else_of_the_node() {
    let mesh = mesh();
    let node = &mesh.ground.nodes[0];
    let near = mesh.pod("near");
    let before = connections(&mesh, "near");
    for address in near.ips() {
        let probe = SocketAddr::new(address, 8080).to_string();
        let answer = on_node(node, &["get", "--to", &probe]);
        assert_eq!(answer["statuses"]["200"], 1, "{answer}");
    }
    let probed = connections(&mesh, "near");
    assert_eq!(
        probed["admitted"],
        before["admitted"].as_u64().unwrap() + 2,
        "{probed}"
    );
    assert_eq!(
        probed["steered"], before["steered"],
        "a probe went through the proxy"
    );
    let other = SocketAddr::new(near.v4.into(), 7000).to_string();
    assert_eq!(on_node(node, &["connect", "--to", &other])["ok"], true);
    let probe = SocketAddr::new(near.v4.into(), 8080).to_string();
    let stranger = mesh.pod("stranger").podkit(&["get", "--to", &probe]).unwrap();
    assert_eq!(stranger["statuses"]["200"], 1, "{stranger}");
    let after = connections(&mesh, "near");
    assert_eq!(after["admitted"], probed["admitted"], "only probes pass");
    assert_eq!(
        after["steered"],
        probed["steered"].as_u64().unwrap() + 2,
        "{after}"
    );
}

#[test]
fn equal_loopback_ports_of_two_pods_do_not_mix() {
    let mesh = Mesh::build()
        .pod(1, "client")
        .pod(1, "other")
        .pod(1, "a")
        .echo()
        .pod(1, "b")
        .echo()
        .service("a", "a", 1, "echo", 7100, 7000)
        .service("b", "b", 2, "echo", 7100, 7000)
        .start()
        .unwrap();
    // Few enough local ports that the agent dials both applications from equal ones.
    for pod in ["a", "b"] {
        let range = [("net/ipv4/ip_local_port_range", "40000 40031")];
        mesh.pod(pod).netns.sysctl(&range).unwrap();
    }
    std::thread::scope(|scope| {
        for (client, server) in [("client", "a"), ("other", "b")] {
            let mesh = &mesh;
            scope.spawn(move || {
                for round in 0..20 {
                    let vip = mesh.service(server).vips()[round % 2];
                    let client = mesh.pod(client);
                    let answer = client.podkit(&["connect", "--to", &vip.to_string()]).unwrap();
                    let seen = &answer["reply"]["seen"];
                    assert_eq!(seen["server"], server, "{answer}");
                    assert!(client.ips().contains(&ip(&seen["accept"])), "{answer}");
                    let own = mesh
                        .pod(server)
                        .podkit(&["connect", "--to", "127.0.0.1:7000"])
                        .unwrap();
                    assert_eq!(own["reply"]["seen"]["server"], server, "{own}");
                    assert!(ip(&own["reply"]["seen"]["accept"]).is_loopback(), "{own}");
                }
            });
        }
    });
}
