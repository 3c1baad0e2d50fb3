//! The CNI plug-in as a container runtime runs it: the built program under its plug-in name, an agent that the test plays.
#![allow(
    clippy::unwrap_used,
    reason = "what fails here fails the test that asked for it"
)]

use mesh_tests::process::built;
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Time of its own that the plug-in may add to a pod's start.
const OWN_TIME: Duration = Duration::from_millis(50);

struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("heddle-cni-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    /// The program under the name by which a runtime knows it.
    fn plugin(&self) -> PathBuf {
        let path = self.0.join("heddle-cni");
        std::os::unix::fs::symlink(built("heddle").unwrap(), &path).unwrap();
        path
    }

    fn socket(&self) -> PathBuf {
        self.0.join("cni.sock")
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Answers every question with `captured`, for as long as the test runs.
fn serve_captured(listener: UnixListener) {
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut reader = BufReader::new(&stream);
            let mut length = 0;
            loop {
                let mut line = String::new();
                reader.read_line(&mut line).unwrap();
                let line = line.trim().to_ascii_lowercase();
                if line.is_empty() {
                    break;
                }
                if let Some(value) = line.strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
            }
            reader.read_exact(&mut vec![0; length]).unwrap();
            let body = r#"{"outcome":"captured"}"#;
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
            stream.write_all(format!("{head}{body}").as_bytes()).unwrap();
        }
    });
}

fn call(program: &Path, args: &[&str], command: &str, input: &Value) -> Output {
    let mut child = Command::new(program)
        .args(args)
        .env_clear()
        .envs([
            ("CNI_COMMAND", command),
            ("CNI_CONTAINERID", "abc"),
            ("CNI_NETNS", "/var/run/netns/cni-1"),
            ("CNI_IFNAME", "eth0"),
            ("CNI_PATH", "/opt/cni/bin"),
            (
                "CNI_ARGS",
                "IgnoreUnknown=1;K8S_POD_NAMESPACE=weather;K8S_POD_NAME=forecast-1;K8S_POD_UID=u",
            ),
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input.to_string().as_bytes()).unwrap();
    drop(stdin);
    child.wait_with_output().unwrap()
}

fn conf(socket: &Path) -> Value {
    json!({
        "cniVersion": "1.0.0", "name": "pods", "type": "heddle-cni", "socket": socket, "timeoutSeconds": 1,
        "prevResult": {"cniVersion": "1.0.0", "ips": [{"address": "10.244.1.7/24"}]},
    })
}

fn parsed(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

#[test]
fn the_program_is_the_plugin_by_name_by_verb_and_by_environment() {
    let dir = Dir::new("called");
    serve_captured(UnixListener::bind(dir.socket()).unwrap());
    let conf = conf(&dir.socket());
    let heddle = built("heddle").unwrap();
    for (program, args) in [(dir.plugin(), &[][..]), (heddle.clone(), &["cni"]), (heddle, &[])] {
        let output = call(&program, args, "ADD", &conf);
        assert!(output.status.success(), "{output:?}");
        assert_eq!(parsed(&output), conf["prevResult"]);
        assert!(output.stderr.is_empty(), "{output:?}");
    }
}

#[test]
fn a_pod_start_costs_little_and_an_absent_agent_is_said_on_standard_output() {
    let dir = Dir::new("cost");
    let plugin = dir.plugin();
    let output = call(&plugin, &[], "ADD", &conf(&dir.socket()));
    assert_eq!(output.status.code(), Some(1));
    let error = parsed(&output);
    assert_eq!(error["code"], 11);
    assert!(
        error["msg"].as_str().unwrap().contains("pod weather/forecast-1"),
        "{error}"
    );
    let output = call(&plugin, &[], "DEL", &conf(&dir.socket()));
    assert!(output.status.success(), "{output:?}");

    serve_captured(UnixListener::bind(dir.socket()).unwrap());
    let conf = conf(&dir.socket());
    let mut times: Vec<Duration> = (0..50)
        .map(|_| {
            let start = Instant::now();
            assert!(call(&plugin, &[], "ADD", &conf).status.success());
            start.elapsed()
        })
        .collect();
    times.sort();
    println!(
        "ADD, process start included: p50 {:?}, max {:?}",
        times[25], times[49]
    );
    assert!(times[25] < OWN_TIME, "{times:?}");
}

#[test]
fn cleanup_takes_program_and_entry_from_the_node_and_gives_the_file_back() {
    let dir = Dir::new("cleanup");
    let (bin, conf) = (dir.0.join("bin"), dir.0.join("conf"));
    fs::create_dir_all(&bin).unwrap();
    fs::create_dir_all(&conf).unwrap();
    let file = conf.join("10-pods.conflist");
    let plain =
        "{\"cniVersion\": \"1.0.0\", \"name\": \"pods\",\n \"plugins\": [\n  {\"type\": \"bridge\"}]}\n";
    let entry = ",\n  {\"type\":\"heddle-cni\",\"socket\":\"/run/heddle/cni.sock\"}";
    fs::write(&file, plain.replace("]}", &format!("{entry}]}}"))).unwrap();
    fs::write(bin.join("heddle-cni"), "").unwrap();
    fs::write(bin.join("bridge"), "").unwrap();
    let state = dir.0.join("state");
    fs::create_dir_all(&state).unwrap();
    let output = Command::new(built("heddle").unwrap())
        .args(["cleanup", "--output", "json"])
        .arg("--state-dir")
        .arg(&state)
        .arg("--bpf-dir")
        .arg(dir.0.join("pins"))
        .arg("--cgroup")
        .arg(dir.0.join("cgroup"))
        .arg("--cni-bin-dir")
        .arg(&bin)
        .arg("--cni-conf-dir")
        .arg(&conf)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(fs::read_to_string(&file).unwrap(), plain);
    assert!(!bin.join("heddle-cni").exists() && bin.join("bridge").exists());
}
