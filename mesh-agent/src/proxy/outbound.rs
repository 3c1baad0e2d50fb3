//! Connections from a pod: what was dialled, what is spoken, and where it goes.

use super::LocalPod;
use super::detect::{self, Detected};
use super::edge::{self, EdgeConn};
use super::hello::{self, Hello};
use super::http::{self, Side};
use super::io::{Io, Prefixed, Reset as _};
use super::lookup;
use super::names;
use super::pair::{Outgoing, Pair};
use super::policy::{self, Dress, Link, Overflow, Permit, Watch, Wish};
use super::tcp::{self, TcpRecord};
use super::tunnel::TunnelKind;
use super::upstream::{self, ConnectError, Origin, Path};
use super::worker::{Load, Worker};
use crate::telemetry::labels::{Party, RequestProtocol, ServiceNames, UNKNOWN};
use bytes::{Bytes, BytesMut};
use mesh_common::maps::NAME_PORT;
use mesh_core::model::service::{Endpoint, Protocol};
use mesh_core::model::snapshot::{Snapshot, Target};
use mesh_core::model::traffic::TrafficPolicy;
use mesh_core::model::workload::Workload;
use mesh_core::outlier::Outcome;
use mesh_core::routing::{
    ConnectionFacts, HeaderView, Refusal, Upstream, affinity, needs_hello, pick_endpoint, route_connection,
};
use std::borrow::Cow;
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::rc::Rc;
use std::sync::Arc;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

/// A connection that a pod of this node made.
pub(super) struct Outbound {
    pub(super) worker: Rc<Worker>,
    pub(super) pod: Arc<LocalPod>,
    pub(super) source: Arc<Workload>,
    pub(super) party: Arc<Party>,
    pub(super) client: SocketAddr,
    /// What the application dialled.
    pub(super) original: SocketAddr,
    /// How it came to the gateway, if that is where it came.
    pub(super) edge: Option<Box<EdgeConn>>,
}

/// A chosen endpoint and the way to it.
pub(super) struct Hop {
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) path: Path,
    pub(super) service: Arc<ServiceNames>,
    pub(super) policy: Arc<TrafficPolicy>,
    /// Who wants to know how it comes out, if anybody does.
    pub(super) watch: Option<Watch>,
    /// Its place among those that are limited.
    pub(super) permit: Option<Permit>,
    pub(super) _load: Load,
}

/// Serves one accepted connection.
pub(super) async fn serve(worker: Rc<Worker>, pod: Arc<LocalPod>, mut stream: TcpStream) {
    let Some(conn) = identify(worker, pod, &stream) else {
        return;
    };
    let snapshot = conn.worker.snapshot();
    let target = snapshot.target_for(conn.original, Some(&conn.source));
    if conn.asks_names() {
        if let Some(prefix) = names::serve(&conn, &mut stream).await {
            conn.carry(&target, Io::Tcp(stream), prefix, &Hello::None).await;
        }
        return;
    }
    let protocol = lookup::protocol_of(&snapshot, &target, conn.original);
    if let Some(Detected::Opaque) = detect::declared(protocol) {
        let (hello, prefix) = if needs_hello(&snapshot, &target) {
            hello::read(&mut stream, Bytes::new()).await
        } else {
            (Hello::None, Bytes::new())
        };
        return conn.carry(&target, Io::Tcp(stream), prefix, &hello).await;
    }
    let found = conn.worker.detect(&mut stream, protocol, conn.original).await;
    match found.protocol {
        Detected::Opaque if found.outcome == "silent" && protocol != Protocol::Auto => {}
        Detected::Opaque if found.prefix.is_empty() && found.outcome == "silent" => {
            conn.listen_both(&target, stream).await;
        }
        Detected::Opaque => {
            let (hello, prefix) = match Hello::of(&found.prefix) {
                _ if snapshot.connections.is_empty() && snapshot.vouched.is_empty() => {
                    (Hello::None, found.prefix)
                }
                None => hello::read(&mut stream, found.prefix).await,
                Some(hello) => (hello, found.prefix),
            };
            conn.carry(&target, Io::Tcp(stream), prefix, &hello).await;
        }
        http => conn.http(http, stream, found.prefix).await,
    }
}

