//! A small mesh on loopback: one client pod, one service, servers that are scripts.

use crate::contract::{CertificateError, Certificates, IdentityTls, Listeners, PodHandle, SocketRecords};
use crate::proxy::{Proxy, ProxyConfig, ProxyDeps};
use crate::sys::NetNs;
use crate::telemetry::{Telemetry, TelemetryConfig};
use arc_swap::ArcSwap;
use mesh_common::{AddrPort, SocketRecord, record_kind};
use mesh_core::model::ObjectName;
use mesh_core::model::connection::{ConnectionRoute, ConnectionRoutes, ConnectionTable};
use mesh_core::model::identity::SpiffeId;
use mesh_core::model::route::{
    Backend, Destination, HostSubsets, Mirror, Origin, RouteAction, RouteApi, RouteRule, RouteTable, Split,
    Visibility, WeightedDestination,
};
use mesh_core::model::service::{Distribution, Endpoint, Protocol, Service, ServicePort};
use mesh_core::model::snapshot::Snapshot;
use mesh_core::model::traffic::{BackendPolicy, TrafficPolicy};
use mesh_core::model::workload::{Enrollment, FailMode, Names, Workload};
use parking_lot::Mutex;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub(super) const VIP: ([u8; 4], u16) = ([10, 96, 0, 1], 80);

/// A mesh under test; dropped, it ends the proxy.
pub(super) struct Mesh {
    pub(super) proxy: Proxy,
    pub(super) telemetry: Arc<Telemetry>,
    pub(super) records: Arc<Records>,
    pub(super) snapshots: Arc<ArcSwap<Snapshot>>,
    /// Where the client pod's connections arrive.
    pub(super) outbound: SocketAddr,
}

/// What the mesh is made of.
pub(super) struct Plan {
    pub(super) protocol: Protocol,
    pub(super) endpoints: Vec<SocketAddr>,
    /// Endpoints are enrolled pods of this node.
    pub(super) enrolled: bool,
    pub(super) rule: Option<RouteAction>,
    pub(super) config: ProxyConfig,
    /// Endpoints of a second service, `shadow`.
    pub(super) second: Vec<SocketAddr>,
    /// How the endpoints of `web` are used.
    pub(super) policy: Option<TrafficPolicy>,
    /// What an XBackendTrafficPolicy says of `web`.
    pub(super) backend: Option<BackendPolicy>,
}

impl Default for Plan {
    fn default() -> Self {
        let config = ProxyConfig {
            workers: 2,
            ..ProxyConfig::default()
        };
        Self {
            protocol: Protocol::Auto,
            endpoints: Vec::new(),
            enrolled: false,
            rule: None,
            config,
            second: Vec::new(),
            policy: None,
            backend: None,
        }
    }
}

/// Every captured socket was dialled to the same address.
#[derive(Default)]
pub(super) struct Records {
    pub(super) original: Mutex<Option<SocketAddr>>,
    pub(super) announced: Mutex<Vec<SocketRecord>>,
    /// The next look-up panics.
    pub(super) broken: AtomicBool,
}

impl SocketRecords for Records {
    fn record(&self, _: BorrowedFd<'_>) -> io::Result<SocketRecord> {
        assert!(!self.broken.swap(false, Ordering::SeqCst), "broken for a test");
        let original = self.original.lock().ok_or(io::ErrorKind::NotFound)?;
        Ok(SocketRecord {
            kind: record_kind::CAPTURED,
            workload: 1,
            original: AddrPort::from(original),
            actual: AddrPort::default(),
        })
    }

    fn announce(&self, _: BorrowedFd<'_>, record: &SocketRecord) -> io::Result<()> {
        self.announced.lock().push(*record);
        Ok(())
    }
}

struct NoCertificates;

impl Certificates for NoCertificates {
    fn tls(&self, identity: &SpiffeId) -> Result<Arc<IdentityTls>, CertificateError> {
        Err(CertificateError::Expired(identity.clone()))
    }
}

