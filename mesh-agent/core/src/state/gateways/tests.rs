mod api;
mod arrival;
mod listener_sets;
mod tls;

use crate::model::ObjectName;
use crate::model::gateway::{Bind, EdgePort, GatewayRole, ListenerProtocol, TlsMode, Transport};
use crate::model::snapshot::{MeshSettings, Snapshot, Target};
use crate::routing::{
    ConnectionFacts, Decision, Draws, Opening, RequestFacts, connect_at_gateway, route_at_gateway,
};
use crate::state::State;
use crate::testing::{Fields, documents, list};
use std::sync::Arc;

/// The gateway's Service as the guides have it, and two applications.
const GROUND: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: istio-ingressgateway, namespace: istio-system}
spec:
  clusterIP: 10.96.9.1
  selector: {istio: ingressgateway}
  ports:
  - {name: http2, port: 80, targetPort: 8080}
  - {name: https, port: 443, targetPort: 8443}
---
apiVersion: v1
kind: Pod
metadata: {name: micro-api, namespace: default, labels: {app: micro-api, version: v1}}
status: {podIP: 10.1.0.2}
---
apiVersion: v1
kind: Service
metadata: {name: micro-api, namespace: default}
spec:
  clusterIP: 10.96.0.1
  selector: {app: micro-api}
  ports: [{name: http, port: 19090, targetPort: 9090}]
---
apiVersion: v1
kind: Pod
metadata: {name: frontend, namespace: weather, labels: {app: frontend, version: v1}}
status: {podIP: 10.1.0.3}
---
apiVersion: v1
kind: Service
metadata: {name: frontend, namespace: weather}
spec:
  clusterIP: 10.96.0.2
  selector: {app: frontend}
  ports: [{name: http, port: 3000}]
"#;

fn gateway(name: &str, created: &str, servers: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1alpha3\nkind: Gateway\nmetadata: {{name: {name}, namespace: default, creationTimestamp: \"{created}\"}}\nspec: {{selector: {{istio: ingressgateway}}, servers: {servers}}}"
    )
}

fn bound(name: &str, created: &str, spec: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {name}, namespace: default, creationTimestamp: \"{created}\"}}\nspec: {spec}"
    )
}

fn secret(name: &str, data: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: istio-system}}\nstringData: {data}"
    )
}

fn role() -> GatewayRole {
    let labels = [
        ("istio".into(), "ingressgateway".into()),
        ("app".into(), "gw".into()),
    ];
    GatewayRole {
        pod: ObjectName::new("istio-system", "istio-ingressgateway-1"),
        labels: Arc::new(labels.into()),
        gateway: None,
    }
}

fn state(more: &[String]) -> State {
    let mut state = State::new(MeshSettings::default()).serving(role());
    let all = [&[GROUND.to_owned()], more].concat().join("\n---\n");
    list(&mut state, &documents(&all));
    state
}

fn at(snapshot: &Snapshot, port: u16) -> Arc<EdgePort> {
    Arc::clone(&snapshot.edge.ports[&Bind { port, address: None }])
}

/// `rule origin → host`, or what is answered.
fn ask(snapshot: &Snapshot, port: u16, authority: &str, path: &str) -> String {
    let Some(found) = snapshot.edge.ports.get(&Bind { port, address: None }) else {
        return "no port".into();
    };
    let by_sni = match found.transport {
        Transport::Tls => found
            .listener(Some(authority.split(':').next().unwrap()))
            .map(|l| l.origin.clone()),
        _ => None,
    };
    let facts = RequestFacts {
        client: None,
        gateway: None,
        target: &Target::Unknown,
        port,
        dialled: None,
        method: "GET",
        scheme: "http",
        authority,
        path,
        headers: &Fields(&[]),
    };
    match route_at_gateway(snapshot, found, by_sni.as_ref(), &facts, Draws::default()) {
        Decision::Forward(plan) => format!(
            "{} -> {}",
            plan.rule.unwrap().rule().origin,
            plan.upstream.service.unwrap().name
        ),
        Decision::Answer(answer) => format!("{} {}", answer.status, answer.location.unwrap_or_default()),
        Decision::Refuse(refusal) => format!("{} {}", refusal.status, refusal.flag),
    }
}

