//! `tls` and `tcp` rules.

use super::mesh::{Mesh, Plan, destination, read_all, server};
use crate::proxy::hello::tests::hello;
use mesh_core::model::ObjectName;
use mesh_core::model::connection::{ConnectionMatch, ConnectionRule, ConnectionTable};
use mesh_core::model::route::{Backend, Origin, RouteApi, Split, WeightedDestination};
use mesh_core::model::service::Protocol;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

fn rule(list: &'static str, matches: Vec<ConnectionMatch>, to: &str) -> ConnectionRule {
    ConnectionRule {
        origin: Origin {
            kind: "VirtualService",
            object: ObjectName::new("weather", "web"),
            list,
            index: 0,
        },
        matches,
        split: Split {
            destinations: vec![WeightedDestination {
                weight: 1,
                index: 0,
                backend: Backend::Host(destination(to)),
                headers: Default::default(),
            }],
            total_weight: 1,
        },
    }
}

fn table(tls: Vec<ConnectionRule>, tcp: Vec<ConnectionRule>) -> ConnectionTable {
    ConnectionTable {
        api: RouteApi::Istio,
        object: ObjectName::new("weather", "web"),
        tls,
        tcp,
    }
}

fn named(sni: &str) -> ConnectionMatch {
    ConnectionMatch {
        sni: vec![sni.into()],
        ..ConnectionMatch::default()
    }
}

/// Says its name, and then what it gets.
async fn echo(name: &'static str) -> SocketAddr {
    server(move |mut stream| async move {
        let mut got = [0; 4_096];
        let Ok(n @ 1..) = stream.read(&mut got).await else {
            return;
        };
        let _ = stream.write_all(name.as_bytes()).await;
        let _ = stream.write_all(&got[..n]).await;
    })
    .await
}

async fn start(protocol: Protocol) -> Mesh {
    Mesh::start(Plan {
        protocol,
        endpoints: vec![echo("web ").await],
        second: vec![echo("shadow ").await],
        ..Plan::default()
    })
}

#[tokio::test]
async fn a_tcp_rule_sends_connections_elsewhere() {
    let mesh = start(Protocol::Tcp).await;
    mesh.connections(table(Vec::new(), vec![rule("spec.tcp", Vec::new(), "shadow")]));
    assert_eq!(mesh.exchange("hello").await, "shadow hello");
    mesh.metric(&[
        "istio_tcp_connections_opened_total",
        "destination_service_name=\"shadow\"",
        "} 1",
    ])
    .await;
}

#[tokio::test]
async fn the_server_name_of_a_hello_chooses_the_rule_and_the_hello_arrives_whole() {
    for protocol in [Protocol::Tls, Protocol::Auto] {
        let mesh = start(protocol).await;
        mesh.connections(table(
            vec![rule("spec.tls", vec![named("a.example")], "shadow")],
            Vec::new(),
        ));
        let mut stream = mesh.dial().await;
        let bytes = hello("a.example");
        for piece in bytes.chunks(100) {
            stream.write_all(piece).await.unwrap();
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let mut got = [0; 4_096];
        stream.read_exact(&mut got[..7]).await.unwrap();
        assert_eq!(&got[..7], b"shadow ");
        stream.read_exact(&mut got[..bytes.len()]).await.unwrap();
        assert_eq!(&got[..bytes.len()], &bytes[..], "{protocol:?}");
    }
}

#[tokio::test]
async fn on_a_tls_port_a_server_name_that_no_rule_takes_is_closed() {
    let mesh = start(Protocol::Tls).await;
    mesh.connections(table(
        vec![rule("spec.tls", vec![named("a.example")], "shadow")],
        Vec::new(),
    ));
    let mut stream = mesh.dial().await;
    stream.write_all(&hello("b.example")).await.unwrap();
    assert_eq!(read_all(&mut stream).await, "");
    mesh.metric(&[
        "istio_tcp_connections_opened_total",
        "response_flags=\"NR\"",
        "} 1",
    ])
    .await;
}
