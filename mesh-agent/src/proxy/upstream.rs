//! How an endpoint is reached, and the connection to it.
//!
//! An enrolled endpoint is reached inside this process if it is on this node, and in a tunnel that proves its
//! identity if it is not. Plaintext is for what is not enrolled.

use super::LocalPod;
use super::io::Io;
use super::tunnel::{TunnelError, TunnelKind, TunnelRequest};
use super::worker::Worker;
use crate::contract::OriginationError;
use crate::sys::client_socket;
use mesh_common::{AddrPort, Ip, SocketRecord, record_kind};
use mesh_core::model::service::Endpoint;
use mesh_core::model::workload::Workload;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpSocket, TcpStream};

/// The way to an endpoint.
#[derive(Clone)]
pub(super) enum Path {
    /// Its application, inside the pod's network namespace.
    App(Arc<LocalPod>),
    /// Its node's agent, in mutual TLS.
    Tunnel(Arc<Workload>),
    /// The address itself.
    Plain,
}

/// Who connects.
#[derive(Clone)]
pub(super) struct Origin {
    /// The pod in whose namespace sockets towards other nodes are made; the destination's own for inbound.
    pub(super) pod: Arc<LocalPod>,
    /// The source as the snapshot knows it, if it does.
    pub(super) source: Option<Arc<Workload>>,
    /// The application's address.
    pub(super) client: SocketAddr,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    /// connect(2) or a step before it failed.
    #[error("cannot connect to {0}")]
    Io(SocketAddr, #[source] io::Error),
    /// It took too long.
    #[error("no connection to {0} within {1:?}")]
    Timeout(SocketAddr, Duration),
    /// The tunnel could not be had.
    #[error("no tunnel to {0}")]
    Tunnel(SocketAddr, #[source] Box<TunnelError>),
    /// The pod is of this node and enrolled, but not served yet or not any more.
    #[error("{0} is enrolled on this node but not captured")]
    NotCaptured(SocketAddr),
    /// The server's TLS cannot be spoken as the policy says.
    #[error("cannot originate TLS to {0}")]
    Origination(SocketAddr, #[source] OriginationError),
    /// The server did not prove itself, or refused us.
    #[error("TLS handshake with {0} failed")]
    Handshake(SocketAddr, #[source] io::Error),
    /// The source of a tunnel is not known.
    #[error("no identity for the source of a tunnel to {0}")]
    NoIdentity(SocketAddr),
}

/// The way to `endpoint` from this node.
pub(super) fn path_to(worker: &Worker, endpoint: &Endpoint) -> Result<Path, ConnectError> {
    let Some(workload) = endpoint.workload.as_ref().filter(|w| w.enrolled()) else {
        return Ok(Path::Plain);
    };
    if let Some(pod) = worker.shared.pods.load().get(&workload.id) {
        return Ok(Path::App(Arc::clone(pod)));
    }
    if workload.node == worker.shared.deps.node {
        return Err(ConnectError::NotCaptured(endpoint.addr));
    }
    Ok(Path::Tunnel(Arc::clone(workload)))
}

/// Connects to `addr` by `path`, within `deadline` or the proxy's own. Cancel safe: a connection half made is closed.
pub(super) async fn connect(
    worker: &Worker,
    path: &Path,
    addr: SocketAddr,
    origin: &Origin,
    kind: TunnelKind,
    host: Option<&Arc<str>>,
    deadline: Option<Duration>,
) -> Result<Io, ConnectError> {
    let config = &worker.shared.config;
    match path {
        Path::App(pod) => {
            let socket = app_socket(worker, pod, addr, origin).map_err(|e| ConnectError::Io(addr, e))?;
            dial(socket, addr, deadline.unwrap_or(config.local_connect_timeout)).await
        }
        Path::Plain => plain(worker, addr, origin, deadline.unwrap_or(config.connect_timeout)).await,
        Path::Tunnel(workload) => tunnel(worker, workload, addr, origin, kind, host).await,
    }
}

/// Opens a stream to a pod's agent. The two agents learn of an enrollment one after the other, so that a refused
/// connection may only mean "not yet" or "not any more": it is tried again for a moment, and the snapshot is asked again
/// each time. Only a pod that is not enrolled any more is reached in plaintext.
async fn tunnel(
    worker: &Worker,
    workload: &Arc<Workload>,
    addr: SocketAddr,
    origin: &Origin,
    kind: TunnelKind,
    host: Option<&Arc<str>>,
) -> Result<Io, ConnectError> {
    let request = TunnelRequest {
        pod: Arc::clone(&origin.pod.handle),
        source: origin.source.clone().ok_or(ConnectError::NoIdentity(addr))?,
        client: origin.client,
        peer: workload.identity.clone(),
        target: addr,
        host: host.cloned(),
        kind,
    };
    let mut waited = Duration::ZERO;
    loop {
        let error = match worker.tunnels.open(&request).await {
            Ok(stream) => return Ok(Io::Tunnel(Box::new(stream))),
            Err(error) => error,
        };
        if !refused(&error) || waited >= NOT_YET {
            return Err(ConnectError::Tunnel(addr, Box::new(error)));
        }
        tokio::time::sleep(ASK_AGAIN).await;
        waited += ASK_AGAIN;
        let snapshot = worker.snapshot();
        let now = snapshot.workload_by_ip(addr.ip());
        if now.is_some_and(|now| now.uid == workload.uid && !now.enrolled()) {
            return plain(worker, addr, origin, worker.shared.config.connect_timeout).await;
        }
    }
}

fn refused(error: &TunnelError) -> bool {
    matches!(error, TunnelError::Connect { source, .. } if source.kind() == io::ErrorKind::ConnectionRefused)
}

async fn plain(
    worker: &Worker,
    addr: SocketAddr,
    origin: &Origin,
    deadline: Duration,
) -> Result<Io, ConnectError> {
    let source = pod_address(&origin.pod.handle.workload, addr);
    let socket = origin
        .pod
        .handle
        .netns
        .run(|| client_socket(addr, source, worker.shared.deps.mark))
        .map_err(|e| ConnectError::Io(addr, e))?;
    dial(socket, addr, deadline).await
}

/// How long a peer that refuses tunnels is asked again.
const NOT_YET: Duration = Duration::from_millis(500);
const ASK_AGAIN: Duration = Duration::from_millis(50);

/// A socket towards the application of `pod`; the application will see `origin.client` as its peer.
fn app_socket(
    worker: &Worker,
    pod: &LocalPod,
    addr: SocketAddr,
    origin: &Origin,
) -> io::Result<socket2::Socket> {
    let source: IpAddr = if addr.is_ipv4() {
        Ip::AGENT_V4.into()
    } else {
        // See `mesh_common::Ip::AGENT_V4`.
        addr.ip()
    };
    let deps = &worker.shared.deps;
    let socket = pod
        .handle
        .netns
        .run(|| client_socket(addr, Some(source), deps.mark))?;
    deps.sockets.announce(
        socket.as_fd(),
        &SocketRecord {
            kind: record_kind::AGENT,
            workload: origin.source.as_ref().map_or(0, |w| w.id),
            original: AddrPort::from(origin.client),
            actual: AddrPort::from(addr),
        },
    )?;
    Ok(socket)
}

async fn dial(socket: socket2::Socket, addr: SocketAddr, deadline: Duration) -> Result<Io, ConnectError> {
    let socket = TcpSocket::from_std_stream(socket.into());
    match tokio::time::timeout(deadline, socket.connect(addr)).await {
        Ok(Ok(stream)) => Ok(Io::Tcp(stream)),
        Ok(Err(error)) => Err(ConnectError::Io(addr, error)),
        Err(_) => Err(ConnectError::Timeout(addr, deadline)),
    }
}

fn pod_address(workload: &Workload, towards: SocketAddr) -> Option<IpAddr> {
    workload
        .ips
        .iter()
        .copied()
        .find(|ip| ip.is_ipv4() == towards.is_ipv4())
}

/// The peer of an accepted socket, IPv4 as such even on a dual-stack listener.
pub(super) fn peer_of(stream: &TcpStream) -> io::Result<SocketAddr> {
    stream.peer_addr().map(canonical)
}

/// IPv4 addresses in their own form.
pub(super) fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}