fn no_problems(state: &mut State) {
    assert_eq!(state.problems(), []);
}

const MICRO: &str = "{hosts: ['*'], gateways: [micro-gateway], http: [{match: [{uri: {exact: /api/order/create}}], route: [{destination: {host: micro-api, port: {number: 19090}}}]}]}";

/// S130, S131, S134: the exact URI is routed, everything else is 404; server ports 80 and 8080 are the same port.
#[test]
fn the_guides_gateway_routes_its_one_uri_and_nothing_else() {
    for port in [80, 8080] {
        let servers = format!("[{{port: {{number: {port}, name: http, protocol: HTTP}}, hosts: ['*']}}]");
        let mut state = state(&[gateway("micro-gateway", "", &servers), bound("micro", "", MICRO)]);
        no_problems(&mut state);
        let snapshot = state.snapshot();
        assert_eq!(
            ask(&snapshot, 8080, "10.0.0.1:32277", "/api/order/create"),
            "VirtualService default/micro spec.http[0] -> default/micro-api"
        );
        assert_eq!(ask(&snapshot, 8080, "10.0.0.1:32277", "/api/order"), "404 NR");
        assert_eq!(ask(&snapshot, 80, "x", "/"), "no port");
    }
}

/// S133, T-16: a Gateway of another namespace, `match.port` is the server's.
#[test]
fn a_virtual_service_names_a_gateway_of_another_namespace_and_its_port() {
    let weather = r#"
apiVersion: networking.istio.io/v1alpha3
kind: Gateway
metadata: {name: weather-gateway, namespace: istio-system}
spec:
  selector: {istio: ingressgateway}
  servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ["*"]}]
---
apiVersion: networking.istio.io/v1alpha3
kind: VirtualService
metadata: {name: frontend-route, namespace: weather}
spec:
  hosts: ["*"]
  gateways: [istio-system/weather-gateway]
  http:
  - match: [{port: 443}]
    route: [{destination: {host: micro-api.default.svc.cluster.local}}]
  - match: [{port: 80}]
    route: [{destination: {host: frontend, port: {number: 3000}, subset: v1}}]
---
apiVersion: networking.istio.io/v1alpha3
kind: DestinationRule
metadata: {name: frontend, namespace: weather}
spec: {host: frontend, subsets: [{name: v1, labels: {version: v1}}]}
"#;
    let mut state = state(&[weather.trim().to_owned()]);
    no_problems(&mut state);
    assert_eq!(
        ask(&state.snapshot(), 8080, "1.2.3.4", "/"),
        "VirtualService weather/frontend-route spec.http[1] -> weather/frontend"
    );
}

const ONE_HOST: &str = "[{port: {number: 80, name: http, protocol: HTTP}, hosts: ['shop.example.com']}]";

/// § 4.4: the VirtualService binds the gateway *and* its host intersects; `ns/host`, `./host`.
#[test]
fn only_hosts_that_gateway_and_virtual_service_share_are_served() {
    let route = "http: [{route: [{destination: {host: micro-api}}]}]";
    for (gateway_host, virtual_host, asked, served) in [
        (
            "shop.example.com",
            "shop.example.com",
            "Shop.Example.com:8080",
            true,
        ),
        ("*.example.com", "shop.example.com", "shop.example.com", true),
        ("*.example.com", "shop.example.com", "other.example.com", false),
        ("shop.example.com", "*.example.com", "shop.example.com", true),
        ("shop.example.com", "*.example.com", "other.example.com", false),
        ("shop.example.com", "*", "other.org", false),
        ("*.example.com", "example.com", "example.com", false),
        ("default/*", "*", "any.org", true),
        ("./*", "*", "any.org", true),
        ("*/*", "*", "any.org", true),
        ("weather/*", "*", "any.org", false),
    ] {
        let servers =
            format!("[{{port: {{number: 80, name: http, protocol: HTTP}}, hosts: ['{gateway_host}']}}]");
        let rules = format!("{{hosts: ['{virtual_host}'], gateways: [gw], {route}}}");
        let mut state = state(&[gateway("gw", "", &servers), bound("vs", "", &rules)]);
        let got = ask(&state.snapshot(), 8080, asked, "/");
        let want = if served {
            "VirtualService default/vs spec.http[0] -> default/micro-api"
        } else {
            "404 NR"
        };
        assert_eq!(got, want, "{gateway_host} {virtual_host} {asked}");
    }
}

