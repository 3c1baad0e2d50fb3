//! What a gateway process listens on, and where what arrives goes: Istio `Gateway`, Gateway API `Gateway` and `Ingress`
//! come to the same.
//!
//! A connection finds its [`EdgePort`] by where it arrived. There a TLS connection finds its [`Listener`] by SNI, a plaintext
//! HTTP request by Host; on that listener the Host finds a [`Site`], and the site's rules decide.

mod hosts;
mod tls;

pub use hosts::{HostMap, pattern_covers, pattern_intersection};
pub use tls::{
    AUTHORITY_KEYS, CERTIFICATE_KEYS, CipherSuite, ClientCertificates, Credential, CredentialSource,
    REVOCATION_KEYS, ServerTls, TlsMode, TlsVersion, authorities_of,
};

use super::ObjectName;
use super::connection::ConnectionTable;
use super::route::RouteTable;
use super::workload::Labels;
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

/// Which process it is: what Gateways select it by.
#[derive(Clone, Debug)]
pub struct GatewayRole {
    /// Its pod; Secrets are looked for in its namespace.
    pub pod: ObjectName,
    /// The pod's labels.
    pub labels: Labels,
    /// The Gateway of the Gateway API that it was made for; it serves that one only, and no other API.
    pub gateway: Option<ObjectName>,
}

/// Everything that a gateway process serves. Empty in an agent.
#[derive(Clone, Debug, Default)]
pub struct Edge {
    /// Where it listens.
    pub ports: BTreeMap<Bind, Arc<EdgePort>>,
}

/// Where a process listens. Without an address: on all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Bind {
    /// Port of the process: a Service's target port.
    pub port: u16,
    /// `bind` of a server.
    pub address: Option<IpAddr>,
}

/// A listening socket and what is behind it.
#[derive(Clone, Debug)]
pub struct EdgePort {
    /// What the first bytes of a connection are.
    pub transport: Transport,
    /// Listeners, oldest first.
    pub listeners: Vec<Arc<Listener>>,
    /// Host (SNI or `Host`) → the listener that has it, as an index: the most specific pattern wins, among equal ones the
    /// oldest.
    pub by_host: HostMap<usize>,
}

/// What a connection to a port begins with. Servers that disagree about it cannot share the port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// HTTP/1.1, or HTTP/2 with prior knowledge.
    Http,
    /// A ClientHello.
    Tls,
    /// Anything.
    Tcp,
}

/// What a listener does with what it gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ListenerProtocol {
    /// `HTTP`, `HTTP2`, `GRPC`.
    Http,
    /// `HTTPS` with a terminating mode: HTTP inside TLS.
    Https,
    /// `TLS` or `HTTPS` with `PASSTHROUGH`: the SNI decides, the bytes are not touched.
    TlsPassthrough,
    /// `AUTO_PASSTHROUGH`: the SNI names the destination (`outbound_.80_.subset_.host`).
    TlsAutoPassthrough,
    /// `TLS` with a terminating mode: bytes inside TLS.
    TlsTerminate,
    /// `TCP`, `MONGO`: bytes.
    Tcp,
}

impl ListenerProtocol {
    /// What its connections begin with.
    #[must_use]
    pub const fn transport(self) -> Transport {
        match self {
            Self::Http => Transport::Http,
            Self::Https | Self::TlsPassthrough | Self::TlsAutoPassthrough | Self::TlsTerminate => {
                Transport::Tls
            }
            Self::Tcp => Transport::Tcp,
        }
    }
}

/// One server of an Istio `Gateway`, one listener of a Gateway API `Gateway`, or what Ingresses share; the plaintext HTTP
/// servers that one port has of Istio are one listener together, as they share one table there.
#[derive(Clone, Debug)]
pub struct Listener {
    /// The object and field it was written in; of several, the oldest.
    pub origin: ListenerOrigin,
    /// `name`, empty if none.
    pub name: Arc<str>,
    /// The port in the API: what `match.port` compares with (T-16).
    pub port: u16,
    /// What it does.
    pub protocol: ListenerProtocol,
    /// Host patterns: `a.example.com`, `*.example.com`, `*`.
    pub hosts: Vec<Arc<str>>,
    /// How it terminates TLS, where it does.
    pub tls: Option<Arc<ServerTls>>,
    /// HTTP: Host → rules.
    pub sites: HostMap<Site>,
    /// Bytes: rules by SNI and address; the first that takes a connection counts.
    pub connections: Vec<Arc<ConnectionTable>>,
}

/// The place of a listener: `Gateway istio-system/ingress spec.servers[0]`. Unique in a gateway process.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ListenerOrigin {
    /// `Gateway`, `Ingress`, `ListenerSet`.
    pub kind: &'static str,
    /// API group of the kind.
    pub group: &'static str,
    /// The object.
    pub object: ObjectName,
    /// The list: `spec.servers`, `spec.listeners`, `spec.tls`.
    pub list: &'static str,
    /// Place in it.
    pub index: usize,
}

impl fmt::Display for ListenerOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}[{}]", self.kind, self.object, self.list, self.index)
    }
}

/// What the requests for one host come to.
#[derive(Clone, Debug)]
pub struct Site {
    /// The `Gateway` by which the rules are bound: what `match.gateways` compares with.
    pub gateway: ObjectName,
    /// Port in the API of the server (T-16).
    pub port: u16,
    /// The rules. Where the server has `httpsRedirect`, that is the one there is.
    pub table: Arc<RouteTable>,
}

/// Where a request for a host belongs.
#[derive(Clone, Copy, Debug)]
pub enum Found<'a> {
    /// Here.
    Site(&'a Listener, &'a Site),
    /// Nowhere: 404.
    Nothing,
    /// To another listener of the port than the one that the connection's SNI chose: 421 (RFC 9110 § 15.5.20).
    Misdirected,
}

impl EdgePort {
    /// The listener for a server name, if one has it; a client that names none gets the one for `*`.
    #[must_use]
    pub fn listener(&self, host: Option<&str>) -> Option<&Arc<Listener>> {
        let index = self.by_host.get(host.unwrap_or_default())?;
        self.listeners.get(*index)
    }

    /// The listener at this place, while it is there.
    #[must_use]
    pub fn at(&self, origin: &ListenerOrigin) -> Option<&Arc<Listener>> {
        self.listeners.iter().find(|l| l.origin == *origin)
    }

    /// Where a request for `host` (canonical) belongs; `by_sni` is the listener that its connection has, if it is TLS.
    #[must_use]
    pub fn site(&self, host: &str, by_sni: Option<&ListenerOrigin>) -> Found<'_> {
        let named = self.listener(Some(host));
        let listener = match (named, by_sni) {
            (Some(named), Some(own)) if named.origin != *own => return Found::Misdirected,
            (Some(named), _) => named,
            (None, _) => return Found::Nothing,
        };
        match listener.sites.get(host) {
            Some(site) => Found::Site(listener, site),
            None => Found::Nothing,
        }
    }
}

#[cfg(test)]
mod tests;
