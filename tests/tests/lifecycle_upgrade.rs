//! One agent takes the place of another: nothing is refused, nothing is reset before its time.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests end the test, as the tests do"
)]

use mesh_tests::mesh::{Builder, Mesh};
use mesh_tests::podkit::last_json;
use mesh_tests::process::Proc;
use nix::sys::signal::Signal;
use std::time::{Duration, Instant};

const DRAIN: Duration = Duration::from_secs(5);
const UPGRADES: usize = 6;

fn builder() -> Builder {
    Mesh::build()
        .pod(1, "client")
        .pod(1, "near")
        .http()
        .pod(2, "far")
        .http()
        .echo()
        .service("near", "near", 1, "http", 80, 8080)
        .service("far", "far", 2, "http", 80, 8080)
        .service("far-l4", "far", 3, "tcp-http", 81, 8080)
        .service("echo", "far", 4, "tcp-echo", 7000, 7000)
        .agent_args(&["--takeover=true", "--drain-seconds", "5"])
}

fn load(mesh: &Mesh, service: &str, family: usize, keepalive: bool) -> Proc {
    let to = mesh.service(service).vips()[family].to_string();
    let mut args = vec!["load", "--to", &to, "--rate", "100", "--host", service];
    if keepalive {
        args.push("--keepalive");
    }
    mesh.pod("client").start_podkit(&args).unwrap()
}

/// A connection of the client's that has begun and goes on for a minute; before it, where it leads.
fn chat(mesh: &Mesh) -> (String, Proc) {
    let to = mesh.service("echo").vips()[0].to_string();
    let chat = mesh
        .pod("client")
        .start_podkit(&["chat", "--to", &to, "--seconds", "60"])
        .unwrap();
    std::thread::sleep(Duration::from_millis(500));
    (to, chat)
}

/// Whether the client can connect, and the process that answers on the first node is the one started there last.
fn serves(mesh: &Mesh, to: &str) -> Option<()> {
    let answer = mesh.pod("client").podkit(&["connect", "--to", to]).ok()?;
    let status = mesh.agents[0].spec.heddle_json(&["status"]).ok()?;
    let here = status["agent"]["pid"] == mesh.agents[0].proc.pid() && status["agent"]["ready"] == true;
    (here && answer["ok"] == true).then_some(())
}

/// Starts a successor on a node and waits until its predecessor has drained and ended.
fn upgrade(mesh: &mut Mesh, node: usize) {
    let successor = mesh.agents[node].spec.start().unwrap();
    let mut old = std::mem::replace(&mut mesh.agents[node], successor);
    let ended = old.proc.wait(DRAIN + Duration::from_secs(15)).unwrap();
    assert!(ended.success(), "{ended}: {}", old.proc.stderr());
    assert!(
        mesh.agents[node].proc.running(),
        "{}",
        mesh.agents[node].proc.stderr()
    );
}

#[test]
fn an_upgrade_refuses_no_connection_and_loses_no_request() {
    let mut mesh = builder().start().unwrap();
    let mut loads = [
        load(&mesh, "near", 0, true),
        load(&mesh, "near", 1, false),
        load(&mesh, "far", 0, true),
        load(&mesh, "far", 1, false),
        load(&mesh, "far-l4", 0, false),
        load(&mesh, "far-l4", 1, false),
    ];
    for round in 0..UPGRADES {
        upgrade(&mut mesh, round % 2);
    }
    for proc in &mut loads {
        proc.signal(Signal::SIGTERM).unwrap();
        proc.wait(Duration::from_secs(20)).unwrap();
    }
    for proc in &loads {
        let summary = last_json(&proc.stdout()).unwrap();
        assert!(summary["ok"].as_u64() > Some(500), "{summary}");
        assert_eq!(summary["failed"], 0, "{}: {summary}", proc.name());
    }
}

#[test]
fn a_long_connection_lives_until_the_old_agents_drain_deadline() {
    let mut mesh = builder().start().unwrap();
    let (_, mut chat) = chat(&mesh);
    let successor = mesh.agents[0].spec.start().unwrap();
    let mut old = std::mem::replace(&mut mesh.agents[0], successor);
    std::thread::sleep(DRAIN - Duration::from_secs(2));
    assert!(chat.running(), "cut before the deadline: {}", chat.stdout());
    old.proc.wait(Duration::from_secs(15)).unwrap();
    let ended = Instant::now();
    chat.wait(Duration::from_secs(5)).unwrap();
    assert!(
        ended.elapsed() < Duration::from_secs(5),
        "the connection outlived its agent"
    );
}