/// Who dialled what. Without a record the connection is closed, never guessed.
fn identify(worker: Rc<Worker>, pod: Arc<LocalPod>, stream: &TcpStream) -> Option<Rc<Outbound>> {
    let client = upstream::peer_of(stream).ok()?;
    let record = match worker.shared.deps.sockets.record(stream.as_fd()) {
        Ok(record) => record,
        Err(error) => {
            worker.telemetry().proxy.missing_records.inc();
            tracing::warn!(%error, %client, pod = %pod.handle.workload.pod, "captured socket has no record");
            return None;
        }
    };
    let original = upstream::canonical(record.original.into());
    let enrolled = &pod.handle.workload;
    let snapshot = worker.snapshot();
    let known = enrolled
        .ips
        .first()
        .and_then(|ip| snapshot.workload_by_ip(*ip))
        .filter(|w| w.id == enrolled.id);
    let source = Arc::clone(known.unwrap_or(enrolled));
    let party = worker.meter.pod(&source, true);
    Some(Rc::new(Outbound {
        worker,
        pod,
        source,
        party,
        client,
        original,
        edge: None,
    }))
}

impl Outbound {
    /// Whether a name server was dialled, by a pod whose questions the mesh answers.
    fn asks_names(&self) -> bool {
        let answered = !self.pod.handle.resolver.is_empty() && !self.source.resolves_itself;
        answered && self.original.port() == NAME_PORT
    }

    /// The client is silent: the server's side is opened, and whoever speaks first decides.
    async fn listen_both(self: Rc<Self>, target: &Target, mut stream: TcpStream) {
        let (hop, mut server) = match self.open_bytes(target, &Hello::None, false).await {
            Ok(opened) => opened,
            Err(()) => return,
        };
        let mut from_server = BytesMut::new();
        let mut from_client = BytesMut::with_capacity(FIRST);
        let read = tokio::select! {
            biased;
            read = server.read_buf(&mut from_server) => read,
            read = stream.read_buf(&mut from_client) => read,
            () = self.pod.watch.cut() => return,
        };
        if read.is_err() {
            // An error is told once: read again, it would look like an end.
            server.reset_on_drop();
            return stream.reset_on_drop();
        }
        if detect::speaks_first(&from_server) {
            self.worker.shared.learned.server_first(self.original);
        }
        if let Some(http @ (Detected::Http1 | Detected::Http2)) = detect::classify(&from_client) {
            drop((hop, server));
            return self.http(http, stream, from_client.freeze()).await;
        }
        let record = TcpRecord::open(&self.worker, self.pair(&hop), tcp::CARRIED);
        let mut client = Prefixed::new(from_client.freeze(), stream);
        let mut server = Prefixed::new(from_server.freeze(), server);
        tcp::forward_by(&hop.policy, &mut client, &mut server, &record, &self.pod.watch).await;
    }

    async fn http(self: Rc<Self>, version: Detected, stream: TcpStream, prefix: Bytes) {
        let watch = self.pod.watch.clone();
        let io = Prefixed::new(prefix, Io::Tcp(stream));
        // In a box of its own: most connections would carry its size for nothing.
        let serve = Box::pin(http::serve(Side::Outbound(self), version, io, watch.clone()));
        watch.unless_cut(serve).await;
    }

    /// Carries bytes to an endpoint of the target.
    pub(super) async fn carry(self: Rc<Self>, target: &Target, client: Io, prefix: Bytes, hello: &Hello) {
        // What was terminated here is not what is carried on.
        let sealed = matches!((hello, &client), (Hello::Tls(_), Io::Tcp(_)));
        let Ok((hop, mut server)) = self.open_bytes(target, hello, sealed).await else {
            return;
        };
        let record = TcpRecord::open(&self.worker, self.pair(&hop), tcp::CARRIED);
        let mut client = Prefixed::new(prefix, client);
        tcp::forward_by(&hop.policy, &mut client, &mut server, &record, &self.pod.watch).await;
    }

