//! Two agents: the client's node and the server's, with mutual TLS between them.

use super::mesh::{GET, Records, Seen, handle_at, ok, pod, read_head, server_at, service, web_connection};
use crate::contract::{CertificateError, Certificates, IdentityTls, SocketRecords};
use crate::proxy::{Proxy, ProxyConfig, ProxyDeps};
use crate::telemetry::{Telemetry, TelemetryConfig};
use crate::testing::TestCa;
use arc_swap::ArcSwap;
use mesh_core::model::identity::SpiffeId;
use mesh_core::model::service::{Endpoint, Protocol};
use mesh_core::model::snapshot::Snapshot;
use mesh_core::model::workload::Workload;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

struct Ca {
    ca: Mutex<TestCa>,
    made: Mutex<HashMap<SpiffeId, Arc<IdentityTls>>>,
    /// Seconds that the first certificate of each identity is good for; those that follow live an hour.
    first_life: Option<u64>,
    renewed: AtomicUsize,
}

impl Certificates for Ca {
    fn tls(&self, identity: &SpiffeId) -> Result<Arc<IdentityTls>, CertificateError> {
        let mut made = self.made.lock();
        let now = crate::proxy::tunnel::unix_now();
        let old = made.get(identity);
        if let Some(tls) = old.filter(|tls| tls.not_after > now) {
            return Ok(Arc::clone(tls));
        }
        let first = old.is_none();
        let mut tls = self.ca.lock().tls(&identity.to_string());
        match (first, self.first_life) {
            (true, Some(life)) => {
                let short = Arc::get_mut(&mut tls).unwrap();
                short.not_after = now + life;
            }
            (true, None) => {}
            (false, _) => _ = self.renewed.fetch_add(1, Ordering::Relaxed),
        }
        made.insert(identity.clone(), Arc::clone(&tls));
        Ok(tls)
    }
}

struct Nodes {
    client: Proxy,
    server: Proxy,
    near: Arc<Telemetry>,
    far: Arc<Telemetry>,
    announced: Arc<Records>,
    ca: Arc<Ca>,
    outbound: SocketAddr,
    from: IpAddr,
}

/// Addresses are `127.0.<net>.x`, so that tests do not meet on the tunnel's port.
fn start(net: u8, protocol: Protocol, app: SocketAddr, identity: Option<SpiffeId>) -> Nodes {
    start_with(net, protocol, app, identity, None)
}