/// T-33: several VirtualServices of one host at a gateway are one table, oldest first, catch-alls last.
#[test]
fn virtual_services_of_one_host_are_merged_with_catch_alls_last() {
    let rule = |path: &str| {
        let matches = if path.is_empty() {
            String::new()
        } else {
            format!("match: [{{uri: {{prefix: {path}}}}}], ")
        };
        format!(
            "{{hosts: [shop.example.com], gateways: [gw], http: [{{{matches}route: [{{destination: {{host: micro-api}}}}]}}]}}"
        )
    };
    let mut state = state(&[
        gateway("gw", "", ONE_HOST),
        bound("old-all", "2020-01-01T00:00:00Z", &rule("")),
        bound("mid", "2021-01-01T00:00:00Z", &rule("/a")),
        bound("new", "2022-01-01T00:00:00Z", &rule("/a/b")),
    ]);
    let snapshot = state.snapshot();
    let by = |path: &str| ask(&snapshot, 8080, "shop.example.com", path);
    assert!(
        by("/a/b").starts_with("VirtualService default/mid"),
        "{}",
        by("/a/b")
    );
    assert!(
        by("/x").starts_with("VirtualService default/old-all"),
        "{}",
        by("/x")
    );
}

/// T-13, T-15: blocks for other gateways or for the mesh are not there; those for this one do not look at labels.
#[test]
fn blocks_of_other_gateways_are_not_there() {
    let rules = "{hosts: [shop.example.com], gateways: [mesh, gw], http: [{match: [{gateways: [mesh], uri: {prefix: /}}], route: [{destination: {host: frontend.weather.svc.cluster.local}}]}, {match: [{gateways: [gw], sourceLabels: {app: nobody}}], route: [{destination: {host: micro-api}}]}]}";
    let mut state = state(&[gateway("gw", "", ONE_HOST), bound("vs", "", rules)]);
    assert_eq!(
        ask(&state.snapshot(), 8080, "shop.example.com", "/"),
        "VirtualService default/vs spec.http[1] -> default/micro-api"
    );
}

#[test]
fn a_selector_must_hold_whole_and_an_empty_one_selects_every_gateway() {
    let of = |selector: &str| {
        let text = gateway("gw", "", ONE_HOST).replace("{istio: ingressgateway}", selector);
        let mut state = state(&[text]);
        state.snapshot().edge.ports.len()
    };
    assert_eq!(of("{}"), 1);
    assert_eq!(of("{istio: ingressgateway, app: gw}"), 1);
    assert_eq!(of("{istio: egressgateway}"), 0);
    assert_eq!(of("{istio: ingressgateway, app: other}"), 0);
}

/// IST0145 and the merge rules of § 4.4.
#[test]
fn of_servers_that_speak_differently_on_one_port_the_oldest_is_right() {
    let tcp = "[{port: {number: 80, name: tcp, protocol: TCP}, hosts: ['*']}]";
    let mut state = state(&[
        gateway("young", "2022-01-01T00:00:00Z", tcp),
        gateway("old", "2020-01-01T00:00:00Z", ONE_HOST),
    ]);
    let port = at(&state.snapshot(), 8080);
    assert_eq!(port.transport, Transport::Http);
    assert_eq!(port.listeners.len(), 1);
    let problems = state.problems();
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert_eq!(problems[0].rejected.object, "Gateway default/young");
    assert_eq!(problems[0].rejected.field, "spec.servers[0].port");
    assert!(problems[0].rejected.reason.contains("IST0145"), "{problems:?}");
}

