//! Connections that are carried as bytes.

use super::mesh::{Mesh, Plan, server, server_at};
use crate::testing::refusing;
use mesh_core::model::service::Protocol;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test]
async fn each_direction_ends_on_its_own() {
    let addr = server(|mut stream| async move {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.unwrap();
        // The client's end was seen; the server goes on talking.
        stream
            .write_all(format!("got {} bytes", all.len()).as_bytes())
            .await
            .unwrap();
    })
    .await;
    let mesh = Mesh::start(Plan {
        protocol: Protocol::Tcp,
        endpoints: vec![addr],
        ..Plan::default()
    });
    let mut stream = mesh.dial().await;
    stream.write_all(b"\x00binary").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "got 7 bytes");
    mesh.metric(&["istio_tcp_received_bytes_total", "reporter=\"source\"", "} 7"])
        .await;
    mesh.metric(&[
        "istio_tcp_connections_closed_total",
        "destination_service=\"web.weather.svc",
        "} 1",
    ])
    .await;
}

#[tokio::test]
async fn a_server_that_speaks_first_is_not_waited_for_twice() {
    let addr = server(|mut stream| async move {
        stream.write_all(b"220 ready\r\n").await.unwrap();
        let mut line = [0; 6];
        stream.read_exact(&mut line).await.unwrap();
        stream.write_all(&line).await.unwrap();
    })
    .await;
    let mesh = Mesh::to(&[addr]);
    for (round, limit) in [(1, 500), (2, 500)] {
        let since = Instant::now();
        let mut stream = mesh.dial().await;
        let mut banner = [0; 11];
        stream.read_exact(&mut banner).await.unwrap();
        assert_eq!(&banner, b"220 ready\r\n");
        assert!(
            since.elapsed() < Duration::from_millis(limit),
            "round {round} took {:?}",
            since.elapsed()
        );
        stream.write_all(b"QUIT\r\n").await.unwrap();
        let mut echo = [0; 6];
        stream.read_exact(&mut echo).await.unwrap();
        assert_eq!(&echo, b"QUIT\r\n");
    }
    mesh.metric(&["heddle_proxy_detections_total", "silent", "} 1"])
        .await;
    mesh.metric(&["heddle_proxy_detections_total", "remembered", "} 1"])
        .await;
}

#[tokio::test]
async fn a_late_http_client_on_an_unnamed_port_still_gets_http() {
    let seen = super::mesh::Seen::default();
    let addr = super::mesh::web(&seen, |_| super::mesh::ok("late")).await;
    let mesh = Mesh::to(&[addr]);
    let mut stream = mesh.dial().await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    stream.write_all(super::mesh::GET_CLOSE.as_bytes()).await.unwrap();
    let answer = super::mesh::read_all(&mut stream).await;
    assert!(answer.ends_with("late"), "{answer}");
    mesh.metric(&["istio_requests_total", "response_code=\"200\"", "} 1"])
        .await;
}

#[tokio::test]
async fn a_connection_without_a_record_is_closed_and_counted() {
    let mesh = Mesh::to(&[]);
    *mesh.records.original.lock() = None;
    let mut stream = mesh.dial().await;
    assert_eq!(stream.read(&mut [0; 1]).await.unwrap_or(0), 0);
    mesh.metric(&["heddle_proxy_missing_records_total 1"]).await;
}

#[tokio::test]
async fn another_endpoint_is_tried_when_one_refuses() {
    let (_bound, dead) = refusing();
    let live = server(|mut stream| async move { stream.write_all(b"live").await.unwrap() }).await;
    let mesh = Mesh::start(Plan {
        protocol: Protocol::Tcp,
        endpoints: vec![dead, live],
        ..Plan::default()
    });
    for _ in 0..8 {
        let mut answer = String::new();
        mesh.dial().await.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "live");
    }
}

#[tokio::test]
async fn no_ready_endpoint_is_reported_as_such() {
    let mesh = Mesh::start(Plan {
        protocol: Protocol::Tcp,
        ..Plan::default()
    });
    assert_eq!(mesh.dial().await.read(&mut [0; 1]).await.unwrap_or(0), 0);
    mesh.metric(&["istio_tcp_connections_opened_total", "response_flags=\"UH\""])
        .await;
}

#[tokio::test]
async fn a_hop_inside_the_node_is_told_by_both_reporters_and_shows_the_client() {
    let addr = server_at("127.0.0.2:0", |mut stream| async move {
        let peer = stream.peer_addr().unwrap();
        stream.write_all(peer.ip().to_string().as_bytes()).await.unwrap();
    })
    .await;
    let mesh = Mesh::start(Plan {
        protocol: Protocol::Tcp,
        endpoints: vec![addr],
        enrolled: true,
        ..Plan::default()
    });
    let mut stream = mesh.dial().await;
    let mut wire_peer = String::new();
    stream.read_to_string(&mut wire_peer).await.unwrap();
    assert_eq!(wire_peer, "127.0.0.6");
    let record = mesh.records.announced.lock()[0];
    assert_eq!(record.original, stream.local_addr().unwrap().into());
    assert_eq!(record.actual, addr.into());
    drop(stream);
    for reporter in ["source", "destination"] {
        let reporter = format!("reporter=\"{reporter}\"");
        mesh.metric(&[
            "istio_tcp_connections_closed_total",
            &reporter,
            "destination_workload=\"web\"",
            "} 1",
        ])
        .await;
    }
}
