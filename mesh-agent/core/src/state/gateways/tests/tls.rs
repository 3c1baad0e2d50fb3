//! Both ends of TLS in Gateway API: (objects) → how servers and clients are verified, and what is said.

use super::api::{gateway, object, route, states};
use crate::model::ObjectName;
use crate::model::gateway::{CredentialSource, ServerTls, TlsMode as Clients};
use crate::model::snapshot::{MeshSettings, Snapshot};
use crate::model::status::{Ancestor, INSECURE_CLIENTS, Running};
use crate::model::traffic::{ClientTls, TlsMode, TrafficPolicy};
use crate::state::{Change, Material, Place, State};
use crate::testing::{documents, list};
use serde_json::json;
use std::sync::Arc;

const MICRO: &str = "{name: micro-api, namespace: default, port: 19090}";

fn pem(text: &str) -> String {
    format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
}

fn config_map(namespace: &str, name: &str, ca: &str) -> String {
    let data = json!({"ca.crt": ca});
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, namespace: {namespace}}}\ndata: {data}"
    )
}

fn secret(namespace: &str, name: &str) -> String {
    let key = "-----BEGIN PRIVATE KEY-----\na\n-----END PRIVATE KEY-----\n";
    let data = json!({"tls.crt": pem("leaf"), "tls.key": key});
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: {namespace}}}\nstringData: {data}"
    )
}

/// A policy for Service `micro-api` of `default`.
fn policy(name: &str, created: u32, section: &str, validation: &str) -> String {
    let spec = format!(
        "{{targetRefs: [{{group: '', kind: Service, name: micro-api{section}}}], validation: {{{validation}}}}}"
    );
    object("BackendTLSPolicy", "default", name, created, &spec)
}

fn by(refs: &str) -> String {
    format!("hostname: micro.example.com, caCertificateRefs: [{refs}]")
}

const CA: &str = "{group: '', kind: ConfigMap, name: ca}";

fn in_force(snapshot: &Snapshot) -> Arc<TrafficPolicy> {
    let name = ObjectName::new("default", "micro-api");
    snapshot.policy(snapshot.service(&name).unwrap(), 19090, None, None)
}

fn tls(snapshot: &Snapshot) -> ClientTls {
    in_force(snapshot).tls.clone().expect("TLS")
}

fn authorities(tls: &ClientTls) -> String {
    match &tls.vouched.as_ref().unwrap().authorities {
        Some(CredentialSource::Object { pem, .. }) => String::from_utf8(pem.to_vec()).unwrap(),
        other => panic!("{other:?}"),
    }
}

fn broken(tls: &ClientTls) -> &str {
    tls.vouched
        .as_ref()
        .unwrap()
        .broken
        .as_deref()
        .unwrap_or_default()
}

fn mesh(objects: &[String]) -> State {
    let mut state = State::new(MeshSettings::default());
    let mut all = documents(super::GROUND);
    all.extend(objects.iter().flat_map(|o| documents(o)));
    list(&mut state, &all);
    state
}

#[test]
fn a_policy_of_backends_decides_how_a_service_is_reached_whatever_destination_rules_say() {
    let rule = |spec: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: d, namespace: default}}\nspec: {spec}"
        )
    };
    let names = ", subjectAltNames: [{type: Hostname, hostname: Other.example.com}, {type: URI, uri: 'spiffe://a/b'}]";
    let policy = policy("p", 1, "", &format!("{}{names}", by(CA)));
    let ca = config_map("default", "ca", &pem("one"));
    let disable = "{host: micro-api, trafficPolicy: {tls: {mode: DISABLE}, connectionPool: {http: {maxRetries: 7}}}, \
        subsets: [{name: v1, labels: {version: v1}, trafficPolicy: {tls: {mode: DISABLE}}}]}";
    for rules in [vec![], vec![rule(disable)]] {
        let there = !rules.is_empty();
        let snapshot = mesh(&[rules, vec![policy.clone(), ca.clone()]].concat()).snapshot();
        let found = tls(&snapshot);
        assert_eq!(found.mode, TlsMode::Simple);
        assert_eq!(found.sni.as_deref(), Some("micro.example.com"));
        assert_eq!(
            found.subject_alt_names,
            ["other.example.com".into(), "spiffe://a/b".into()]
        );
        assert_eq!((authorities(&found), broken(&found)), (pem("one"), ""));
        let service = snapshot
            .service(&ObjectName::new("default", "micro-api"))
            .unwrap();
        assert!(
            snapshot.steered.contains(&service.ports[0].id),
            "the kernel alone would not verify"
        );
        assert_eq!(
            in_force(&snapshot).connection_pool.http.max_retries == Some(7),
            there,
            "the rest of the rule stays"
        );
        let subset = snapshot.policy(service, 19090, Some("v1"), None);
        assert_eq!(subset.tls.as_ref(), Some(&found), "subsets as well");
    }
    let without = mesh(&[ca]).snapshot();
    assert_eq!(in_force(&without).tls, None);
}