/// A pod of this node.
pub(super) fn pod(id: u32, name: &str, ip: IpAddr, enrolled: bool) -> Arc<Workload> {
    Arc::new(Workload {
        id,
        pod: ObjectName::new("weather", name),
        uid: name.into(),
        node: "n1".into(),
        ips: vec![ip],
        labels: Arc::default(),
        identity: SpiffeId::new("cluster.local", "weather", name),
        names: Arc::new(Names {
            workload: name.into(),
            kind: "deployment".into(),
            app: name.into(),
            version: "v1".into(),
            canonical_service: name.into(),
            canonical_revision: "v1".into(),
        }),
        enrollment: if enrolled {
            Enrollment::Enrolled
        } else {
            Enrollment::NotAsked
        },
        ready: true,
        netns: None,
        probe_ports: Vec::new(),
        fail_mode: FailMode::Closed,
        resolves_itself: false,
    })
}

fn handle(workload: Arc<Workload>) -> Arc<PodHandle> {
    handle_at(workload, "127.0.0.1:0")
}

/// A pod whose tunnel port is `tunnel`.
pub(super) fn handle_at(workload: Arc<Workload>, tunnel: &str) -> Arc<PodHandle> {
    let listener = |at: &str| {
        let listener = TcpListener::bind(at).unwrap();
        listener.set_nonblocking(true).unwrap();
        listener
    };
    let any = "127.0.0.1:0";
    let listeners = Listeners {
        outbound: listener(any),
        inbound: listener(any),
        tunnel: listener(tunnel),
    };
    Arc::new(PodHandle {
        workload,
        netns: NetNs::current().unwrap(),
        listeners: Some(listeners),
        resolver: Vec::new(),
    })
}

pub(super) fn service(
    id: u32,
    name: &str,
    vip: IpAddr,
    protocol: Protocol,
    endpoints: Vec<Arc<Endpoint>>,
) -> Arc<Service> {
    Arc::new(Service {
        name: ObjectName::new("weather", name),
        host: format!("{name}.weather.svc.cluster.local").into(),
        vips: vec![vip],
        ports: vec![Arc::new(ServicePort {
            id,
            number: 80,
            name: "".into(),
            protocol,
            endpoints: endpoints.into(),
        })],
        distribution: Distribution::Any,
        external: None,
    })
}

/// Sends everything to the service `web`.
pub(super) fn rule() -> RouteAction {
    RouteAction::forward(Split {
        destinations: vec![WeightedDestination {
            weight: 1,
            index: 0,
            backend: Backend::Host(destination("web")),
            headers: Default::default(),
        }],
        total_weight: 1,
    })
}

pub(super) fn destination(name: &str) -> Destination {
    Destination {
        host: format!("{name}.weather.svc.cluster.local").into(),
        subset: None,
        port: None,
    }
}

pub(super) fn mirror_to(name: &str) -> Mirror {
    Mirror {
        destination: destination(name),
        per_million: 1_000_000,
    }
}

