//! The accepting end: TLS, ALPN, then one call of the handler per stream.

use super::addr::{Refusal, check_target, plausible_client};
use super::baggage::Baggage;
use super::hbone;
use super::head::{Head, read_head, write_reply};
use super::io::BufferedTcp;
use super::native::{NativeConn, NativeStream, Tls};
use super::{TunnelConfig, TunnelError, TunnelKind, TunnelStream};
use crate::contract::{Certificates, PodHandle, certificate};
use crate::drain::DrainWatch;
use crate::tls::{ALPN_H2, ALPN_HEDDLE, peer_identity};
use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use h2::RecvStream;
use h2::server::SendResponse;
use mesh_core::model::identity::SpiffeId;
use rustls::ServerConfig;
use socket2::SockRef;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;

/// How long an idle connection may take to hear that it is closed.
const FAREWELL: Duration = Duration::from_secs(1);

/// Decides on streams and serves them.
pub trait TunnelHandler {
    /// One stream. The future is dropped when the drain's deadline passes or an HBONE connection breaks.
    fn handle(&self, incoming: TunnelIncoming) -> LocalBoxFuture<'static, ()>;

    /// A connection that brought no stream: failed handshake, refused certificate. For metrics.
    fn failed(&self, peer: SocketAddr, error: &TunnelError) {
        tracing::debug!(%peer, error = %error, "tunnel connection failed");
    }
}

/// A stream that waits for a decision. Dropping it without one resets it.
pub struct TunnelIncoming {
    /// Where it wants to go: an address of this pod.
    pub target: SocketAddr,
    /// Who asks, proven by its certificate.
    pub peer: SpiffeId,
    /// Where the connection comes from; what source-IP policies look at.
    pub peer_addr: SocketAddr,
    /// The client application's address: `peer_addr` with the port that the peer names, if it names one.
    pub client: SocketAddr,
    /// What the peer says about the source workload; telemetry only.
    pub baggage: Baggage,
    /// What the stream will carry. HBONE does not say and is `Tcp`.
    pub kind: TunnelKind,
    /// The host of the service that was asked for, as the peer tells it, or empty; telemetry only. HBONE does not say.
    pub host: String,
    reply: Reply,
    response_baggage: Rc<str>,
}

pub(super) enum Reply {
    Hbone {
        respond: SendResponse<Bytes>,
        body: RecvStream,
    },
    Native {
        conn: Box<NativeConn>,
        early: bool,
        done: oneshot::Sender<Box<NativeConn>>,
    },
}

impl TunnelIncoming {
    /// Whether the peer is another Heddle agent that speaks the native form, and so tells the kind.
    #[must_use]
    pub const fn is_native(&self) -> bool {
        matches!(self.reply, Reply::Native { .. })
    }

    /// Answers 200; to be called once the application has taken the connection.
    ///
    /// # Errors
    /// The peer has gone meanwhile.
    pub async fn accept(self) -> Result<TunnelStream, TunnelError> {
        match self.reply {
            Reply::Hbone { respond, body } => {
                let stream = hbone::server::accept(respond, body, &self.response_baggage)
                    .map_err(TunnelError::Reset)?;
                Ok(TunnelStream::hbone(stream, self.peer, None, false))
            }
            Reply::Native { mut conn, done, .. } => {
                write_reply(&mut conn.tls, 200, &self.response_baggage)
                    .await
                    .map_err(TunnelError::Reset)?;
                let stream = match self.kind {
                    TunnelKind::Tcp => NativeStream::chunked(conn, move |conn| {
                        // The serving task has gone: the connection closes here.
                        let _closed = done.send(conn);
                    }),
                    TunnelKind::Http1 | TunnelKind::Http2 => NativeStream::raw(conn),
                };
                Ok(TunnelStream::native(stream, self.peer, None, false))
            }
        }
    }

    /// Answers with 400, 401 (policy) or 503 (application not reached). HBONE carries no reason.
    pub fn refuse(self, status: u16, reason: &str) {
        match self.reply {
            Reply::Hbone { respond, .. } => hbone::server::refuse(respond, status),
            Reply::Native {
                mut conn,
                early,
                done,
            } => {
                let reason = reason.to_owned();
                tokio::task::spawn_local(async move {
                    let written =
                        tokio::time::timeout(FAREWELL, write_reply(&mut conn.tls, status, &reason)).await;
                    // Payload sent early belongs to the refused stream and would be read as the next head.
                    if matches!(written, Ok(Ok(()))) && !early {
                        let _closed = done.send(conn);
                    }
                });
            }
        }
    }
}

impl std::fmt::Debug for TunnelIncoming {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TunnelIncoming")
            .field("target", &self.target)
            .field("peer", &self.peer)
            .field("client", &self.client)
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}

/// What the streams of one connection have in common.
pub(super) struct ServerContext {
    pub(super) config: TunnelConfig,
    pub(super) handler: Rc<dyn TunnelHandler>,
    pub(super) drain: DrainWatch,
    pub(super) accepted_at: IpAddr,
    peer: SpiffeId,
    peer_addr: SocketAddr,
    response_baggage: Rc<str>,
    not_after: u64,
}

impl ServerContext {
    pub(super) fn incoming(
        &self,
        target: SocketAddr,
        claimed: Option<SocketAddr>,
        baggage: &str,
        kind: TunnelKind,
        host: String,
        reply: Reply,
    ) -> TunnelIncoming {
        TunnelIncoming {
            target: SocketAddr::new(target.ip().to_canonical(), target.port()),
            peer: self.peer.clone(),
            peer_addr: self.peer_addr,
            client: plausible_client(claimed, self.peer_addr),
            baggage: Baggage::parse(baggage),
            kind,
            host,
            reply,
            response_baggage: Rc::clone(&self.response_baggage),
        }
    }
}