#[test]
fn a_redirecting_server_sends_every_host_to_https() {
    let servers = "[{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*.example.com'], tls: {httpsRedirect: true}}]";
    let rules =
        "{hosts: [shop.example.com], gateways: [gw], http: [{route: [{destination: {host: micro-api}}]}]}";
    let mut state = state(&[gateway("gw", "", servers), bound("vs", "", rules)]);
    let snapshot = state.snapshot();
    for host in ["shop.example.com", "none.example.com"] {
        let want = format!("301 https://{host}/a?b");
        assert_eq!(ask(&snapshot, 8080, host, "/a?b"), want);
    }
    assert_eq!(ask(&snapshot, 8080, "example.org", "/"), "404 NR");
}

const TLS: &str = "[{port: {number: 443, name: https, protocol: HTTPS}, hosts: [shop.example.com], tls: {mode: MUTUAL, credentialName: shop}}]";

/// S139: kinds of Secrets, `-cacert`, and a change without a word about routes.
#[test]
fn secrets_are_looked_for_beside_the_gateway_and_a_new_one_is_followed() {
    let parts = |state: &mut State| {
        let port = at(&state.snapshot(), 8443);
        let listener = &port.listeners[0];
        assert_eq!(listener.protocol, ListenerProtocol::Https);
        let tls = Arc::clone(listener.tls.as_ref().unwrap());
        assert_eq!(tls.mode, TlsMode::Mutual);
        let named = |s: &crate::model::gateway::CredentialSource| s.to_string();
        (
            tls.certificates
                .iter()
                .map(|c| named(&c.certificate))
                .collect::<Vec<_>>(),
            tls.clients.authorities.as_ref().map(named),
            tls.broken.clone(),
        )
    };
    let mut state = state(&[gateway("gw", "", TLS)]);
    let (_, _, broken) = parts(&mut state);
    assert_eq!(
        broken.as_deref(),
        Some("Secret istio-system/shop is not there, or holds no certificate")
    );
    let problems = state.problems();
    assert_eq!(problems[0].rejected.field, "spec.servers[0].tls", "{problems:?}");

    let apply = |state: &mut State, text: String| {
        for object in documents(&text) {
            state.apply(crate::state::Change::Apply {
                object,
                origin: "later.yaml".into(),
            });
        }
    };
    apply(&mut state, secret("shop", "{tls.crt: a, tls.key: b}"));
    let (_, _, broken) = parts(&mut state);
    assert!(broken.unwrap().contains("ca.crt"));
    apply(&mut state, secret("shop-cacert", "{cacert: ca}"));
    let (own, ca, broken) = parts(&mut state);
    assert_eq!(own, ["Secret istio-system/shop key tls.crt"]);
    assert_eq!(ca.as_deref(), Some("Secret istio-system/shop-cacert key cacert"));
    assert_eq!(broken, None);
    no_problems(&mut state);
    apply(&mut state, secret("shop", "{cert: a, key: b, cacert: c}"));
    assert_eq!(parts(&mut state).0, ["Secret istio-system/shop key cert"]);
}

#[test]
fn an_agent_keeps_no_secret() {
    let mut state = State::new(MeshSettings::default());
    list(
        &mut state,
        &documents(&secret("shop", "{tls.crt: a, tls.key: b}")),
    );
    assert!(
        state
            .tables
            .material("Secret", &ObjectName::new("istio-system", "shop"))
            .is_none()
    );
}