    /// Tries endpoints until one answers: nothing was sent yet, so that another one is as good. What the rules draw is
    /// drawn once. `sealed`: the bytes are TLS already.
    async fn open_bytes(&self, target: &Target, hello: &Hello, sealed: bool) -> Result<(Hop, Io), ()> {
        let snapshot = self.worker.snapshot();
        let decided = self
            .decide(&snapshot, target, hello)
            .and_then(|(service, upstream)| {
                let permit = self.admit_connection(&upstream).map_err(Unreachable::Overflow)?;
                Ok((service, upstream, permit))
            });
        let (service, upstream, permit) = match decided {
            Ok(decided) => decided,
            Err(error) => {
                self.failed(target, None, &error);
                return Err(());
            }
        };
        // Bytes have no header, cookie or query: only the client's address can be hashed.
        let bound = affinity(&upstream.policy, self.client.ip(), "", &Nothing, 0);
        let wish = Wish {
            hash: bound.hash,
            held: None,
        };
        let mut avoid = Vec::new();
        loop {
            let hop = match self.hop_to(Arc::clone(&service), &upstream, wish, &avoid) {
                Ok(hop) => hop,
                Err(error) => {
                    self.failed(target, None, &error);
                    return Err(());
                }
            };
            let addr = hop.endpoint.addr;
            let host = Some(&hop.service.host);
            let origin = self.origin();
            // In a box that is gone once connected: handshakes are an order of magnitude larger than what follows.
            let dress = Dress::of_bytes(&hop.policy, self.client, &hop.service.host, sealed);
            let link = Link {
                path: &hop.path,
                addr,
                origin: &origin,
                kind: TunnelKind::Tcp,
                host,
                policy: Some(&hop.policy),
                dress: dress.as_ref(),
            };
            let opened = Box::pin(policy::connect(&self.worker, &link)).await;
            if let Some(watch) = &hop.watch {
                let outcome = match &opened {
                    Ok(_) => Outcome::Connected,
                    Err(ConnectError::Timeout(..)) => Outcome::TimedOut,
                    Err(_) => Outcome::Failed,
                };
                watch.report(outcome, self.worker.telemetry());
            }
            match opened {
                Ok(io) => return Ok((Hop { permit, ..hop }, io)),
                Err(error) if avoid.len() + 1 >= CONNECT_TRIES => {
                    return {
                        self.failed(target, Some(&hop), &Unreachable::Connect(error));
                        Err(())
                    };
                }
                Err(error) => {
                    tracing::debug!(error = %crate::errors::chain(&error), "trying another endpoint");
                    avoid.push(addr);
                }
            }
        }
    }

    /// Where the bytes go, and what that is called.
    fn decide(&self, snapshot: &Snapshot, target: &Target, hello: &Hello) -> Result<Decided, Unreachable> {
        if let Some(at) = &self.edge {
            return edge::decide(self, at, snapshot, hello);
        }
        let meter = &self.worker.meter;
        let dialled = |workload: Option<&Arc<Workload>>| {
            let endpoint = Endpoint::new(self.original, workload.cloned());
            Upstream {
                service: None,
                port: None,
                subset: None,
                endpoints: Arc::from([Arc::new(endpoint)]),
                policy: TrafficPolicy::mesh_default(),
                backend: None,
            }
        };
        if let Target::Workload(workload) = target {
            let port = lookup::port_of(snapshot, workload, self.original);
            let names = port.map_or_else(|| meter.named(UNKNOWN), |(s, _)| meter.service(&s));
            return Ok((names, dialled(Some(workload))));
        }
        let facts = ConnectionFacts {
            client: Some(&self.source),
            source: Some(self.client.ip()),
            gateway: None,
            target,
            original: self.original,
            port: self.original.port(),
            opening: hello.opening(),
        };
        match (route_connection(snapshot, &facts, fastrand::u32(..)), target) {
            (Ok(plan), _) => {
                let service = plan.upstream.service.as_ref();
                let names = service.map_or_else(|| meter.named(UNKNOWN), |s| meter.service(s));
                Ok((names, plan.upstream))
            }
            (Err(refusal), Target::Unknown) if refusal.flag == "NR" => {
                if snapshot.registry_only(Some(&self.source)) {
                    Err(Unreachable::Refused(black_hole(self.original)))
                } else {
                    Ok((meter.named(PASSTHROUGH), dialled(None)))
                }
            }
            (Err(refusal), _) => Err(Unreachable::Refused(refusal)),
        }
    }

