//! VirtualServices that are bound to gateways, cut down to what a server has of them.

use super::assemble::SiteDraft;
use crate::model::ObjectName;
use crate::model::connection::ConnectionTable;
use crate::model::gateway::{ListenerOrigin, ListenerProtocol, pattern_intersection};
use crate::model::route::{
    GatewayName, Origin, Outcome, Redirect, RequestMatch, RouteAction, RouteApi, RouteRule, RouteTable,
};
use crate::state::delegates;
use crate::state::tables::Tables;
use crate::translate::{ServerSpec, VirtualServiceSpec};
use std::collections::HashMap;
use std::sync::Arc;

/// Gateway → VirtualServices bound to it that the gateway's namespace sees, oldest first.
pub(super) struct Bound<'a> {
    tables: &'a Tables,
    bound: HashMap<&'a ObjectName, Vec<(&'a ObjectName, &'a VirtualServiceSpec)>>,
}

impl<'a> Bound<'a> {
    pub(super) fn index(tables: &'a Tables, namespace: &str) -> Self {
        let mut by_age: Vec<_> = tables
            .virtual_services
            .iter()
            .filter(|(_, spec)| spec.export_to.admits(Some(namespace)))
            .collect();
        by_age.sort_by_key(|(name, spec)| (&spec.created, *name));
        let mut bound: HashMap<_, Vec<_>> = HashMap::new();
        for (name, spec) in by_age {
            for gateway in &spec.gateways {
                if let GatewayName::Named(gateway) = gateway {
                    bound.entry(gateway).or_default().push((name, spec));
                }
            }
        }
        Self { tables, bound }
    }

    /// What a server has of them: the hosts that both name, with the rules that are for this gateway and port.
    pub(super) fn sites(&self, origin: &ListenerOrigin, server: &ServerSpec) -> Vec<SiteDraft> {
        let gateway = &origin.object;
        let draft = |pattern: &str, redirects: bool, created: &Arc<str>, table: &Arc<RouteTable>| SiteDraft {
            pattern: pattern.into(),
            gateway: gateway.clone(),
            port: server.port,
            redirects,
            created: Arc::clone(created),
            table: Arc::clone(table),
        };
        if server.https_redirect {
            // A host that no rule routes is redirected as well.
            let table = to_https(origin);
            let hosts = server.hosts.iter();
            return hosts
                .map(|h| draft(&h.pattern, true, &Arc::from(""), &table))
                .collect();
        }
        let mut sites = Vec::new();
        for (name, spec) in self.bound.get(gateway).into_iter().flatten() {
            let mut table = None;
            for host in &spec.hosts {
                let usable = server.hosts.iter().filter(|h| h.admits(&name.namespace));
                for pattern in usable.filter_map(|h| pattern_intersection(&h.pattern, host)) {
                    let table = table.get_or_insert_with(|| {
                        // What is wrong with its delegates is told where all VirtualServices are looked at.
                        let whole = delegates::table(self.tables, name, spec, &mut Vec::new());
                        for_server(&whole, gateway, server.port)
                    });
                    if !table.rules.is_empty() {
                        sites.push(draft(pattern, false, &spec.created, table));
                    }
                }
            }
        }
        sites
    }

    /// `tls` and `tcp` of those whose hosts the server shares, for a server that carries bytes.
    pub(super) fn connections(&self, gateway: &ObjectName, server: &ServerSpec) -> Vec<Arc<ConnectionTable>> {
        if matches!(server.protocol, ListenerProtocol::Http | ListenerProtocol::Https) {
            return Vec::new();
        }
        let shares = |name: &ObjectName, spec: &VirtualServiceSpec| {
            let mut usable = server.hosts.iter().filter(|h| h.admits(&name.namespace));
            usable.any(|h| {
                spec.hosts
                    .iter()
                    .any(|host| pattern_intersection(&h.pattern, host).is_some())
            })
        };
        let bound = self.bound.get(gateway).into_iter().flatten();
        bound
            .filter(|(name, spec)| shares(name, spec))
            .filter_map(|(_, spec)| spec.connections.clone())
            .collect()
    }
}

/// `httpsRedirect`: 301 to the same host, port and path.
fn to_https(origin: &ListenerOrigin) -> Arc<RouteTable> {
    let action = RouteAction::new(Outcome::Redirect(Box::new(Redirect {
        status: 301,
        scheme: Some("https".into()),
        ..Redirect::default()
    })));
    Arc::new(RouteTable {
        api: RouteApi::Istio,
        object: origin.object.clone(),
        rules: vec![RouteRule {
            origin: Origin {
                kind: origin.kind,
                object: origin.object.clone(),
                list: origin.list,
                index: origin.index,
            },
            name: "".into(),
            matches: Vec::new(),
            action: Arc::new(action),
        }],
    })
}

/// The rules of a VirtualService at one server: what `match.gateways` and `match.port` leave (T-13, T-15, T-16). The same
/// table where they leave everything.
fn for_server(table: &Arc<RouteTable>, gateway: &ObjectName, port: u16) -> Arc<RouteTable> {
    let conditional = |m: &RequestMatch| m.port.is_some() || !m.gateways.is_empty();
    let rules = &table.rules;
    if !rules.iter().flat_map(|r| &r.matches).any(conditional) {
        return Arc::clone(table);
    }
    Arc::new(RouteTable {
        api: table.api,
        object: table.object.clone(),
        rules: rules
            .iter()
            .filter_map(|rule| rule_for(rule, gateway, port))
            .collect(),
    })
}

fn rule_for(rule: &RouteRule, gateway: &ObjectName, port: u16) -> Option<RouteRule> {
    let here = |name: &GatewayName| matches!(name, GatewayName::Named(named) if named == gateway);
    let matches: Vec<RequestMatch> = rule
        .matches
        .iter()
        .filter(|m| m.gateways.is_empty() || m.gateways.iter().any(here))
        .filter(|m| m.port.is_none_or(|wanted| wanted == port))
        .map(|m| {
            let mut left = m.clone();
            if !left.gateways.is_empty() {
                left.source_labels = Vec::new();
                left.source_namespace = None;
            }
            left.gateways = Vec::new();
            left.port = None;
            left
        })
        .collect();
    if matches.is_empty() && !rule.matches.is_empty() {
        return None;
    }
    Some(RouteRule {
        matches,
        ..rule.clone()
    })
}
