//! A Gateway of Gateway API: its listeners with the routes that are attached to them.

use super::assemble::{Draft, SiteDraft};
use super::{credentials, listening_port};
use crate::model::ObjectName;
use crate::model::connection::{ConnectionMatch, ConnectionRule, ConnectionTable};
use crate::model::gateway::{
    Bind, ClientCertificates, GatewayRole, ListenerOrigin, ListenerProtocol, ServerTls, TlsMode, TlsVersion,
};
use crate::model::route::{Backend, Origin, Outcome, RouteAction, RouteApi, RouteRule, RouteTable, Split};
use crate::state::listeners::{Bound, ListenerView};
use crate::state::tables::Tables;
use crate::translate::CertificateRef;
use crate::translate::gateway_api::{GROUP, ListenerKind, RouteKind, Target};
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

/// What the process that was made for this Gateway serves.
pub(super) fn drafts(role: &GatewayRole, tables: &Tables, gateway: &ObjectName) -> Vec<Draft> {
    let Some(view) = tables.served_view(gateway) else {
        return Vec::new();
    };
    let mut drafts = Vec::new();
    for listener in &view.listeners {
        let Some(kind) = listener.served() else { continue };
        let spec = listener.spec;
        let protocol = match kind {
            ListenerKind::Http => ListenerProtocol::Http,
            ListenerKind::Https => ListenerProtocol::Https,
            ListenerKind::TlsPassthrough => ListenerProtocol::TlsPassthrough,
            ListenerKind::TlsTerminate => ListenerProtocol::TlsTerminate,
            ListenerKind::Tcp => ListenerProtocol::Tcp,
        };
        drafts.push(Draft {
            origin: ListenerOrigin {
                kind: listener.owner.kind(),
                group: GROUP,
                object: listener.owner.name().clone(),
                list: "spec.listeners",
                index: listener.index,
            },
            created: Arc::clone(&view.spec.created),
            bind: Bind {
                port: listening_port(role, tables, spec.port),
                address: None,
            },
            name: Arc::clone(&spec.name),
            port: spec.port,
            protocol,
            hosts: vec![spec.hostname.clone().unwrap_or_else(|| "*".into())],
            tls: kind.terminates().then(|| Arc::new(tls(tables, listener, kind))),
            shared: false,
            sites: sites(tables, gateway, listener),
            connections: connections(tables, listener),
        });
    }
    drafts
}

/// Rules for bytes: one table for each route, the older first.
fn connections(tables: &Tables, listener: &ListenerView<'_>) -> Vec<Arc<ConnectionTable>> {
    let of_bytes = listener.routes.iter().filter(|b| !b.route.kind.of_requests());
    of_bytes
        .map(|bound| {
            let refused = refused(tables, bound);
            let sni = bound
                .hosts
                .iter()
                .map(|h| h.strip_prefix('*').unwrap_or(h).into());
            let block = ConnectionMatch {
                sni: sni.collect(),
                ..ConnectionMatch::default()
            };
            let (kind, object) = bound.key;
            let rules = bound.route.connections.iter().map(|rule| ConnectionRule {
                origin: Origin {
                    kind: kind.name(),
                    object: object.clone(),
                    list: "spec.rules",
                    index: rule.index,
                },
                matches: match kind {
                    RouteKind::Tls => vec![block.clone()],
                    _ => Vec::new(),
                },
                split: permitted_split(rule.split.clone(), &refused),
            });
            let rules: Vec<ConnectionRule> = rules.collect();
            let (tls, tcp) = match kind {
                RouteKind::Tls => (rules, Vec::new()),
                _ => (Vec::new(), rules),
            };
            Arc::new(ConnectionTable {
                api: RouteApi::Gateway,
                object: object.clone(),
                tls,
                tcp,
            })
        })
        .collect()
}

