//! `tls` and `tcp` of VirtualServices, field by field.

use crate::model::snapshot::Snapshot;
use crate::routing::{Opening, explain_connection, needs_hello};
use crate::testing::{Dial, WEATHER, state};
use std::sync::Arc;

/// A service `vault` for TLS beside those of the weather application.
const VAULT: &str = "apiVersion: v1
kind: Service
metadata: {name: vault, namespace: weather}
spec:
  clusterIP: 10.96.0.4
  selector: {app: forecast}
  ports: [{name: tls, port: 443, targetPort: 8443}]";

fn with(spec: &str) -> Arc<Snapshot> {
    let object = format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: c, namespace: weather}}\nspec: {spec}"
    );
    let mut state = state(&format!("{WEATHER}\n---\n{VAULT}\n---\n{object}"));
    assert_eq!(state.problems(), []);
    state.snapshot()
}

const V1: &str = "{destination: {host: forecast, subset: v1, port: {number: 80}}}";

#[test]
fn each_field_of_a_tcp_match_means_what_istio_says() {
    let own = "10.1.0.2:5432 10.2.0.2:5432 [fd00:1::2]:5432 [fd00:2::2]:5432";
    let routed = "10.1.0.2:8080 [fd00:1::2]:8080";
    for (block, from, expected) in [
        ("{}", "10.1.0.1", routed),
        ("{port: 5432}", "10.1.0.1", routed),
        ("{port: 1}", "10.1.0.1", own),
        ("{sourceLabels: {app: frontend}}", "10.1.0.1", routed),
        ("{sourceLabels: {app: other}}", "10.1.0.1", own),
        ("{sourceNamespace: other}", "10.1.0.9", routed),
        ("{sourceNamespace: other}", "10.1.0.1", own),
        ("{sourceSubnet: 10.1.0.0/24}", "10.1.0.1", routed),
        ("{sourceSubnet: 10.2.0.0/24}", "10.1.0.1", own),
        ("{destinationSubnets: [10.96.0.0/16]}", "10.1.0.1", routed),
        (
            "{destinationSubnets: [192.0.2.1, '10.97.0.0/16']}",
            "10.1.0.1",
            own,
        ),
        (
            "{gateways: [mesh], sourceLabels: {app: other}}",
            "10.1.0.1",
            routed,
        ),
        ("{gateways: [edge]}", "10.1.0.1", own),
    ] {
        let snapshot = with(&format!(
            "{{hosts: [database], gateways: [mesh, edge], tcp: [{{match: [{block}], route: [{V1}]}}]}}"
        ));
        let dial = Dial {
            from,
            to: "10.96.0.2:5432",
            ..Dial::default()
        };
        assert_eq!(dial.outcome(&snapshot), expected, "{block}");
    }
}

#[test]
fn weights_of_a_tcp_rule_count_for_each_connection() {
    let snapshot = with(
        "{hosts: [database], tcp: [{route: [{destination: {host: database}, weight: 90}, \
         {destination: {host: forecast, port: {number: 80}}, weight: 10}]}]}",
    );
    let at = |draw: u32| {
        let dial = Dial {
            to: "10.96.0.2:5432",
            draw,
            ..Dial::default()
        };
        dial.outcome(&snapshot)
    };
    assert!(at(0).starts_with("10.1.0.2:5432"));
    assert!(at(u32::MAX).starts_with("10.1.0.2:8080"));
}

#[test]
fn a_tls_rule_is_chosen_by_the_server_name_and_an_unknown_name_is_closed() {
    let snapshot = with(&format!(
        "{{hosts: [vault.weather.svc.cluster.local, '*.example.com'], tls: [\
          {{match: [{{sniHosts: [a.example.com], port: 443}}], route: [{V1}]}}, \
          {{match: [{{sniHosts: ['*.example.com']}}], route: [{{destination: {{host: forecast, subset: v2, port: {{number: 80}}}}}}]}}]}}"
    ));
    let at = |name: Option<&str>| {
        let dial = Dial {
            to: "10.96.0.4:443",
            opening: Opening::Tls(name),
            ..Dial::default()
        };
        dial.outcome(&snapshot)
    };
    assert!(
        at(Some("A.example.com")).starts_with("10.1.0.2:8080"),
        "case does not matter"
    );
    assert!(
        at(Some("b.c.example.com")).starts_with("10.2.0.2:8080"),
        "*.example.com covers deeper names"
    );
    assert_eq!(at(Some("example.com")), "NR");
    assert_eq!(at(None), "NR");
    let hello = Dial {
        to: "10.96.0.4:443",
        ..Dial::default()
    };
    assert!(hello.facts(&snapshot, |facts| needs_hello(&snapshot, facts.target)));
    assert!(!Dial::default().facts(&snapshot, |facts| needs_hello(&snapshot, facts.target)));
}

#[test]
fn tls_rules_that_are_not_for_this_client_leave_the_service_as_it_is() {
    let snapshot = with(&format!(
        "{{hosts: [vault, a.example.com], tls: [{{match: [{{sniHosts: [a.example.com], sourceLabels: {{app: x}}}}], route: [{V1}]}}]}}"
    ));
    let dial = Dial {
        to: "10.96.0.4:443",
        opening: Opening::Tls(Some("b.example.com")),
        ..Dial::default()
    };
    assert!(dial.outcome(&snapshot).starts_with("10.1.0.2:8443"));
}

#[test]
fn an_address_that_nobody_knows_is_routed_by_the_server_name() {
    let snapshot = with(&format!(
        "{{hosts: [www.example.org], tls: [{{match: [{{sniHosts: [www.example.org]}}], route: [{V1}]}}]}}"
    ));
    let at = |name: &'static str| {
        let dial = Dial {
            to: "192.0.2.1:443",
            opening: Opening::Tls(Some(name)),
            ..Dial::default()
        };
        dial.outcome(&snapshot)
    };
    assert!(at("www.example.org").starts_with("10.1.0.2:8080"));
    assert_eq!(at("other.example.org"), "NR");
}

#[test]
fn the_kernel_leaves_routed_ports_to_the_proxy_and_no_others() {
    let snapshot = with(&format!(
        "{{hosts: [database, vault], tcp: [{{match: [{{port: 5432}}], route: [{V1}]}}]}}"
    ));
    let steered = |name: &str| {
        let service = snapshot.services.iter().find(|s| &*s.name.name == name).unwrap();
        snapshot.steered.contains(&service.ports[0].id)
    };
    assert!(steered("database"));
    assert!(!steered("vault"), "tcp rules are not for TLS ports");
    assert!(!steered("forecast"));
}

#[test]
fn the_explanation_of_a_connection_names_each_rule_tried() {
    let snapshot = with(&format!(
        "{{hosts: [database], tcp: [{{match: [{{port: 1}}], route: [{V1}]}}, {{route: [{V1}]}}]}}"
    ));
    let dial = Dial {
        to: "10.96.0.2:5432",
        ..Dial::default()
    };
    let lines = dial
        .facts(&snapshot, |facts| explain_connection(&snapshot, facts))
        .join("\n");
    for part in [
        "spec.tcp[0] match 1 of 1: port is not this client's",
        "spec.tcp[1]: no match block: matches everything",
        "carry to service weather/forecast port 80 subset v1",
    ] {
        assert!(lines.contains(part), "{part:?} is not in\n{lines}");
    }
}
