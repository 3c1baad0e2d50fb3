//! The agent's own life: start, start again, refusal to start, and uninstall.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests end the test, as the tests do"
)]

use mesh_tests::agent::AgentSpec;
use mesh_tests::bpf_objects::{BpfObjects, CGROUP_HOOKS, SK_LOOKUP, attached};
use mesh_tests::mesh::Mesh;
use mesh_tests::process::built;
use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

const SLACK: Duration = Duration::from_secs(10);

fn mesh() -> Mesh {
    Mesh::build()
        .pod(1, "client")
        .pod(1, "near")
        .echo()
        .pod(2, "far")
        .echo()
        .service("near", "near", 1, "tcp-echo", 7000, 7000)
        .service("far", "far", 2, "tcp-echo", 7000, 7000)
        .start()
        .unwrap()
}

fn files(dir: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.insert(path);
        }
    }
    found
}

/// Programs on every hook of node 1, one list each.
fn hooks(mesh: &Mesh) -> Vec<Vec<u32>> {
    let node = &mesh.ground.nodes[0];
    let cgroup = File::open(&node.cgroup).unwrap();
    let mut found: Vec<Vec<u32>> = CGROUP_HOOKS
        .iter()
        .map(|hook| attached(&cgroup, *hook).unwrap())
        .collect();
    for member in mesh.members.iter().filter(|member| member.pod.node.number == 1) {
        found.push(attached(member.pod.netns.file(), SK_LOOKUP).unwrap());
    }
    found
}

#[test]
fn an_agent_that_starts_again_takes_over_what_is_there() {
    let mut mesh = mesh();
    let pins = files(&mesh.spec(1).unwrap().bpf_dir());
    assert!(
        hooks(&mesh).iter().all(|programs| programs.len() == 1),
        "{:?}",
        hooks(&mesh)
    );
    let first = BpfObjects::held_by(mesh.agents[0].proc.pid()).unwrap();
    let vip = mesh.service("near").vips()[0].to_string();
    let mut chat = mesh
        .pod("client")
        .start_podkit(&["chat", "--to", &vip, "--seconds", "300"])
        .unwrap();
    for kill in [true, false, true] {
        let old = BpfObjects::held_by(mesh.agents[0].proc.pid()).unwrap();
        if !kill {
            mesh.agents[0].proc.stop(Duration::from_secs(40)).unwrap();
        }
        mesh.agents[0].restart().unwrap();
        mesh.agents[0].ready(Duration::from_secs(20)).unwrap();
        mesh.await_captured().unwrap();
        assert_eq!(files(&mesh.spec(1).unwrap().bpf_dir()), pins);
        assert!(
            hooks(&mesh).iter().all(|programs| programs.len() == 1),
            "{:?}",
            hooks(&mesh)
        );
        let new = BpfObjects::held_by(mesh.agents[0].proc.pid()).unwrap();
        assert!(
            new.programs.is_disjoint(&old.programs),
            "the programs are the new build's"
        );
        // The kernel frees replaced programs a moment later.
        mesh_tests::eventually("the old programs to go", SLACK, || {
            let now = BpfObjects::now();
            old.programs.is_disjoint(&now.programs).then_some(())
        })
        .unwrap();
        // What is not pinned goes with the agent: the event ring, and the constants of its programs.
        let pinned = pins
            .iter()
            .filter(|pin| pin.parent().is_some_and(|dir| dir.ends_with("maps")))
            .count();
        assert!(pinned >= 10, "{pins:?}");
        assert_eq!(new.maps.intersection(&first.maps).count(), pinned);
    }
    assert!(
        chat.running(),
        "a connection without a proxy ended: {}",
        chat.stdout()
    );
    let answer = mesh.pod("client").podkit(&["connect", "--to", &vip]).unwrap();
    assert_eq!(answer["ok"], true, "{answer}");
}

#[test]
fn a_second_agent_on_the_same_node_refuses_and_harms_nothing() {
    let mesh = mesh();
    let before = hooks(&mesh);
    let elsewhere = mesh.ground.run().dir().join("elsewhere");
    let spec = mesh.spec(1).unwrap();
    // Sharing either of the two directories is enough to refuse.
    for (flag, value) in [
        ("--cgroup", &spec.node.cgroup),
        ("--state-dir", &elsewhere),
        ("--bpf-dir", &spec.bpf_dir()),
    ] {
        let output = run(&spec, (flag, value));
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{words}");
        assert!(words.contains("another agent holds"), "{words}");
    }
    assert_eq!(hooks(&mesh), before);
    let far = mesh.service("far").vips()[0].to_string();
    let answer = mesh.pod("client").podkit(&["connect", "--to", &far]).unwrap();
    assert_eq!(answer["ok"], true, "{answer}");
    assert!(
        mesh.agents[0].spec.heddle(&["status"]).is_ok(),
        "the admin socket is the first one's"
    );
}

