//! ListenerSets: what a Gateway takes from others, and what they are told.

use super::api::{MICRO, gateway, object, said, states};
use super::ask;
use crate::model::ObjectName;
use crate::model::status::{Condition, ListenerSetStatus, Running};
use crate::state::{GatewayPort, Material, Place, State};
use crate::testing::documents;

const SAME: &str = "allowedListeners: {namespaces: {from: Same}}, listeners:";
const ALL: &str = "allowedListeners: {namespaces: {from: All}}, listeners:";
const CERT: &str = "apiVersion: v1\nkind: Secret\nmetadata: {name: cert, namespace: vault}\nstringData: {tls.crt: '-----BEGIN CERTIFICATE-----', tls.key: '-----BEGIN PRIVATE KEY-----'}";

fn taking(allowed: &str, listeners: &str) -> String {
    gateway(listeners).replace("listeners:", allowed)
}

fn set(namespace: &str, name: &str, created: u32, listeners: &str) -> String {
    let spec = format!("{{parentRef: {{name: gw, namespace: infra}}, listeners: {listeners}}}");
    object("ListenerSet", namespace, name, created, &spec)
}

fn route(parents: &str, name: &str) -> String {
    let spec = format!("{{parentRefs: [{parents}], rules: [{{backendRefs: [{{name: {name}, port: 80}}]}}]}}");
    object("HTTPRoute", "infra", name, 2, &spec)
}

fn status(state: &mut State, namespace: &str, name: &str) -> ListenerSetStatus {
    state.snapshot();
    let (gateway, running) = (ObjectName::new("infra", "gw"), ready());
    let name = ObjectName::new(namespace, name);
    state.listener_set_status(&name, &gateway, &running).unwrap()
}

fn ready() -> Running {
    Running {
        addresses: vec![("IPAddress", "10.0.0.1".into())],
        ready: true,
        problem: None,
    }
}

fn attached(state: &State) -> usize {
    let status = state.gateway_status(&ObjectName::new("infra", "gw"), &ready());
    status.unwrap().attached_sets
}

fn reasons(conditions: &[Condition]) -> Vec<(bool, &'static str)> {
    conditions.iter().map(|c| (c.holds, c.reason)).collect()
}

/// GatewaySpec.allowedListeners: nobody unless it says so.
#[test]
fn a_gateway_takes_listener_sets_of_the_namespaces_that_it_names_and_of_no_other() {
    let selector =
        "allowedListeners: {namespaces: {from: Selector, selector: {matchLabels: {team: a}}}}, listeners:";
    let none = "allowedListeners: {namespaces: {from: None}}, listeners:";
    let team = "apiVersion: v1\nkind: Namespace\nmetadata: {name: team-a, labels: {team: a}}";
    for (allowed, namespace, taken) in [
        ("listeners:", "infra", false),
        (none, "infra", false),
        (SAME, "infra", true),
        (SAME, "team-a", false),
        (ALL, "team-a", true),
        (selector, "team-a", true),
        (selector, "infra", false),
    ] {
        let own = taking(allowed, "[{name: own, port: 80, protocol: HTTP}]");
        let set = set(namespace, "s", 2, "[{name: a, port: 8081, protocol: HTTP}]");
        let (mut serving, mut judging) = states(&[own, team.into(), set]);
        let said = status(&mut judging, namespace, "s");
        let wanted = match taken {
            true => vec![(true, "Accepted"), (true, "Programmed")],
            false => vec![(false, "NotAllowed"), (false, "NotAllowed")],
        };
        assert_eq!(reasons(&said.conditions), wanted, "{allowed} {namespace}");
        assert_eq!(attached(&judging), usize::from(taken), "{allowed} {namespace}");
        let needs = judging.gateway_needs(&ObjectName::new("infra", "gw")).unwrap();
        assert_eq!(needs.ports.get(&8081), taken.then_some(&GatewayPort::Http));
        let served = serving.snapshot().edge.ports.keys().any(|bind| bind.port == 8081);
        assert_eq!(served, taken, "{allowed} {namespace}");
    }
}

