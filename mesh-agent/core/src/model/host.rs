//! Host names: canonical form, and what a Host header may mean to a client.

use super::service::Service;
use super::snapshot::Snapshot;
use std::borrow::Cow;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

/// Lower case, without port and trailing dots; an IPv6 literal without brackets in its shortest form (T-03…T-05).
///
/// Idempotent. What is no host at all (`a:b:c`) comes back in lower case and then names nothing.
#[must_use]
pub fn canonical(authority: &str) -> Cow<'_, str> {
    let whole = authority.trim_end_matches('.');
    if let Some(v6) = literal_v6(whole) {
        return Cow::Owned(v6.to_string());
    }
    let host = match whole.split_once(':') {
        Some((host, port)) if !whole.starts_with('[') && port.bytes().all(|c| c.is_ascii_digit()) => {
            host.trim_end_matches('.')
        }
        _ => whole,
    };
    if host.bytes().any(|c| c.is_ascii_uppercase()) {
        Cow::Owned(host.to_ascii_lowercase())
    } else {
        Cow::Borrowed(host)
    }
}

/// `::1`, `[::1]` or `[::1]:80`.
fn literal_v6(host: &str) -> Option<Ipv6Addr> {
    let Some(open) = host.strip_prefix('[') else {
        return host.parse().ok();
    };
    let (inner, rest) = open.split_once(']')?;
    let port = rest.is_empty()
        || rest
            .strip_prefix(':')
            .is_some_and(|p| p.bytes().all(|c| c.is_ascii_digit()));
    if port { inner.parse().ok() } else { None }
}

/// A `host` of a VirtualService or DestinationRule made absolute: a name without dots lies in the *rule's* namespace,
/// anything else is taken as it is (T-01, T-02).
#[must_use]
pub fn absolute(host: &str, rule_namespace: &str, cluster_domain: &str) -> Arc<str> {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    if host.contains(['.', '*', ':']) {
        host.into()
    } else {
        format!("{host}.{rule_namespace}.svc.{cluster_domain}").into()
    }
}

/// The service that a canonical host names for a client: its full name, `svc.ns.svc` and `svc.ns` from anywhere,
/// `svc` from its own namespace, or one of its virtual addresses.
#[must_use]
pub fn service_named<'a>(
    snapshot: &'a Snapshot,
    host: &str,
    client_namespace: Option<&str>,
) -> Option<&'a Arc<Service>> {
    if let Some(service) = snapshot.service_by_host(host, client_namespace) {
        return Some(service);
    }
    match host.split_once('.') {
        None => match client_namespace {
            Some(namespace) => service_by_name(snapshot, namespace, host),
            None => None,
        },
        Some((name, namespace)) if !namespace.contains('.') => service_by_name(snapshot, namespace, name),
        Some((name, rest)) => match rest.strip_suffix(".svc") {
            Some(namespace) if !namespace.contains('.') => service_by_name(snapshot, namespace, name),
            _ => None,
        },
    }
    .or_else(|| snapshot.services_by_vip.get(&host.parse::<IpAddr>().ok()?))
}

/// The headless service that `pod.svc.ns…` belongs to (T-10).
#[must_use]
pub fn headless_parent<'a>(
    snapshot: &'a Snapshot,
    host: &str,
    client_namespace: Option<&str>,
) -> Option<&'a Arc<Service>> {
    let (_, parent) = host.split_once('.')?;
    service_named(snapshot, parent, client_namespace).filter(|s| s.vips.is_empty())
}

/// The service with this name; `snapshot.services` is sorted, so nothing is allocated to look it up.
#[must_use]
pub fn service_by_name<'a>(snapshot: &'a Snapshot, namespace: &str, name: &str) -> Option<&'a Arc<Service>> {
    let services = &snapshot.services;
    let place = services
        .binary_search_by(|s| (&*s.name.namespace, &*s.name.name).cmp(&(namespace, name)))
        .ok()?;
    services.get(place)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn case_port_and_trailing_dot_do_not_change_what_a_host_means() {
        for (sent, canonical_form) in [
            ("reviews", "reviews"),
            ("Reviews:9080", "reviews"),
            (
                "reviews.NS.svc.cluster.local.:9080",
                "reviews.ns.svc.cluster.local",
            ),
            ("reviews.ns.svc.cluster.local.", "reviews.ns.svc.cluster.local"),
            ("10.0.0.1:80", "10.0.0.1"),
            ("[FD00::0:1]:80", "fd00::1"),
            ("[::1]", "::1"),
            ("::1", "::1"),
            ("[a:80]", "[a:80]"),
            ("a:b", "a:b"),
            ("", ""),
            (":80", ""),
        ] {
            assert_eq!(canonical(sent), canonical_form, "{sent:?}");
        }
    }

    #[test]
    fn a_rule_resolves_short_names_in_its_own_namespace_and_leaves_dotted_ones_alone() {
        for (host, full) in [
            ("reviews", "reviews.istio-system.svc.cluster.local"),
            ("Reviews", "reviews.istio-system.svc.cluster.local"),
            ("reviews.prod", "reviews.prod"),
            ("*.example.com", "*.example.com"),
            ("*", "*"),
            ("10.0.0.1", "10.0.0.1"),
        ] {
            assert_eq!(&*absolute(host, "istio-system", "cluster.local"), full);
        }
    }

    proptest! {
        #[test]
        fn canonical_is_idempotent(host in "\\PC*|[a-zA-Z0-9.:\\[\\]]{0,20}") {
            let once = canonical(&host).into_owned();
            prop_assert_eq!(canonical(&once).into_owned(), once.clone());
        }
    }
}
