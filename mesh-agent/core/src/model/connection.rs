//! Compiled routes for connections whose bytes are carried as they are: `tls` and `tcp` of VirtualServices, TLSRoute and
//! TCPRoute.

use super::ObjectName;
use super::route::{GatewayName, Origin, RouteApi, Split, Visibility};
use ipnet::IpNet;
use std::sync::Arc;

/// Rules for the connections to a host.
#[derive(Clone, Debug)]
pub struct ConnectionTable {
    /// Whose semantics answer where a destination is not there.
    pub api: RouteApi,
    /// What the table is called in reports.
    pub object: ObjectName,
    /// For connections that begin with a ClientHello; the first that matches takes it.
    pub tls: Vec<ConnectionRule>,
    /// For all others.
    pub tcp: Vec<ConnectionRule>,
}

/// One rule.
#[derive(Clone, Debug)]
pub struct ConnectionRule {
    /// The object and field it was written in.
    pub origin: Origin,
    /// Blocks are ORed; empty matches everything.
    pub matches: Vec<ConnectionMatch>,
    /// Where to, by weight for each connection.
    pub split: Split,
}

/// Conditions that must all hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ConnectionMatch {
    /// `sniHosts`, lower case: `a.example.com`, or `.example.com` for `*.example.com`, or empty for `*`. No entry = any
    /// connection; with entries a connection without a server name does not match.
    pub sni: Vec<Arc<str>>,
    /// `destinationSubnets`: what was dialled lies in one of them; no entry = anywhere.
    pub destinations: Vec<IpNet>,
    /// `port`: the service port that was dialled, at a gateway the server's.
    pub port: Option<u16>,
    /// `sourceSubnet`: where the client's address lies.
    pub source: Option<IpNet>,
    /// `sourceLabels`.
    pub source_labels: Vec<(Arc<str>, Arc<str>)>,
    /// `sourceNamespace`.
    pub source_namespace: Option<Arc<str>>,
    /// `gateways` of this block, in place of the object's; empty = the object's.
    pub gateways: Vec<GatewayName>,
}

/// A table and who sees it.
#[derive(Clone, Debug)]
pub struct ConnectionRoute {
    /// `exportTo`.
    pub seen_by: Visibility,
    /// The rules.
    pub table: Arc<ConnectionTable>,
}

/// Host → tables, oldest first. `*.example.com` is kept as `.example.com`.
#[derive(Clone, Debug, Default)]
pub struct ConnectionRoutes(imbl::HashMap<Arc<str>, Arc<[ConnectionRoute]>>);

impl ConnectionRoutes {
    /// Whether no host has any.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Gives a host these tables, in place of those that it has.
    pub fn put(&mut self, host: &Arc<str>, routes: Vec<ConnectionRoute>) {
        if routes.is_empty() {
            self.0.remove(host);
        } else {
            self.0.insert(Arc::clone(host), routes.into());
        }
    }

    /// The tables for a host: exact before wildcard, the most specific wildcard first (T-07).
    #[must_use]
    pub fn of(&self, host: &str) -> Option<&[ConnectionRoute]> {
        let exact = self.0.get(host);
        let found = exact.or_else(|| {
            host.char_indices()
                .filter(|(_, c)| *c == '.')
                .find_map(|(dot, _)| self.0.get(&host[dot..]))
        });
        found.map(|routes| &**routes)
    }
}
