//! Gateways of Gateway API: (objects, request) → where it goes, and what is said.

use super::{GROUND, ask, carry};
use crate::model::ObjectName;
use crate::model::gateway::GatewayRole;
use crate::model::snapshot::MeshSettings;
use crate::model::status::{Condition, GATEWAY_CONTROLLER, Running};
use crate::state::{ObjectKey, State};
use crate::testing::{documents, list};
use crate::translate::RouteKind;
use crate::translate::gateway_api::parents_of;
use std::sync::Arc;

const CLASS: &str = "apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {name: heddle}\nspec: {controllerName: heddle.io/gateway-controller}";

pub(super) fn object(kind: &str, namespace: &str, name: &str, created: u32, spec: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{name: {name}, namespace: {namespace}, creationTimestamp: '2024-01-0{created}T00:00:00Z'}}\nspec: {spec}"
    )
}

pub(super) fn gateway(listeners: &str) -> String {
    object(
        "Gateway",
        "infra",
        "gw",
        1,
        &format!("{{gatewayClassName: heddle, listeners: {listeners}}}"),
    )
}

/// An HTTPRoute to `gw` that forwards everything to `to`.
pub(super) fn route(namespace: &str, name: &str, rest: &str, to: &str) -> String {
    let spec = format!(
        "{{parentRefs: [{{name: gw, namespace: infra}}], {rest}rules: [{{name: {name}, backendRefs: [{to}]}}]}}"
    );
    object("HTTPRoute", namespace, name, 2, &spec)
}

pub(super) fn states(objects: &[String]) -> (State, State) {
    let role = GatewayRole {
        pod: ObjectName::new("infra", "gw-heddle-1"),
        labels: Arc::default(),
        gateway: Some(ObjectName::new("infra", "gw")),
    };
    let mut all = documents(GROUND);
    all.extend(documents(CLASS));
    all.extend(objects.iter().flat_map(|o| documents(o)));
    let mut serving = State::new(MeshSettings::default()).serving(role);
    let mut judging = State::for_controller(MeshSettings::default()).reading_secrets();
    list(&mut serving, &all);
    list(&mut judging, &all);
    (serving, judging)
}

pub(super) fn said(state: &mut State, route: &str) -> Vec<(bool, &'static str)> {
    let object = &documents(route)[0];
    let kind = RouteKind::named(object["kind"].as_str().unwrap()).unwrap();
    let key = ObjectKey {
        kind: kind.name().into(),
        group: crate::translate::gateway_api::GROUP.into(),
        namespace: object["metadata"]["namespace"].as_str().unwrap().into(),
        name: object["metadata"]["name"].as_str().unwrap().into(),
    };
    let parents: Vec<_> = parents_of(object).into_iter().map(|(_, p)| p).collect();
    let said = state.route_status(kind, &key, &parents).remove(0).expect("ours");
    assert_eq!(said.controller, GATEWAY_CONTROLLER);
    said.conditions.iter().map(|c| (c.holds, c.reason)).collect()
}

pub(super) const MICRO: &str = "{name: micro-api, namespace: default, port: 19090}";
const GRANT_SPEC: &str = "{from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: infra}], to: [{group: '', kind: Service, name: micro-api}]}";

#[test]
fn a_route_attaches_where_namespace_kind_port_section_and_hostname_allow_it() {
    let listeners = "[{name: same, port: 80, protocol: HTTP, hostname: '*.same.com'}, \
        {name: all, port: 8080, protocol: HTTP, hostname: all.com, allowedRoutes: {namespaces: {from: All}}}, \
        {name: grpc, port: 81, protocol: HTTP, allowedRoutes: {kinds: [{kind: GRPCRoute}], namespaces: {from: All}}}, \
        {name: labelled, port: 82, protocol: HTTP, allowedRoutes: {namespaces: {from: Selector, selector: {matchLabels: {team: a}}}}}]";
    let labelled = "apiVersion: v1\nkind: Namespace\nmetadata: {name: team-a, labels: {team: a}}".to_owned();
    let to = |parent: &str, hosts: &str, namespace: &str| {
        let spec = format!(
            "{{parentRefs: [{{name: gw, namespace: infra{parent}}}], hostnames: [{hosts}], rules: [{{}}]}}"
        );
        object("HTTPRoute", namespace, "r", 2, &spec)
    };
    // RouteConditionAccepted and its reasons.
    for (route, accepted, reason) in [
        (to("", "", "infra"), true, "Accepted"),
        (to("", "", "default"), true, "Accepted"),
        (
            to(", sectionName: same", "", "default"),
            false,
            "NotAllowedByListeners",
        ),
        (to(", sectionName: none", "", "infra"), false, "NoMatchingParent"),
        (to(", port: 81", "", "infra"), false, "NotAllowedByListeners"),
        (to(", port: 83", "", "infra"), false, "NoMatchingParent"),
        (
            to(", sectionName: same, port: 8080", "", "infra"),
            false,
            "NoMatchingParent",
        ),
        (to(", sectionName: labelled", "", "team-a"), true, "Accepted"),
        (
            to(", sectionName: labelled", "", "infra"),
            false,
            "NotAllowedByListeners",
        ),
        (
            to(", sectionName: all", "other.com", "infra"),
            false,
            "NoMatchingListenerHostname",
        ),
        (to(", sectionName: same", "'*.com'", "infra"), true, "Accepted"),
    ] {
        let (_, mut judging) = states(&[gateway(listeners), labelled.clone(), route.clone()]);
        assert_eq!(said(&mut judging, &route)[0], (accepted, reason), "{route}");
    }
}