#[test]
fn a_bad_server_is_refused_with_its_field() {
    let server = |text: &str| format!("[{text}]");
    let https = |tls: &str| {
        format!("[{{port: {{number: 443, name: s, protocol: HTTPS}}, hosts: ['*'], tls: {tls}}}]")
    };
    for (servers, field, reason) in [
        ("[]".to_owned(), "spec.servers", "at least one server"),
        (
            server("{hosts: ['*']}"),
            "spec.servers[0].port",
            "must have a port",
        ),
        (
            server("{port: {number: 0, protocol: HTTP}, hosts: ['*']}"),
            "spec.servers[0].port.number",
            "1 to 65535",
        ),
        (
            server("{port: {number: 80, protocol: UDP}, hosts: ['*']}"),
            "spec.servers[0].port.protocol",
            "not supported",
        ),
        (
            server("{port: {number: 80, protocol: HTTP}}"),
            "spec.servers[0].hosts",
            "at least one host",
        ),
        (
            server("{port: {number: 80, protocol: HTTP}, hosts: [short]}"),
            "spec.servers[0].hosts[0]",
            "short names",
        ),
        (
            server("{port: {number: 80, protocol: HTTP}, hosts: ['a.*.com']}"),
            "spec.servers[0].hosts[0]",
            "DNS name",
        ),
        (
            server("{port: {number: 80, protocol: HTTP}, hosts: ['*'], bind: 'unix:///x'}"),
            "spec.servers[0].bind",
            "IP address",
        ),
        (
            server("{port: {number: 80, protocol: HTTP}, hosts: ['*'], defaultEndpoint: '127.0.0.1:1'}"),
            "spec.servers[0].defaultEndpoint",
            "not supported",
        ),
        (
            server("{port: {number: 443, protocol: HTTPS}, hosts: ['*']}"),
            "spec.servers[0].tls",
            "must have TLS settings",
        ),
        (
            server(
                "{port: {number: 80, protocol: HTTP}, hosts: ['*'], tls: {mode: SIMPLE, credentialName: a}}",
            ),
            "spec.servers[0].tls",
            "non HTTPS/TLS",
        ),
        (
            https("{mode: SIMPLE}"),
            "spec.servers[0].tls.credentialName",
            "require",
        ),
        (
            https("{mode: SIMPLE, credentialName: other/shop}"),
            "spec.servers[0].tls.credentialName",
            "another namespace",
        ),
        (
            https("{mode: SIMPLE, credentialName: a, credentialNames: [b]}"),
            "spec.servers[0].tls",
            "only one of",
        ),
        (
            https("{mode: SIMPLE, serverCertificate: /a}"),
            "spec.servers[0].tls.privateKey",
            "is missing",
        ),
        (
            https("{mode: MUTUAL, serverCertificate: /a, privateKey: /b}"),
            "spec.servers[0].tls.caCertificates",
            "MUTUAL",
        ),
        (
            https("{mode: SIMPLE, credentialName: a, minProtocolVersion: TLSV1_1}"),
            "spec.servers[0].tls.minProtocolVersion",
            "RFC 8996",
        ),
        (
            https(
                "{mode: SIMPLE, credentialName: a, minProtocolVersion: TLSV1_3, maxProtocolVersion: TLSV1_2}",
            ),
            "spec.servers[0].tls.minProtocolVersion",
            "higher",
        ),
        (
            https("{mode: SIMPLE, credentialName: a, cipherSuites: [AES128-SHA]}"),
            "spec.servers[0].tls.cipherSuites[0]",
            "not supported",
        ),
        (
            https("{mode: SIMPLE, credentialName: a, subjectAltNames: [b]}"),
            "spec.servers[0].tls.subjectAltNames",
            "requires mode MUTUAL",
        ),
        (
            https("{mode: MUTUAL, credentialName: a, verifyCertificateHash: [xyz]}"),
            "spec.servers[0].tls.verifyCertificateHash[0]",
            "SHA-256",
        ),
        (
            https("{mode: MUTUAL, credentialName: a, verifyCertificateSpki: ['AAAA']}"),
            "spec.servers[0].tls.verifyCertificateSpki[0]",
            "SHA-256",
        ),
        (
            https("{mode: PASSTHROUGH, credentialName: a}"),
            "spec.servers[0].tls",
            "does not terminate",
        ),
        (
            https("{mode: ISTIO_MUTUAL, credentialName: a}"),
            "spec.servers[0].tls",
            "the mesh's",
        ),
        (https("{mode: STRANGE}"), "spec.servers[0].tls.mode", "not known"),
        (
            https("{mode: SIMPLE, credentialName: a, httpsRedirect: true}"),
            "spec.servers[0].tls.httpsRedirect",
            "http servers",
        ),
        (
            https("{mode: SIMPLE, credentialName: a, surprise: 1}"),
            "spec.servers[0].tls.surprise",
            "unknown field",
        ),
    ] {
        let mut state = state(&[gateway("gw", "", &servers)]);
        let problems = state.problems();
        assert_eq!(problems.len(), 1, "{servers}: {problems:?}");
        assert_eq!(problems[0].rejected.field, field, "{servers}: {problems:?}");
        assert!(
            problems[0].rejected.reason.contains(reason),
            "{servers}: {problems:?}"
        );
        assert!(state.snapshot().edge.ports.is_empty());
    }
}

