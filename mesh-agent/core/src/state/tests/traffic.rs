//! Any order of changes of what is said of services: what counts is what is there in the end.

use super::remote::{delete, node, put, service};
use super::*;
use serde_json::json;
use std::fmt::Debug;

const NAMESPACES: [&str; 2] = ["shop", "other"];
const HOSTS: [&str; 7] = [
    "s0.shop.svc.cluster.local",
    "s1.shop.svc.cluster.local",
    "*.shop.svc.cluster.local",
    "a.example.com",
    "*.example.com",
    "*.com",
    "nowhere.example.org",
];
const DESTINATIONS: [&str; 4] = [HOSTS[0], HOSTS[1], HOSTS[3], HOSTS[6]];
const ENTRIES: [&str; 3] = ["a.example.com", "*.example.com", "s0.shop.svc.cluster.local"];
const SEEN_BY: [&[&str]; 3] = [&["*"], &["."], &["other", "shop"]];

/// Two of each kind, in namespaces of their own; `version` chooses what they say.
fn object(which: u8, version: u8) -> Value {
    let (kind, number) = (which / 2, usize::from(which % 2));
    let v = usize::from(version);
    let (host, other) = (HOSTS[v % HOSTS.len()], DESTINATIONS[(v / 3) % DESTINATIONS.len()]);
    let seen_by = SEEN_BY[v % SEEN_BY.len()];
    let (group, kind, namespace, spec) = match kind {
        0 => {
            let mut service = service(&format!("s{number}"));
            service["spec"]["ports"] = json!([
                {"name": if v % 2 == 0 { "http" } else { "tcp" }, "port": 80}, {"name": "tls", "port": 443 + v % 2},
            ]);
            return service;
        }
        1 => (
            "networking.istio.io/v1",
            "VirtualService",
            NAMESPACES[number],
            json!({"hosts": if v % 5 == 0 { json!([]) } else { json!([host, format!("x{v}.example.com")]) }, "exportTo": seen_by,
                "http": [{"name": format!("r{v}"), "route": [{"destination": {"host": other, "subset": "v1"}}]}]}),
        ),
        2 => (
            "networking.istio.io/v1",
            "VirtualService",
            "shop",
            json!({"hosts": [host], "exportTo": ["*"],
                "http": [{"match": [{"uri": {"prefix": "/"}}], "delegate": {"namespace": NAMESPACES[v % 2], "name": "o1-0"}}],
                "tcp": [{"match": [{"port": 80 + v % 2}], "route": [{"destination": {"host": other}}]}]}),
        ),
        3 => (
            "networking.istio.io/v1",
            "DestinationRule",
            NAMESPACES[number],
            json!({"host": host, "exportTo": seen_by, "subsets": [{"name": "v1", "labels": {"version": format!("v{v}")}}],
                "trafficPolicy": {"connectionPool": {"tcp": {"maxConnections": v + 1}}}}),
        ),
        4 => (
            "gateway.networking.k8s.io/v1",
            "BackendTLSPolicy",
            "shop",
            json!({"targetRefs": [{"group": "", "kind": "Service", "name": format!("s{}", v % 3),
                    "sectionName": if v % 2 == 0 { "tls" } else { "tcp" }}],
                "validation": {"hostname": "a.example.com",
                    "caCertificateRefs": [{"group": "", "kind": "ConfigMap", "name": "ca"}]}}),
        ),
        5 => (
            "gateway.networking.x-k8s.io/v1alpha1",
            "XBackendTrafficPolicy",
            "shop",
            json!({"targetRefs": [{"group": "", "kind": "Service", "name": format!("s{}", v % 3)}],
                "retryConstraint": {"budget": {"percent": 20 + v}}}),
        ),
        6 => (
            "networking.istio.io/v1",
            "ServiceEntry",
            NAMESPACES[number],
            json!({"hosts": [ENTRIES[v % 3]], "exportTo": seen_by,
                "resolution": "NONE", "ports": [{"number": 80 + v % 2, "name": "tcp", "protocol": "TCP"}]}),
        ),
        7 => (
            "gateway.networking.k8s.io/v1",
            "HTTPRoute",
            NAMESPACES[number],
            json!({"parentRefs": [{"group": "", "kind": "Service", "name": format!("s{}", v % 2), "namespace": "shop"}],
                "rules": [{"backendRefs": [{"name": format!("s{}", v % 3), "namespace": "shop", "port": 80}]}]}),
        ),
        8 => (
            "security.istio.io/v1",
            "PeerAuthentication",
            "shop",
            json!({"selector": {"matchLabels": {"app": format!("s{}", v % 2)}}, "mtls": {"mode": "STRICT"}}),
        ),
        _ => {
            let bundle = [
                "",
                "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n",
            ][v % 2];
            return json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "ca", "namespace": "shop"},
                "data": {"ca.crt": bundle}});
        }
    };
    // An object that is created again may be younger than others that it was older than.
    let created = format!("2026-01-01T00:00:0{}Z", v % 3);
    json!({"apiVersion": group, "kind": kind, "spec": spec,
        "metadata": {"name": format!("o{}-{number}", which / 2), "namespace": namespace, "creationTimestamp": created}})
}

