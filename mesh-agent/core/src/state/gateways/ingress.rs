//! Ingresses, as servers of the gateways that have Istio's label for it (`ingressSelector`).

use super::assemble::{Draft, SiteDraft};
use super::{credentials, listening_port, warning};
use crate::model::ObjectName;
use crate::model::gateway::{Bind, GatewayRole, ListenerOrigin, ListenerProtocol, TlsMode, TlsVersion};
use crate::model::route::{
    Backend, Destination, Origin, RequestMatch, RouteAction, RouteApi, RouteRule, RouteTable, Split,
    StringMatch, WeightedDestination,
};
use crate::model::snapshot::MeshSettings;
use crate::state::tables::Tables;
use crate::state::world::Warning;
use crate::translate::{CertificateRef, IngressPath, IngressSpec, PortRef, ServerTlsSpec};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Whether the process serves Ingresses at all.
pub(super) fn is_concerned(role: &GatewayRole) -> bool {
    role.labels.get("istio").is_some_and(|v| &**v == "ingressgateway")
}

/// One server on port 80 for all of them, and one on 443 for each entry of `tls`.
pub(super) fn drafts(
    role: &GatewayRole,
    tables: &Tables,
    settings: &MeshSettings,
    warnings: &mut Vec<Warning>,
) -> Vec<Draft> {
    if !is_concerned(role) {
        return Vec::new();
    }
    let by_host = tables_by_host(tables, settings);
    let mut drafts = Vec::new();
    let mut oldest: Vec<_> = tables.ingresses.iter().collect();
    oldest.sort_by_key(|(name, spec)| (&spec.created, *name));
    for (name, spec) in &oldest {
        for (index, tls) in spec.tls.iter().enumerate() {
            let origin = origin(name, "spec.tls", index);
            let settings = credentials::server_tls(tables, &role.pod.namespace, &simple(&tls.secret));
            if let Some(reason) = &settings.broken {
                let reason = format!(
                    "{reason}: nothing is served (a Secret is looked for in the namespace of the gateway)"
                );
                warnings.push(warning(&origin, "secretName", reason));
            }
            drafts.push(Draft {
                tls: Some(Arc::new(settings)),
                protocol: ListenerProtocol::Https,
                sites: sites(&by_host, &tls.hosts, name, 443),
                ..draft(role, tables, origin, spec, tls.hosts.clone(), 443)
            });
        }
    }
    if let Some((name, spec)) = oldest.first() {
        let hosts: Vec<Arc<str>> = by_host.keys().cloned().collect();
        drafts.push(Draft {
            sites: sites(&by_host, &hosts, name, 80),
            ..draft(role, tables, origin(name, "spec.rules", 0), spec, hosts, 80)
        });
    }
    drafts
}

fn origin(name: &ObjectName, list: &'static str, index: usize) -> ListenerOrigin {
    ListenerOrigin {
        kind: "Ingress",
        group: "networking.k8s.io",
        object: name.clone(),
        list,
        index,
    }
}

fn draft(
    role: &GatewayRole,
    tables: &Tables,
    origin: ListenerOrigin,
    spec: &IngressSpec,
    hosts: Vec<Arc<str>>,
    port: u16,
) -> Draft {
    Draft {
        origin,
        created: Arc::clone(&spec.created),
        bind: Bind {
            port: listening_port(role, tables, port),
            address: None,
        },
        name: "".into(),
        port,
        protocol: ListenerProtocol::Http,
        hosts,
        tls: None,
        shared: true,
        sites: Vec::new(),
        connections: Vec::new(),
    }
}

fn simple(secret: &Arc<str>) -> ServerTlsSpec {
    ServerTlsSpec {
        mode: TlsMode::Simple,
        certificates: vec![CertificateRef::Secret(Arc::clone(secret))],
        authorities: None,
        revoked: None,
        names: Vec::new(),
        spki_hashes: Vec::new(),
        hashes: Vec::new(),
        skip_verify: false,
        min: TlsVersion::V12,
        max: TlsVersion::V13,
        cipher_suites: Vec::new(),
        http: true,
    }
}