fn tls(tables: &Tables, listener: &ListenerView<'_>, kind: ListenerKind) -> ServerTls {
    let mut broken = None;
    let mut certificates = Vec::new();
    for secret in &listener.spec.certificates {
        let wanted = CertificateRef::Secret(Arc::clone(&secret.name.name));
        match credentials::certificate(tables, &secret.name.namespace, &wanted) {
            Ok(found) => certificates.push(found),
            Err(reason) => broken = Some(Arc::from(reason)),
        }
    }
    let (mode, clients) = match &listener.clients {
        Some(asked) => asked.mode(),
        None => (TlsMode::Simple, ClientCertificates::default()),
    };
    ServerTls {
        mode,
        certificates,
        clients,
        min: TlsVersion::V12,
        max: TlsVersion::V13,
        cipher_suites: Vec::new(),
        alpn: match kind {
            ListenerKind::Https => vec!["h2", "http/1.1"],
            _ => Vec::new(),
        },
        broken,
    }
}

/// One table for each host that routes and listener share, in the API's order.
fn sites(tables: &Tables, gateway: &ObjectName, listener: &ListenerView<'_>) -> Vec<SiteDraft> {
    let mut by_host: BTreeMap<&Arc<str>, Vec<&Bound<'_>>> = BTreeMap::new();
    for bound in listener.routes.iter().filter(|b| b.route.kind.of_requests()) {
        for host in &bound.hosts {
            by_host.entry(host).or_default().push(bound);
        }
    }
    let site = |(host, bound): (&Arc<str>, Vec<&Bound<'_>>)| SiteDraft {
        pattern: Arc::clone(host),
        gateway: gateway.clone(),
        port: listener.spec.port,
        redirects: false,
        created: "".into(),
        table: Arc::new(table(tables, gateway, &bound)),
    };
    by_host.into_iter().map(site).collect()
}

/// The rules of several routes, the older route first already: the more specific first.
fn table(tables: &Tables, gateway: &ObjectName, bound: &[&Bound<'_>]) -> RouteTable {
    let mut rules = Vec::new();
    for route in bound {
        let refused = refused(tables, route);
        for ranked in &route.route.rules {
            rules.push((ranked.rank, permitted(&ranked.rule, &refused)));
        }
    }
    rules.sort_by_key(|(rank, _)| Reverse(*rank));
    RouteTable {
        api: RouteApi::Gateway,
        object: gateway.clone(),
        rules: rules.into_iter().map(|(_, rule)| rule).collect(),
    }
}

/// Hosts of other namespaces to which no ReferenceGrant lets the route refer.
fn refused(tables: &Tables, bound: &Bound<'_>) -> HashSet<Arc<str>> {
    let (kind, route) = bound.key;
    let from = (GROUP, kind.name(), &*route.namespace);
    let references = bound.route.references.iter();
    references
        .filter_map(|reference| match &reference.target {
            Target::Service { name, host, .. } if !tables.permits(from, ("", "Service"), name) => {
                Some(Arc::clone(host))
            }
            _ => None,
        })
        .collect()
}

/// The rule without what it may not refer to: 500 for that share of the requests, and no copies.
fn permitted(rule: &RouteRule, refused: &HashSet<Arc<str>>) -> RouteRule {
    let mut rule = rule.clone();
    if refused.is_empty() {
        return rule;
    }
    let mut action = RouteAction::clone(&rule.action);
    action.mirrors.retain(|m| !refused.contains(&m.destination.host));
    if let Outcome::Forward(split) = action.outcome {
        action.outcome = Outcome::Forward(permitted_split(split, refused));
    }
    rule.action = Arc::new(action);
    rule
}

fn permitted_split(mut split: Split, refused: &HashSet<Arc<str>>) -> Split {
    for to in &mut split.destinations {
        let denied = to.backend.host().filter(|d| refused.contains(&d.host));
        if let Some(host) = denied.map(|d| Arc::clone(&d.host)) {
            to.backend = Backend::Invalid(format!("no ReferenceGrant permits {host}").into());
        }
    }
    split
}
