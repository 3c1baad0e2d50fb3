//! The plug-in against an agent that the test plays.

use super::*;
use serde_json::{Value, json};
use std::io::BufRead;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use crate::testing::TempDir;

fn environment(command: &'static str, namespace: &'static str) -> impl Fn(&str) -> Option<String> {
    move |name| {
        let args = format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME=forecast-1;\
             K8S_POD_INFRA_CONTAINER_ID=abc;K8S_POD_UID=3f2504e0-4f89-41d3-9a0c-0305e82c3301"
        );
        match name {
            "CNI_COMMAND" => Some(command.to_owned()),
            "CNI_CONTAINERID" => Some("abc".to_owned()),
            "CNI_NETNS" => Some("/var/run/netns/cni-1".to_owned()),
            "CNI_ARGS" => Some(args),
            _ => None,
        }
    }
}

const PREV_RESULT: &str = r#"{ "ips":[{"address":"10.244.1.7/24","gateway":"10.244.1.1"}, {"address":"fd00::7/64"}],"dns":{} ,"cniVersion":"1.0.0"}"#;

fn input(socket: &Path, timeout_seconds: u64, more: &str) -> Result<String, String> {
    Ok(format!(
        r#"{{"cniVersion":"1.0.0","name":"pods","type":"heddle-cni","socket":{},"timeoutSeconds":{timeout_seconds},
            "excludeNamespaces":["kube-system"]{more},"prevResult":{PREV_RESULT}}}"#,
        json!(socket)
    ))
}

fn error(outcome: Result<String, String>) -> (u64, String) {
    let error: Value = serde_json::from_str(&outcome.unwrap_err()).unwrap();
    assert_eq!(error["cniVersion"], "1.0.0");
    (
        error["code"].as_u64().unwrap(),
        error["msg"].as_str().unwrap().to_owned(),
    )
}

/// Reads one request: its path, and its body as JSON.
fn read_request(stream: &UnixStream) -> (String, Value) {
    let mut reader = std::io::BufReader::new(stream);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        if line.trim().is_empty() {
            break;
        }
        lines.push(line.to_ascii_lowercase());
    }
    let length = lines
        .iter()
        .find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok())
        .unwrap();
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let path = lines[0].split(' ').nth(1).unwrap().to_owned();
    (path, serde_json::from_slice(&body).unwrap())
}

struct FakeAgent {
    dir: TempDir,
    served: JoinHandle<Vec<(String, Value)>>,
}

impl FakeAgent {
    /// Answers one connection after another with these responses; an empty one hangs up.
    fn new(responses: Vec<String>) -> Self {
        let dir = TempDir::new();
        let listener = UnixListener::bind(dir.0.join("cni.sock")).unwrap();
        let served = std::thread::spawn(move || {
            let serve = |response: String| {
                let (mut stream, _) = listener.accept().unwrap();
                let request = read_request(&stream);
                // The plug-in may have gone.
                let _ = stream.write_all(response.as_bytes());
                request
            };
            responses.into_iter().map(serve).collect()
        });
        Self { dir, served }
    }

    fn socket(&self) -> PathBuf {
        self.dir.0.join("cni.sock")
    }

    fn requests(self) -> Vec<(String, Value)> {
        self.served.join().unwrap()
    }
}

