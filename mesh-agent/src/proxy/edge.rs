//! The ports of a gateway: what a connection speaks there, which listener it is for, and TLS where that terminates it. From
//! then on it goes as a pod's outbound connection does, with the gateway's own identity.

mod client_cert;
mod hello;

use super::detect::{self, Detected};
use super::http::{self, Side};
use super::io::{Io, Prefixed, ServerTls};
use super::outbound::Outbound;
use super::upstream;
use super::worker::{Command, Worker};
use super::{LocalPod, Proxy, ProxyError};
use crate::contract::{IdentityTls, PodHandle, certificate};
use crate::drain::drain;
use crate::errors::chain;
use bytes::Bytes;
use hello::Hello;
use mesh_core::model::gateway::{Bind, Listener, ListenerOrigin, ListenerProtocol, TlsMode, Transport};
use mesh_core::model::service::Protocol;
use mesh_core::model::workload::Workload;
use rustls::ServerConfig;
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
    /// What its TLS said; none on a plaintext port.
    pub(super) tls: Option<TlsFacts>,
}

/// See [`EdgeConn`].
pub(super) struct TlsFacts {
    /// The listener that the SNI chose.
    pub(super) listener: ListenerOrigin,
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
        let index = usize::from(bind.port) % self.shared.workers.len();
        let release = Command::Release(Arc::clone(&port), deadline);
        if self.shared.workers[index].commands.try_send(release).is_err() {
            port.close_listeners();
            port.trigger.cut();
        }
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
    /// The connection as what carries it further.
    fn conn(&self, tls: Option<TlsFacts>) -> Option<Rc<Outbound>> {
        let source = Arc::clone(&self.pod.handle.workload);
        let party = self.worker.meter.pod(&source, true);
        Some(Rc::new(Outbound {
            worker: Rc::clone(&self.worker),
            pod: Arc::clone(&self.pod),
            source,
            party,
            client: upstream::peer_of(&self.stream).ok()?,
            original: self.stream.local_addr().map(upstream::canonical).ok()?,
            edge: Some(Box::new(EdgeConn { bind: self.bind, tls })),
        }))
    }

    async fn http(mut self) {
        let Some(conn) = self.conn(None) else { return };
        let shared = Arc::clone(&self.worker.shared);
        let patience = shared.config.detect_patience;
        let found = detect::detect(
            &mut self.stream,
            Protocol::Http,
            conn.original,
            &shared.learned,
            patience,
        )
        .await;
        if found.prefix.is_empty() {
            return;
        }
        // What is no HTTP at all gets its 400 as HTTP/1.1.
        let io = Prefixed::new(found.prefix, Io::Tcp(self.stream));
        http(conn, found.protocol, io).await;
    }

    async fn tls(mut self) {
        let told = tokio::time::timeout(HANDSHAKE, hello::read(&mut self.stream)).await;
        let (hello, read) = match told {
            Ok(Ok(told)) => told,
            Ok(Err(error)) => return self.refuse("no_hello", &error),
            Err(_) => return self.refuse("no_hello", &"the ClientHello took too long"),
        };
        let snapshot = self.worker.snapshot();
        let port = snapshot.edge.ports.get(&self.bind);
        let Some(listener) = port.and_then(|port| port.listener(hello.sni.as_deref())) else {
            return self.refuse("unknown_sni", &format!("no listener for SNI {:?}", hello.sni));
        };
        match listener.protocol {
            ListenerProtocol::Https => self.https(listener, read).await,
            ListenerProtocol::TlsTerminate => self.terminated(listener, read).await,
            _ => self.passed_through(listener, &hello, read).await,
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
        let Self {
            worker,
            pod,
            stream,
            bind,
        } = self;
        let peer = upstream::peer_of(&stream).ok()?;
        let original = stream.local_addr().map(upstream::canonical).ok()?;
        let accepting = TlsAcceptor::from(config).accept(Prefixed::new(read, stream));
        let io = match tokio::time::timeout(HANDSHAKE, accepting).await {
            Ok(Ok(io)) => io,
            Ok(Err(error)) => {
                refused(&worker, bind, "handshake", &chain(&error));
                return None;
            }
            Err(_) => {
                refused(&worker, bind, "handshake", &"it took too long");
                return None;
            }
        };
        let shown = io.get_ref().1.peer_certificates();
        let tls = TlsFacts {
            listener: listener.origin.clone(),
            client_cert: shown
                .and_then(|chain| chain.first())
                .and_then(|leaf| client_cert::forwarded(leaf)),
        };
        let source = Arc::clone(&pod.handle.workload);
        let conn = Rc::new(Outbound {
            party: worker.meter.pod(&source, true),
            worker,
            pod,
            source,
            client: peer,
            original,
            edge: Some(Box::new(EdgeConn { bind, tls: Some(tls) })),
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

    /// Carries bytes to where the listener's rules say.
    async fn tcp(self) {
        self.refuse("no_rule", &"no rule takes the connection");
    }

    /// As [`Arrived::tcp`], inside of TLS that ends here.
    async fn terminated(self, listener: &Listener, read: Bytes) {
        let (worker, bind) = (Rc::clone(&self.worker), self.bind);
        if self.handshake(listener, read).await.is_some() {
            refused(&worker, bind, "no_rule", &"no rule takes the connection");
        }
    }

    /// As [`Arrived::tcp`], with TLS that is none of the gateway's.
    async fn passed_through(self, _listener: &Listener, hello: &Hello, _read: Bytes) {
        self.refuse("no_rule", &format!("no rule takes SNI {:?}", hello.sni));
    }

    fn refuse(&self, outcome: &'static str, reason: &dyn std::fmt::Display) {
        refused(&self.worker, self.bind, outcome, reason);
    }
}

fn refused(worker: &Worker, bind: Bind, outcome: &'static str, reason: &dyn std::fmt::Display) {
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
