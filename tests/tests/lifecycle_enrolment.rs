//! Pods come into the mesh and leave it while they run, and leave nothing behind.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests end the test, as the tests do"
)]

use mesh_tests::bpf_objects::{BpfObjects, SK_LOOKUP, attached};
use mesh_tests::mesh::{Builder, Mesh, PLAIN};
use mesh_tests::podkit::last_json;
use serde_json::Value;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

const SLACK: Duration = Duration::from_secs(10);

fn two_pods() -> Builder {
    Mesh::build()
        .outsider(1, "client")
        .outsider(1, "near")
        .echo()
        .outsider(2, "far")
        .echo()
}

fn label_all(mesh: &mut Mesh, value: &str) {
    for member in &mut mesh.members {
        member.set_label("heddle.io/mesh", value);
    }
    mesh.apply().unwrap();
    mesh.await_captured().unwrap();
}

#[test]
fn connections_older_than_enrolment_go_on_and_are_reported() {
    let mut mesh = two_pods().start().unwrap();
    let mut chats: Vec<_> = ["near", "far"]
        .iter()
        .map(|server| {
            let to = SocketAddr::new(mesh.pod(server).v4.into(), 7000).to_string();
            mesh.pod("client")
                .start_podkit(&["chat", "--to", &to, "--seconds", "4"])
                .unwrap()
        })
        .collect();
    mesh_tests::eventually("both to be connected", SLACK, || {
        let connected = |server: &str| {
            let found = mesh.servers.iter().find(|(name, _)| name == server);
            found.is_some_and(|(_, proc)| proc.stdout().contains("\"accept\""))
        };
        (connected("near") && connected("far")).then_some(())
    })
    .unwrap();
    label_all(&mut mesh, "enabled");
    assert_eq!(mesh.status("client").unwrap()["connections_before_enrollment"], 2);
    assert_eq!(mesh.status("near").unwrap()["connections_before_enrollment"], 1);
    assert_eq!(mesh.status("far").unwrap()["connections_before_enrollment"], 1);
    let text = mesh.agents[0].spec.heddle(&["status"]).unwrap();
    assert!(text.contains("2 connections older than enrollment"), "{text}");
    // New ones are carried by the mesh meanwhile.
    let to = SocketAddr::new(mesh.pod("far").v4.into(), 7000).to_string();
    let answer = mesh.pod("client").podkit(&["connect", "--to", &to]).unwrap();
    assert_eq!(answer["ok"], true, "{answer}");
    assert_eq!(mesh.status("client").unwrap()["connections"]["proxied"], 1);
    for chat in &mut chats {
        chat.wait(SLACK).unwrap();
        let summary = last_json(&chat.stdout()).unwrap();
        assert_eq!(summary["ok"], true, "an old connection ended: {summary}");
    }
}

#[test]
fn connections_of_the_mesh_outlive_the_pods_leaving_and_new_ones_are_plain() {
    let mut mesh = two_pods().start().unwrap();
    label_all(&mut mesh, "enabled");
    let to = SocketAddr::new(mesh.pod("far").v4.into(), 7000).to_string();
    let mut chat = mesh
        .pod("client")
        .start_podkit(&["chat", "--to", &to, "--seconds", "4"])
        .unwrap();
    mesh_tests::eventually("the connection", SLACK, || {
        (mesh.status("client").ok()?["connections"]["proxied"] == 1).then_some(())
    })
    .unwrap();
    label_all(&mut mesh, "");
    let capture =
        mesh_tests::capture::Capture::start(&mesh.ground.nodes[0].netns, mesh_tests::topology::WIRE).unwrap();
    let answer = mesh
        .pod("client")
        .podkit(&["connect", "--to", &to, "--send", "out-of-the-mesh"])
        .unwrap();
    assert_eq!(answer["ok"], true, "{answer}");
    mesh_tests::eventually("plaintext of a pod outside of the mesh", SLACK, || {
        (!capture.seen().with(b"out-of-the-mesh").is_empty()).then_some(())
    })
    .unwrap();
    chat.wait(SLACK).unwrap();
    let summary = last_json(&chat.stdout()).unwrap();
    assert_eq!(summary["ok"], true, "{summary}");
}

/// What must be the same before and after.
#[derive(Debug, PartialEq, Eq)]
struct Footprint {
    maps: Vec<(String, u64)>,
    descriptors: usize,
    pins: usize,
    held: BpfObjects,
    steered: usize,
}