/// Serves a connection accepted on a pod's tunnel port, until it ends. Every wait has a deadline, and no error is
/// more than the end of this connection; [`TunnelHandler::failed`] hears of those before the first stream.
pub async fn serve(
    tcp: TcpStream,
    pod: Arc<PodHandle>,
    certs: Arc<dyn Certificates>,
    config: TunnelConfig,
    handler: Rc<dyn TunnelHandler>,
    drain: DrainWatch,
) {
    let Ok(peer_addr) = tcp.peer_addr() else {
        return; // gone before it was looked at
    };
    // Each phase is boxed: what lives as long as the connection must not have the size of its handshake.
    let opening = Box::pin(open(
        tcp,
        peer_addr,
        pod,
        certs,
        config,
        Rc::clone(&handler),
        drain.clone(),
    ));
    let opened = tokio::select! {
        biased;
        () = drain.cut() => return,
        opened = opening => opened,
    };
    let (tls, context) = match opened {
        Ok(opened) => opened,
        Err(error) => return handler.failed(peer_addr, &error),
    };
    drop((handler, drain));
    let native = tls.get_ref().1.alpn_protocol() == Some(ALPN_HEDDLE);
    let ended = if native {
        Box::pin(serve_native(NativeConn::new(*tls, context.not_after), context)).await
    } else {
        Box::pin(hbone::server::serve(tls, context)).await
    };
    if let Err(error) = ended {
        tracing::debug!(peer = %peer_addr, %error, "tunnel connection ended");
    }
}

async fn open(
    tcp: TcpStream,
    peer_addr: SocketAddr,
    pod: Arc<PodHandle>,
    certs: Arc<dyn Certificates>,
    config: TunnelConfig,
    handler: Rc<dyn TunnelHandler>,
    drain: DrainWatch,
) -> Result<(Box<Tls>, Rc<ServerContext>), TunnelError> {
    let accepted_at = tcp.local_addr().map_err(TunnelError::Socket)?.ip().to_canonical();
    super::dial::tune(SockRef::from(&tcp), &config).map_err(TunnelError::Socket)?;
    let identity = certificate(&*certs, &pod.workload.identity).await?;
    let mut server = Arc::clone(&identity.server);
    if !config.native {
        let mut only_h2 = ServerConfig::clone(&server);
        only_h2.alpn_protocols = vec![ALPN_H2.to_vec()];
        server = Arc::new(only_h2);
    }
    let failed = |source| TunnelError::Handshake {
        to: peer_addr,
        source,
    };
    let after = config.handshake_timeout;
    let mut tls = tokio::time::timeout(after, TlsAcceptor::from(server).accept(BufferedTcp::new(tcp)))
        .await
        .map_err(|_| TunnelError::HandshakeTimeout { to: peer_addr, after })?
        .map_err(failed)?;
    let (_, session) = tls.get_mut();
    let native = session.alpn_protocol() == Some(ALPN_HEDDLE);
    session.set_buffer_limit(if native { None } else { Some(hbone::TLS_BUFFER) });
    let peer = peer_identity(session.peer_certificates().unwrap_or_default())
        .map_err(|error| failed(io::Error::new(io::ErrorKind::InvalidData, error)))?;
    let response_baggage = Baggage::of(&pod.workload, &config.cluster).encode().into();
    let context = ServerContext {
        config,
        handler,
        drain,
        accepted_at,
        peer,
        peer_addr,
        response_baggage,
        not_after: identity.not_after,
    };
    Ok((Box::new(Tls::from(tls)), Rc::new(context)))
}

async fn serve_native(mut conn: Box<NativeConn>, context: Rc<ServerContext>) -> io::Result<()> {
    let mut patience = context.config.head_timeout;
    let mut first = true;
    loop {
        let head = tokio::select! {
            biased;
            () = context.drain.cut() => return Ok(()),
            // A fresh connection gets its stream: its client does not expect it to end, as that of a pooled one does.
            () = context.drain.draining(), if !first => None,
            head = tokio::time::timeout(patience, read_head(&mut conn.tls)) => match head {
                Ok(head) => head?,
                Err(_) => None,
            },
        };
        let Some(head) = head else {
            let _unheard = tokio::time::timeout(FAREWELL, conn.tls.shutdown()).await;
            return Ok(());
        };
        let served = tokio::select! {
            biased;
            () = context.drain.cut() => None,
            served = serve_head(conn, head, &context) => served,
        };
        match served {
            Some(back) => conn = back,
            None => return Ok(()),
        }
        first = false;
        // The client closes first: a connection that it still pools must not be closed under its hands.
        patience = context.config.idle_timeout.saturating_mul(2);
    }
}

/// Serves one stream; gives the connection back if it can carry another.
async fn serve_head(
    mut conn: Box<NativeConn>,
    head: Head,
    context: &Rc<ServerContext>,
) -> Option<Box<NativeConn>> {
    if let Err(Refusal { status, reason }) = check_target(head.target, context.accepted_at) {
        let written = tokio::time::timeout(FAREWELL, write_reply(&mut conn.tls, status, reason)).await;
        return (matches!(written, Ok(Ok(()))) && !head.early).then_some(conn);
    }
    let (done, back) = oneshot::channel();
    let reply = Reply::Native {
        conn,
        early: head.early,
        done,
    };
    let incoming = context.incoming(
        head.target,
        Some(head.client),
        &head.baggage,
        head.kind,
        head.host,
        reply,
    );
    context.handler.handle(incoming).await;
    // The handler may have handed the stream on; the sender is dropped with a stream that did not end cleanly.
    back.await.ok()
}
