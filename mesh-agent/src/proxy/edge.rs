//! The ports of a gateway: what a connection speaks there, which listener it is for, and TLS where that terminates it. From
//! then on it goes as a pod's outbound connection does, with the gateway's own identity.

mod client_cert;

use super::detect::{self, Detected};
use super::hello::{self, Hello};
use super::http::{self, Side};
use super::io::{Io, Prefixed, ServerTls};
use super::outbound::{Decided, Outbound, Unreachable};
use super::upstream;
use super::worker::{Command, Worker};
use super::{LocalPod, Proxy, ProxyError};
use crate::contract::{IdentityTls, PodHandle, certificate};
use crate::drain::drain;
use crate::errors::chain;
use crate::telemetry::labels::UNKNOWN;
use bytes::Bytes;
use mesh_core::model::gateway::{Bind, Listener, ListenerOrigin, ListenerProtocol, TlsMode, Transport};
use mesh_core::model::service::Protocol;
use mesh_core::model::snapshot::{Snapshot, Target};
use mesh_core::model::workload::Workload;
use mesh_core::routing::{self, ConnectionFacts, Refusal};
use rustls::ServerConfig;
use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

/// A port that a gateway listens on.
pub(super) struct Port {
    pub(super) bind: Bind,
    pub(super) socket: TcpListener,
}

/// How a connection came to the gateway.
pub(super) struct EdgeConn {
    /// The port.
    pub(super) bind: Bind,
    /// The listener that the SNI chose; none where it does not begin with TLS.
    pub(super) listener: Option<ListenerOrigin>,
    /// What was learned when its TLS ended here, if it did.
    pub(super) tls: Option<TlsFacts>,
}

/// See [`EdgeConn`].
pub(super) struct TlsFacts {
    /// What is said of the client's certificate, if it showed one: `x-forwarded-client-cert`.
    pub(super) client_cert: Option<::http::HeaderValue>,
}

impl Proxy {
    /// Serves a port of the gateway from now on. One worker accepts, all serve: the one with the fewest connections gets
    /// the next.
    ///
    /// # Errors
    /// The port is served already, or its worker takes no commands.
    pub fn listen(
        &self,
        gateway: &Arc<PodHandle>,
        bind: Bind,
        socket: TcpListener,
    ) -> Result<(), ProxyError> {
        let mut edges = self.shared.edges.lock();
        if edges.contains_key(&bind) {
            return Err(ProxyError::Duplicate(u32::from(bind.port)));
        }
        let (trigger, watch) = drain();
        let port = Arc::new(LocalPod {
            handle: Arc::clone(gateway),
            edge: Some(Port { bind, socket }),
            own_ports: [0; 3],
            live: AtomicUsize::new(0),
            trigger,
            watch,
        });
        let index = usize::from(bind.port) % self.shared.workers.len();
        self.shared.workers[index]
            .commands
            .try_send(Command::Listen(Arc::clone(&port)))
            .map_err(|_| ProxyError::Busy(index))?;
        edges.insert(bind, port);
        Ok(())
    }

    /// Stops serving a port: it is closed now, its connections end gracefully, at the deadline by force.
    pub fn unlisten(&self, bind: Bind, deadline: Duration) {
        let Some(port) = self.shared.edges.lock().remove(&bind) else {
            return;
        };
        self.release(&port, usize::from(bind.port), deadline);
    }
}

/// Serves one accepted connection.
pub(super) async fn serve(worker: Rc<Worker>, pod: Arc<LocalPod>, stream: TcpStream) {
    let Some(bind) = pod.edge.as_ref().map(|port| port.bind) else {
        return;
    };
    let snapshot = worker.snapshot();
    let Some(transport) = snapshot.edge.ports.get(&bind).map(|port| port.transport) else {
        return;
    };
    let cut = pod.watch.clone();
    let arrived = Arrived {
        worker,
        pod,
        stream,
        bind,
    };
    let served = async {
        match transport {
            Transport::Http => arrived.http().await,
            Transport::Tls => arrived.tls().await,
            Transport::Tcp => arrived.tcp().await,
        }
    };
    cut.unless_cut(served).await;
}

