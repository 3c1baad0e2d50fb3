//! Tunnels between nodes.

pub mod baggage;

use crate::contract::{Certificates, PodHandle};
use crate::drain::DrainWatch;
use baggage::Baggage;
use futures_util::future::LocalBoxFuture;
use mesh_core::model::identity::SpiffeId;
use mesh_core::model::workload::Workload;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};

/// Kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TunnelKind {
    /// Bytes.
    Tcp,
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
}

/// One stream wanted.
#[derive(Clone, Debug)]
pub struct TunnelRequest {
    /// Pod.
    pub pod: Arc<PodHandle>,
    /// Source.
    pub source: Arc<Workload>,
    /// Client.
    pub client: SocketAddr,
    /// Peer.
    pub peer: SpiffeId,
    /// Target.
    pub target: SocketAddr,
    /// Host.
    pub host: Option<Arc<str>>,
    /// Kind.
    pub kind: TunnelKind,
}

/// Settings.
#[derive(Clone, Debug, Default)]
pub struct TunnelConfig {
    /// Mark.
    pub mark: u32,
    /// Cluster.
    pub cluster: Arc<str>,
}

/// Error.
#[derive(Debug, thiserror::Error)]
pub enum TunnelError {
    /// Draining.
    #[error("draining")]
    Draining,
}

/// Client.
pub struct TunnelClient;

impl TunnelClient {
    /// New.
    pub fn new(_: Arc<dyn Certificates>, _: TunnelConfig) -> Rc<Self> {
        Rc::new(Self)
    }
    /// Opens.
    ///
    /// # Errors
    /// Always.
    pub async fn open(&self, _: &TunnelRequest) -> Result<TunnelStream, TunnelError> {
        Err(TunnelError::Draining)
    }
}

/// Stream.
#[derive(Debug)]
pub struct TunnelStream(DuplexStream);

impl AsyncRead for TunnelStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_read(cx, buf)
    }
}

impl AsyncWrite for TunnelStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().0).poll_write(cx, buf)
    }
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_flush(cx)
    }
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_shutdown(cx)
    }
}

/// Handler.
pub trait TunnelHandler {
    /// Handles.
    fn handle(&self, incoming: TunnelIncoming) -> LocalBoxFuture<'static, ()>;
}

/// Incoming.
pub struct TunnelIncoming {
    /// Target.
    pub target: SocketAddr,
    /// Peer.
    pub peer: SpiffeId,
    /// Peer address.
    pub peer_addr: SocketAddr,
    /// Client.
    pub client: SocketAddr,
    /// Baggage.
    pub baggage: Baggage,
    /// Kind.
    pub kind: TunnelKind,
}

impl TunnelIncoming {
    /// Accepts.
    ///
    /// # Errors
    /// Always.
    pub async fn accept(self) -> Result<TunnelStream, TunnelError> {
        Err(TunnelError::Draining)
    }
    /// Refuses.
    pub async fn refuse(self, _status: u16, _reason: &str) {}
}

/// Serves.
pub async fn serve(
    _: tokio::net::TcpStream,
    _: Arc<PodHandle>,
    _: Arc<dyn Certificates>,
    _: TunnelConfig,
    _: Rc<dyn TunnelHandler>,
    _: DrainWatch,
) {
}