/// A change of one endpoint leaves the gateway's tables as they are.
#[test]
fn endpoints_of_others_do_not_rebuild_the_edge() {
    let mut state = state(&[gateway("micro-gateway", "", ONE_HOST), bound("micro", "", MICRO)]);
    let before = Arc::clone(&state.snapshot().edge);
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: micro-api-2, namespace: default, labels: {app: micro-api}}\nstatus: {podIP: 10.1.0.9}";
    state.apply(crate::state::Change::Apply {
        object: documents(pod).remove(0),
        origin: "later.yaml".into(),
    });
    let after = state.snapshot();
    assert_eq!(
        after.services_by_host["micro-api.default.svc.cluster.local"].ports[0]
            .endpoints
            .len(),
        2
    );
    assert!(Arc::ptr_eq(&before, &after.edge));
}

/// `service name`, or the flag of what is refused.
fn carry(snapshot: &Snapshot, port: u16, sni: Option<&str>) -> String {
    let found = at(snapshot, port);
    let by_sni = match found.transport {
        Transport::Tls => match found.listener(sni) {
            Some(listener) => Some(listener.origin.clone()),
            None => return "no listener".into(),
        },
        _ => None,
    };
    let facts = ConnectionFacts {
        client: None,
        source: Some([192, 0, 2, 1].into()),
        gateway: None,
        target: &Target::Unknown,
        original: ([10, 0, 0, 1], port).into(),
        port: 0,
        opening: sni.map_or(Opening::Bytes, |name| Opening::Tls(Some(name))),
    };
    match connect_at_gateway(snapshot, &found, by_sni.as_ref(), &facts, 0) {
        Ok(plan) => plan.upstream.service.unwrap().name.to_string(),
        Err(refusal) => refusal.flag.into(),
    }
}

/// S126, § 4.4: TCP by port, PASSTHROUGH by SNI, AUTO_PASSTHROUGH by the name in it.
#[test]
fn bytes_go_where_tcp_and_tls_rules_of_the_gateway_say() {
    let servers = "[{port: {number: 31400, name: tcp, protocol: TCP}, hosts: ['*']}, {port: {number: 443, name: tls, protocol: TLS}, hosts: ['*.example.com'], tls: {mode: PASSTHROUGH}}, {port: {number: 15443, name: auto, protocol: TLS}, hosts: ['*.local'], tls: {mode: AUTO_PASSTHROUGH}}]";
    let rules = "{hosts: ['*'], gateways: [gw], tcp: [{match: [{port: 9999}], route: [{destination: {host: nobody}}]}, {match: [{port: 31400}], route: [{destination: {host: micro-api, port: {number: 19090}}}]}]}";
    let tls = "{hosts: [shop.example.com], gateways: [gw], tls: [{match: [{port: 443, sniHosts: [shop.example.com]}], route: [{destination: {host: frontend.weather.svc.cluster.local}}]}]}";
    let mut state = state(&[
        gateway("gw", "", servers),
        bound("tcp", "", rules),
        bound("tls", "", tls),
    ]);
    let snapshot = state.snapshot();
    let named = "outbound_.3000_._.frontend.weather.svc.cluster.local";
    for (port, sni, want) in [
        (31400, None, "default/micro-api"),
        (8443, Some("shop.example.com"), "weather/frontend"),
        (8443, Some("other.example.com"), "NR"),
        (8443, Some("example.org"), "no listener"),
        (15443, Some(named), "weather/frontend"),
        (
            15443,
            Some("outbound_.1_._.frontend.weather.svc.cluster.local"),
            "NC",
        ),
        (15443, Some("frontend.weather.svc.cluster.local"), "NR"),
    ] {
        assert_eq!(carry(&snapshot, port, sni), want, "{port} {sni:?}");
    }
}