#[test]
fn requests_find_the_routes_of_their_listener_and_host() {
    let listeners = "[{name: wild, port: 80, protocol: HTTP, hostname: '*.example.com', allowedRoutes: {namespaces: {from: All}}}, \
        {name: exact, port: 80, protocol: HTTP, hostname: a.example.com, allowedRoutes: {namespaces: {from: All}}}]";
    let objects = [
        gateway(listeners),
        route("default", "any", "", "{name: micro-api, port: 19090}"),
        route(
            "default",
            "b",
            "hostnames: [b.example.com, b.example.org], ",
            "{name: micro-api, port: 19090}",
        ),
    ];
    let (mut serving, _) = states(&objects);
    let snapshot = serving.snapshot();
    for (host, outcome) in [
        (
            "a.example.com",
            "HTTPRoute default/any spec.rules[0] -> default/micro-api",
        ),
        (
            "b.example.com",
            "HTTPRoute default/b spec.rules[0] -> default/micro-api",
        ),
        (
            "c.d.example.com:80",
            "HTTPRoute default/any spec.rules[0] -> default/micro-api",
        ),
        ("example.com", "404 NR"),
        ("b.example.org", "404 NR"),
    ] {
        assert_eq!(ask(&snapshot, 80, host, "/"), outcome, "{host}");
    }
}

#[test]
fn a_backend_of_another_namespace_needs_a_grant_of_exactly_that() {
    let listeners = gateway("[{name: a, port: 80, protocol: HTTP}]");
    let from_infra = route("infra", "r", "", MICRO);
    for (grant, resolved, outcome) in [
        (None, (false, "RefNotPermitted"), "500 NC"),
        (
            Some(GRANT_SPEC.to_owned()),
            (true, "ResolvedRefs"),
            "HTTPRoute infra/r spec.rules[0] -> default/micro-api",
        ),
        (
            Some(GRANT_SPEC.replace("micro-api", "other")),
            (false, "RefNotPermitted"),
            "500 NC",
        ),
        (
            Some(GRANT_SPEC.replace("HTTPRoute", "GRPCRoute")),
            (false, "RefNotPermitted"),
            "500 NC",
        ),
        (
            Some(GRANT_SPEC.replace("namespace: infra", "namespace: other")),
            (false, "RefNotPermitted"),
            "500 NC",
        ),
    ] {
        let mut objects = vec![listeners.clone(), from_infra.clone()];
        objects.extend(
            grant
                .as_ref()
                .map(|spec| object("ReferenceGrant", "default", "g", 1, spec)),
        );
        let (mut serving, mut judging) = states(&objects);
        assert_eq!(said(&mut judging, &from_infra)[1], resolved, "{grant:?}");
        assert_eq!(ask(&serving.snapshot(), 80, "x.com", "/"), outcome, "{grant:?}");
    }
}