#[test]
fn of_several_policies_the_oldest_counts_and_one_for_a_port_before_one_for_all() {
    let ca = config_map("default", "ca", &pem("one"));
    let named = |name: &str| format!("hostname: {name}.com, wellKnownCACertificates: System");
    let port = ", sectionName: http";
    for (policies, winner) in [
        (
            vec![policy("b", 1, "", &named("b")), policy("a", 2, "", &named("a"))],
            "b.com",
        ),
        (
            vec![policy("b", 1, "", &named("b")), policy("a", 1, "", &named("a"))],
            "a.com",
        ),
        (
            vec![policy("b", 1, "", &named("b")), policy("a", 2, port, &named("a"))],
            "a.com",
        ),
        (
            vec![
                policy("b", 2, port, &named("b")),
                policy("a", 1, port, &named("a")),
            ],
            "a.com",
        ),
    ] {
        let snapshot = mesh(&[policies.clone(), vec![ca.clone()]].concat()).snapshot();
        assert_eq!(tls(&snapshot).sni.as_deref(), Some(winner), "{policies:?}");
    }
}

#[test]
fn what_a_policy_of_backends_cannot_verify_nobody_reaches() {
    let ca = config_map("default", "ca", &pem("one"));
    let other = config_map("default", "other", &pem("two"));
    let empty = config_map("default", "empty", "nothing");
    let elsewhere = config_map("weather", "gone", &pem("three"));
    for (validation, reason) in [
        (by(CA), ""),
        (by("{group: '', kind: ConfigMap, name: gone}"), "gone"),
        (by("{group: '', kind: ConfigMap, name: empty}"), "no certificate"),
        (by("{group: '', kind: Secret, name: ca}"), "not in a Secret"),
        (by(&format!("{{group: a.io, kind: B, name: c}}, {CA}")), ""),
        (
            "hostname: a.com, wellKnownCACertificates: a.io/b".into(),
            "refused",
        ),
    ] {
        let objects = [
            ca.clone(),
            empty.clone(),
            elsewhere.clone(),
            policy("p", 1, "", &validation),
        ];
        let found = tls(&mesh(&objects).snapshot());
        assert!(
            broken(&found).contains(reason),
            "{validation}: {}",
            broken(&found)
        );
        assert_eq!(broken(&found).is_empty(), reason.is_empty(), "{validation}");
    }
    let both = format!("{CA}, {{group: '', kind: ConfigMap, name: other}}");
    let found = tls(&mesh(&[ca, other, policy("p", 1, "", &by(&both))]).snapshot());
    assert!(authorities(&found).contains("one") && authorities(&found).contains("two"));
}

#[test]
fn a_policy_of_backends_follows_its_config_map_and_stays_as_it_was_when_it_is_written_wrong() {
    let mut state = mesh(&[policy("p", 1, "", &by(CA))]);
    assert!(!broken(&tls(&state.snapshot())).is_empty());
    let apply = |state: &mut State, yaml: &str| {
        let (object, origin) = (documents(yaml).remove(0), "later.yaml".into());
        state.apply(Change::Apply { object, origin });
    };
    apply(&mut state, &config_map("default", "ca", &pem("one")));
    let good = state.snapshot();
    assert_eq!(authorities(&tls(&good)), pem("one"));
    apply(&mut state, &config_map("default", "unrelated", &pem("x")));
    let same = state.snapshot();
    assert!(
        Arc::ptr_eq(&in_force(&good), &in_force(&same)),
        "what is built from a policy is kept by its allocation"
    );
    apply(&mut state, &config_map("default", "ca", &pem("two")));
    assert_eq!(authorities(&tls(&state.snapshot())), pem("two"));
    apply(&mut state, &policy("p", 1, "", "hostname: '*'"));
    assert_eq!(authorities(&tls(&state.snapshot())), pem("two"));
}

