use super::*;
use crate::model::ObjectName;
use crate::testing::{WEATHER, state};
use std::sync::Arc;

const RULES: &str = r#"
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: db, namespace: weather}
spec:
  hosts: [db.example.com]
  ports: [{number: 5432, name: tcp, protocol: TCP}]
  resolution: DNS
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: given, namespace: weather}
spec:
  hosts: [given.example.com, "*.given.example.com", "*.svc.cluster.local"]
  addresses: [203.0.113.7]
  ports: [{number: 5432, name: tcp, protocol: TCP}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: dialled, namespace: weather}
spec:
  hosts: [dialled.example.com]
  ports: [{number: 80, name: http, protocol: HTTP}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: private, namespace: weather}
spec:
  hosts: [private.example.com]
  exportTo: ["."]
  ports: [{number: 5432, name: tcp, protocol: TCP}]
  resolution: DNS
"#;

fn resolve(snapshot: &Snapshot, client: &str, name: &str) -> Option<(usize, usize)> {
    let client = snapshot
        .workloads
        .iter()
        .find(|w| &*w.pod.name == client)
        .map(Arc::clone)
        .unwrap();
    let service = known(snapshot, &client, name)?;
    let count = |v4| addresses(service, &client, v4).count();
    Some((count(true), count(false)))
}

#[test]
fn hosts_that_have_an_address_are_answered_and_nothing_else_is() {
    let snapshot = state(&format!("{WEATHER}{RULES}")).snapshot();
    for (name, expected) in [
        ("db.example.com", Some((1, 1))),
        ("DB.Example.com.", Some((1, 1))),
        ("db.example.com.weather.svc.cluster.local.", None),
        ("db.example", None),
        ("example.com.", None),
        ("given.example.com.", Some((1, 0))),
        ("any.given.example.com.", Some((1, 0))),
        ("dialled.example.com.", None),
        ("forecast.weather.svc.cluster.local.", None),
        ("nobody.weather.svc.cluster.local.", None),
        ("private.example.com.", Some((1, 1))),
        (".", None),
        ("", None),
    ] {
        assert_eq!(resolve(&snapshot, "frontend", name), expected, "{name:?}");
    }
}

#[test]
fn a_client_is_told_of_what_it_sees_and_of_families_that_it_has() {
    let snapshot = state(&format!("{WEATHER}{RULES}")).snapshot();
    assert_eq!(resolve(&snapshot, "visitor", "private.example.com"), None);
    assert_eq!(
        resolve(&snapshot, "visitor", "db.example.com"),
        Some((1, 0)),
        "it has no IPv6 address"
    );
    let sidecar = "\n---\napiVersion: networking.istio.io/v1\nkind: Sidecar\n\
                   metadata: {name: only, namespace: weather}\n\
                   spec: {egress: [{hosts: [\"./given.example.com\"]}]}\n";
    let scoped = state(&format!("{WEATHER}{RULES}{sidecar}")).snapshot();
    assert_eq!(resolve(&scoped, "frontend", "db.example.com"), None);
    assert_eq!(resolve(&scoped, "frontend", "given.example.com"), Some((1, 0)));
}

#[test]
fn a_pod_opts_out_by_istios_annotation() {
    let annotated = WEATHER.replace(
        "metadata: {name: visitor, namespace: other,",
        "metadata: {name: visitor, namespace: other, annotations: {ambient.istio.io/dns-capture: \"false\"},",
    );
    let snapshot = state(&annotated).snapshot();
    let pod = |name: &str, namespace: &str| {
        let name = ObjectName::new(namespace, name);
        let found = snapshot.workloads.iter().find(|w| w.pod == name);
        found.unwrap().resolves_itself
    };
    assert!(pod("visitor", "other"));
    assert!(!pod("frontend", "weather"));
}