fn footprint(mesh: &Mesh) -> Footprint {
    let agent = &mesh.agents[0];
    let status = agent.spec.heddle_json(&["status"]).unwrap();
    let maps = status["maps"].as_array().unwrap().iter();
    let entries = |map: &Value| {
        let name = map["name"].as_str().unwrap().to_owned();
        (name, map["entries"].as_u64().unwrap())
    };
    let steered = mesh.members.iter().map(|member| {
        let programs = attached(member.pod.netns.file(), SK_LOOKUP).unwrap();
        programs.len()
    });
    Footprint {
        maps: maps.map(entries).collect(),
        descriptors: std::fs::read_dir(format!("/proc/{}/fd", agent.proc.pid()))
            .unwrap()
            .count(),
        pins: std::fs::read_dir(agent.spec.bpf_dir().join("netns"))
            .unwrap()
            .count(),
        held: BpfObjects::held_by(agent.proc.pid()).unwrap(),
        steered: steered.sum(),
    }
}

fn resident_kib(pid: i32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn a_thousand_enrolments_leave_nothing_behind() {
    const PODS: usize = 40;
    const ROUNDS: usize = 25;
    let mut builder = Mesh::build();
    for number in 0..PODS {
        builder = builder.outsider(1, &format!("pod{number}"));
        if number < 2 {
            builder = builder.echo();
        }
    }
    let mut mesh = builder.ground().unwrap();
    let mut agent = mesh.spec(1).unwrap().start().unwrap();
    agent.ready(Duration::from_secs(20)).unwrap();
    mesh.agents.push(agent);
    // The first round makes what stays: certificates, the proxy's buffers.
    label_all(&mut mesh, "enabled");
    label_all(&mut mesh, "");
    let pid = mesh.agents[0].proc.pid();
    let before = settled(&mesh);
    let (resident, start) = (resident_kib(pid), Instant::now());
    assert_eq!((before.pins, before.steered), (0, 0));
    for round in 0..ROUNDS {
        label_all(&mut mesh, "enabled");
        let to = SocketAddr::new(mesh.pod("pod1").v4.into(), 7000).to_string();
        let answer = mesh.pod("pod0").podkit(&["connect", "--to", &to]).unwrap();
        assert_eq!(answer["ok"], true, "round {round}: {answer}");
        label_all(&mut mesh, "");
    }
    let seconds = start.elapsed().as_secs_f64();
    let mut after = footprint(&mesh);
    let same = mesh_tests::eventually("the footprint of before", Duration::from_secs(20), || {
        after = footprint(&mesh);
        (after == before).then_some(())
    });
    assert!(same.is_ok(), "before {before:#?}\nafter {after:#?}");
    let grown = resident_kib(pid).saturating_sub(resident);
    println!(
        "{}",
        serde_json::json!({"enrolments": PODS * ROUNDS, "seconds": seconds, "rss_growth_kib": grown,
            "rss_before_kib": resident})
    );
    assert!(grown < 16 * 1024, "the agent has grown by {grown} KiB");
}

/// The footprint once it no longer changes.
fn settled(mesh: &Mesh) -> Footprint {
    let mut last = footprint(mesh);
    mesh_tests::eventually("a quiet agent", SLACK, || {
        std::thread::sleep(Duration::from_millis(300));
        let now = footprint(mesh);
        let quiet = now == last;
        last = now;
        quiet.then_some(())
    })
    .unwrap();
    last
}

#[test]
fn a_label_on_one_pod_enrols_that_pod_only() {
    let mut mesh = two_pods().start().unwrap();
    mesh.member("near").set_label("heddle.io/mesh", "enabled");
    mesh.apply().unwrap();
    mesh.await_captured().unwrap();
    assert_eq!(mesh.status("near").unwrap()["why"], "captured");
    let client = mesh.status("client").unwrap();
    assert_eq!(client["captured"], false, "{client}");
    assert!(client["why"].as_str().unwrap().contains("no label"), "{client}");
    assert!(mesh.members.iter().all(|member| member.namespace == PLAIN));
}

#[test]
fn a_pod_that_ends_in_the_mesh_leaves_nothing() {
    let mut mesh = Mesh::build()
        .pod(1, "stays")
        .pod(1, "ends")
        .echo()
        .start()
        .unwrap();
    let before = footprint(&mesh);
    assert_eq!(before.pins, 2);
    let ends = mesh.pod("ends").clone();
    mesh.members.retain(|member| member.pod.name != "ends");
    mesh.servers.clear();
    // The pod goes first, as it does under a kubelet; its object follows.
    mesh.ground.remove_pod(&ends).unwrap();
    drop(ends);
    mesh.apply().unwrap();
    mesh_tests::eventually("its pin to go", SLACK, || {
        (footprint(&mesh).pins == 1).then_some(())
    })
    .unwrap();
    let entries = footprint(&mesh).maps;
    let of = |name: &str| entries.iter().find(|(map, _)| map == name).unwrap().1;
    assert_eq!(
        (
            of("WORKLOADS"),
            of("LOCAL_PODS"),
            of("POD_COUNTERS"),
            of("LISTENERS")
        ),
        (1, 2, 1, 3)
    );
}