const INGRESS: &str = r#"
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: shop, namespace: default}
spec:
  ingressClassName: CLASS
  tls: [{hosts: [shop.example.com], secretName: shop}]
  rules:
  - host: shop.example.com
    http:
      paths:
      - {path: /, pathType: Prefix, backend: {service: {name: micro-api, port: {name: http}}}}
      - {path: /api/, pathType: Prefix, backend: {service: {name: api, port: {number: 80}}}}
      - {path: /api, pathType: Exact, backend: {service: {name: micro-api, port: {number: 19090}}}}
"#;

/// Kubernetes' own rules: exact before prefix, long before short, prefixes by segments, classes of others left alone.
#[test]
fn an_ingress_of_our_class_is_served_beside_gateways() {
    let api = "apiVersion: v1\nkind: Service\nmetadata: {name: api, namespace: default}\nspec: {clusterIP: 10.96.0.9, selector: {app: micro-api}, ports: [{port: 80, targetPort: 9090}]}";
    let ours = INGRESS.replace("CLASS", "heddle").trim().to_owned();
    let mut state = state(&[ours, api.to_owned(), secret("shop", "{tls.crt: a, tls.key: b}")]);
    no_problems(&mut state);
    let snapshot = state.snapshot();
    for (port, path, want) in [
        (8080, "/api", "default/micro-api"),
        (8080, "/api/x", "default/api"),
        (8080, "/apix", "default/micro-api"),
        (8443, "/api/x", "default/api"),
    ] {
        let got = ask(&snapshot, port, "shop.example.com", path);
        assert!(got.ends_with(want), "{port} {path}: {got}");
    }
    assert_eq!(ask(&snapshot, 8080, "other.example.com", "/"), "404 NR");
    for object in documents(INGRESS.replace("CLASS", "nginx").trim()) {
        state.apply(crate::state::Change::Apply {
            object,
            origin: "later.yaml".into(),
        });
    }
    assert!(
        state.snapshot().edge.ports.is_empty(),
        "it is somebody else's now"
    );
}

/// S107: the same VirtualService in two contexts, and a host of a ServiceEntry behind the egress gateway.
#[test]
fn a_virtual_service_leads_to_the_egress_gateway_and_from_there_outside() {
    let egress = r#"
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: outside, namespace: default}
spec: {hosts: [outside.example.com], ports: [{number: 80, name: http, protocol: HTTP}], resolution: STATIC, location: MESH_EXTERNAL, endpoints: [{address: 192.0.2.7}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: outside, namespace: default}
spec:
  hosts: [outside.example.com]
  gateways: [egress, mesh]
  http:
  - match: [{gateways: [mesh], port: 80}]
    route: [{destination: {host: istio-ingressgateway.istio-system.svc.cluster.local, port: {number: 80}}}]
  - match: [{gateways: [egress], port: 80}]
    route: [{destination: {host: outside.example.com, port: {number: 80}}}]
"#;
    let servers = "[{port: {number: 80, name: http, protocol: HTTP}, hosts: [outside.example.com]}]";
    let mut state = state(&[gateway("egress", "", servers), egress.trim().to_owned()]);
    let snapshot = state.snapshot();
    let got = ask(&snapshot, 8080, "outside.example.com", "/");
    assert!(
        got.starts_with("VirtualService default/outside spec.http[1] -> "),
        "{got}"
    );
}