fn http(status: &str, body: &Value) -> String {
    let body = body.to_string();
    format!(
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn ok(answer: &Value) -> String {
    http("200 OK", answer)
}

#[test]
fn a_captured_pod_starts_with_the_result_of_the_plugins_before_unchanged() {
    let agent = FakeAgent::new(vec![ok(&json!({"outcome": "captured"}))]);
    let out = run(environment("ADD", "weather"), &input(&agent.socket(), 5, ""));
    assert_eq!(out.unwrap(), PREV_RESULT);
    let requests = agent.requests();
    let (path, question) = &requests[0];
    assert_eq!(path, "/cni/add");
    let expected = json!({
        "namespace": "weather", "name": "forecast-1", "uid": "3f2504e0-4f89-41d3-9a0c-0305e82c3301",
        "containerId": "abc", "netns": "/var/run/netns/cni-1", "ips": ["10.244.1.7", "fd00::7"],
    });
    assert_eq!(*question, expected);
}

#[test]
fn a_pod_outside_of_the_mesh_starts() {
    let agent = FakeAgent::new(vec![ok(
        &json!({"outcome": "notEnrolled", "why": "namespace has no label"}),
    )]);
    let out = run(environment("ADD", "weather"), &input(&agent.socket(), 5, ""));
    assert_eq!(out.unwrap(), PREV_RESULT);
}

#[test]
fn a_pod_that_cannot_be_captured_does_not_start_and_its_event_says_why() {
    let agent = FakeAgent::new(vec![ok(
        &json!({"outcome": "failed", "reason": "map WORKLOADS is full"}),
    )]);
    // Fail-open is about an agent that is not there, not about one that says no.
    let (code, message) = error(run(
        environment("ADD", "weather"),
        &input(&agent.socket(), 5, r#","failOpen":true"#),
    ));
    assert_eq!(code, 100);
    assert_eq!(
        message,
        "pod weather/forecast-1 belongs in the mesh, but cannot be captured: map WORKLOADS is full"
    );
}

#[test]
fn without_an_agent_a_pod_is_to_be_tried_again() {
    let dir = TempDir::new();
    let start = Instant::now();
    let socket = dir.0.join("cni.sock");
    let (code, message) = error(run(environment("ADD", "weather"), &input(&socket, 1, "")));
    assert_eq!(code, 11);
    assert!(
        message.contains("pod weather/forecast-1") && message.contains("no Heddle agent answers"),
        "{message}"
    );
    assert!(message.contains("No such file or directory"), "{message}");
    assert!((800..3000).contains(&start.elapsed().as_millis()));
}

#[test]
fn an_agent_that_comes_back_in_time_is_asked() {
    let dir = TempDir::new();
    let socket = dir.0.join("cni.sock");
    drop(UnixListener::bind(&socket).unwrap());
    let there = socket.clone();
    let agent = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(200));
        std::fs::remove_file(&there).unwrap();
        let listener = UnixListener::bind(&there).unwrap();
        // The first answer is cut off: this agent goes, too.
        read_request(&listener.accept().unwrap().0);
        let (mut stream, _) = listener.accept().unwrap();
        read_request(&stream);
        stream
            .write_all(ok(&json!({"outcome": "captured"})).as_bytes())
            .unwrap();
    });
    let out = run(environment("ADD", "weather"), &input(&socket, 10, ""));
    assert_eq!(out.unwrap(), PREV_RESULT);
    agent.join().unwrap();
}

#[test]
fn a_silent_agent_holds_a_pod_for_the_deadline_and_no_longer() {
    let dir = TempDir::new();
    let socket = dir.0.join("cni.sock");
    let _silent = UnixListener::bind(&socket).unwrap();
    let start = Instant::now();
    let (code, message) = error(run(environment("ADD", "weather"), &input(&socket, 1, "")));
    assert_eq!(code, 11);
    assert!(message.contains("gave no answer within 1 s"), "{message}");
    assert!((800..3000).contains(&start.elapsed().as_millis()));
}

#[test]
fn a_busy_agent_is_asked_again() {
    let agent = FakeAgent::new(vec![
        http("503 Service Unavailable", &json!("busy")),
        ok(&json!({"outcome": "captured"})),
    ]);
    let out = run(environment("ADD", "weather"), &input(&agent.socket(), 5, ""));
    assert_eq!(out.unwrap(), PREV_RESULT);
    assert_eq!(agent.requests().len(), 2);
}

#[test]
fn an_agent_of_another_version_is_an_error_not_a_pass() {
    for response in [
        http("404 Not Found", &json!("no such operation")),
        ok(&json!({"outcome": "perhaps"})),
        "HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n".to_owned(),
    ] {
        let agent = FakeAgent::new(vec![response]);
        let (code, _) = error(run(environment("ADD", "weather"), &input(&agent.socket(), 1, "")));
        assert_eq!(code, 11);
    }
}

