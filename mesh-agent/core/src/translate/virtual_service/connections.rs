//! `tls[]` and `tcp[]`.

use super::destinations::connection_split;
use super::{Scope, matches, raw};
use crate::model::connection::{ConnectionMatch, ConnectionRule, ConnectionTable};
use crate::model::route::{Origin, RouteApi};
use crate::translate::value::{FieldError, is_label, is_subdomain};
use ipnet::IpNet;
use std::net::IpAddr;
use std::sync::Arc;

/// `None` if the object has no rules for connections.
pub(super) fn table(
    tls: Vec<raw::TlsRoute>,
    tcp: Vec<raw::TcpRoute>,
    hosts: &[Arc<str>],
    scope: &Scope<'_>,
) -> Result<Option<Arc<ConnectionTable>>, FieldError> {
    if tls.is_empty() && tcp.is_empty() {
        return Ok(None);
    }
    let mut table = ConnectionTable {
        api: RouteApi::Istio,
        object: scope.object.clone(),
        tls: Vec::new(),
        tcp: Vec::new(),
    };
    for (index, route) in tls.into_iter().enumerate() {
        table.tls.push(tls_rule(index, route, hosts, scope)?);
    }
    for (index, route) in tcp.into_iter().enumerate() {
        table.tcp.push(tcp_rule(index, route, scope)?);
    }
    Ok(Some(Arc::new(table)))
}

fn tls_rule(
    index: usize,
    raw: raw::TlsRoute,
    hosts: &[Arc<str>],
    scope: &Scope<'_>,
) -> Result<ConnectionRule, FieldError> {
    let at = format!("spec.tls[{index}]");
    let given = raw.r#match.unwrap_or_default();
    if given.is_empty() {
        let reason = "is missing: TLS route must have at least one match condition";
        return Err(FieldError::new(format!("{at}.match"), reason));
    }
    let mut blocks = Vec::new();
    for (i, block) in given.into_iter().enumerate() {
        let at = format!("{at}.match[{i}]");
        let sni = sni(
            &format!("{at}.sniHosts"),
            block.sni_hosts.unwrap_or_default(),
            hosts,
        )?;
        let rest = raw::L4Match {
            destination_subnets: block.destination_subnets,
            port: block.port,
            source_subnet: None,
            source_labels: block.source_labels,
            gateways: block.gateways,
            source_namespace: block.source_namespace,
        };
        blocks.push(ConnectionMatch {
            sni,
            ..l4(&at, rest, scope)?
        });
    }
    finish(&at, "spec.tls", index, blocks, raw.route, scope)
}

fn tcp_rule(index: usize, raw: raw::TcpRoute, scope: &Scope<'_>) -> Result<ConnectionRule, FieldError> {
    let at = format!("spec.tcp[{index}]");
    let mut blocks = Vec::new();
    for (i, block) in raw.r#match.into_iter().flatten().enumerate() {
        blocks.push(l4(&format!("{at}.match[{i}]"), block, scope)?);
    }
    finish(&at, "spec.tcp", index, blocks, raw.route, scope)
}

fn finish(
    at: &str,
    list: &'static str,
    index: usize,
    matches: Vec<ConnectionMatch>,
    route: Option<Vec<raw::L4Destination>>,
    scope: &Scope<'_>,
) -> Result<ConnectionRule, FieldError> {
    Ok(ConnectionRule {
        origin: Origin {
            kind: "VirtualService",
            object: scope.object.clone(),
            list,
            index,
        },
        matches,
        split: connection_split(at, route, scope)?,
    })
}

/// Server names, each of which must lie inside of one of the object's hosts.
fn sni(at: &str, given: Vec<String>, hosts: &[Arc<str>]) -> Result<Vec<Arc<str>>, FieldError> {
    if given.is_empty() {
        let reason = "is missing: TLS match must have at least one SNI host";
        return Err(FieldError::new(at, reason));
    }
    let mut names = Vec::new();
    for (i, name) in given.iter().enumerate() {
        let bad = |reason: String| Err(FieldError::new(format!("{at}[{i}]"), reason));
        let lower = name.to_ascii_lowercase();
        if lower.parse::<IpAddr>().is_ok() {
            return bad("using an IP address goes against SNI spec".into());
        }
        if lower != "*" && !is_subdomain(lower.strip_prefix("*.").unwrap_or(&lower)) {
            return bad("is no DNS name".into());
        }
        if !hosts.iter().any(|host| inside(&lower, host)) {
            let reason =
                format!("SNI host {name:?} is not a compatible subset of any of the virtual service hosts");
            return bad(reason);
        }
        names.push(lower.strip_prefix('*').unwrap_or(&lower).into());
    }
    Ok(names)
}

/// Whether every name that `inner` covers is covered by `outer`.
fn inside(inner: &str, outer: &str) -> bool {
    match outer.strip_prefix('*') {
        Some(suffix) => inner.ends_with(suffix),
        None => inner == outer,
    }
}

fn l4(at: &str, raw: raw::L4Match, scope: &Scope<'_>) -> Result<ConnectionMatch, FieldError> {
    if raw.port == Some(0) {
        return Err(FieldError::new(format!("{at}.port"), "expected 1 to 65535"));
    }
    let source_namespace = raw.source_namespace.filter(|ns| !ns.is_empty());
    if source_namespace.as_ref().is_some_and(|ns| !is_label(ns)) {
        return Err(FieldError::new(
            format!("{at}.sourceNamespace"),
            "is no namespace",
        ));
    }
    let mut destinations = Vec::new();
    for (i, text) in raw.destination_subnets.into_iter().flatten().enumerate() {
        destinations.push(subnet(&format!("{at}.destinationSubnets[{i}]"), &text)?);
    }
    let source = raw.source_subnet.filter(|text| !text.is_empty());
    let source = source.map(|text| subnet(&format!("{at}.sourceSubnet"), &text));
    let labels = raw.source_labels.into_iter().flatten();
    let gateways = raw.gateways.unwrap_or_default();
    let mut compiled = ConnectionMatch {
        sni: Vec::new(),
        destinations,
        port: raw.port,
        source: source.transpose()?,
        source_labels: labels.map(|(k, v)| (k.into(), v.into())).collect(),
        source_namespace: source_namespace.map(Into::into),
        gateways: matches::gateways(&format!("{at}.gateways"), gateways, scope.namespace)?,
    };
    if !compiled.gateways.is_empty() {
        // As for HTTP (T-15).
        compiled.source_labels = Vec::new();
        compiled.source_namespace = None;
    }
    Ok(compiled)
}

/// `10.0.0.0/8`, or an address alone.
fn subnet(at: &str, text: &str) -> Result<IpNet, FieldError> {
    let alone = text.parse::<IpAddr>().map(IpNet::from);
    let net = alone.or_else(|_| text.parse::<IpNet>());
    net.map_err(|_| FieldError::new(at, "expected an address or CIDR, like 10.1.0.0/16"))
}
