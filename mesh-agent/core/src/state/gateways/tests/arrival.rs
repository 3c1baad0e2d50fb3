//! What `heddle why` tells of a gateway.

use super::{bound, gateway, role, secret, state};
use crate::model::gateway::GatewayRole;
use crate::model::snapshot::Snapshot;
use crate::model::workload::Workload;
use crate::routing::{Arrival, Course, Decision, Outcome, course_of};
use crate::testing::Fields;

fn course(snapshot: &Snapshot, port: u16, host: &str, sni: Option<&str>, path: &str) -> Course {
    let GatewayRole { pod, labels, .. } = role();
    let workload = Workload {
        pod,
        labels,
        ..(*snapshot.workloads[0]).clone()
    };
    let arrival = Arrival {
        port,
        authority: host,
        sni,
        method: "GET",
        path,
        headers: &Fields(&[]),
    };
    course_of(snapshot, &workload, &arrival)
}

fn closed(course: &Course) -> &str {
    match &course.outcome {
        Outcome::Closed(reason) => reason,
        other => panic!("{other:?}"),
    }
}

fn ground() -> Snapshot {
    let servers = "[{port: {number: 80, name: http, protocol: HTTP}, hosts: [shop.example.com]}, \
         {port: {number: 443, name: shop, protocol: HTTPS}, hosts: [shop.example.com], tls: {mode: MUTUAL, credentialName: shop}}, \
         {port: {number: 443, name: bank, protocol: HTTPS}, hosts: [bank.example.com], tls: {mode: SIMPLE, credentialName: missing}}, \
         {port: {number: 443, name: through, protocol: TLS}, hosts: [through.example.com], tls: {mode: PASSTHROUGH}}]";
    let rules = "{hosts: ['*.example.com'], gateways: [edge], \
         http: [{match: [{uri: {prefix: /a}}], route: [{destination: {host: micro-api}}]}], \
         tls: [{match: [{sniHosts: [through.example.com]}], route: [{destination: {host: micro-api}}]}]}";
    let objects = [
        gateway("edge", "", servers),
        bound("edge", "", rules),
        secret("shop", "{tls.crt: c, tls.key: k, ca.crt: ca}"),
    ];
    let snapshot = state(&objects).snapshot();
    (*snapshot).clone()
}

#[test]
fn a_request_is_followed_from_the_port_to_the_rule_and_the_backend() {
    let snapshot = ground();
    let plain = course(&snapshot, 80, "shop.example.com", None, "/a");
    assert_eq!(plain.bind.unwrap().port, 8080);
    assert!(
        plain.steps[0].contains("port 80 (port 8080 of the pod) takes HTTP"),
        "{plain:#?}"
    );
    let steps = plain.steps.join("\n");
    assert!(steps.contains("Gateway default/edge spec.servers[0]"), "{steps}");
    assert!(
        steps.contains("VirtualService default/edge spec.http[0]"),
        "{steps}"
    );
    assert!(steps.contains("default/micro-api"), "{steps}");
    let Outcome::Request(Decision::Forward(plan)) = &plain.outcome else {
        panic!("{plain:?}");
    };
    assert_eq!(
        plan.upstream.service.as_ref().unwrap().name.name.as_ref(),
        "micro-api"
    );
    assert_eq!(plain.listener.unwrap().origin.index, 0);

    let other = course(&snapshot, 80, "shop.example.com", None, "/b");
    assert!(other.steps.last().unwrap().contains("404"), "{other:?}");
    let unknown = course(&snapshot, 80, "none.example.org", None, "/a");
    assert!(unknown.listener.is_none());
    assert!(unknown.steps.last().unwrap().contains("404 NR"), "{unknown:?}");
}

#[test]
fn tls_is_told_by_listener_and_secret() {
    let snapshot = ground();
    let secure = course(&snapshot, 443, "shop.example.com:443", None, "/a");
    let steps = secure.steps.join("\n");
    assert!(
        steps.contains("server name \"shop.example.com\": Gateway default/edge spec.servers[1] \"shop\""),
        "{steps}"
    );
    assert!(
        steps.contains("certificate of Secret istio-system/shop key tls.crt; clients must show a certificate that leads to Secret istio-system/shop key ca.crt"),
        "{steps}"
    );
    assert!(
        matches!(secure.outcome, Outcome::Request(Decision::Forward(_))),
        "{steps}"
    );

    let broken = course(&snapshot, 443, "bank.example.com", None, "/a");
    assert!(closed(&broken).contains("every handshake fails"), "{broken:?}");
    assert!(closed(&broken).contains("istio-system/missing"), "{broken:?}");

    let through = course(&snapshot, 443, "through.example.com", None, "/");
    let Outcome::Connection(Ok(plan)) = &through.outcome else {
        panic!("{through:?}");
    };
    assert_eq!(
        plan.rule.as_ref().unwrap().rule().origin.to_string(),
        "VirtualService default/edge spec.tls[0]"
    );

    let misdirected = course(
        &snapshot,
        443,
        "other.example.com",
        Some("shop.example.com"),
        "/a",
    );
    assert!(
        !misdirected.steps.last().unwrap().contains("forward"),
        "{misdirected:?}"
    );
    let stranger = course(&snapshot, 443, "none.example.org", None, "/a");
    assert!(closed(&stranger).contains("none.example.org"), "{stranger:?}");
}

#[test]
fn a_port_without_a_listener_is_refused_and_the_others_are_named() {
    let snapshot = ground();
    let refused = course(&snapshot, 81, "shop.example.com", None, "/");
    assert_eq!(
        closed(&refused),
        "nothing listens on port 81, so the connection is refused: its listeners have 80, 443"
    );
    assert!(refused.bind.is_none());
    let by_pod = course(&snapshot, 8080, "shop.example.com", None, "/a");
    assert_eq!(by_pod.bind.unwrap().port, 8080);
}
