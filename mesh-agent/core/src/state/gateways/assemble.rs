//! Listeners of all APIs → ports, with the rules for those that cannot stand side by side.

use super::warning;
use crate::model::ObjectName;
use crate::model::connection::ConnectionTable;
use crate::model::gateway::{
    Bind, Edge, EdgePort, HostMap, Listener, ListenerOrigin, ListenerProtocol, ServerTls, Site, Transport,
};
use crate::model::route::{RouteRule, RouteTable};
use crate::state::world::Warning;
use std::collections::BTreeMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

/// A listener that wants a place on a port.
pub(in crate::state) struct Draft {
    pub(in crate::state) origin: ListenerOrigin,
    /// `creationTimestamp` of the object.
    pub(in crate::state) created: Arc<str>,
    pub(in crate::state) bind: Bind,
    pub(in crate::state) name: Arc<str>,
    /// The port in the API.
    pub(in crate::state) port: u16,
    pub(in crate::state) protocol: ListenerProtocol,
    pub(in crate::state) hosts: Vec<Arc<str>>,
    pub(in crate::state) tls: Option<Arc<ServerTls>>,
    /// Whether plaintext HTTP servers of one port have one table together (Istio), or each its own (Gateway API).
    pub(in crate::state) shared: bool,
    pub(in crate::state) sites: Vec<SiteDraft>,
    pub(in crate::state) connections: Vec<Arc<ConnectionTable>>,
}

/// Rules that want a host of a listener.
pub(in crate::state) struct SiteDraft {
    pub(in crate::state) pattern: Arc<str>,
    /// The `Gateway` by which they are bound.
    pub(in crate::state) gateway: ObjectName,
    pub(in crate::state) port: u16,
    /// Whether the table is a server's `httpsRedirect`: it takes the place of all others.
    pub(in crate::state) redirects: bool,
    /// Age of the rules' object, to merge several.
    pub(in crate::state) created: Arc<str>,
    pub(in crate::state) table: Arc<RouteTable>,
}

/// Gives each draft its place. On a port whose servers disagree about what is spoken, the oldest is right (IST0145).
pub(in crate::state) fn assemble(mut drafts: Vec<Draft>, warnings: &mut Vec<Warning>) -> Edge {
    drafts.sort_by(|a, b| (&a.created, &a.origin).cmp(&(&b.created, &b.origin)));
    let mut by_port: BTreeMap<Bind, Vec<Draft>> = BTreeMap::new();
    for draft in drafts {
        let there = by_port.entry(draft.bind).or_default();
        match there.first() {
            Some(oldest) if oldest.protocol.transport() != draft.protocol.transport() => {
                let reason = format!(
                    "port {} is {} for the older {}: this server is not served (IST0145)",
                    draft.bind.port,
                    spoken(oldest.protocol.transport()),
                    oldest.origin
                );
                warnings.push(warning(&draft.origin, "port", reason));
            }
            _ => there.push(draft),
        }
    }
    Edge {
        ports: by_port
            .into_iter()
            .map(|(bind, drafts)| (bind, Arc::new(port(drafts, warnings))))
            .collect(),
    }
}

const fn spoken(transport: Transport) -> &'static str {
    match transport {
        Transport::Http => "HTTP",
        Transport::Tls => "TLS",
        Transport::Tcp => "TCP",
    }
}

/// One port; `drafts` are of one transport, oldest first.
fn port(drafts: Vec<Draft>, warnings: &mut Vec<Warning>) -> EdgePort {
    let transport = drafts.first().map_or(Transport::Tcp, |d| d.protocol.transport());
    let (shared, own): (Vec<_>, Vec<_>) = drafts
        .into_iter()
        .partition(|d| d.shared && transport == Transport::Http);
    let mut groups: Vec<Vec<Draft>> = own.into_iter().map(|draft| vec![draft]).collect();
    if !shared.is_empty() {
        groups.push(shared);
    }
    groups.sort_by(|a, b| {
        let age = |group: &[Draft]| group.first().map(|d| (Arc::clone(&d.created), d.origin.clone()));
        age(a).cmp(&age(b))
    });
    let mut listeners: Vec<Arc<Listener>> = Vec::new();
    let mut by_host = HostMap::default();
    for group in groups {
        let Some(listener) = listener(group) else { continue };
        for (i, host) in listener.hosts.iter().enumerate() {
            match by_host.entry(host) {
                Entry::Vacant(place) => {
                    place.insert(listeners.len());
                }
                Entry::Occupied(holder) if *holder.get() == listeners.len() => {}
                Entry::Occupied(holder) => {
                    let older = listeners.get(*holder.get()).map(|l| l.origin.to_string());
                    let reason = format!(
                        "host {host} of this port is served by the older {}",
                        older.unwrap_or_default()
                    );
                    warnings.push(warning(&listener.origin, &format!("hosts[{i}]"), reason));
                }
            }
        }
        listeners.push(Arc::new(listener));
    }
    EdgePort {
        transport,
        listeners,
        by_host,
    }
}

/// One listener of one draft, or of all that share a table.
fn listener(group: Vec<Draft>) -> Option<Listener> {
    let mut hosts: Vec<Arc<str>> = Vec::new();
    let mut wanted = Vec::new();
    let mut connections = Vec::new();
    let mut first = None;
    for draft in group {
        for host in &draft.hosts {
            if !hosts.contains(host) {
                hosts.push(Arc::clone(host));
            }
        }
        wanted.extend(draft.sites);
        connections.extend(draft.connections);
        first.get_or_insert((draft.origin, draft.name, draft.port, draft.protocol, draft.tls));
    }
    let (origin, name, port, protocol, tls) = first?;
    Some(Listener {
        origin,
        name,
        port,
        protocol,
        hosts,
        tls,
        sites: sites(wanted),
        connections,
    })
}

/// Rules for the same host become one table: oldest object first, catch-alls of all last (T-33).
fn sites(mut wanted: Vec<SiteDraft>) -> HostMap<Site> {
    wanted.sort_by(|a, b| {
        let key = |s: &SiteDraft| (!s.redirects, Arc::clone(&s.created), s.table.object.clone());
        key(a).cmp(&key(b))
    });
    let mut groups: HostMap<Vec<SiteDraft>> = HostMap::default();
    for draft in wanted {
        let group = groups.entry(&draft.pattern).or_default();
        let settled = group.first().is_some_and(|first| first.redirects);
        if !settled && !group.iter().any(|other| Arc::ptr_eq(&other.table, &draft.table)) {
            group.push(draft);
        }
    }
    let mut sites = HostMap::default();
    for (pattern, group) in groups.iter() {
        if let Some(first) = group.first() {
            sites.entry(&pattern).or_insert_with(|| Site {
                gateway: first.gateway.clone(),
                port: first.port,
                table: merged(first, group),
            });
        }
    }
    sites
}

fn merged(first: &SiteDraft, group: &[SiteDraft]) -> Arc<RouteTable> {
    if group.len() == 1 {
        return Arc::clone(&first.table);
    }
    let all = group.iter().flat_map(|draft| &draft.table.rules);
    let (last, mut rules): (Vec<_>, Vec<_>) = all.cloned().partition(RouteRule::is_catch_all);
    rules.extend(last);
    Arc::new(RouteTable {
        api: first.table.api,
        object: first.table.object.clone(),
        rules,
    })
}
