//! Requests at a gateway: what the gateway says of their client, and where their Host leads.

use super::super::edge::EdgeConn;
use super::super::outbound::Outbound;
use super::headers::View;
use super::plan::{self, Own, Plan};
use crate::telemetry::labels::UNKNOWN;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use mesh_core::model::snapshot::{Snapshot, Target};
use mesh_core::routing::{self, Decision, Refusal, RequestFacts};
use std::net::IpAddr;

/// Says in the request who its client is. What the client itself says of that counts only as far as `trusted_hops`
/// proxies in front of the gateway are trusted (Envoy's `use_remote_address` with `xff_num_trusted_hops`).
pub(super) fn dress(
    headers: &mut HeaderMap,
    peer: IpAddr,
    edge: &EdgeConn,
    authority: &HeaderValue,
    trusted_hops: usize,
) {
    let trusts = trusted_hops > 0;
    let told: Vec<String> = headers
        .get_all(FORWARDED_FOR)
        .iter()
        .flat_map(|v| v.to_str().unwrap_or_default().split(','))
        .map(|v| v.trim().to_owned())
        .filter(|v| !v.is_empty())
        .collect();
    let client = trusted_client(&told, peer, trusted_hops);
    let all = told.iter().map(String::as_str);
    let peer_text = peer.to_string();
    let line: Vec<&str> = all.chain([&*peer_text]).collect();
    if let Ok(value) = HeaderValue::from_str(&line.join(", ")) {
        headers.insert(FORWARDED_FOR, value);
    }
    if !trusts || !headers.contains_key(FORWARDED_PROTO) {
        headers.insert(FORWARDED_PROTO, HeaderValue::from_static(scheme(edge)));
    }
    if !trusts || !headers.contains_key(FORWARDED_HOST) {
        headers.insert(FORWARDED_HOST, authority.clone());
    }
    if let Some(client) = client.filter(|ip| is_external(*ip))
        && let Ok(value) = HeaderValue::from_str(&client.to_string())
    {
        headers.insert(EXTERNAL_ADDRESS, value);
    }
    headers.remove(CLIENT_CERT);
    if let Some(shown) = edge.tls.as_ref().and_then(|tls| tls.client_cert.clone()) {
        headers.insert(CLIENT_CERT, shown);
    }
}

/// The address that the last trusted proxy has seen.
fn trusted_client(told: &[String], peer: IpAddr, hops: usize) -> Option<IpAddr> {
    let Some(back) = hops.checked_sub(1) else {
        return Some(peer);
    };
    match told.len().checked_sub(back + 1).and_then(|at| told.get(at)) {
        Some(text) => text.parse::<IpAddr>().ok().map(|ip| ip.to_canonical()),
        None => Some(peer),
    }
}

/// RFC 1918, RFC 4193, loopback and link-local are inside.
fn is_external(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => !(ip.is_private() || ip.is_loopback() || ip.is_link_local()),
        IpAddr::V6(ip) => !(ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local()),
    }
}

const fn scheme(edge: &EdgeConn) -> &'static str {
    if edge.tls.is_some() { "https" } else { "http" }
}