/// The tables of these hosts; of a wildcard in `tls` also those of the hosts that it covers.
fn sites(
    by_host: &BTreeMap<Arc<str>, Arc<RouteTable>>,
    hosts: &[Arc<str>],
    gateway: &ObjectName,
    port: u16,
) -> Vec<SiteDraft> {
    use crate::model::gateway::pattern_intersection;
    let mut sites = Vec::new();
    for host in hosts {
        for (pattern, table) in by_host {
            if let Some(shared) = pattern_intersection(host, pattern) {
                sites.push(SiteDraft {
                    pattern: shared.into(),
                    gateway: gateway.clone(),
                    port,
                    redirects: false,
                    created: "".into(),
                    table: Arc::clone(table),
                });
            }
        }
    }
    // Of `*` and `a.example.com`, both of which meet `a.example.com`, the narrower rules count.
    sites.sort_by_key(|site| std::cmp::Reverse(specificity(by_host, &site.table)));
    let mut kept: Vec<SiteDraft> = Vec::new();
    for site in sites {
        if !kept.iter().any(|other| other.pattern == site.pattern) {
            kept.push(site);
        }
    }
    kept
}

fn specificity(by_host: &BTreeMap<Arc<str>, Arc<RouteTable>>, table: &Arc<RouteTable>) -> (bool, usize) {
    let host = by_host.iter().find(|(_, t)| Arc::ptr_eq(t, table));
    host.map_or((false, 0), |(host, _)| (!host.starts_with('*'), host.len()))
}

/// A path, with name and age of its Ingress.
type Dated<'a> = (&'a ObjectName, &'a Arc<str>, &'a IngressPath);

/// All paths of all Ingresses: exact before prefix, long before short, old before young.
fn tables_by_host(tables: &Tables, settings: &MeshSettings) -> BTreeMap<Arc<str>, Arc<RouteTable>> {
    let mut all: BTreeMap<&Arc<str>, Vec<Dated<'_>>> = BTreeMap::new();
    for (name, spec) in &tables.ingresses {
        for path in &spec.paths {
            all.entry(&path.host)
                .or_default()
                .push((name, &spec.created, path));
        }
    }
    let table = |mut paths: Vec<Dated<'_>>| {
        paths.sort_by_key(|(name, created, p)| (!p.exact, std::cmp::Reverse(p.path.len()), *created, *name));
        let object = paths
            .first()
            .map_or_else(|| ObjectName::new("", ""), |(name, ..)| (*name).clone());
        Arc::new(RouteTable {
            api: RouteApi::Istio,
            object,
            rules: paths
                .into_iter()
                .map(|(name, _, path)| rule(tables, settings, name, path))
                .collect(),
        })
    };
    all.into_iter()
        .map(|(host, paths)| (Arc::clone(host), table(paths)))
        .collect()
}

fn rule(tables: &Tables, settings: &MeshSettings, name: &ObjectName, path: &IngressPath) -> RouteRule {
    let service = ObjectName::new(Arc::clone(&name.namespace), Arc::clone(&path.service));
    let port = match &path.port {
        PortRef::Number(number) => Some(*number),
        PortRef::Name(wanted) => tables.service(&service).and_then(|spec| {
            let found = spec.ports.iter().find(|p| p.name == *wanted)?;
            Some(found.number)
        }),
    };
    let backend = match port {
        Some(port) => Backend::Host(Destination {
            host: settings.host_of(&service),
            subset: None,
            port: Some(port),
        }),
        None => Backend::Invalid(format!("service {service} has no such port").into()),
    };
    let uri = if path.exact {
        StringMatch::Exact(Arc::clone(&path.path))
    } else {
        StringMatch::PathPrefix(Arc::clone(&path.path))
    };
    RouteRule {
        origin: Origin {
            kind: "Ingress",
            object: name.clone(),
            list: "spec.rules",
            index: path.rule,
        },
        name: "".into(),
        matches: vec![RequestMatch {
            uri: Some(uri),
            ..RequestMatch::default()
        }],
        action: Arc::new(RouteAction::forward(Split {
            destinations: vec![WeightedDestination {
                weight: 1,
                index: 0,
                backend,
                headers: None,
            }],
            total_weight: 1,
        })),
    }
}
