//! The agent is gone, stands still or lacks descriptors; and suites without root.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests end the test, as the tests do"
)]

use mesh_tests::mesh::{Builder, Mesh};
use mesh_tests::podkit::last_json;
use nix::sys::signal::Signal;
use serde_json::Value;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, Instant};

/// After this long without an agent the kernel knows that it is gone.
const STALE: Duration = Duration::from_secs(3);

fn builder() -> Builder {
    Mesh::build()
        .pod(1, "client")
        .pod(1, "near")
        .echo()
        .http()
        .outsider(1, "stranger")
        .pod(2, "far")
        .echo()
        .service("near-l4", "near", 1, "tcp-echo", 7000, 7000)
        .service("near", "near", 2, "http", 80, 8080)
        .service("far", "far", 3, "tcp-echo", 7000, 7000)
}

fn connect(mesh: &Mesh, from: &str, to: SocketAddr) -> Value {
    mesh.pod(from)
        .podkit(&["connect", "--to", &to.to_string()])
        .unwrap()
}

fn refused(answer: &Value) {
    assert_eq!(answer["errno_name"], "ECONNREFUSED", "{answer}");
    assert!(
        answer["elapsed_us"].as_u64() < Some(1_000_000),
        "not at once: {answer}"
    );
}

#[test]
fn without_an_agent_connections_are_refused_until_it_is_back() {
    let mut mesh = builder().start().unwrap();
    let (near_l4, far) = (mesh.service("near-l4").vips(), mesh.service("far").vips());
    let inbound = SocketAddr::new(mesh.pod("near").v4.into(), 7000);
    mesh.agents[0].kill();
    let killed = Instant::now();
    while killed.elapsed() < STALE + Duration::from_secs(1) {
        for vip in far {
            refused(&connect(&mesh, "client", vip));
        }
        refused(&connect(&mesh, "stranger", inbound));
        // Its own agent accepted this one, and finds nobody at the other end.
        let tunnelled = connect(&mesh, "far", inbound);
        assert!(
            tunnelled["ok"] == false && tunnelled["elapsed_us"].as_u64() < Some(2_000_000),
            "{tunnelled}"
        );
        for vip in near_l4 {
            let direct = connect(&mesh, "client", vip);
            assert_eq!(direct["ok"], true, "no proxy is on this one: {direct}");
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    mesh.agents[0].restart().unwrap();
    mesh.agents[0].ready(Duration::from_secs(20)).unwrap();
    let decisions = mesh.agents[0].spec.heddle_json(&["status"]).unwrap()["decisions"].clone();
    assert!(decisions["agent_gone_closed"].as_u64() > Some(0), "{decisions}");
    assert_eq!(decisions["agent_gone_open"], 0, "{decisions}");
    for vip in far {
        assert_eq!(connect(&mesh, "client", vip)["ok"], true);
    }
    assert_eq!(connect(&mesh, "stranger", inbound)["ok"], true);
}

#[test]
fn fail_mode_open_lets_connections_pass_once_the_agent_is_known_to_be_gone() {
    let mut mesh = builder()
        .namespace_label("heddle.io/fail-mode", "open")
        .start()
        .unwrap();
    let far = mesh.service("far").vips();
    let inbound = SocketAddr::new(mesh.pod("near").v4.into(), 7000);
    mesh.agents[0].kill();
    mesh_tests::eventually("connections to pass", STALE + Duration::from_secs(3), || {
        (connect(&mesh, "client", far[0])["ok"] == true).then_some(())
    })
    .unwrap();
    for vip in far {
        let answer = connect(&mesh, "client", vip);
        assert_eq!(answer["ok"], true, "{answer}");
    }
    let answer = connect(&mesh, "stranger", inbound);
    assert_eq!(answer["ok"], true, "{answer}");
    // Whoever has an agent keeps to mutual TLS: nobody downgrades because the other end is gone.
    let tunnelled = connect(&mesh, "far", inbound);
    assert_eq!(tunnelled["ok"], false, "{tunnelled}");
    mesh.agents[0].restart().unwrap();
    mesh.agents[0].ready(Duration::from_secs(20)).unwrap();
    let status = mesh.agents[0].spec.heddle_json(&["status"]).unwrap();
    assert!(
        status["decisions"]["agent_gone_open"].as_u64() > Some(3),
        "{}",
        status["decisions"]
    );
    let before = mesh.status("client").unwrap()["connections"]["proxied"]
        .as_u64()
        .unwrap();
    assert_eq!(connect(&mesh, "client", far[0])["ok"], true);
    let after = mesh.status("client").unwrap()["connections"]["proxied"]
        .as_u64()
        .unwrap();
    assert_eq!(after, before + 1, "with an agent, connections are carried again");
}

#[test]
fn an_agent_that_stood_still_goes_on() {
    let mut mesh = builder().start().unwrap();
    let to = mesh.service("near").vips()[0].to_string();
    let l4 = mesh.service("near-l4").vips()[0].to_string();
    let mut chat = mesh
        .pod("client")
        .start_podkit(&["chat", "--to", &l4, "--seconds", "8"])
        .unwrap();
    let mut load = mesh
        .pod("client")
        .serve(&["load", "--to", &to, "--rate", "20", "--timeout-ms", "8000"])
        .unwrap();
    std::thread::sleep(Duration::from_millis(500));
    mesh.agents[0].proc.signal(Signal::SIGSTOP).unwrap();
    std::thread::sleep(STALE + Duration::from_secs(1));
    // The kernel no longer counts on it: nobody waits for a listener that does not accept.
    refused(&connect(&mesh, "client", mesh.service("far").vips()[0]));
    std::thread::sleep(Duration::from_secs(1));
    mesh.agents[0].proc.signal(Signal::SIGCONT).unwrap();
    mesh_tests::eventually("service", Duration::from_secs(3), || {
        let answer = mesh.pod("client").podkit(&["get", "--to", &to]).ok()?;
        (answer["statuses"]["200"] == 1).then_some(())
    })
    .unwrap();
    let answer = mesh
        .pod("client")
        .podkit(&["get", "--to", &to, "--count", "100"])
        .unwrap();
    assert_eq!(answer["statuses"]["200"], 100, "{answer}");
    load.stop(Duration::from_secs(15)).unwrap();
    chat.wait(Duration::from_secs(15)).unwrap();
    let chat = last_json(&chat.stdout()).unwrap();
    assert!(
        chat["ok"] == true && chat["longest_ms"].as_f64() < Some(2000.0),
        "{chat}"
    );
}

fn limit_descriptors(pid: i32, soft: u64) {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: a valid pointer for the limit of now, and none to a new one.
    unsafe { libc::prlimit(pid, libc::RLIMIT_NOFILE, std::ptr::null(), &raw mut limit) };
    limit.rlim_cur = soft;
    // SAFETY: a valid pointer to a limit, and none to the old one.
    let rc = unsafe { libc::prlimit(pid, libc::RLIMIT_NOFILE, &raw const limit, std::ptr::null_mut()) };
    assert_eq!(rc, 0, "{}", std::io::Error::last_os_error());
}

#[test]
fn an_agent_without_descriptors_recovers_when_connections_end() {
    let mesh = builder().start().unwrap();
    let agent = &mesh.agents[0];
    let to = mesh.service("far").vips()[0].to_string();
    let descriptors = || {
        std::fs::read_dir(format!("/proc/{}/fd", agent.proc.pid()))
            .unwrap()
            .count()
    };
    let idle = descriptors();
    limit_descriptors(agent.proc.pid(), u64::try_from(idle + 40).unwrap());
    let mut hold = mesh
        .pod("client")
        .serve(&["hold", "--to", &to, "--connections", "200", "--seconds", "600"])
        .unwrap();
    mesh_tests::eventually("the limit", Duration::from_secs(5), || {
        (descriptors() + 5 > idle + 40).then_some(())
    })
    .unwrap();
    std::thread::sleep(Duration::from_secs(2));
    let log = agent.proc.stdout().len() + agent.proc.stderr().len();
    assert!(log < 1 << 20, "the log is flooded: {log} bytes");
    let direct = connect(&mesh, "client", mesh.service("near-l4").vips()[0]);
    assert_eq!(direct["ok"], true, "no proxy is on this one: {direct}");
    hold.kill();
    mesh_tests::eventually("service", Duration::from_secs(10), || {
        let answer = mesh.pod("client").podkit(&["connect", "--to", &to]).ok()?;
        (answer["ok"] == true).then_some(())
    })
    .unwrap();
    for _ in 0..30 {
        let answer = mesh.pod("client").podkit(&["connect", "--to", &to]).unwrap();
        assert_eq!(answer["ok"], true, "{answer}");
    }
    assert!(agent.spec.heddle(&["status"]).is_ok());
}

#[test]
fn suites_without_root_fail_and_do_not_skip() {
    let dir = std::env::temp_dir().join(format!("heddle-no-root-{}", std::process::id()));
    std::fs::create_dir(&dir).unwrap();
    // The build may be in a place that only root can enter.
    let copy = dir.join("suite");
    std::fs::copy(std::env::current_exe().unwrap(), &copy).unwrap();
    const NOBODY: u32 = 65_534;
    let output = Command::new(&copy)
        .args(["--exact", "an_agent_that_stood_still_goes_on"])
        .current_dir("/")
        .env("CI", "true")
        .uid(NOBODY)
        .gid(NOBODY)
        .output();
    std::fs::remove_dir_all(&dir).unwrap();
    let output = output.unwrap();
    let words =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{words}");
    assert!(words.contains("need root"), "{words}");
    assert!(words.contains("0 passed; 1 failed"), "{words}");
}