/// A connection of which nothing was read yet.
struct Arrived {
    worker: Rc<Worker>,
    pod: Arc<LocalPod>,
    stream: TcpStream,
    bind: Bind,
}

impl Arrived {
    /// The connection as what carries it further, and its stream.
    fn conn(self, listener: Option<&Listener>) -> Option<(Rc<Outbound>, TcpStream)> {
        let Self {
            worker,
            pod,
            stream,
            bind,
        } = self;
        let client = upstream::peer_of(&stream).ok()?;
        let original = stream.local_addr().map(upstream::canonical).ok()?;
        let source = Arc::clone(&pod.handle.workload);
        let conn = Outbound {
            party: worker.meter.pod(&source, true),
            worker,
            pod,
            source,
            client,
            original,
            edge: Some(Box::new(EdgeConn {
                bind,
                listener: listener.map(|l| l.origin.clone()),
                tls: None,
            })),
        };
        Some((Rc::new(conn), stream))
    }

    async fn http(self) {
        let Some((conn, mut stream)) = self.conn(None) else {
            return;
        };
        let shared = Arc::clone(&conn.worker.shared);
        let patience = shared.config.detect_patience;
        let protocol = Protocol::Http;
        let found = detect::detect(&mut stream, protocol, conn.original, &shared.learned, patience).await;
        if found.prefix.is_empty() {
            return;
        }
        // What is no HTTP at all gets its 400 as HTTP/1.1.
        let io = Prefixed::new(found.prefix, Io::Tcp(stream));
        http(conn, found.protocol, io).await;
    }

    async fn tls(mut self) {
        let (hello, read) = hello::read(&mut self.stream, Bytes::new()).await;
        let Hello::Tls(name) = hello else {
            return self.refuse("no_hello", &"no ClientHello");
        };
        let name = name.map(|name| name.to_ascii_lowercase());
        let snapshot = self.worker.snapshot();
        let port = snapshot.edge.ports.get(&self.bind);
        let Some(listener) = port.and_then(|port| port.listener(name.as_deref())) else {
            return self.refuse("unknown_sni", &format!("no listener for SNI {name:?}"));
        };
        match listener.protocol {
            ListenerProtocol::Https => self.https(listener, read).await,
            ListenerProtocol::TlsTerminate => {
                let hello = Hello::Tls(name);
                self.terminated(listener, read, &hello).await;
            }
            _ => {
                if let Some((conn, stream)) = self.conn(Some(listener)) {
                    let hello = Hello::Tls(name);
                    conn.carry(&Target::Unknown, Io::Tcp(stream), read, &hello).await;
                }
            }
        }
    }

    /// Carries bytes to where the listeners' rules say.
    async fn tcp(self) {
        if let Some((conn, stream)) = self.conn(None) {
            conn.carry(&Target::Unknown, Io::Tcp(stream), Bytes::new(), &Hello::None)
                .await;
        }
    }

    async fn https(self, listener: &Listener, read: Bytes) {
        let Some((conn, io)) = self.handshake(listener, read).await else {
            return;
        };
        let version = match io.get_ref().1.alpn_protocol() {
            Some(b"h2") => Detected::Http2,
            _ => Detected::Http1,
        };
        http(conn, version, Prefixed::new(Bytes::new(), Io::Tls(Box::new(io)))).await;
    }

    /// Terminates TLS as the listener says.
    async fn handshake(self, listener: &Listener, read: Bytes) -> Option<(Rc<Outbound>, ServerTls)> {
        let config = match self.config(listener).await {
            Ok(config) => config,
            Err(reason) => {
                self.refuse("no_certificate", &reason);
                return None;
            }
        };
        let bind = self.bind;
        let (conn, stream) = self.conn(Some(listener))?;
        let accepting = TlsAcceptor::from(config).accept(Prefixed::new(read, stream));
        let refused = |reason: &dyn Display| {
            refused(&conn.worker, bind, "handshake", reason);
            None
        };
        let io = match tokio::time::timeout(HANDSHAKE, accepting).await {
            Ok(Ok(io)) => io,
            Ok(Err(error)) => return refused(&chain(&error)),
            Err(_) => return refused(&"it took too long"),
        };
        let shown = io.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        let edge = EdgeConn {
            bind,
            listener: Some(listener.origin.clone()),
            tls: Some(TlsFacts {
                client_cert: shown.and_then(|leaf| client_cert::forwarded(leaf)),
            }),
        };
        let conn = Rc::new(Outbound {
            edge: Some(Box::new(edge)),
            worker: Rc::clone(&conn.worker),
            pod: Arc::clone(&conn.pod),
            source: Arc::clone(&conn.source),
            party: Arc::clone(&conn.party),
            client: conn.client,
            original: conn.original,
        });
        Some((conn, io))
    }