/// ListenerSetSpec.listeners: the Gateway, then the older set, then namespace/name; each conflict is one listener's.
#[test]
fn listeners_that_conflict_lose_to_those_that_come_before_them_one_by_one() {
    let http = |name: &str, host: &str| {
        let all = "allowedRoutes: {namespaces: {from: All}}";
        format!("{{name: {name}, port: 80, protocol: HTTP, hostname: {host}, {all}}}")
    };
    let to = |set: &str, name: &str| {
        let parent = format!("{{kind: ListenerSet, namespace: infra, name: {set}}}");
        let spec = format!("{{parentRefs: [{parent}], rules: [{{backendRefs: [{MICRO}]}}]}}");
        object("HTTPRoute", "default", name, 2, &spec)
    };
    let own = taking(SAME, &format!("[{}]", http("own", "gw.com")));
    let younger = format!(
        "[{}, {}]",
        http("first", "shared.com"),
        http("second", "younger.com")
    );
    let older = format!("[{}, {}]", http("own", "gw.com"), http("shared", "shared.com"));
    let lost = format!("[{}]", http("lost", "gw.com"));
    let tcp = "[{name: t, port: 80, protocol: TCP}, {name: free, port: 9000, protocol: TCP}]";
    let (mut serving, mut judging) = states(&[
        own,
        set("infra", "a-younger", 4, &younger),
        set("infra", "b-older", 3, &older),
        set("infra", "c-lost", 5, &lost),
        set("infra", "d-tcp", 6, tcp),
        to("b-older", "older"),
        to("a-younger", "younger"),
    ]);
    for (name, accepted, programmed, listeners) in [
        (
            "a-younger",
            "ListenersNotValid",
            "Programmed",
            vec!["HostnameConflict", "Programmed"],
        ),
        (
            "b-older",
            "ListenersNotValid",
            "Programmed",
            vec!["HostnameConflict", "Programmed"],
        ),
        (
            "c-lost",
            "ListenersNotValid",
            "ListenersNotValid",
            vec!["HostnameConflict"],
        ),
        (
            "d-tcp",
            "ListenersNotValid",
            "Programmed",
            vec!["ProtocolConflict", "Programmed"],
        ),
    ] {
        let said = status(&mut judging, "infra", name);
        let good = name != "c-lost";
        assert_eq!(
            reasons(&said.conditions),
            [(good, accepted), (good, programmed)],
            "{name}"
        );
        let found = said.listeners.iter().map(|l| l.conditions[3].reason);
        assert_eq!(found.collect::<Vec<_>>(), listeners, "{name}");
    }
    assert_eq!(attached(&judging), 3);
    let gateway = judging
        .gateway_status(&ObjectName::new("infra", "gw"), &ready())
        .unwrap();
    assert_eq!(
        reasons(&gateway.conditions)[0],
        (true, "Accepted"),
        "it is not the Gateway's fault"
    );
    assert_eq!(gateway.listeners.len(), 1);
    let snapshot = serving.snapshot();
    for (host, outcome) in [
        (
            "shared.com",
            "HTTPRoute default/older spec.rules[0] -> default/micro-api",
        ),
        (
            "younger.com",
            "HTTPRoute default/younger spec.rules[0] -> default/micro-api",
        ),
        ("gw.com", "404 NR"),
    ] {
        assert_eq!(ask(&snapshot, 80, host, "/"), outcome, "{host}");
    }
}

/// The words of `heddle analyze`.
#[test]
fn what_comes_to_nothing_is_reported_by_object_and_field() {
    let own = taking(SAME, "[{name: own, port: 80, protocol: HTTP}]");
    let conflicting = "[{name: a, port: 80, protocol: HTTP}, {name: b, port: 53, protocol: UDP}]";
    let (_, mut judging) = states(&[
        own,
        set("infra", "s", 2, conflicting),
        set("team-a", "t", 2, "[{name: a, port: 81, protocol: HTTP}]"),
        set("team-a", "u", 2, "[{name: a, port: 81, protocol: HTTP}]").replace("name: gw", "name: gone"),
    ]);
    let problems = judging.problems();
    let found: Vec<_> = problems
        .iter()
        .map(|p| (&*p.rejected.object, &*p.rejected.field))
        .filter(|(object, _)| object.starts_with("ListenerSet"))
        .collect();
    assert_eq!(
        found,
        [
            ("ListenerSet infra/s", "spec.listeners[0]"),
            ("ListenerSet infra/s", "spec.listeners[1]"),
            ("ListenerSet team-a/t", "spec.parentRef"),
            ("ListenerSet team-a/u", "spec.parentRef"),
        ],
        "{problems:?}"
    );
}