#[test]
fn cleanup_refuses_while_an_agent_runs_and_leaves_nothing_afterwards() {
    let mut mesh = mesh();
    let specs: Vec<AgentSpec> = mesh.agents.iter().map(|agent| agent.spec.clone()).collect();
    let error = specs[0].cleanup().unwrap_err().to_string();
    assert!(error.contains("an agent is running"), "{error}");
    let held: Vec<BpfObjects> = mesh
        .agents
        .iter()
        .map(|agent| BpfObjects::held_by(agent.proc.pid()).unwrap())
        .collect();
    assert!(
        held.iter()
            .all(|held| held.programs.len() == CGROUP_HOOKS.len() + 1 && held.maps.len() >= 14),
        "{held:?}"
    );
    // One ends as told, one is killed.
    mesh.agents[0].proc.stop(Duration::from_secs(40)).unwrap();
    mesh.agents[1].kill();
    for (spec, held) in specs.iter().zip(&held) {
        assert_eq!(
            held.alive()[0],
            held.programs.len(),
            "without an agent the programs stay"
        );
        spec.cleanup().unwrap();
        mesh_tests::eventually("programs and maps to go", SLACK, || {
            (held.alive() == [0, 0, 0]).then_some(())
        })
        .unwrap();
        assert!(!spec.bpf_dir().exists());
        assert_eq!(files(&spec.state_dir()), BTreeSet::new());
        assert!(
            !spec.node.cgroup.join("heddle-agent").exists(),
            "the agent's cgroup is left"
        );
        spec.cleanup().unwrap();
    }
    mesh_tests::eventually("hooks to be free", SLACK, || {
        hooks(&mesh).iter().all(Vec::is_empty).then_some(())
    })
    .unwrap();
    let far = mesh.service("far").vips()[0].to_string();
    let answer = mesh.pod("client").podkit(&["connect", "--to", &far]).unwrap();
    assert_eq!(answer["ok"], true, "plain traffic works: {answer}");
}

fn run(spec: &AgentSpec, replace: (&str, &Path)) -> Output {
    let command = spec.command().unwrap();
    let mut args: Vec<_> = command.get_args().map(std::ffi::OsStr::to_owned).collect();
    let at = args.iter().position(|arg| arg == replace.0).unwrap();
    args[at + 1] = replace.1.into();
    let mut command = spec.node.system.command(built("mesh-agent").unwrap()).unwrap();
    command.args(args).output().unwrap()
}

#[test]
fn a_wrong_directory_is_named_and_leaves_nothing() {
    let mesh = Mesh::build().pod(1, "client").ground().unwrap();
    let spec = mesh.spec(1).unwrap();
    let plain = mesh.ground.run().dir().join("plain");
    std::fs::create_dir(&plain).unwrap();
    let missing = plain.join("missing");
    let file = plain.join("file");
    std::fs::write(&file, "").unwrap();
    for (flag, value) in [
        ("--cgroup", missing.as_path()),
        ("--cgroup", &plain),
        ("--cgroup", &file),
        ("--bpf-dir", &plain.join("pins")),
        ("--bpf-dir", &missing.join("pins")),
        ("--config", &missing),
        ("--ca-dir", &file.join("ca")),
    ] {
        let output = run(&spec, (flag, value));
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        let what = format!("{flag} {}: {words}", value.display());
        assert_eq!(output.status.code(), Some(1), "{what}");
        let named = if flag == "--bpf-dir" {
            value.parent().unwrap()
        } else {
            value
        };
        assert!(words.contains(named.to_str().unwrap()), "{what}");
        assert!(words.lines().any(|line| line.starts_with("error: ")), "{what}");
        assert!(!words.contains("panicked"), "{what}");
        assert_eq!(files(&spec.bpf_dir()), BTreeSet::new(), "pins are left: {what}");
        assert!(!spec.bpf_dir().exists(), "{what}");
        assert!(!missing.exists(), "it was made: {what}");
        assert_eq!(files(&plain), BTreeSet::from([file.clone()]), "{what}");
        // The kernel detaches a moment after the last reference has gone.
        mesh_tests::eventually("programs to go", SLACK, || {
            hooks(&mesh).iter().all(Vec::is_empty).then_some(())
        })
        .unwrap_or_else(|error| panic!("{error}: {what}"));
    }
}

#[test]
fn check_prints_every_need_and_passes_here() {
    let spec = Mesh::build().ground().unwrap().spec(1).unwrap();
    let heddle = |args: &[&str]| {
        let output = Command::new(built("heddle").unwrap())
            .args(args)
            .output()
            .unwrap();
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stdout).into_owned(),
        )
    };
    let (code, text) = heddle(&["check"]);
    assert_eq!(code, Some(0), "{text}");
    let (code, json) = heddle(&["check", "--output", "json"]);
    assert_eq!(code, Some(0), "{json}");
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["ok"], true);
    let rows: Vec<&str> = json["features"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["feature"].as_str().unwrap())
        .collect();
    for need in [
        "root",
        "bpf file system",
        "cgroup v2",
        "SO_NETNS_COOKIE",
        "setns",
        "JIT",
        "BPF maps",
        "heddle_connect4",
        "heddle_connect6",
        "heddle_peer4",
        "heddle_peer6",
        "heddle_sockops",
        "heddle_steer",
    ] {
        assert!(
            rows.iter().any(|row| row.contains(need)),
            "no row for {need}: {rows:?}"
        );
    }
    assert!(rows.iter().all(|row| text.contains(row)), "{text}");
    assert!(!spec.bpf_dir().exists());
}