#[test]
fn a_policy_of_backends_is_told_what_becomes_of_it_at_each_gateway_and_service() {
    let base = || {
        vec![
            gateway("[{name: http, port: 80, protocol: HTTP, allowedRoutes: {namespaces: {from: All}}}]"),
            route("default", "r", "", MICRO),
            config_map("default", "ca", &pem("one")),
        ]
    };
    let yes = |reason: &'static str| (true, reason);
    let no = |reason: &'static str| (false, reason);
    let older = policy("older", 1, "", &by(CA));
    let of_port = policy("older", 1, ", sectionName: http", &by(CA));
    let gone = "{group: '', kind: ConfigMap, name: gone}";
    for (name, more, section, validation, expected) in [
        (
            "good",
            None,
            "",
            by(CA),
            vec![yes("Accepted"), yes("ResolvedRefs")],
        ),
        (
            "conflict",
            Some(&older),
            "",
            by(CA),
            vec![no("Conflicted"), yes("ResolvedRefs")],
        ),
        (
            "beside",
            Some(&of_port),
            "",
            by(CA),
            vec![yes("Accepted"), yes("ResolvedRefs")],
        ),
        (
            "no port",
            None,
            ", sectionName: x",
            by(CA),
            vec![no("TargetNotFound"), yes("ResolvedRefs")],
        ),
        (
            "gone",
            None,
            "",
            by(gone),
            vec![no("NoValidCACertificate"), no("InvalidCACertificateRef")],
        ),
        (
            "kind",
            None,
            "",
            by("{group: a.io, kind: B, name: c}"),
            vec![no("NoValidCACertificate"), no("InvalidKind")],
        ),
        (
            "one of two",
            None,
            "",
            by(&format!("{CA}, {gone}")),
            vec![yes("Accepted"), no("InvalidCACertificateRef")],
        ),
        (
            "refused",
            None,
            "",
            "hostname: a.com, wellKnownCACertificates: b.io/c".into(),
            vec![no("Invalid")],
        ),
    ] {
        let mut objects = base();
        objects.extend(more.cloned());
        objects.push(policy("p", 2, section, &validation));
        let (_, mut judging) = states(&objects);
        let said = judging.backend_tls_status(&ObjectName::new("default", "p"));
        let ancestors: Vec<_> = said.iter().map(|s| &s.ancestor).collect();
        let gateway = Ancestor::Gateway(ObjectName::new("infra", "gw"));
        let service = Ancestor::Service(ObjectName::new("default", "micro-api"));
        assert_eq!(ancestors, [&gateway, &service], "{name}");
        for status in &said {
            let conditions: Vec<_> = status.conditions.iter().map(|c| (c.holds, c.reason)).collect();
            assert_eq!(conditions, expected, "{name}");
        }
    }
}

fn with_tls(tls: &str, listeners: &str) -> String {
    gateway(listeners).replace("listeners:", &format!("tls: {tls}, listeners:"))
}

#[test]
fn the_certificate_of_a_gateway_is_shown_to_verified_backends_and_to_no_others() {
    let grant = object(
        "ReferenceGrant",
        "default",
        "g",
        1,
        "{from: [{group: gateway.networking.k8s.io, kind: Gateway, namespace: infra}], to: [{group: '', kind: Secret}]}",
    );
    let name = ObjectName::new("infra", "gw");
    for (certificate, more, reason) in [
        ("{name: client}", None, "ResolvedRefs"),
        ("{name: gone}", None, "InvalidClientCertificateRef"),
        ("{kind: Other, name: client}", None, "InvalidClientCertificateRef"),
        ("{name: client, namespace: default}", None, "RefNotPermitted"),
        ("{name: client, namespace: default}", Some(&grant), "ResolvedRefs"),
    ] {
        let tls_of = format!("{{backend: {{clientCertificateRef: {certificate}}}}}");
        let mut objects = vec![
            with_tls(&tls_of, "[{name: http, port: 80, protocol: HTTP}]"),
            secret("infra", "client"),
            secret("default", "client"),
            config_map("default", "ca", &pem("one")),
            policy("p", 1, "", &by(CA)),
        ];
        objects.extend(more.cloned());
        let (mut serving, judging) = states(&objects);
        let snapshot = serving.snapshot();
        let found = tls(&snapshot);
        let good = reason == "ResolvedRefs";
        assert_eq!(found.mode == TlsMode::Mutual, good, "{certificate}");
        assert_eq!(
            broken(&found).is_empty(),
            good,
            "{certificate}: {}",
            broken(&found)
        );
        let other = snapshot.service(&ObjectName::new("weather", "frontend")).unwrap();
        assert_eq!(snapshot.policy(other, 3000, None, None).tls, None);
        let status = judging.gateway_status(&name, &Running::default()).unwrap();
        let said = status
            .conditions
            .iter()
            .find(|c| c.kind == "ResolvedRefs")
            .unwrap();
        assert_eq!((said.holds, said.reason), (good, reason), "{certificate}");
        assert_eq!(
            (status.conditions[0].holds, status.conditions[0].reason),
            (true, "Accepted")
        );
    }
}