/// Decides on a request by the gateway's own tables.
pub(super) fn decide(
    conn: &Outbound,
    edge: &EdgeConn,
    snapshot: &Snapshot,
    parts: &Parts,
    authority: &HeaderValue,
) -> Result<Plan, Own> {
    let names = || conn.worker.meter.named(UNKNOWN);
    let Some(port) = snapshot.edge.ports.get(&edge.bind) else {
        let refusal = Refusal {
            status: 404,
            flag: "NR",
            detail: "the port is not served any more".into(),
        };
        return Err(Own::Refuse(refusal, names()));
    };
    let target = Target::Unknown;
    let facts = RequestFacts {
        client: Some(&conn.source),
        gateway: None,
        target: &target,
        port: edge.bind.port,
        dialled: None,
        method: parts.method.as_str(),
        scheme: scheme(edge),
        authority: authority.to_str().unwrap_or_default(),
        path: parts.uri.path_and_query().map_or("/", |p| p.as_str()),
        headers: &View(&parts.headers),
    };
    match routing::route_at_gateway(snapshot, port, edge.listener.as_ref(), &facts, plan::draws()) {
        Decision::Forward(plan) => Ok(plan::forward(conn, snapshot, &target, plan)),
        Decision::Answer(answer) => Err(Own::Answer(Box::new(answer), names())),
        Decision::Refuse(refusal) => Err(Own::Refuse(refusal, names())),
    }
}

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const EXTERNAL_ADDRESS: HeaderName = HeaderName::from_static("x-envoy-external-address");
const CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_core::model::gateway::Bind;

    fn dressed(sent: &[(&'static str, &'static str)], hops: usize) -> Vec<(String, String)> {
        let mut headers = HeaderMap::new();
        for (name, value) in sent {
            headers.append(*name, HeaderValue::from_static(value));
        }
        let edge = EdgeConn {
            bind: Bind {
                port: 8080,
                address: None,
            },
            listener: None,
            tls: None,
        };
        let authority = HeaderValue::from_static("shop.example.com");
        dress(&mut headers, [198, 51, 100, 7].into(), &edge, &authority, hops);
        let text = |v: &HeaderValue| v.to_str().unwrap().to_owned();
        let mut all: Vec<_> = headers.iter().map(|(n, v)| (n.to_string(), text(v))).collect();
        all.sort();
        all
    }

    fn of(all: &[(String, String)], name: &str) -> Option<String> {
        let found = all.iter().find(|(n, _)| n == name);
        found.map(|(_, v)| v.clone())
    }

    #[test]
    fn what_a_client_says_of_itself_is_not_believed() {
        let all = dressed(
            &[
                ("x-forwarded-for", "1.2.3.4"),
                ("x-forwarded-proto", "https"),
                ("x-forwarded-host", "evil.example.com"),
                ("x-forwarded-client-cert", "By=me"),
            ],
            0,
        );
        assert_eq!(
            of(&all, "x-forwarded-for").as_deref(),
            Some("1.2.3.4, 198.51.100.7")
        );
        assert_eq!(of(&all, "x-forwarded-proto").as_deref(), Some("http"));
        assert_eq!(of(&all, "x-forwarded-host").as_deref(), Some("shop.example.com"));
        assert_eq!(of(&all, "x-forwarded-client-cert"), None);
        assert_eq!(
            of(&all, "x-envoy-external-address").as_deref(),
            Some("198.51.100.7")
        );
    }

    /// numTrustedProxies: the address that the outermost trusted proxy has seen.
    #[test]
    fn trusted_proxies_say_who_the_client_is() {
        let sent = [
            ("x-forwarded-for", "9.9.9.9, 203.0.113.5"),
            ("x-forwarded-for", "192.0.2.1"),
            ("x-forwarded-proto", "https"),
        ];
        for (hops, client) in [
            (1, "192.0.2.1"),
            (2, "203.0.113.5"),
            (3, "9.9.9.9"),
            (4, "198.51.100.7"),
        ] {
            let all = dressed(&sent, hops);
            assert_eq!(
                of(&all, "x-envoy-external-address").as_deref(),
                Some(client),
                "{hops}"
            );
            assert_eq!(of(&all, "x-forwarded-proto").as_deref(), Some("https"));
        }
    }

    #[test]
    fn addresses_of_private_networks_are_not_external() {
        for inside in [
            "10.1.2.3",
            "127.0.0.1",
            "169.254.1.1",
            "fd00::1",
            "::1",
            "fe80::1",
        ] {
            assert!(!is_external(inside.parse().unwrap()), "{inside}");
        }
        assert!(is_external("2001:db8::1".parse().unwrap()));
    }
}
