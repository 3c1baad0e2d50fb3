//! What a connection begins with, on whatever way it goes: the PROXY protocol's header, then TLS towards a server that
//! the user vouches for.

use super::super::io::Io;
use super::super::tunnel::TunnelKind;
use super::super::upstream::{self, ConnectError, Origin, Path};
use super::super::worker::Worker;
use mesh_core::model::traffic::{ClientTls, Keepalive, ProxyProtocol, TrafficPolicy};
use ppp::v2;
use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt as _;

/// What sets connections of one policy apart from others to the same address.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(in super::super) struct Dress {
    /// The header, and the client that it names.
    proxy: Option<(ProxyProtocol, SocketAddr)>,
    /// The TLS settings, and the name that is asked for.
    tls: Option<(ClientTls, Arc<str>)>,
}

impl Dress {
    /// What a policy puts on a connection of `client` to the server called `name`; `None` if nothing.
    pub(in super::super) fn of(policy: &TrafficPolicy, client: SocketAddr, name: &str) -> Option<Self> {
        let tls = policy.tls.as_ref().filter(|tls| tls.originates());
        let proxy = policy.proxy_protocol.map(|version| (version, client));
        if tls.is_none() && proxy.is_none() {
            return None;
        }
        let tls = tls.map(|tls| (tls.clone(), tls.sni.clone().unwrap_or_else(|| name.into())));
        Some(Self { proxy, tls })
    }

    /// As [`Dress::of`], for bytes that are TLS already (`sealed`) or not: some policies want no TLS around TLS.
    pub(in super::super) fn of_bytes(
        policy: &TrafficPolicy,
        client: SocketAddr,
        name: &str,
        sealed: bool,
    ) -> Option<Self> {
        let mut dress = Self::of(policy, client, name)?;
        if sealed {
            dress.tls = dress.tls.filter(|(tls, _)| !tls.spares_tls());
        }
        (dress.tls.is_some() || dress.proxy.is_some()).then_some(dress)
    }
}

/// Where to, and as what.
pub(in super::super) struct Link<'a> {
    pub(in super::super) path: &'a Path,
    pub(in super::super) addr: SocketAddr,
    pub(in super::super) origin: &'a Origin,
    pub(in super::super) kind: TunnelKind,
    pub(in super::super) host: Option<&'a Arc<str>>,
    pub(in super::super) policy: Option<&'a TrafficPolicy>,
    pub(in super::super) dress: Option<&'a Dress>,
}

/// Connects as the policy says. Cancel safe: a connection half made is closed.
pub(in super::super) async fn connect(worker: &Worker, link: &Link<'_>) -> Result<Io, ConnectError> {
    let deadline = link.policy.and_then(|p| p.connection_pool.tcp.connect_timeout);
    match deadline {
        None => dressed(worker, link, None).await,
        Some(limit) => match tokio::time::timeout(limit, dressed(worker, link, deadline)).await {
            Ok(made) => made,
            Err(_) => Err(ConnectError::Timeout(link.addr, limit)),
        },
    }
}

async fn dressed(worker: &Worker, link: &Link<'_>, deadline: Option<Duration>) -> Result<Io, ConnectError> {
    let addr = link.addr;
    // What is dressed is no HTTP to the far end's agent.
    let kind = if link.dress.is_some() {
        TunnelKind::Tcp
    } else {
        link.kind
    };
    let connecting = upstream::connect(worker, link.path, addr, link.origin, kind, link.host, deadline);
    let mut io = connecting.await?;
    let failed = |error| ConnectError::Io(addr, error);
    let keepalive = link.policy.and_then(|p| p.connection_pool.tcp.keepalive.as_ref());
    if let (Io::Tcp(stream), Some(keepalive)) = (&io, keepalive) {
        keep_alive(&SockRef::from(stream), keepalive).map_err(failed)?;
    }
    let Some(dress) = link.dress else { return Ok(io) };
    if let Some((version, client)) = dress.proxy {
        let header = header(version, client, addr).map_err(failed)?;
        io.write_all(&header).await.map_err(failed)?;
    }
    let Some((tls, name)) = &dress.tls else {
        return Ok(io);
    };
    let namespace = &link.origin.pod.handle.workload.pod.namespace;
    let origination = &worker.shared.deps.origination;
    let config = origination
        .client(tls, namespace, alpn(link.kind))
        .map_err(|error| ConnectError::Origination(addr, error))?;
    let host = name.trim_start_matches('[').trim_end_matches(']');
    let name = match host.parse::<IpAddr>() {
        Ok(ip) => ServerName::from(ip),
        Err(_) => ServerName::try_from(host.to_owned()).map_err(|e| failed(io::Error::other(e)))?,
    };
    let shaking = tokio_rustls::TlsConnector::from(config).connect(name, Box::new(io));
    let limit = deadline.unwrap_or(worker.shared.config.connect_timeout);
    match tokio::time::timeout(limit, shaking).await {
        Ok(Ok(stream)) => Ok(Io::Originated(Box::new(stream))),
        Ok(Err(error)) => Err(ConnectError::Handshake(addr, error)),
        Err(_) => Err(ConnectError::Timeout(addr, limit)),
    }
}