fn start_with(
    net: u8,
    protocol: Protocol,
    app: SocketAddr,
    identity: Option<SpiffeId>,
    first_life: Option<u64>,
) -> Nodes {
    let from = IpAddr::from([127, 0, net, 1]);
    let client = pod(1, "frontend", from, true);
    let mut server = Workload::clone(&pod(2, "web", app.ip(), true));
    server.node = "n2".into();
    let served = Arc::new(server.clone());
    // What the client's node believes of the server.
    server.identity = identity.unwrap_or(server.identity);
    let server = Arc::new(server);
    let endpoint = Arc::new(Endpoint::new(app, Some(Arc::clone(&server))));
    let vip = IpAddr::from(super::mesh::VIP.0);
    let service = service(1, "web", vip, protocol, vec![endpoint]);
    let mut snapshot = Snapshot {
        version: 1,
        ..Snapshot::default()
    };
    snapshot.workloads_by_ip.insert(from, Arc::clone(&client));
    snapshot.workloads_by_ip.insert(app.ip(), server);
    snapshot.services_by_vip.insert(vip, Arc::clone(&service));
    snapshot
        .services_by_host
        .insert(Arc::clone(&service.host), Arc::clone(&service));
    snapshot.services.push(service);
    let snapshots = Arc::new(ArcSwap::from_pointee(snapshot));
    let ca = Arc::new(Ca {
        ca: Mutex::new(TestCa::new()),
        made: Mutex::default(),
        first_life,
        renewed: AtomicUsize::default(),
    });
    let certs = Arc::clone(&ca) as Arc<dyn Certificates>;
    let agent = |node: &str, records: &Arc<Records>| {
        let telemetry = Telemetry::new(&TelemetryConfig::default());
        let deps = ProxyDeps {
            origination: super::origination(),
            snapshots: Arc::clone(&snapshots),
            certs: Arc::clone(&certs),
            sockets: Arc::clone(records) as Arc<dyn SocketRecords>,
            names: Arc::new(crate::contract::NoNames),
            telemetry: Arc::clone(&telemetry),
            node: node.into(),
            mark: 0,
            edge_tls: Default::default(),
        };
        let config = ProxyConfig {
            workers: 2,
            ..ProxyConfig::default()
        };
        (Proxy::start(config, deps).unwrap(), telemetry)
    };
    let dialled = Arc::new(Records::default());
    *dialled.original.lock() = Some(SocketAddr::from(super::mesh::VIP));
    let announced = Arc::new(Records::default());
    let (near_proxy, near) = agent("n1", &dialled);
    let (far_proxy, far) = agent("n2", &announced);
    let client = handle_at(client, "127.0.0.1:0");
    let outbound = client.listeners.as_ref().unwrap().outbound.local_addr().unwrap();
    near_proxy.add_pod(client).unwrap();
    far_proxy
        .add_pod(handle_at(served, &format!("{}:15008", app.ip())))
        .unwrap();
    Nodes {
        client: near_proxy,
        server: far_proxy,
        near,
        far,
        announced,
        ca,
        outbound,
        from,
    }
}

impl Nodes {
    async fn dial(&self) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::new(self.from, 0)).unwrap();
        socket.connect(self.outbound).await.unwrap()
    }

    async fn metric(telemetry: &Telemetry, parts: &[&str]) -> String {
        let found = super::mesh::eventually(|| {
            let text = telemetry.encode();
            text.lines()
                .find(|line| parts.iter().all(|p| line.contains(p)))
                .map(str::to_owned)
        });
        found.await.unwrap_or_else(|| panic!("no metric with {parts:?}"))
    }
}

#[tokio::test]
async fn requests_between_nodes_are_decided_on_both_and_prove_both_ends() {
    let seen = Seen::default();
    let kept = seen.clone();
    let app = server_at("127.0.71.2:0", move |s| {
        web_connection(s, kept.clone(), |_| ok("far"))
    })
    .await;
    let nodes = start(71, Protocol::Auto, app, None);
    let mut stream = nodes.dial().await;
    for _ in 0..10 {
        stream.write_all(GET.as_bytes()).await.unwrap();
        let head = read_head(&mut stream).await;
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        stream.read_exact(&mut [0; 3]).await.unwrap();
    }
    assert_eq!(*seen.connections.lock(), 1, "one kept connection");
    assert_eq!(
        nodes.announced.announced.lock()[0].original,
        stream.local_addr().unwrap().into()
    );
    for (telemetry, reporter) in [
        (&nodes.near, "reporter=\"source\""),
        (&nodes.far, "reporter=\"destination\""),
    ] {
        let line = Nodes::metric(telemetry, &["istio_requests_total", reporter, "} 10"]).await;
        for label in [
            "source_principal=\"spiffe://cluster.local/ns/weather/sa/frontend\"",
            "destination_principal=\"spiffe://cluster.local/ns/weather/sa/web\"",
            "source_workload=\"frontend\"",
            "destination_workload=\"web\"",
            "destination_service_name=\"web\"",
            "connection_security_policy=\"mutual_tls\"",
        ] {
            assert!(line.contains(label), "{label} is not in {line}");
        }
    }
    nodes.server.drain(Duration::from_secs(1)).await;
    nodes.client.drain(Duration::from_secs(1)).await;
}