impl Mesh {
    pub(super) fn start(plan: Plan) -> Self {
        let client = pod(1, "frontend", IpAddr::from([127, 0, 0, 1]), true);
        let mut snapshot = Snapshot {
            version: 1,
            ..Snapshot::default()
        };
        let mut handles = vec![handle(Arc::clone(&client))];
        snapshot
            .workloads_by_ip
            .insert(client.ips[0], Arc::clone(&client));
        let mut endpoints = Vec::new();
        for (i, addr) in plan.endpoints.iter().enumerate() {
            let workload = plan.enrolled.then(|| pod(i as u32 + 2, "web", addr.ip(), true));
            if let Some(workload) = &workload {
                handles.push(handle(Arc::clone(workload)));
                snapshot.workloads_by_ip.insert(addr.ip(), Arc::clone(workload));
            }
            endpoints.push(Arc::new(Endpoint::new(*addr, workload)));
        }
        let second: Vec<_> = plan
            .second
            .iter()
            .map(|addr| Arc::new(Endpoint::new(*addr, None)))
            .collect();
        let services = [
            service(2, "shadow", IpAddr::from([10, 96, 0, 2]), Protocol::Http, second),
            service(1, "web", IpAddr::from(VIP.0), plan.protocol, endpoints),
        ];
        for service in services {
            snapshot
                .services_by_vip
                .insert(service.vips[0], Arc::clone(&service));
            snapshot
                .services_by_host
                .insert(Arc::clone(&service.host), Arc::clone(&service));
            snapshot.services.push(service);
        }
        if let Some(rule) = plan.rule {
            let object = ObjectName::new("weather", "web");
            let origin = Origin {
                kind: "VirtualService",
                object: object.clone(),
                list: "spec.http",
                index: 0,
            };
            let table = RouteTable {
                api: RouteApi::Istio,
                object,
                rules: vec![RouteRule {
                    origin,
                    name: "".into(),
                    matches: Vec::new(),
                    action: Arc::new(rule),
                }],
            };
            snapshot
                .routes
                .insert("web.weather.svc.cluster.local".into(), Arc::new(table));
        }
        if let Some(policy) = plan.policy {
            snapshot.subsets.insert(
                "web.weather.svc.cluster.local".into(),
                Arc::from([HostSubsets {
                    namespace: "weather".into(),
                    export_to: Visibility::All,
                    selector: None,
                    subsets: Vec::new(),
                    policies: vec![Arc::new(policy)],
                }]),
            );
        }
        if let Some(backend) = plan.backend {
            let policies = [(ObjectName::new("weather", "web"), Arc::new(backend))];
            snapshot.backend_policies = policies.into_iter().collect();
        }
        let snapshots = Arc::new(ArcSwap::from_pointee(snapshot));
        let telemetry = Telemetry::new(&TelemetryConfig::default());
        let records = Arc::new(Records::default());
        *records.original.lock() = Some(SocketAddr::from(VIP));
        let deps = ProxyDeps {
            origination: super::origination(),
            snapshots: Arc::clone(&snapshots),
            certs: Arc::new(NoCertificates),
            sockets: Arc::clone(&records) as Arc<dyn SocketRecords>,
            names: Arc::new(crate::contract::NoNames),
            telemetry: Arc::clone(&telemetry),
            node: "n1".into(),
            mark: 0,
            edge_tls: Default::default(),
        };
        let proxy = Proxy::start(plan.config, deps).unwrap();
        let outbound = handles[0]
            .listeners
            .as_ref()
            .unwrap()
            .outbound
            .local_addr()
            .unwrap();
        handles.into_iter().for_each(|h| proxy.add_pod(h).unwrap());
        Self {
            proxy,
            telemetry,
            records,
            snapshots,
            outbound,
        }
    }

    /// A mesh whose service has these endpoints, of unknown protocol.
    pub(super) fn to(endpoints: &[SocketAddr]) -> Self {
        Self::start(Plan {
            endpoints: endpoints.to_vec(),
            ..Plan::default()
        })
    }

    pub(super) fn with_rule(endpoints: &[SocketAddr], rule: RouteAction) -> Self {
        Self::start(Plan {
            endpoints: endpoints.to_vec(),
            rule: Some(rule),
            ..Plan::default()
        })
    }

    /// From now on `web` has these endpoints.
    pub(super) fn scale(&self, addrs: &[SocketAddr]) {
        let mut snapshot = Snapshot::clone(&self.snapshots.load());
        let endpoint = |addr: &SocketAddr| Arc::new(Endpoint::new(*addr, None));
        let endpoints = addrs.iter().map(endpoint).collect();
        let web = service(1, "web", IpAddr::from(VIP.0), Protocol::Http, endpoints);
        snapshot.services[1] = Arc::clone(&web);
        snapshot.services_by_vip.insert(web.vips[0], Arc::clone(&web));
        snapshot.services_by_host.insert(Arc::clone(&web.host), web);
        self.snapshots.store(Arc::new(snapshot));
    }

    /// From now on connections to the service have these rules.
    pub(super) fn connections(&self, table: ConnectionTable) {
        let mut snapshot = Snapshot::clone(&self.snapshots.load());
        let mut routes = ConnectionRoutes::default();
        let route = ConnectionRoute {
            seen_by: Visibility::All,
            table: Arc::new(table),
        };
        routes.put(&"web.weather.svc.cluster.local".into(), vec![route]);
        snapshot.connections = routes;
        self.snapshots.store(Arc::new(snapshot));
    }

