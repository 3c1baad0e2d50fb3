//! The ground itself: what the suites take for granted about the topology, before any mesh is there.

use mesh_tests::capture::Capture;
use mesh_tests::cluster_ip::{self, ClusterIp};
use mesh_tests::run;
use mesh_tests::topology::{Topology, WIRE};
use std::net::SocketAddr;

#[test]
fn pods_reach_pods_on_both_nodes_and_both_families() {
    let mut ground = Topology::new().unwrap();
    let client = ground.pod(1, "client").unwrap();
    let near = ground.pod(1, "near").unwrap();
    let far = ground.pod(2, "far").unwrap();
    for pod in [&near, &far] {
        let _server = pod.serve(&["echo-server", "--name", &pod.name]).unwrap();
        for (ip, own) in pod.ips().into_iter().zip(client.ips()) {
            let to = SocketAddr::new(ip, 7000).to_string();
            let answer = client.podkit(&["connect", "--to", &to, "--half-close"]).unwrap();
            assert_eq!(answer["ok"], true, "{answer}");
            assert_eq!(answer["reply"]["seen"]["server"], pod.name.as_str());
            let peer = answer["reply"]["seen"]["accept"].as_str().unwrap();
            assert!(peer.contains(&own.to_string()), "{peer} is not the client {own}");
            assert_eq!(answer["replies"][1]["eof"], true, "half-close: {answer}");
        }
    }
    let refused = client
        .podkit(&["connect", "--to", "10.77.1.11:9", "--nonblocking"])
        .unwrap();
    assert_eq!(
        (refused["stage"].as_str(), refused["errno_name"].as_str()),
        (Some("connect"), Some("ECONNREFUSED"))
    );
    let mapped = client
        .podkit(&["connect", "--to", &format!("{}:9", near.v4), "--v4-mapped"])
        .unwrap();
    assert_eq!(mapped["errno_name"], "ECONNREFUSED");
}

#[test]
fn cluster_ips_spread_and_refuse_and_hairpin() {
    let mut ground = Topology::new().unwrap();
    let client = ground.pod(1, "client").unwrap();
    let pods = [ground.pod(1, "a").unwrap(), ground.pod(2, "b").unwrap()];
    let _servers: Vec<_> = pods
        .iter()
        .map(|pod| pod.serve(&["http-server", "--name", &pod.name]).unwrap())
        .collect();
    let services: Vec<ClusterIp> = ["10.96.0.10:80", "[fd96::10]:80"]
        .iter()
        .map(|vip| ClusterIp {
            vip: vip.parse().unwrap(),
            endpoints: pods
                .iter()
                .flat_map(|pod| pod.ips())
                .map(|ip| SocketAddr::new(ip, 8080))
                .collect(),
        })
        .chain([ClusterIp {
            vip: "10.96.0.11:80".parse().unwrap(),
            endpoints: vec![],
        }])
        .collect();
    cluster_ip::serve(&ground, &services).unwrap();
    for vip in ["10.96.0.10:80", "[fd96::10]:80"] {
        let answer = client.podkit(&["get", "--to", vip, "--count", "40"]).unwrap();
        assert_eq!(answer["statuses"]["200"], 40, "{answer}");
        assert!(
            answer["fields"]["a"].as_u64() > Some(5) && answer["fields"]["b"].as_u64() > Some(5),
            "{answer}"
        );
    }
    let hairpin = pods[0]
        .podkit(&["get", "--to", "10.96.0.10:80", "--count", "20", "--http2"])
        .unwrap();
    assert_eq!(hairpin["statuses"]["200"], 20, "{hairpin}");
    let refused = client.podkit(&["connect", "--to", "10.96.0.11:80"]).unwrap();
    assert_eq!(refused["errno_name"], "ECONNREFUSED", "{refused}");
}

#[test]
fn capture_finds_what_crosses_the_wire_in_plaintext() {
    let mut ground = Topology::new().unwrap();
    let client = ground.pod(1, "client").unwrap();
    let server = ground.pod(2, "server").unwrap();
    let _server = server.serve(&["http-server"]).unwrap();
    let capture = Capture::start(&ground.nodes[0].netns, WIRE).unwrap();
    for ip in server.ips() {
        let to = SocketAddr::new(ip, 8080).to_string();
        let answer = client
            .podkit(&["get", "--to", &to, "--header", "x-secret: needle-in-plaintext"])
            .unwrap();
        assert_eq!(answer["statuses"]["200"], 1, "{answer}");
    }
    mesh_tests::eventually(
        "the sniffer to catch up",
        std::time::Duration::from_secs(2),
        || {
            // Request and echo, over both families.
            (capture.seen().with(b"needle-in-plaintext").len() == 4).then_some(())
        },
    )
    .unwrap();
    let seen = capture.seen();
    assert!(seen.with(b"never sent").is_empty());
    assert_eq!(seen.bytes_on(8080), seen.bytes());
}

#[test]
fn load_accounts_for_every_request() {
    let mut ground = Topology::new().unwrap();
    let client = ground.pod(1, "client").unwrap();
    let server = ground.pod(2, "server").unwrap();
    let mut http = server.serve(&["http-server"]).unwrap();
    let to = format!("{}:8080", server.v4);
    let mut load = client
        .serve(&["load", "--to", &to, "--rate", "100", "--seconds", "20"])
        .unwrap();
    std::thread::sleep(std::time::Duration::from_millis(700));
    http.kill();
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert!(load.stop(std::time::Duration::from_secs(10)).unwrap().success());
    let summary = mesh_tests::podkit::last_json(&load.stdout()).unwrap();
    let (sent, ok) = (summary["sent"].as_u64().unwrap(), summary["ok"].as_u64().unwrap());
    let failures = summary["failures"].as_array().unwrap();
    assert!(ok >= 50 && failures.len() >= 10, "{summary}");
    assert_eq!(sent, ok + failures.len() as u64);
    assert!(
        failures[0]["error"].as_str().unwrap().contains("connect"),
        "{summary}"
    );
}

#[test]
fn a_finished_run_leaves_nothing() {
    let mut ground = Topology::new().unwrap();
    let pod = ground.pod(1, "pod").unwrap();
    let mut server = pod.serve(&["sink"]).unwrap();
    let name = ground.run().name().to_owned();
    assert!(run::leftovers(&name).len() >= 4);
    assert_eq!(ground.finish().unwrap(), Vec::<String>::new());
    assert!(!server.running(), "a process outlived its run");
}