/// A listener of a set is found by the set alone, not by the Gateway.
#[test]
fn a_route_attaches_to_the_listeners_of_the_parent_that_it_names() {
    let own = taking(ALL, "[{name: own, port: 80, protocol: HTTP, hostname: own.com}]");
    let listeners = "[{name: a, port: 80, protocol: HTTP, hostname: a.com}, {name: b, port: 80, protocol: HTTP, hostname: b.com, \
        allowedRoutes: {namespaces: {from: All}}}]";
    let set = set("team-a", "s", 2, listeners);
    for (parent, accepted, reason, hosts) in [
        ("{name: gw}", true, "Accepted", vec!["own.com"]),
        ("{name: gw, sectionName: b}", false, "NoMatchingParent", vec![]),
        (
            "{kind: ListenerSet, name: s, namespace: team-a}",
            true,
            "Accepted",
            vec!["b.com"],
        ),
        (
            "{kind: ListenerSet, name: s, namespace: team-a, sectionName: b}",
            true,
            "Accepted",
            vec!["b.com"],
        ),
        (
            "{kind: ListenerSet, name: s, namespace: team-a, port: 81}",
            false,
            "NoMatchingParent",
            vec![],
        ),
        // Same namespace means the set's.
        (
            "{kind: ListenerSet, name: s, namespace: team-a, sectionName: a}",
            false,
            "NotAllowedByListeners",
            vec![],
        ),
    ] {
        let route = route(parent, "r");
        let (mut serving, mut judging) = states(&[own.clone(), set.clone(), route.clone()]);
        assert_eq!(said(&mut judging, &route)[0], (accepted, reason), "{parent}");
        let snapshot = serving.snapshot();
        for host in ["own.com", "a.com", "b.com"] {
            let served = ask(&snapshot, 80, host, "/") != "404 NR";
            assert_eq!(served, hosts.contains(&host), "{parent} {host}");
        }
    }
}

#[test]
fn a_certificate_of_another_namespace_needs_a_grant_for_listener_sets() {
    let own = taking(ALL, "[{name: own, port: 80, protocol: HTTP}]");
    let listeners =
        "[{name: tls, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: cert, namespace: vault}]}}]";
    let grant = |kind: &str| {
        let spec = format!(
            "{{from: [{{group: gateway.networking.k8s.io, kind: {kind}, namespace: team-a}}], to: [{{group: '', kind: Secret}}]}}"
        );
        object("ReferenceGrant", "vault", "g", 1, &spec)
    };
    for (kind, granted) in [("ListenerSet", true), ("Gateway", false)] {
        let set = set("team-a", "s", 2, listeners);
        let (mut serving, mut judging) = states(&[own.clone(), set, CERT.into(), grant(kind)]);
        let said = status(&mut judging, "team-a", "s");
        let (set, refs) = match granted {
            true => ((true, "Accepted"), (true, "ResolvedRefs")),
            false => ((false, "ListenersNotValid"), (false, "RefNotPermitted")),
        };
        assert_eq!(reasons(&said.conditions)[0], set);
        assert_eq!(reasons(&said.listeners[0].conditions)[2], refs);
        let places = judging.gateway_material(None);
        assert_eq!(
            places.contains_key(&Place::new(Material::Secret, &"vault".into())),
            granted,
            "the Gateway reads what its sets may"
        );
        let served = serving.snapshot().edge.ports.keys().any(|bind| bind.port == 443);
        assert_eq!(served, granted);
    }
}

#[test]
fn a_set_that_was_never_right_is_told_so_and_a_later_bad_version_changes_nothing() {
    let own = taking(SAME, "[{name: own, port: 80, protocol: HTTP}]");
    let good = set("infra", "s", 2, "[{name: a, port: 81, protocol: HTTP}]");
    let bad = set(
        "infra",
        "s",
        2,
        "[{name: a, port: 82, protocol: HTTP}, {name: a, port: 83, protocol: HTTP}]",
    );
    let (mut serving, mut judging) = states(&[own.clone(), bad.clone()]);
    assert!(serving.snapshot().edge.ports.keys().all(|bind| bind.port == 80));
    let said = status(&mut judging, "infra", "s");
    assert_eq!(
        reasons(&said.conditions),
        [(false, "Invalid"), (false, "Invalid")]
    );
    assert!(said.conditions[0].message.contains("spec.listeners[1].name"));
    let (mut serving, _) = states(&[own, good]);
    let origin = "file.yaml:9".to_owned();
    let object = documents(&bad).remove(0);
    serving.apply(crate::state::Change::Apply { object, origin });
    let ports: Vec<u16> = serving
        .snapshot()
        .edge
        .ports
        .keys()
        .map(|bind| bind.port)
        .collect();
    assert_eq!(ports, [80, 81]);
}

#[test]
fn a_set_of_a_gateway_that_is_not_ours_is_not_spoken_of() {
    let theirs =
        taking(SAME, "[{name: own, port: 80, protocol: HTTP}]").replace("Name: heddle", "Name: other");
    let set = set("infra", "s", 2, "[{name: a, port: 81, protocol: HTTP}]");
    let (_, mut judging) = states(&[theirs, set]);
    judging.snapshot();
    let (name, gateway) = (ObjectName::new("infra", "s"), ObjectName::new("infra", "gw"));
    assert_eq!(judging.listener_set_status(&name, &gateway, &ready()), None);
}