    /// Picks one of `endpoints`.
    pub(super) fn hop(
        &self,
        service: Arc<ServiceNames>,
        endpoints: &[Arc<Endpoint>],
        avoid: &[SocketAddr],
    ) -> Result<Hop, Unreachable> {
        let worker = &self.worker;
        let draws = (fastrand::u32(..), fastrand::u32(..));
        let load = |e: &Endpoint| worker.load_of(&e.addr);
        let picked = match endpoints.len() {
            1 => Some(0),
            _ => pick_endpoint(endpoints, self.original.is_ipv6(), avoid, draws, &load),
        };
        let endpoint = Arc::clone(
            picked
                .and_then(|i| endpoints.get(i))
                .ok_or(Unreachable::NoEndpoint)?,
        );
        let path = upstream::path_to(worker, &endpoint).map_err(Unreachable::Connect)?;
        let load = worker.take_load(endpoint.addr);
        Ok(Hop {
            endpoint,
            path,
            service,
            policy: TrafficPolicy::mesh_default(),
            watch: None,
            permit: None,
            _load: load,
        })
    }

    /// Who connects on behalf of this connection.
    pub(super) fn origin(&self) -> Origin {
        Origin {
            pod: Arc::clone(&self.pod),
            source: Some(Arc::clone(&self.source)),
            // Behind a gateway nobody sees who is in front of it, but by what the gateway says.
            client: match self.edge {
                None => self.client,
                Some(_) => edge::own_address(&self.source),
            },
        }
    }

    pub(super) fn pair(&self, hop: &Hop) -> Pair {
        Pair::outgoing(
            &self.worker,
            &Outgoing {
                source: &self.party,
                service: &hop.service,
                workload: hop.endpoint.workload.as_ref(),
                path: Some(&hop.path),
                client: self.client,
                server: hop.endpoint.addr,
                protocol: RequestProtocol::Tcp,
            },
        )
    }

    /// Reports a connection that came to nothing.
    fn failed(&self, target: &Target, hop: Option<&Hop>, error: &Unreachable) {
        let service = match target {
            Target::Service(service, _) | Target::NoSuchPort(service) => self.worker.meter.service(service),
            Target::Workload(_) => self.worker.meter.named(UNKNOWN),
            Target::Unknown => self.worker.meter.named(BLACK_HOLE),
        };
        let pair = Pair::outgoing(
            &self.worker,
            &Outgoing {
                source: &self.party,
                service: &service,
                workload: hop.and_then(|h| h.endpoint.workload.as_ref()),
                path: None,
                client: self.client,
                server: hop.map_or(self.original, |h| h.endpoint.addr),
                protocol: RequestProtocol::Tcp,
            },
        );
        TcpRecord::open(&self.worker, pair, error.flag()).fail(error);
    }
}

/// Where bytes go: what that is called, and its endpoints.
pub(super) type Decided = (Arc<ServiceNames>, Upstream);

/// The header of a connection whose bytes are not looked at.
struct Nothing;

impl HeaderView for Nothing {
    fn joined(&self, _: &str) -> Option<Cow<'_, str>> {
        None
    }
}

/// Why a connection or request has no endpoint that answers.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unreachable {
    /// The core refuses.
    #[error("{}", .0.detail)]
    Refused(Refusal),
    /// All were avoided or gone.
    #[error("no ready endpoint")]
    NoEndpoint,
    /// A limit leaves no place.
    #[error(transparent)]
    Overflow(Overflow),
    /// The endpoint does not answer.
    #[error(transparent)]
    Connect(#[from] ConnectError),
}

impl Unreachable {
    /// Istio's response flag.
    pub(super) const fn flag(&self) -> &'static str {
        match self {
            Self::Refused(refusal) => refusal.flag,
            Self::NoEndpoint => "UH",
            Self::Overflow(_) => "UO",
            Self::Connect(_) => "UF",
        }
    }
}

fn black_hole(original: SocketAddr) -> Refusal {
    let detail = format!("{original} is not in the registry and outboundTrafficPolicy is REGISTRY_ONLY");
    Refusal {
        status: 502,
        flag: "NR",
        detail,
    }
}

/// Name of what is outside of the mesh (Istio).
pub(super) const PASSTHROUGH: &str = "PassthroughCluster";
/// Name of what may not be reached (Istio).
pub(super) const BLACK_HOLE: &str = "BlackHoleCluster";
const CONNECT_TRIES: usize = 3;
const FIRST: usize = 4_096;