#[test]
fn a_gateway_says_of_each_listener_what_becomes_of_it() {
    let cert = "apiVersion: v1\nkind: Secret\nmetadata: {name: good, namespace: infra}\nstringData: {tls.crt: '-----BEGIN CERTIFICATE-----', tls.key: '-----BEGIN PRIVATE KEY-----'}";
    let bad = "apiVersion: v1\nkind: Secret\nmetadata: {name: bad, namespace: infra}\nstringData: {tls.crt: 'Hello', tls.key: world}";
    let listeners = "[{name: http, port: 80, protocol: HTTP}, {name: twin, port: 80, protocol: HTTP}, {name: tcp, port: 80, protocol: TCP}, \
        {name: udp, port: 53, protocol: UDP}, {name: good, port: 443, protocol: HTTPS, hostname: a.com, tls: {certificateRefs: [{name: good}]}}, \
        {name: bad, port: 443, protocol: HTTPS, hostname: b.com, tls: {certificateRefs: [{name: bad}]}}, \
        {name: gone, port: 443, protocol: HTTPS, hostname: c.com, tls: {certificateRefs: [{name: gone}]}}, \
        {name: foreign, port: 443, protocol: HTTPS, hostname: d.com, tls: {certificateRefs: [{name: x, namespace: default}]}}, \
        {name: kinds, port: 81, protocol: HTTP, allowedRoutes: {kinds: [{kind: TCPRoute}, {kind: HTTPRoute}]}}]";
    let route = route("infra", "r", "", "{name: gone, port: 80}");
    let (_, mut judging) = states(&[gateway(listeners), cert.into(), bad.into(), route]);
    judging.snapshot();
    let running = Running {
        addresses: vec![("IPAddress", "10.0.0.1".into())],
        ready: true,
        problem: None,
    };
    let status = judging
        .gateway_status(&ObjectName::new("infra", "gw"), &running)
        .unwrap();
    let reason = |conditions: &[Condition], kind: &str| {
        conditions
            .iter()
            .find(|c| c.kind == kind)
            .map(|c| (c.holds, c.reason))
            .unwrap()
    };
    assert_eq!(
        reason(&status.conditions, "Accepted"),
        (true, "ListenersNotValid")
    );
    assert_eq!(reason(&status.conditions, "Programmed"), (true, "Programmed"));
    // ListenerConditionType and its reasons.
    for (listener, accepted, resolved, programmed, attached) in [
        ("http", "Accepted", "ResolvedRefs", true, 1),
        ("twin", "HostnameConflict", "ResolvedRefs", false, 1),
        ("tcp", "ProtocolConflict", "ResolvedRefs", false, 0),
        ("udp", "UnsupportedProtocol", "ResolvedRefs", false, 0),
        ("good", "Accepted", "ResolvedRefs", true, 1),
        ("bad", "Accepted", "InvalidCertificateRef", false, 1),
        ("gone", "Accepted", "InvalidCertificateRef", false, 1),
        ("foreign", "Accepted", "RefNotPermitted", false, 1),
        ("kinds", "Accepted", "InvalidRouteKinds", true, 1),
    ] {
        let found = status.listeners.iter().find(|l| l.name == listener).unwrap();
        let of = |kind| reason(&found.conditions, kind);
        assert_eq!(of("Accepted").1, accepted, "{listener}");
        assert_eq!(of("ResolvedRefs").1, resolved, "{listener}");
        assert_eq!(of("Programmed").0, programmed, "{listener}");
        assert_eq!(found.attached, attached, "{listener}");
    }
    let waiting = judging
        .gateway_status(&ObjectName::new("infra", "gw"), &Running::default())
        .unwrap();
    assert_eq!(
        reason(&waiting.conditions, "Programmed"),
        (false, "AddressNotAssigned")
    );
}

#[test]
fn a_class_of_another_controller_is_not_ours() {
    let other = CLASS
        .replace("name: heddle", "name: other")
        .replace("heddle.io/", "other.io/");
    let theirs = gateway("[{name: a, port: 80, protocol: HTTP}]")
        .replace("gatewayClassName: heddle", "gatewayClassName: other");
    let (mut serving, mut judging) = states(&[other, theirs, route("infra", "r", "", MICRO)]);
    judging.snapshot();
    assert!(serving.snapshot().edge.ports.is_empty());
    assert_eq!(
        judging.gateway_status(&ObjectName::new("infra", "gw"), &Running::default()),
        None
    );
    assert_eq!(judging.class_status("other"), None);
    // A class that is gone is nobody's: who serves goes on.
    let theirs = gateway("[{name: a, port: 80, protocol: HTTP}]")
        .replace("gatewayClassName: heddle", "gatewayClassName: gone");
    let (mut going_on, _) = states(&[theirs]);
    assert_eq!(going_on.snapshot().edge.ports.len(), 1);
    assert!(judging.class_status("heddle").unwrap()[0].holds);
}

