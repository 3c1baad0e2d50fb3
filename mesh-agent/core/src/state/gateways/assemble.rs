//! Listeners of all APIs → ports, with the rules for those that cannot stand side by side.

use super::warning;
use crate::model::ObjectName;
use crate::model::gateway::{
    Bind, Edge, EdgePort, HostMap, Listener, ListenerOrigin, ListenerProtocol, ServerTls, Site, Transport,
};
use crate::model::route::RouteTable;
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
}

/// Rules that want a host of a listener.
pub(in crate::state) struct SiteDraft {
    pub(in crate::state) pattern: Arc<str>,
    /// The `Gateway` by which they are bound.
    pub(in crate::state) gateway: ObjectName,
    pub(in crate::state) port: u16,
    pub(in crate::state) https_redirect: bool,
    /// Age of the rules' object, to merge several.
    pub(in crate::state) created: Arc<str>,
    pub(in crate::state) table: Option<Arc<RouteTable>>,
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
    let mut first = None;
    for draft in group {
        for host in &draft.hosts {
            if !hosts.contains(host) {
                hosts.push(Arc::clone(host));
            }
        }
        wanted.extend(draft.sites);
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
    })
}

/// Rules for the same host become one table: oldest object first, catch-alls of all last (T-33).
fn sites(mut wanted: Vec<SiteDraft>) -> HostMap<Site> {
    wanted.sort_by(|a, b| {
        let object = |s: &SiteDraft| s.table.as_ref().map(|t| t.object.clone());
        (&a.created, object(a)).cmp(&(&b.created, object(b)))
    });
    let mut sites: HostMap<(Site, Vec<Arc<RouteTable>>)> = HostMap::default();
    for draft in wanted {
        let (site, tables) = sites.entry(&draft.pattern).or_insert_with(|| {
            let site = Site {
                gateway: draft.gateway,
                port: draft.port,
                https_redirect: false,
                table: None,
            };
            (site, Vec::new())
        });
        site.https_redirect |= draft.https_redirect;
        if let Some(table) = draft.table
            && !tables.iter().any(|t| Arc::ptr_eq(t, &table))
        {
            tables.push(table);
        }
    }
    let mut finished = HostMap::default();
    for (pattern, (site, tables)) in sites.iter() {
        let site = Site {
            table: merged(tables),
            ..site.clone()
        };
        finished.entry(&pattern).or_insert(site);
    }
    finished
}

fn merged(tables: &[Arc<RouteTable>]) -> Option<Arc<RouteTable>> {
    let (first, rest) = tables.split_first()?;
    if rest.is_empty() {
        return Some(Arc::clone(first));
    }
    let all = tables.iter().flat_map(|t| &t.rules);
    let (last, mut rules): (Vec<_>, Vec<_>) = all
        .cloned()
        .partition(crate::model::route::RouteRule::is_catch_all);
    rules.extend(last);
    Some(Arc::new(RouteTable {
        api: first.api,
        object: first.object.clone(),
        rules,
    }))
}
