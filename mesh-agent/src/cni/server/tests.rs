//! The socket, asked by the plug-in's own client.

use super::*;
use crate::testing::TempDir;
use http_body_util::Empty;
use std::path::PathBuf;
use std::time::Instant;

struct Bench {
    dir: TempDir,
    requests: mpsc::Receiver<CniRequest>,
}

impl Bench {
    fn new(queue: usize) -> Self {
        let dir = TempDir::new();
        let (sender, requests) = mpsc::channel(queue);
        let server = CniServer::bind(&dir.0.join("cni.sock"), no_host_root(), sender).unwrap();
        drop(tokio::spawn(server.serve()));
        Self { dir, requests }
    }

    fn socket(&self) -> PathBuf {
        self.dir.0.join("cni.sock")
    }

    async fn next(&mut self) -> CniRequest {
        tokio::time::timeout(Duration::from_secs(5), self.requests.recv())
            .await
            .unwrap()
            .unwrap()
    }
}

fn no_host_root() -> Arc<NetnsFiles> {
    Arc::new(NetnsFiles::new(Path::new("/nowhere")))
}

fn question(netns: &str) -> String {
    format!(
        r#"{{"namespace":"weather","name":"forecast-1","containerId":"abc","netns":"{netns}","ips":["10.0.0.1"]}}"#
    )
}

async fn connect(socket: &Path) -> hyper::client::conn::http1::SendRequest<String> {
    let stream = UnixStream::connect(socket).await.unwrap();
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    drop(tokio::spawn(connection));
    sender
}

fn post(path: &str, body: String) -> Request<String> {
    Request::post(path).header("host", "agent").body(body).unwrap()
}

async fn exchange(socket: &Path, path: &str, body: String) -> (u16, String) {
    let response = connect(socket)
        .await
        .send_request(post(path, body))
        .await
        .unwrap();
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn a_question_waits_for_the_control_loop_and_gets_its_answer() {
    let mut bench = Bench::new(4);
    let socket = bench.socket();
    let asked =
        tokio::spawn(async move { exchange(&socket, "/cni/add", question("/proc/self/ns/net")).await });
    let request = bench.next().await;
    assert_eq!(request.operation, Operation::Add);
    assert_eq!(request.pod.to_string(), "weather/forecast-1");
    assert_eq!(request.netns.as_deref(), Some("/proc/self/ns/net"));
    assert_eq!(request.ips, ["10.0.0.1".parse::<IpAddr>().unwrap()]);
    assert!(!asked.is_finished());
    request.reply.send(Answer::Captured).unwrap();
    assert_eq!(
        asked.await.unwrap(),
        (200, r#"{"outcome":"captured"}"#.to_owned())
    );
}

#[tokio::test]
async fn a_plugin_that_goes_away_closes_its_reply() {
    let mut bench = Bench::new(4);
    let mut client = connect(&bench.socket()).await;
    let sent = tokio::spawn(async move {
        let _ = client
            .send_request(post("/cni/add", question("/proc/self/ns/net")))
            .await;
    });
    let mut request = bench.next().await;
    sent.abort();
    tokio::time::timeout(Duration::from_secs(5), request.reply.closed())
        .await
        .unwrap();
}

#[tokio::test]
async fn a_namespace_that_the_agent_cannot_see_is_a_failure_at_once() {
    let bench = Bench::new(4);
    let (status, body) = exchange(
        &bench.socket(),
        "/cni/add",
        question("/var/run/netns/cni-not-there"),
    )
    .await;
    assert_eq!(status, 200);
    let answer: Answer = serde_json::from_str(&body).unwrap();
    assert!(matches!(answer, Answer::Failed { reason } if reason.contains("/var/run/netns/cni-not-there")));
}

#[tokio::test]
async fn a_namespace_that_is_gone_does_not_matter_to_a_pods_end() {
    let mut bench = Bench::new(4);
    let socket = bench.socket();
    let asked =
        tokio::spawn(async move { exchange(&socket, "/cni/del", question("/var/run/netns/gone")).await });
    let request = bench.next().await;
    assert_eq!((request.operation, request.netns), (Operation::Del, None));
    request.reply.send(Answer::Captured).unwrap();
    assert_eq!(asked.await.unwrap().0, 200);
}

#[tokio::test]
async fn a_full_queue_and_a_stopping_agent_ask_for_another_try() {
    let mut bench = Bench::new(1);
    let socket = bench.socket();
    let there = socket.clone();
    let first = tokio::spawn(async move { exchange(&there, "/cni/check", question("/x")).await });
    while bench.requests.is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(exchange(&socket, "/cni/check", question("/x")).await.0, 503);
    drop(bench.next().await);
    assert_eq!(first.await.unwrap().0, 503);
}

#[tokio::test]
async fn what_is_no_question_is_refused() {
    let bench = Bench::new(4);
    let socket = bench.socket();
    assert_eq!(exchange(&socket, "/cni/add", "{}".to_owned()).await.0, 400);
    assert_eq!(exchange(&socket, "/cni/add", "x".repeat(100_000)).await.0, 400);
    assert_eq!(exchange(&socket, "/cni/dance", String::new()).await.0, 404);
    let stream = UnixStream::connect(&socket).await.unwrap();
    let (mut get, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    drop(tokio::spawn(connection));
    let request = Request::get("/cni/add").body(Empty::<Bytes>::new()).unwrap();
    assert_eq!(get.send_request(request).await.unwrap().status(), 404);
}

#[tokio::test]
async fn a_new_agent_takes_the_socket_over_and_only_root_can_open_it() {
    let dir = TempDir::new();
    let socket = dir.0.join("cni.sock");
    let (old_sender, _old_requests) = mpsc::channel(4);
    let _old = CniServer::bind(&socket, no_host_root(), old_sender).unwrap();
    let (new_sender, mut new_requests) = mpsc::channel(4);
    let new = CniServer::bind(&socket, no_host_root(), new_sender).unwrap();
    drop(tokio::spawn(new.serve()));
    assert_eq!(socket.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let asked = tokio::spawn(async move { exchange(&socket, "/cni/check", question("/x")).await });
    let start = Instant::now();
    let request = new_requests.recv().await.unwrap();
    request.reply.send(Answer::Captured).unwrap();
    assert_eq!(asked.await.unwrap().0, 200);
    assert!(start.elapsed() < Duration::from_secs(5));
    assert_eq!(
        std::fs::read_dir(&dir.0).unwrap().count(),
        1,
        "no other file is left"
    );
}
