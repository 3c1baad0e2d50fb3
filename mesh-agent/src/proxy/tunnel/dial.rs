//! Connecting to a peer: TCP from inside the source pod's network namespace, TLS, and whether the right one answers.

use super::hbone::TLS_BUFFER;
use super::io::BufferedTcp;
use super::native::{NativeConn, Tls};
use super::{TunnelConfig, TunnelError, TunnelRequest};
use crate::contract::{Certificates, IdentityTls, certificate};
use crate::sys::client_socket;
use crate::tls::{ALPN_H2, ALPN_HEDDLE, peer_identity};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;

/// A connection ready for its first stream, by wire form.
pub(super) enum Dialed {
    Native(Box<NativeConn>),
    Hbone(Box<Tls>, u64),
}

/// Which wire forms a dial offers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Offer {
    /// The native form first, then HBONE.
    Both,
    /// HBONE only.
    Hbone,
}

/// Connects and verifies. Cancel safe: the socket is closed.
pub(super) async fn dial(
    request: &TunnelRequest,
    to: SocketAddr,
    certs: &dyn Certificates,
    config: &TunnelConfig,
    offer: Offer,
) -> Result<Dialed, TunnelError> {
    let identity = certificate(certs, &request.source.identity).await?;
    let tcp = connect(request, to, config).await?;
    let failed = |source| TunnelError::Handshake { to, source };
    // An address as name keeps SNI out of the hello; the name itself is never verified.
    let name = ServerName::IpAddress(to.ip().into());
    let connector = TlsConnector::from(client_config(&identity, offer));
    let after = config.handshake_timeout;
    let mut tls = tokio::time::timeout(after, connector.connect(name, BufferedTcp::new(tcp)))
        .await
        .map_err(|_| TunnelError::HandshakeTimeout { to, after })?
        .map_err(failed)?;
    let (_, session) = tls.get_mut();
    let presented = peer_identity(session.peer_certificates().unwrap_or_default())
        .map_err(|error| failed(io::Error::new(io::ErrorKind::InvalidData, error)))?;
    if presented != request.peer {
        return Err(TunnelError::IdentityMismatch {
            to,
            expected: request.peer.clone(),
            presented: presented.to_string(),
        });
    }
    if session.alpn_protocol() == Some(ALPN_HEDDLE) {
        session.set_buffer_limit(None);
        Ok(Dialed::Native(NativeConn::new(
            Tls::from(tls),
            identity.not_after,
        )))
    } else {
        session.set_buffer_limit(Some(TLS_BUFFER));
        Ok(Dialed::Hbone(Box::new(Tls::from(tls)), identity.not_after))
    }
}

fn client_config(identity: &IdentityTls, offer: Offer) -> Arc<ClientConfig> {
    if offer == Offer::Both {
        return Arc::clone(&identity.client);
    }
    let mut only_h2 = ClientConfig::clone(&identity.client);
    only_h2.alpn_protocols = vec![ALPN_H2.to_vec()];
    Arc::new(only_h2)
}

async fn connect(
    request: &TunnelRequest,
    to: SocketAddr,
    config: &TunnelConfig,
) -> Result<TcpStream, TunnelError> {
    let source = source_ip(request, to).map_err(TunnelError::Socket)?;
    let socket = request
        .pod
        .netns
        .run(|| client_socket(to, Some(source), config.mark))
        .map_err(TunnelError::Socket)?;
    tune(SockRef::from(&socket), config).map_err(TunnelError::Socket)?;
    let after = config.connect_timeout;
    tokio::time::timeout(after, TcpSocket::from_std_stream(socket.into()).connect(to))
        .await
        .map_err(|_| TunnelError::ConnectTimeout { to, after })?
        .map_err(|source| TunnelError::Connect { to, source })
}

/// The pod's own address of the peer's family.
fn source_ip(request: &TunnelRequest, to: SocketAddr) -> io::Result<IpAddr> {
    request
        .pod
        .workload
        .ips
        .iter()
        .copied()
        .find(|ip| ip.is_ipv4() == to.is_ipv4())
        .ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::AddrNotAvailable,
                "the pod has no address of the peer's family",
            )
        })
}

/// Keepalive on the PING schedule: it is the native form's only sign of life while nothing is sent. No
/// `TCP_USER_TIMEOUT`: it also kills connections whose reader merely pauses (zero window).
pub(super) fn tune(socket: SockRef<'_>, config: &TunnelConfig) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(config.ping_interval.max(Duration::from_secs(1)))
            .with_interval(Duration::from_secs(5))
            .with_retries(4),
    )
}