fn of_port(serving: &mut State, port: u16) -> Option<Arc<ServerTls>> {
    let snapshot = serving.snapshot();
    let bind = crate::model::gateway::Bind { port, address: None };
    snapshot.edge.ports.get(&bind)?.listeners[0].tls.clone()
}

#[test]
fn clients_of_https_listeners_are_asked_for_certificates_by_default_or_as_their_port_says() {
    let named = |name: &str, mode: &str| format!("{{validation: {{caCertificateRefs: [{name}]{mode}}}}}");
    let map = |name: &str| format!("{{group: '', kind: ConfigMap, name: {name}}}");
    let tls = format!(
        "{{frontend: {{default: {}, perPort: [{{port: 8443, tls: {}}}, {{port: 9443, tls: {{}}}}, \
         {{port: 7443, tls: {}}}, {{port: 6443, tls: {}}}, {{port: 5443, tls: {}}}]}}}}",
        named(&map("ca"), ""),
        named(&map("other"), ", mode: AllowInsecureFallback"),
        named(&map("gone"), ""),
        named("{group: '', kind: Service, name: micro-api}", ""),
        named("{group: '', kind: ConfigMap, name: ca, namespace: default}", ""),
    );
    let https = |port: u16| {
        format!(
            "{{name: p-{port}, port: {port}, protocol: HTTPS, tls: {{certificateRefs: [{{name: cert}}]}}}}"
        )
    };
    let ports = [443, 8443, 9443, 7443, 6443, 5443];
    let listeners: Vec<String> = ports.map(https).into();
    let listeners = format!(
        "[{}, {{name: http, port: 80, protocol: HTTP}}]",
        listeners.join(", ")
    );
    let (mut serving, judging) = states(&[
        with_tls(&tls, &listeners),
        secret("infra", "cert"),
        config_map("infra", "ca", &pem("one")),
        config_map("infra", "other", &pem("two")),
        config_map("default", "ca", &pem("three")),
    ]);
    let running = Running {
        addresses: vec![("IPAddress", "192.0.2.1".into())],
        ready: true,
        problem: None,
    };
    let status = judging
        .gateway_status(&ObjectName::new("infra", "gw"), &running)
        .unwrap();
    for (port, mode, accepted, resolved) in [
        (443, Some((Clients::Mutual, false)), "Accepted", "ResolvedRefs"),
        (
            8443,
            Some((Clients::OptionalMutual, true)),
            "Accepted",
            "ResolvedRefs",
        ),
        (9443, Some((Clients::Simple, false)), "Accepted", "ResolvedRefs"),
        (7443, None, "NoValidCACertificate", "InvalidCACertificateRef"),
        (6443, None, "NoValidCACertificate", "InvalidCACertificateKind"),
        (5443, None, "NoValidCACertificate", "RefNotPermitted"),
    ] {
        let found = of_port(&mut serving, port).map(|tls| (tls.mode, tls.clients.skip_verify));
        assert_eq!(found, mode, "{port}");
        let name = format!("p-{port}");
        let listener = status.listeners.iter().find(|l| l.name == name).unwrap();
        let said = |kind: &str| listener.conditions.iter().find(|c| c.kind == kind).unwrap();
        assert_eq!(said("Accepted").reason, accepted, "{port}");
        assert_eq!(said("ResolvedRefs").reason, resolved, "{port}");
        assert_eq!(said("Programmed").holds, mode.is_some(), "{port}");
    }
    let plain = status.listeners.iter().find(|l| l.name == "http").unwrap();
    assert!(plain.conditions.iter().all(|c| c.holds || c.kind == "Conflicted"));
    let kinds: Vec<_> = status.conditions.iter().map(|c| (c.kind, c.reason)).collect();
    let expected = [
        ("Accepted", "ListenersNotValid"),
        ("Programmed", "Programmed"),
        ("ResolvedRefs", "ListenersNotResolved"),
        (INSECURE_CLIENTS, "ConfigurationChanged"),
    ];
    assert_eq!(kinds, expected);
}