#[tokio::test]
async fn security_a_kept_connection_carries_no_request_after_its_certificate_has_expired() {
    let app = server_at("127.0.75.2:0", |s| {
        web_connection(s, Seen::default(), |_| ok("far"))
    })
    .await;
    let nodes = start_with(75, Protocol::Http, app, None, Some(2));
    let mut stream = nodes.dial().await;
    let ask = async |stream: &mut TcpStream| {
        stream.write_all(GET.as_bytes()).await.unwrap();
        let head = read_head(stream).await;
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        stream.read_exact(&mut [0; 3]).await.unwrap();
    };
    ask(&mut stream).await;
    ask(&mut stream).await;
    assert_eq!(nodes.ca.renewed.load(Ordering::Relaxed), 0, "one kept connection");
    tokio::time::sleep(Duration::from_millis(2_100)).await;
    ask(&mut stream).await;
    assert_eq!(
        nodes.ca.renewed.load(Ordering::Relaxed),
        2,
        "a new handshake, at both ends"
    );
}

#[tokio::test]
async fn bytes_between_nodes_end_in_each_direction_on_its_own() {
    let app = server_at("127.0.72.2:0", |mut stream| async move {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.unwrap();
        stream
            .write_all(format!("got {}", all.len()).as_bytes())
            .await
            .unwrap();
    })
    .await;
    let nodes = start(72, Protocol::Tcp, app, None);
    let mut stream = nodes.dial().await;
    stream.write_all(&[0; 100_000]).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "got 100000");
    Nodes::metric(
        &nodes.far,
        &[
            "istio_tcp_received_bytes_total",
            "reporter=\"destination\"",
            "} 100000",
        ],
    )
    .await;
}

#[tokio::test]
async fn a_server_that_speaks_first_is_heard_across_nodes() {
    let app = server_at("127.0.73.2:0", |mut stream| async move {
        stream.write_all(b"220 hi\r\n").await.unwrap();
        let _ = stream.read(&mut [0; 8]).await;
    })
    .await;
    let nodes = start(73, Protocol::Auto, app, None);
    let mut banner = [0; 8];
    let mut stream = nodes.dial().await;
    tokio::time::timeout(Duration::from_secs(3), stream.read_exact(&mut banner))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(&banner, b"220 hi\r\n");
}

#[tokio::test]
async fn security_a_server_of_another_identity_gets_nothing() {
    let seen = Seen::default();
    let kept = seen.clone();
    let app = server_at("127.0.74.2:0", move |s| {
        web_connection(s, kept.clone(), |_| ok("far"))
    })
    .await;
    let other = SpiffeId::new("cluster.local", "weather", "other");
    let nodes = start(74, Protocol::Http, app, Some(other));
    let mut stream = nodes.dial().await;
    stream.write_all(GET.as_bytes()).await.unwrap();
    let head = read_head(&mut stream).await;
    assert!(head.starts_with("HTTP/1.1 503"), "{head}");
    assert_eq!(*seen.connections.lock(), 0);
    Nodes::metric(&nodes.near, &["istio_requests_total", "response_flags=\"UF\""]).await;
}

#[tokio::test]
async fn an_application_that_takes_no_connection_on_another_node_is_tried_again() {
    let app = {
        let listener = std::net::TcpListener::bind("127.0.77.2:0").unwrap();
        listener.local_addr().unwrap()
    };
    let nodes = start(77, Protocol::Http, app, None);
    let mut stream = nodes.dial().await;
    stream.write_all(GET.as_bytes()).await.unwrap();
    let head = read_head(&mut stream).await;
    assert!(head.starts_with("HTTP/1.1 503"), "{head}");
    assert!(!head.contains("x-heddle"), "{head}");
    Nodes::metric(&nodes.near, &["heddle_proxy_retries_total 2"]).await;
    Nodes::metric(
        &nodes.far,
        &["istio_requests_total", "response_flags=\"UF\"", "} 3"],
    )
    .await;
}