/// A DaemonSet makes a new pod as soon as the one before it is told to end.
#[test]
fn an_agent_that_was_told_to_end_makes_room_for_the_next_one_while_it_drains() {
    let mut mesh = builder().start().unwrap();
    let (to, mut chat) = chat(&mesh);
    let told = Instant::now();
    mesh.agents[0].proc.signal(Signal::SIGTERM).unwrap();
    // Asked while the other still holds the node, it must notice that there is nobody to ask any more.
    let next = mesh.agents[0].spec.start().unwrap();
    let mut old = std::mem::replace(&mut mesh.agents[0], next);
    mesh_tests::eventually("the next agent to serve", DRAIN - Duration::from_secs(1), || {
        serves(&mesh, &to)
    })
    .unwrap();
    assert!(told.elapsed() < DRAIN, "it came after the drain");
    assert!(old.proc.running(), "{}", old.proc.stderr());
    assert!(chat.running(), "cut before the deadline: {}", chat.stdout());
    assert!(old.proc.wait(DRAIN).unwrap().success(), "{}", old.proc.stderr());
}

#[test]
fn a_successor_that_dies_on_the_way_leaves_a_node_that_the_next_start_repairs() {
    let mut mesh = builder().start().unwrap();
    let to = mesh.service("echo").vips()[0].to_string();
    for round in 0..6u64 {
        let mut successor = mesh.agents[0].spec.start().unwrap();
        std::thread::sleep(Duration::from_millis(20 + round * 25));
        successor.kill();
        // Not asked yet, asked and left alone, or already replaced: in each case the kubelet starts another one.
        let next = mesh.agents[0].spec.start().unwrap();
        let old = std::mem::replace(&mut mesh.agents[0], next);
        mesh_tests::eventually("the next agent to serve", Duration::from_secs(15), || {
            if !mesh.agents[0].proc.running() {
                let again = mesh.agents[0].spec.start().unwrap();
                mesh.agents[0] = again;
            }
            serves(&mesh, &to)
        })
        .unwrap();
        drop(old);
    }
}

/// The kubelet of a DaemonSet may take minutes to start the next one: until then the old agent has the node again.
#[test]
fn a_successor_that_dies_gives_the_node_back_to_the_agent_that_it_asked() {
    let mut mesh = builder().start().unwrap();
    let to = mesh.service("echo").vips()[0].to_string();
    let mut resumed = 0;
    for round in 0..6u64 {
        let mut successor = mesh.agents[0].spec.start().unwrap();
        std::thread::sleep(Duration::from_millis(60 + round * 25));
        successor.kill();
        let outcome = mesh_tests::eventually("service by somebody", Duration::from_secs(20), || {
            if !mesh.agents[0].proc.running() {
                return Some(false);
            }
            let gone_on = mesh.agents[0].proc.stderr().matches("this one goes on").count();
            let answer = mesh.pod("client").podkit(&["connect", "--to", &to]).ok()?;
            let status = mesh.agents[0].spec.heddle_json(&["status"]).ok()?;
            let here =
                status["agent"]["pid"] == mesh.agents[0].proc.pid() && status["agent"]["settled"] == true;
            (here && answer["ok"] == true).then_some(gone_on > resumed)
        })
        .unwrap();
        if mesh.agents[0].proc.running() {
            resumed += usize::from(outcome);
            learns(&mesh, round);
        } else {
            // The successor had told it to drain before it died.
            mesh.agents[0] = mesh.agents[0].spec.start().unwrap();
        }
    }
    assert!(resumed > 0, "no successor died at a time that proves anything");
}

/// The agent takes in what is new.
fn learns(mesh: &Mesh, round: u64) {
    let name = format!("rule-{round}.yaml");
    let rule = format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: rule-{round}, namespace: default}}\n\
         spec:\n  hosts: [elsewhere-{round}.example]\n  http: [{{route: [{{destination: {{host: near}}}}]}}]\n"
    );
    mesh.config.write(&name, rule).unwrap();
    mesh_tests::eventually("a new rule in force", Duration::from_secs(10), || {
        let status = mesh.agents[0]
            .spec
            .heddle_json(&["status", "--in-force", "--objects"])
            .ok()?;
        let rules = status["objects"].to_string();
        rules.contains(&format!("rule-{round}")).then_some(())
    })
    .unwrap();
}