    /// From now on nothing outside of the registry may be reached.
    pub(super) fn registry_only(&self) {
        let mut snapshot = Snapshot::clone(&self.snapshots.load());
        snapshot.settings.registry_only = true;
        self.snapshots.store(Arc::new(snapshot));
    }

    /// A connection of the client pod's application.
    pub(super) async fn dial(&self) -> TcpStream {
        TcpStream::connect(self.outbound).await.unwrap()
    }

    /// Sends `request` on a connection of its own and reads until the other end closes.
    pub(super) async fn exchange(&self, request: &str) -> String {
        let mut stream = self.dial().await;
        stream.write_all(request.as_bytes()).await.unwrap();
        read_all(&mut stream).await
    }

    /// Waits until the metrics hold a line with all of these parts.
    pub(super) async fn metric(&self, parts: &[&str]) -> String {
        let mut text = String::new();
        let found = eventually(|| {
            text = self.telemetry.encode();
            text.lines()
                .find(|line| parts.iter().all(|p| line.contains(p)))
                .map(str::to_owned)
        });
        found
            .await
            .unwrap_or_else(|| panic!("no metric with {parts:?} in\n{text}"))
    }
}

/// Reads until EOF, for at most five seconds.
pub(super) async fn read_all(stream: &mut TcpStream) -> String {
    let mut all = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut all)).await;
    String::from_utf8_lossy(&all).into_owned()
}

/// Reads one head, to its empty line.
pub(super) async fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    let read = async {
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await?);
        }
        io::Result::Ok(())
    };
    let _ = tokio::time::timeout(Duration::from_secs(5), read).await;
    String::from_utf8_lossy(&head).into_owned()
}

/// Asks until there is an answer, for at most five seconds.
pub(super) async fn eventually<T>(mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let since = Instant::now();
    while since.elapsed() < Duration::from_secs(5) {
        if let Some(answer) = ask() {
            return Some(answer);
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    None
}

/// A server that runs a script on each connection.
pub(super) async fn server<F, Fut>(script: F) -> SocketAddr
where
    F: Fn(TcpStream) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    server_at("127.0.0.1:0", script).await
}

pub(super) async fn server_at<F, Fut>(addr: &str, script: F) -> SocketAddr
where
    F: Fn(TcpStream) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let listener = tokio::net::TcpListener::bind(addr).await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(script(stream));
        }
    });
    addr
}

/// What a server has received: heads, and everything.
#[derive(Clone, Default)]
pub(super) struct Seen {
    pub(super) heads: Arc<Mutex<Vec<String>>>,
    pub(super) connections: Arc<Mutex<usize>>,
}

/// An HTTP/1.1 server that keeps connections, reads bodies by their length, and answers what `answer` says.
pub(super) async fn web<A>(seen: &Seen, answer: A) -> SocketAddr
where
    A: Fn(&str) -> String + Clone + Send + Sync + 'static,
{
    let seen = seen.clone();
    server(move |stream| web_connection(stream, seen.clone(), answer.clone())).await
}

pub(super) async fn web_connection<A: Fn(&str) -> String>(mut stream: TcpStream, seen: Seen, answer: A) {
    *seen.connections.lock() += 1;
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(_) => return,
            }
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        let length = field(&head, "content-length")
            .and_then(|v| v.parse().ok())
            .unwrap_or(0);
        let mut body = vec![0; length];
        if stream.read_exact(&mut body).await.is_err() {
            return;
        }
        if field(&head, "transfer-encoding").is_some() {
            let mut tail = Vec::new();
            while !tail.ends_with(b"0\r\n\r\n") {
                match stream.read_u8().await {
                    Ok(byte) => tail.push(byte),
                    Err(_) => return,
                }
            }
        }
        let text = answer(&head);
        seen.heads.lock().push(head);
        if text.is_empty() || stream.write_all(text.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// A header field of a head.
pub(super) fn field(head: &str, name: &str) -> Option<String> {
    head.lines().find_map(|line| {
        let (n, value) = line.split_once(':')?;
        n.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
    })
}

/// A response with this body.
pub(super) fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

pub(super) const GET: &str = "GET / HTTP/1.1\r\nhost: web\r\n\r\n";
pub(super) const GET_CLOSE: &str = "GET / HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n";
