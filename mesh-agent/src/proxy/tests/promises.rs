//! Memory, drain, removal, fences, exposition.

use super::mesh::{GET, GET_CLOSE, Mesh, Plan, Seen, ok, read_head, server, web};
use crate::proxy::ProxyConfig;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test(flavor = "multi_thread")]
async fn bodies_of_64_mib_pass_both_ways_in_bounded_memory() {
    const SIZE: usize = 64 << 20;
    if std::env::var_os(ALONE).is_none() {
        return alone("bodies_of_64_mib_pass_both_ways_in_bounded_memory");
    }
    let addr = server(|mut stream| async move {
        read_head(&mut stream).await;
        let mut left = SIZE;
        let mut buf = vec![0; 64 * 1024];
        while left > 0 {
            left -= stream.read(&mut buf).await.unwrap();
        }
        stream
            .write_all(format!("HTTP/1.1 200 OK\r\ncontent-length: {SIZE}\r\n\r\n").as_bytes())
            .await
            .unwrap();
        let block = vec![7; 64 * 1024];
        for _ in 0..SIZE / block.len() {
            stream.write_all(&block).await.unwrap();
        }
    })
    .await;
    let mesh = Mesh::to(&[addr]);
    let before = resident();
    let mut stream = mesh.dial().await;
    let head = format!("POST / HTTP/1.1\r\nhost: web\r\ncontent-length: {SIZE}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let block = vec![1; 64 * 1024];
    for _ in 0..SIZE / block.len() {
        stream.write_all(&block).await.unwrap();
    }
    let head = read_head(&mut stream).await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let mut most = 0;
    let mut left = SIZE;
    let mut buf = vec![0; 64 * 1024];
    while left > 0 {
        // A reader that dawdles at first must not make the proxy buffer.
        if left == SIZE {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        left -= stream.read(&mut buf).await.unwrap();
        most = most.max(resident());
    }
    let grown = most.saturating_sub(before);
    println!("resident memory grew by {} KiB", grown >> 10);
    assert!(grown < 24 << 20, "resident memory grew by {grown} bytes");
    mesh.metric(&[
        "istio_response_bytes_sum",
        "reporter=\"source\"",
        &format!("}} {SIZE}"),
    ])
    .await;
}

#[tokio::test]
async fn a_drain_ends_connections_between_requests() {
    let seen = Seen::default();
    let addr = web(&seen, |_| ok("x")).await;
    let mesh = Mesh::to(&[addr]);
    let mut idle = mesh.dial().await;
    idle.write_all(GET.as_bytes()).await.unwrap();
    assert!(read_head(&mut idle).await.starts_with("HTTP/1.1 200"));
    idle.read_exact(&mut [0; 1]).await.unwrap();
    mesh.proxy.drain(Duration::from_secs(5)).await;
    assert_eq!(
        idle.read(&mut [0; 1]).await.unwrap_or(0),
        0,
        "idle connection is closed"
    );
}

#[tokio::test]
async fn a_request_in_flight_finishes_during_a_drain() {
    let addr = server(|mut stream| async move {
        read_head(&mut stream).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        stream.write_all(ok("done").as_bytes()).await.unwrap();
    })
    .await;
    for left_before in [false, true] {
        let mesh = Mesh::to(&[addr]);
        let mut stream = mesh.dial().await;
        stream.write_all(GET.as_bytes()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        if left_before {
            mesh.proxy.remove_pod(1, Duration::from_secs(5));
        }
        mesh.proxy.drain(Duration::from_secs(5)).await;
        // As the process would, with the drain.
        drop(mesh);
        let answer = super::mesh::read_all(&mut stream).await;
        assert!(
            answer.starts_with("HTTP/1.1 200") && answer.ends_with("done"),
            "{answer}"
        );
        assert!(answer.to_lowercase().contains("connection: close"), "{answer}");
    }
}

#[tokio::test]
async fn a_removed_pod_refuses_new_connections_and_cuts_old_ones_at_the_deadline() {
    let addr = server(|mut stream| async move {
        let mut buf = [0; 64];
        while let Ok(1..) = stream.read(&mut buf).await {}
    })
    .await;
    let mesh = Mesh::to(&[addr]);
    let mut stream = mesh.dial().await;
    stream.write_all(b"\x00opaque").await.unwrap();
    super::mesh::eventually(|| (mesh.proxy.live_connections() == 1).then_some(()))
        .await
        .unwrap();
    mesh.proxy.remove_pod(1, Duration::from_millis(100));
    // What has arrived already is still accepted for a moment.
    let refused = async {
        while tokio::net::TcpStream::connect(mesh.outbound).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(3), refused)
        .await
        .expect("listener is closed");
    let ended = tokio::time::timeout(Duration::from_secs(3), stream.read(&mut [0; 1])).await;
    assert_eq!(ended.unwrap().unwrap_or(0), 0);
    super::mesh::eventually(|| (mesh.proxy.live_connections() == 0).then_some(()))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_panic_ends_its_own_connection_only() {
    let seen = Seen::default();
    let addr = web(&seen, |_| ok("x")).await;
    let mesh = Mesh::to(&[addr]);
    mesh.records
        .broken
        .store(true, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(mesh.exchange(GET_CLOSE).await, "");
    for _ in 0..4 {
        assert!(mesh.exchange(GET_CLOSE).await.starts_with("HTTP/1.1 200"));
    }
    mesh.metric(&["heddle_proxy_panics_total 1"]).await;
    mesh.metric(&["heddle_proxy_connections 0"]).await;
}

#[tokio::test]
async fn a_pod_has_no_more_connections_than_its_share() {
    let seen = Seen::default();
    let addr = web(&seen, |_| ok("x")).await;
    let config = ProxyConfig {
        workers: 2,
        connections_per_pod: 2,
        ..ProxyConfig::default()
    };
    let mesh = Mesh::start(Plan {
        endpoints: vec![addr],
        config,
        ..Plan::default()
    });
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut stream = mesh.dial().await;
        stream.write_all(GET.as_bytes()).await.unwrap();
        assert!(read_head(&mut stream).await.starts_with("HTTP/1.1 200"));
        held.push(stream);
    }
    assert_eq!(mesh.exchange(GET).await, "");
    mesh.metric(&["heddle_proxy_refused_connections_total 1"]).await;
    drop(held);
    mesh.metric(&["heddle_proxy_connections 0"]).await;
    assert!(mesh.exchange(GET_CLOSE).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn metrics_pass_promtool() {
    let seen = Seen::default();
    let addr = web(&seen, |_| ok("x")).await;
    let mesh = Mesh::to(&[addr]);
    mesh.exchange(GET_CLOSE).await;
    let text = mesh
        .metric(&["istio_requests_total", "response_code=\"200\""])
        .await;
    assert!(!text.is_empty());
    let Ok(mut promtool) = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
    else {
        assert!(std::env::var_os("CI").is_none(), "promtool is not installed");
        return;
    };
    promtool
        .stdin
        .take()
        .unwrap()
        .write_all(mesh.telemetry.encode().as_bytes())
        .unwrap();
    let output = promtool.wait_with_output().unwrap();
    let words = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
    // The name is Istio's, and dashboards depend on it.
    let istio = "istio_request_duration_milliseconds use base unit \"seconds\" instead of \"milliseconds\"";
    let complaints: Vec<_> = words.lines().filter(|l| !l.is_empty() && *l != istio).collect();
    assert!(complaints.is_empty(), "{complaints:?}");
}

#[tokio::test]
async fn security_what_clients_send_makes_no_series() {
    let seen = Seen::default();
    let addr = web(&seen, |_| ok("x")).await;
    let mesh = Mesh::to(&[addr]);
    let mut stream = mesh.dial().await;
    for i in 0..300 {
        let ask = format!(
            "M{} /{i}?{i} HTTP/1.1\r\nhost: h{i}\r\nx-{i}: {i}\r\n\r\n",
            "A".repeat(i % 9)
        );
        stream.write_all(ask.as_bytes()).await.unwrap();
        assert!(read_head(&mut stream).await.starts_with("HTTP/1.1 200"));
        stream.read_exact(&mut [0; 1]).await.unwrap();
    }
    mesh.metric(&["istio_requests_total", "} 300"]).await;
    let text = mesh.telemetry.encode();
    assert_eq!(
        text.lines()
            .filter(|l| l.starts_with("istio_requests_total{"))
            .count(),
        1,
        "{text}"
    );
}

/// Runs one test in a process of its own: resident memory is a process's.
fn alone(name: &str) {
    let test = format!("proxy::tests::promises::{name}");
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &test, "--nocapture"])
        .env(ALONE, "1")
        .output()
        .unwrap();
    let words = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    println!(
        "{}",
        words.lines().find(|l| l.contains("resident")).unwrap_or_default()
    );
    assert!(output.status.success() && words.contains("1 passed"), "{words}");
}

const ALONE: &str = "HEDDLE_TEST_ALONE";

/// Resident bytes of this process (proc_pid_statm(5)).
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}