fn sorted<T: Debug>(items: impl IntoIterator<Item = T>) -> Vec<String> {
    let mut items: Vec<String> = items.into_iter().map(|item| format!("{item:?}")).collect();
    items.sort();
    items
}

/// What a snapshot says of services, but for the numbers of ports.
fn meaning(state: &mut State) -> Vec<Vec<String>> {
    let snapshot = state.snapshot();
    let ports = snapshot.services.iter().flat_map(|service| {
        let steered = |id: u32| snapshot.steered.contains(&id);
        let port = move |p: &Arc<crate::model::service::ServicePort>| (p.number, p.protocol, steered(p.id));
        service
            .ports
            .iter()
            .map(move |p| (service.name.clone(), service.vips.clone(), port(p)))
    });
    let all_ids: BTreeSet<u32> = snapshot
        .services
        .iter()
        .flat_map(|s| &s.ports)
        .map(|p| p.id)
        .collect();
    assert!(
        snapshot.steered.iter().all(|id| all_ids.contains(id)),
        "a port that is gone"
    );
    let scoped = snapshot.scoped_routes.iter();
    let found = |host: &str| snapshot.service_by_host(host, Some("shop"));
    vec![
        sorted(ports),
        sorted(&snapshot.routes),
        sorted(scoped.flat_map(|(ns, routes)| routes.iter().map(move |route| (ns, route)))),
        sorted([snapshot.connections.is_empty()]),
        sorted(HOSTS.iter().map(|host| snapshot.connections.of(host))),
        sorted(&snapshot.subsets),
        sorted(&snapshot.vouched),
        sorted(&snapshot.backend_policies),
        sorted(&snapshot.attached),
        sorted(
            HOSTS
                .iter()
                .map(|host| found(host).map(|s| (&s.name, &s.external))),
        ),
        sorted(state.problems().into_iter().map(|p| p.rejected)),
    ]
}

proptest! {
    /// Of each step: which object, and which of its versions; `None` = it is gone.
    #[test]
    fn any_history_of_rules_leads_to_what_the_last_ones_mean(
        steps in prop::collection::vec((0..19_u8, prop::option::weighted(0.8, 0..21_u8)), 1..60),
        together in 1..4_usize,
    ) {
        let mut state = node(&[]);
        let mut now: BTreeMap<u8, Value> = BTreeMap::new();
        for (number, (which, version)) in steps.into_iter().enumerate() {
            let object = object(which, version.unwrap_or_default());
            if version.is_some() {
                now.insert(which, object.clone());
                put(&mut state, object);
            } else {
                now.remove(&which);
                delete(&mut state, &object);
            }
            if number % together == 0 {
                state.snapshot();
            }
        }
        let objects: Vec<Value> = now.into_values().collect();
        prop_assert_eq!(meaning(&mut state), meaning(&mut node(&objects)));
    }
}