    /// The listener's own configuration, or the mesh's.
    async fn config(&self, listener: &Listener) -> Result<Arc<ServerConfig>, String> {
        let deps = &self.worker.shared.deps;
        let tls = listener.tls.as_ref().ok_or("the listener has no TLS settings")?;
        if tls.mode == TlsMode::IstioMutual {
            let own = &self.pod.handle.workload.identity;
            let identity = certificate(&*deps.certs, own)
                .await
                .map_err(|error| chain(&error))?;
            return Ok(Arc::new(of_the_mesh(&identity, &tls.alpn)));
        }
        let known = deps.edge_tls.load().get(&listener.origin).cloned();
        known.ok_or_else(|| format!("{} has no usable certificate", listener.origin))
    }

    /// As [`Arrived::tcp`], inside of TLS that ends here.
    async fn terminated(self, listener: &Listener, read: Bytes, hello: &Hello) {
        if let Some((conn, io)) = self.handshake(listener, read).await {
            let io = Io::Tls(Box::new(io));
            conn.carry(&Target::Unknown, io, Bytes::new(), hello).await;
        }
    }

    fn refuse(&self, outcome: &'static str, reason: &dyn Display) {
        refused(&self.worker, self.bind, outcome, reason);
    }
}

/// Where the bytes of a connection to a gateway go, and what that is called.
pub(super) fn decide(
    conn: &Outbound,
    at: &EdgeConn,
    snapshot: &Snapshot,
    hello: &Hello,
) -> Result<Decided, Unreachable> {
    let gone = || Refusal {
        status: 404,
        flag: "NR",
        detail: "the port is not served any more".into(),
    };
    let facts = ConnectionFacts {
        client: Some(&conn.source),
        source: Some(conn.client.ip()),
        gateway: None,
        target: &Target::Unknown,
        original: conn.original,
        port: at.bind.port,
        opening: hello.opening(),
    };
    let port = snapshot.edge.ports.get(&at.bind);
    let plan = port.ok_or_else(gone).and_then(|port| {
        routing::connect_at_gateway(snapshot, port, at.listener.as_ref(), &facts, fastrand::u32(..))
    });
    let upstream = plan.map_err(Unreachable::Refused)?.upstream;
    let meter = &conn.worker.meter;
    let names = upstream
        .service
        .as_ref()
        .map_or_else(|| meter.named(UNKNOWN), |s| meter.service(s));
    Ok((names, upstream))
}

fn refused(worker: &Worker, bind: Bind, outcome: &'static str, reason: &dyn Display) {
    let metrics = &worker.telemetry().proxy;
    metrics
        .refused_handshakes
        .get_or_create(&[("reason", outcome)])
        .inc();
    tracing::debug!(%reason, port = bind.port, "connection refused");
}

/// The mesh's own certificates with another list of protocols inside.
fn of_the_mesh(identity: &IdentityTls, alpn: &[&'static str]) -> ServerConfig {
    let mut config = ServerConfig::clone(&identity.server);
    config.alpn_protocols = alpn.iter().map(|p| p.as_bytes().to_vec()).collect();
    config
}

async fn http(conn: Rc<Outbound>, version: Detected, io: Prefixed<Io>) {
    let watch = conn.pod.watch.clone();
    // In a box of its own: other connections would carry its size for nothing.
    Box::pin(http::serve(Side::Outbound(conn), version, io, watch)).await;
}

/// What the mesh behind sees as the client: the gateway itself.
pub(super) fn own_address(gateway: &Workload) -> SocketAddr {
    let ip = gateway.ips.first().copied();
    SocketAddr::new(ip.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)), 0)
}

/// How long a client may take for each half of its handshake (Envoy: 10 s for the whole).
const HANDSHAKE: Duration = Duration::from_secs(10);
