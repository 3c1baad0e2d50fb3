//! The agent is killed: at random moments under load, and in the middle of updates.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests end the test, as the tests do"
)]

use mesh_tests::bpf_maps::Contents;
use mesh_tests::bpf_objects::{BpfObjects, CGROUP_HOOKS, SK_LOOKUP, attached};
use mesh_tests::capture::Capture;
use mesh_tests::mesh::Mesh;
use mesh_tests::podkit::last_json;
use mesh_tests::process::Proc;
use mesh_tests::topology::WIRE;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const SLACK: Duration = Duration::from_secs(20);
const MARKER: &str = "never-in-plaintext-8f21";

/// Numbers that nobody tuned the test to; the seed is printed.
struct Random(u64);

impl Random {
    fn new() -> Self {
        let seed = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(1, |t| t.subsec_nanos());
        println!("seed {seed}");
        Self(u64::from(seed) | 1)
    }

    /// Below `limit` (xorshift64).
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

fn mesh() -> Mesh {
    Mesh::build()
        .pod(1, "client")
        .pod(1, "near")
        .echo()
        .http()
        .pod(2, "far")
        .echo()
        .http()
        .service("near-l4", "near", 1, "tcp-echo", 7000, 7000)
        .service("near", "near", 2, "http", 80, 8080)
        .service("far", "far", 3, "http", 80, 8080)
        .service("far-l4", "far", 4, "tcp-echo", 7000, 7000)
        .start()
        .unwrap()
}

fn load(mesh: &Mesh, service: &str, family: usize, keepalive: bool) -> Proc {
    let to = mesh.service(service).vips()[family].to_string();
    let header = format!("x-marker: {MARKER}");
    let trace = trace(mesh, service);
    let mut args = vec![
        "load",
        "--to",
        &to,
        "--rate",
        "40",
        "--timeout-ms",
        "9000",
        "--header",
        &header,
    ];
    args.extend(["--trace", &trace]);
    if keepalive {
        args.push("--keepalive");
    }
    mesh.pod("client").serve(&args).unwrap()
}

fn trace(mesh: &Mesh, service: &str) -> String {
    mesh.ground
        .run()
        .dir()
        .join(format!("{service}.trace"))
        .display()
        .to_string()
}

/// The request that took longest, whether it failed or not: ms, and the line of it.
fn longest(mesh: &Mesh, service: &str) -> (u64, Value) {
    let text = std::fs::read_to_string(trace(mesh, service)).unwrap();
    let took = |line: &str| -> Option<(u64, Value)> {
        let line: Value = serde_json::from_str(line).ok()?;
        Some((line["end_ms"].as_u64()? - line["start_ms"].as_u64()?, line))
    };
    text.lines().filter_map(took).max_by_key(|(ms, _)| *ms).unwrap()
}

/// What must not grow over the lives of agents.
#[derive(Debug, PartialEq, Eq)]
struct Residue {
    maps: BTreeMap<String, u64>,
    /// Descriptors that are no sockets: a busy proxy has idle connections.
    descriptors: usize,
    pins: usize,
    hooks: Vec<usize>,
    programs: usize,
}

fn residue(mesh: &Mesh) -> Vec<Residue> {
    let of = |agent: &mesh_tests::agent::Agent| {
        let status = agent.spec.heddle_json(&["status"]).unwrap();
        let pid = agent.proc.pid();
        let kinds = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
        let kinds = kinds.filter_map(|entry| std::fs::read_link(entry.path()).ok());
        let count = |dir: &str| std::fs::read_dir(agent.spec.bpf_dir().join(dir)).unwrap().count();
        let cgroup = File::open(&agent.spec.node.cgroup).unwrap();
        let mut hooks: Vec<usize> = CGROUP_HOOKS
            .iter()
            .map(|hook| attached(&cgroup, *hook).unwrap().len())
            .collect();
        for member in mesh
            .members
            .iter()
            .filter(|m| m.pod.node.name == agent.spec.node.name)
        {
            hooks.push(attached(member.pod.netns.file(), SK_LOOKUP).unwrap().len());
        }
        Residue {
            maps: status["maps"]
                .as_array()
                .unwrap()
                .iter()
                // Addresses are the node's own business: link-local ones come when they like.
                .filter(|map| map["name"] != "NODE_ADDRS")
                .map(|map| {
                    (
                        map["name"].as_str().unwrap().to_owned(),
                        map["entries"].as_u64().unwrap(),
                    )
                })
                .collect(),
            descriptors: kinds
                .filter(|kind| !kind.to_string_lossy().starts_with("socket:"))
                .count(),
            pins: count("maps") + count("links") + count("netns"),
            hooks,
            programs: BpfObjects::held_by(pid).unwrap().programs.len(),
        }
    };
    mesh.agents.iter().map(of).collect()
}

#[test]
fn a_hundred_kills_under_load_hang_nobody_bypass_nothing_and_leave_nothing() {
    const KILLS: usize = 100;
    let mut mesh = mesh();
    let mut random = Random::new();
    let before = residue(&mesh);
    let decisions = |mesh: &Mesh, node: usize| {
        let status = mesh.agents[node].spec.heddle_json(&["status"]).unwrap();
        status["decisions"].clone()
    };
    let unknown: Vec<Value> = (0..2)
        .map(|n| decisions(&mesh, n)["unknown_destination"].clone())
        .collect();
    let capture = Capture::start(&mesh.ground.nodes[0].netns, WIRE).unwrap();
    let mut loads = [load(&mesh, "near", 0, false), load(&mesh, "far", 1, true)];
    let l4 = mesh.service("near-l4").vips()[0].to_string();
    let mut chat = mesh
        .pod("client")
        .start_podkit(&["chat", "--to", &l4, "--seconds", "1000"])
        .unwrap();
    let (start, mut ready_ms, mut programs) = (Instant::now(), Vec::new(), BTreeSet::new());
    for kill in 0..KILLS {
        let node = usize::from(random.below(4) == 0);
        programs.extend(
            BpfObjects::held_by(mesh.agents[node].proc.pid())
                .unwrap()
                .programs,
        );
        std::thread::sleep(Duration::from_millis(random.below(500)));
        mesh.agents[node].kill();
        // Some starts are killed before they are ready.
        while random.below(4) == 0 {
            mesh.agents[node].restart().unwrap();
            std::thread::sleep(Duration::from_millis(random.below(250)));
            mesh.agents[node].kill();
        }
        std::thread::sleep(Duration::from_millis(random.below(50)));
        mesh.agents[node].restart().unwrap();
        let ready = mesh.agents[node]
            .ready(SLACK)
            .unwrap_or_else(|error| panic!("kill {kill}: {error:#}"));
        ready_ms.push(ready.as_millis());
    }
    mesh.await_captured().unwrap();
    let seconds = start.elapsed().as_secs_f64();
    assert!(
        chat.running(),
        "a connection without a proxy ended: {}",
        chat.stdout()
    );
    // All is well again, at once.
    for service in ["near", "far"] {
        let to = mesh.service(service).vips()[0].to_string();
        let answer = mesh
            .pod("client")
            .podkit(&["get", "--to", &to, "--count", "50"])
            .unwrap();
        assert_eq!(answer["statuses"]["200"], 50, "{answer}");
    }
    for proc in &mut loads {
        proc.stop(SLACK).unwrap();
    }
    chat.kill();
    let summaries = loads.each_ref().map(|proc| last_json(&proc.stdout()).unwrap());
    let longest = ["near", "far"].map(|service| longest(&mesh, service));
    let seen = capture.seen();
    let plain = seen.with(MARKER.as_bytes()).len();
    let mut after = residue(&mesh);
    let same = mesh_tests::eventually("the residue of before", Duration::from_secs(75), || {
        after = residue(&mesh);
        (after == before).then_some(())
    });
    for agent in &mesh.agents {
        for program in BpfObjects::held_by(agent.proc.pid()).unwrap().programs {
            programs.remove(&program);
        }
    }
    let left = programs.intersection(&BpfObjects::now().programs).count();
    ready_ms.sort_unstable();
    let open: Vec<Value> = (0..2)
        .map(|n| decisions(&mesh, n)["agent_gone_open"].clone())
        .collect();
    let passed: Vec<Value> = (0..2)
        .map(|n| decisions(&mesh, n)["unknown_destination"].clone())
        .collect();
    println!(
        "{}",
        json!({"kills": KILLS, "seconds": seconds, "settled_after_s": start.elapsed().as_secs_f64() - seconds,
            "ready_ms_median": ready_ms[KILLS / 2], "ready_ms_max": ready_ms[KILLS - 1], "longest": longest,
            "sent": summaries.each_ref().map(|s| s["sent"].clone()), "ok": summaries.each_ref().map(|s| s["ok"].clone()),
            "plaintext_flows": plain, "wire_bytes": seen.bytes(), "programs_left": left})
    );
    for agent in &mesh.agents {
        let log = agent.proc.stderr();
        let own = log.lines().find(|line| {
            line.contains(r#""direction":"outbound""#) && line.contains(r#":15008","dst.hbone_addr":"-""#)
        });
        assert_eq!(own, None, "the agent carried its own tunnel");
    }
    assert!(
        longest.iter().all(|(ms, _)| *ms < 5_000),
        "a client hung: {longest:?}"
    );
    assert!(seen.bytes_on(15_008) > 100_000, "the load did cross the wire");
    assert_eq!(
        (plain, seen.bytes_on(8080)),
        (0, 0),
        "plaintext on the wire, bytes to the application's port"
    );
    assert_eq!(open, [json!(0), json!(0)], "passed by fail mode");
    assert_eq!(passed, unknown, "passed as unknown");
    assert!(same.is_ok(), "before {before:#?}\nafter {after:#?}");
    assert_eq!(left, 0, "programs of dead agents are loaded");
    assert!(
        summaries.iter().all(|s| s["ok"].as_u64() > Some(500)),
        "{summaries:?}"
    );
}

#[test]
fn maps_equal_a_clean_starts_after_kills_in_the_middle_of_updates() {
    const KILLS: usize = 15;
    let mut mesh = Mesh::build();
    for number in 0..8 {
        mesh = mesh
            .pod(1 + number % 2, &format!("pod{number}"))
            .app(&format!("app{}", number % 3));
        mesh = mesh.probe(8080);
    }
    for number in 1..=120 {
        let app = format!("app{}", number % 3);
        mesh = mesh.service(&format!("service{number}"), &app, number, "tcp-echo", 7000, 7000);
    }
    let mut mesh = mesh.start().unwrap();
    let mut random = Random::new();
    let all = mesh.services.clone();
    let mut kills = 0;
    let mut kill_at = Instant::now();
    let mut restarted = false;
    while kills < KILLS {
        let keep = random.below(4);
        mesh.services = all
            .iter()
            .filter(|service| u64::from(service.number) % 4 != keep)
            .cloned()
            .collect();
        for member in &mut mesh.members {
            member.unready = random.below(3) == 0;
            member.set_label(
                "heddle.io/mesh",
                if random.below(6) == 0 { "disabled" } else { "" },
            );
        }
        mesh.apply().unwrap();
        std::thread::sleep(Duration::from_millis(random.below(8)));
        if restarted && kill_at <= Instant::now() {
            mesh.agents[0].kill();
            kills += 1;
            restarted = false;
        } else if !restarted {
            mesh.agents[0].restart().unwrap();
            restarted = true;
            // Up to a while after the first listing has begun to be applied.
            kill_at = Instant::now() + Duration::from_millis(150 + random.below(500));
        }
    }
    mesh.services = all;
    for (number, member) in mesh.members.iter_mut().enumerate() {
        member.unready = number == 5;
        member.set_label("heddle.io/mesh", if number == 2 { "disabled" } else { "" });
    }
    mesh.apply().unwrap();
    mesh.agents[0].restart().unwrap();
    mesh.agents[0].ready(SLACK).unwrap();
    mesh.await_captured().unwrap();
    let spec = mesh.agents[0].spec.clone();
    let survived = Contents::read(&spec.bpf_dir()).unwrap();
    mesh.agents[0].proc.stop(Duration::from_secs(40)).unwrap();
    spec.cleanup().unwrap();
    mesh.agents[0].restart().unwrap();
    mesh.agents[0].ready(SLACK).unwrap();
    mesh.await_captured().unwrap();
    let clean = Contents::read(&spec.bpf_dir()).unwrap();
    assert!(
        clean.services.len() >= 240 && clean.workloads.len() == 3,
        "{clean:?}"
    );
    assert_eq!(survived.orphans, 0);
    for (key, entry) in &clean.services {
        assert_eq!(survived.services.get(key), Some(entry), "service {key:?}");
    }
    assert_eq!(survived, clean);
}