fn keep_alive(socket: &SockRef<'_>, wanted: &Keepalive) -> io::Result<()> {
    let mut keepalive = TcpKeepalive::new();
    if let Some(time) = wanted.time {
        keepalive = keepalive.with_time(time);
    }
    if let Some(interval) = wanted.interval {
        keepalive = keepalive.with_interval(interval);
    }
    if let Some(probes) = wanted.probes {
        keepalive = keepalive.with_retries(probes);
    }
    socket.set_tcp_keepalive(&keepalive)
}

/// The header that tells a server who its client is (haproxy.org, "The PROXY protocol").
fn header(version: ProxyProtocol, client: SocketAddr, server: SocketAddr) -> io::Result<Vec<u8>> {
    match version {
        ProxyProtocol::V1 => {
            let family = if client.is_ipv4() && server.is_ipv4() {
                "TCP4"
            } else {
                "TCP6"
            };
            let text = |ip: IpAddr| match ip {
                IpAddr::V4(v4) if family == "TCP6" => v4.to_ipv6_mapped().to_string(),
                ip => ip.to_string(),
            };
            let (from, to) = (text(client.ip()), text(server.ip()));
            Ok(format!(
                "PROXY {family} {from} {to} {} {}\r\n",
                client.port(),
                server.port()
            )
            .into_bytes())
        }
        ProxyProtocol::V2 => v2::Builder::with_addresses(
            v2::Version::Two | v2::Command::Proxy,
            v2::Protocol::Stream,
            if client.is_ipv4() == server.is_ipv4() {
                (client, server)
            } else {
                (mapped(client), mapped(server))
            },
        )
        .build(),
    }
}

/// An address in the form of IPv6, for a pair of both families.
fn mapped(addr: SocketAddr) -> SocketAddr {
    match addr.ip() {
        IpAddr::V4(v4) => SocketAddr::new(v4.to_ipv6_mapped().into(), addr.port()),
        IpAddr::V6(_) => addr,
    }
}

const fn alpn(kind: TunnelKind) -> Option<&'static str> {
    match kind {
        TunnelKind::Http1 => Some("http/1.1"),
        TunnelKind::Http2 => Some("h2"),
        TunnelKind::Tcp => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_proxy_header_names_client_and_server() {
        let (client, server) = ("10.0.0.1:4711".parse().unwrap(), "10.0.0.2:80".parse().unwrap());
        let v1 = header(ProxyProtocol::V1, client, server).unwrap();
        assert_eq!(v1, b"PROXY TCP4 10.0.0.1 10.0.0.2 4711 80\r\n");
        let v6: SocketAddr = "[fd00::2]:80".parse().unwrap();
        let mixed = header(ProxyProtocol::V1, client, v6).unwrap();
        assert_eq!(mixed, b"PROXY TCP6 ::ffff:10.0.0.1 fd00::2 4711 80\r\n");
        let v2 = header(ProxyProtocol::V2, client, server).unwrap();
        let read = v2::Header::try_from(&v2[..]).unwrap();
        assert_eq!(read.addresses, v2::Addresses::from((client, server)));
    }
}