/// TLSRoutes choose by SNI whether TLS ends at the gateway or not, also of one listener with several hosts.
#[test]
fn a_tls_route_has_its_hosts_where_tls_ends_and_where_it_passes() {
    let cert = "apiVersion: v1\nkind: Secret\nmetadata: {name: good, namespace: infra}\nstringData: {tls.crt: '-----BEGIN CERTIFICATE-----', tls.key: '-----BEGIN PRIVATE KEY-----'}";
    let all = "allowedRoutes: {namespaces: {from: All}}";
    let listeners = format!(
        "[{{name: ends, port: 443, protocol: TLS, hostname: '*.ends.com', {all}, tls: {{mode: Terminate, certificateRefs: [{{name: good}}]}}}}, \
        {{name: passes, port: 443, protocol: TLS, hostname: '*.passes.com', {all}, tls: {{mode: Passthrough}}}}]"
    );
    let tls = |namespace: &str, name: &str, host: &str, to: &str| {
        let spec = format!(
            "{{parentRefs: [{{name: gw, namespace: infra}}], hostnames: [{host}], rules: [{{backendRefs: [{to}]}}]}}"
        );
        object("TLSRoute", namespace, name, 2, &spec)
    };
    let (mut serving, _) = states(&[
        gateway(&listeners),
        cert.into(),
        tls("weather", "a", "a.ends.com", "{name: frontend, port: 3000}"),
        tls("default", "b", "b.ends.com", MICRO),
        tls("weather", "c", "a.passes.com", "{name: frontend, port: 3000}"),
    ]);
    let snapshot = serving.snapshot();
    for (sni, wanted) in [
        ("a.ends.com", "weather/frontend"),
        ("b.ends.com", "default/micro-api"),
        ("c.ends.com", "NR"),
        ("a.passes.com", "weather/frontend"),
    ] {
        assert_eq!(carry(&snapshot, 443, Some(sni)), wanted, "{sni}");
    }
}

#[test]
fn an_address_that_was_asked_for_is_given_or_the_gateway_says_that_it_was_not() {
    let name = ObjectName::new("infra", "gw");
    let running = |address: &str| Running {
        addresses: vec![("IPAddress", address.into())],
        ready: true,
        problem: None,
    };
    for (addresses, accepted, programmed) in [
        ("[{value: 192.0.2.7}]", "Accepted", "Programmed"),
        ("[{value: 192.0.2.8}]", "Accepted", "AddressNotUsable"),
        ("[{type: IPAddress}]", "Accepted", "Programmed"),
        (
            "[{type: Hostname, value: a.example}]",
            "UnsupportedAddress",
            "Invalid",
        ),
        ("[{type: vendor/any, value: a}]", "UnsupportedAddress", "Invalid"),
    ] {
        let gateway = gateway("[{name: a, port: 80, protocol: HTTP}]")
            .replace("listeners:", &format!("addresses: {addresses}, listeners:"));
        let (_, judging) = states(&[gateway]);
        let status = judging.gateway_status(&name, &running("192.0.2.7")).unwrap();
        let reasons: Vec<_> = status.conditions.iter().map(|c| c.reason).collect();
        assert_eq!(reasons, [accepted, programmed, "ResolvedRefs"], "{addresses}");
    }
    let (_, judging) = states(&[gateway("[{name: a, port: 80, protocol: HTTP}]")]);
    let lacking = Running {
        problem: Some("quota".into()),
        ..running("192.0.2.7")
    };
    let status = judging.gateway_status(&name, &lacking).unwrap();
    assert_eq!(
        (status.conditions[1].reason, &*status.conditions[1].message),
        ("Pending", "quota")
    );
}

#[test]
fn a_gateway_that_was_never_right_is_told_so() {
    let broken = gateway("[{name: a, port: 80, protocol: HTTP}]")
        .replace("listeners:", "defaultScope: All, listeners:");
    let (_, judging) = states(&[broken]);
    let name = ObjectName::new("infra", "gw");
    assert_eq!(judging.gateway_status(&name, &Running::default()), None);
    assert_eq!(judging.unread_gateway_status(&name, "other"), None);
    let status = judging.unread_gateway_status(&name, "heddle").unwrap();
    let accepted = &status.conditions[0];
    assert_eq!((accepted.holds, accepted.reason), (false, "Invalid"));
    assert!(
        accepted.message.contains("spec.defaultScope"),
        "{}",
        accepted.message
    );
}