#[test]
fn a_gateway_that_verifies_its_clients_again_is_not_called_insecure_any_more() {
    let validation = |mode: &str| {
        let tls = format!(
            "{{frontend: {{default: {{validation: {{caCertificateRefs: [{{name: ca}}], mode: {mode}}}}}}}}}"
        );
        with_tls(&tls, "[{name: http, port: 80, protocol: HTTP}]")
    };
    let name = ObjectName::new("infra", "gw");
    let mut before = json!({});
    for (mode, there) in [("AllowInsecureFallback", true), ("AllowValidOnly", false)] {
        let (_, judging) = states(&[validation(mode)]);
        let running = Running::default();
        let status = judging.gateway_status(&name, &running).unwrap();
        before = status.to_json(&running, 1, &before, "now");
        let conditions = before["conditions"].as_array().unwrap();
        assert_eq!(
            conditions.iter().any(|c| c["type"] == INSECURE_CLIENTS),
            there,
            "{mode}"
        );
    }
}

#[test]
fn only_what_gateways_and_policies_may_name_is_read() {
    let place = |kind, namespace: &str| Place::new(kind, &namespace.into());
    let frontend = "{backend: {clientCertificateRef: {name: client}}, \
        frontend: {default: {validation: {caCertificateRefs: [{group: '', kind: ConfigMap, name: ca}, \
        {group: '', kind: ConfigMap, name: ca, namespace: weather}]}}}}";
    let gw = ObjectName::new("infra", "gw");
    let (mut serving, _) = states(&[
        with_tls(frontend, "[{name: http, port: 80, protocol: HTTP}]"),
        policy("p", 1, "", &by(CA)),
    ]);
    serving.snapshot();
    let own = [
        place(Material::Secret, "infra"),
        place(Material::ConfigMap, "infra"),
    ];
    let places: Vec<_> = serving.gateway_material(Some(&gw)).into_keys().collect();
    assert_eq!(
        places, own,
        "no route leads to the Service, and no grant into another namespace"
    );
    assert_eq!(
        serving.backend_material(),
        [place(Material::ConfigMap, "default")].into()
    );
    let (mut serving, _) = states(&[
        gateway("[{name: http, port: 80, protocol: HTTP}]"),
        route("default", "r", "", MICRO),
        policy("p", 1, "", &by(CA)),
    ]);
    serving.snapshot();
    let places = serving.gateway_material(None);
    let expected = [(place(Material::ConfigMap, "default"), [gw].into())];
    assert_eq!(places, expected.into());
}

/// Of an API server nothing is kept of an object but what the tables have.
#[test]
fn what_is_gone_from_the_api_server_is_a_change_whatever_its_kind() {
    let mut state = State::for_node(MeshSettings::default(), "n").serving(super::role());
    let class = "apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {name: heddle}\nspec: {controllerName: a.io/b}";
    let ingress = "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: i, namespace: default}\nspec: {ingressClassName: heddle, defaultBackend: {service: {name: micro-api, port: {number: 19090}}}}";
    let node = "apiVersion: v1\nkind: Node\nmetadata: {name: node-1}";
    let objects = [
        secret("infra", "s"),
        config_map("infra", "c", &pem("one")),
        policy("p", 1, "", &by(CA)),
        gateway("[{name: http, port: 80, protocol: HTTP}]"),
        super::gateway(
            "g",
            "",
            "[{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}]",
        ),
        class.to_owned(),
        ingress.to_owned(),
        node.to_owned(),
    ];
    for yaml in objects {
        let object = documents(&yaml).remove(0);
        let head = crate::translate::Head::read(&object).unwrap();
        let origin = String::new();
        assert!(state.apply(Change::Apply { object, origin }), "{yaml}");
        assert!(state.apply(Change::Delete(head.key.clone())), "{yaml}");
        assert!(!state.apply(Change::Delete(head.key)), "{yaml}");
    }
}