#[test]
fn excluded_namespaces_and_fail_open_start_without_an_agent() {
    let dir = TempDir::new();
    let socket = dir.0.join("cni.sock");
    let start = Instant::now();
    let out = run(environment("ADD", "kube-system"), &input(&socket, 10, ""));
    assert_eq!(out.unwrap(), PREV_RESULT);
    assert!(start.elapsed() < Duration::from_secs(1));
    let out = run(
        environment("ADD", "weather"),
        &input(&socket, 1, r#","failOpen":true"#),
    );
    assert_eq!(out.unwrap(), PREV_RESULT);
}

#[test]
fn a_container_of_no_pod_is_none_of_the_meshs() {
    let no_args = |name: &str| environment("ADD", "x")(name).filter(|_| name != "CNI_ARGS");
    let out = run(no_args, &input(Path::new("/nowhere/cni.sock"), 1, ""));
    assert_eq!(out.unwrap(), PREV_RESULT);
}

#[test]
fn bad_input_is_an_error_that_says_what_is_wrong() {
    let add = |input: &str| error(run(environment("ADD", "weather"), &Ok(input.to_owned())));
    let (code, message) = add("not json");
    assert_eq!(code, 6);
    assert!(message.contains("line 1 column"), "{message}");
    assert_eq!(add("").0, 6);
    let (code, message) = add(r#"{"cniVersion":"0.2.0"}"#);
    assert_eq!(code, 1);
    assert!(message.contains("cniVersion: 0.2.0"), "{message}");
    let (code, message) = add(r#"{"cniVersion":"1.0.0","name":"x"}"#);
    assert_eq!(code, 7);
    assert!(message.contains("prevResult"), "{message}");
    let (code, message) = add(r#"{"cniVersion":"1.0.0","timeoutSeconds":"soon"}"#);
    assert_eq!(code, 6);
    assert!(message.contains("soon"), "{message}");
    let unset = |name: &str| environment("ADD", "x")(name).filter(|_| name != "CNI_CONTAINERID");
    let (code, message) = error(run(unset, &input(Path::new("/nowhere"), 1, "")));
    assert_eq!((code, message.as_str()), (4, "CNI_CONTAINERID is not set"));
    let (code, _) = error(run(
        environment("DANCE", "x"),
        &input(Path::new("/nowhere"), 1, ""),
    ));
    assert_eq!(code, 4);
    let (code, _) = error(run(environment("ADD", "x"), &Err("broken pipe".to_owned())));
    assert_eq!(code, 5);
}

#[test]
fn the_end_of_a_pod_is_told_and_never_held_up() {
    let agent = FakeAgent::new(vec![ok(&json!({"outcome": "captured"}))]);
    let out = run(environment("DEL", "weather"), &input(&agent.socket(), 5, ""));
    assert_eq!(out.unwrap(), "");
    assert_eq!(agent.requests()[0].0, "/cni/del");

    let dir = TempDir::new();
    let silent = dir.0.join("cni.sock");
    let _silent = UnixListener::bind(&silent).unwrap();
    let start = Instant::now();
    for input in [
        input(Path::new("/nowhere/cni.sock"), 10, ""),
        input(&silent, 10, ""),
        Ok("not json".to_owned()),
        Err("broken pipe".to_owned()),
    ] {
        assert_eq!(run(environment("DEL", "weather"), &input).unwrap(), "");
    }
    assert!(start.elapsed() < Duration::from_secs(3));
}

#[test]
fn a_running_pod_passes_the_check_while_the_agent_restarts() {
    let check = |socket: &Path| run(environment("CHECK", "weather"), &input(socket, 10, ""));
    assert_eq!(check(Path::new("/nowhere/cni.sock")).unwrap(), "");
    let agent = FakeAgent::new(vec![ok(
        &json!({"outcome": "failed", "reason": "its listeners are gone"}),
    )]);
    let (code, message) = error(check(&agent.socket()));
    assert_eq!(code, 100);
    assert!(message.contains("its listeners are gone"));
}

#[test]
fn the_versions_that_can_be_chained_are_offered() {
    let out = run(
        environment("VERSION", "x"),
        &Ok(r#"{"cniVersion":"1.1.0"}"#.to_owned()),
    );
    let out: Value = serde_json::from_str(&out.unwrap()).unwrap();
    assert_eq!(out["cniVersion"], "1.1.0");
    let expected = json!(["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]);
    assert_eq!(out["supportedVersions"], expected);
    for command in ["STATUS", "GC"] {
        let out = run(
            environment(command, "x"),
            &input(Path::new("/nowhere/cni.sock"), 10, ""),
        );
        assert_eq!(out.unwrap(), "");
    }
}
