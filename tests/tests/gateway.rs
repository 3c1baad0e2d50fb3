//! The gateway: what comes into the mesh by the Gateways and VirtualServices of the guides. It runs in a pod that is in no
//! mesh, without a capability.

#![allow(
    clippy::unwrap_used,
    reason = "what fails here fails the test that asked for it"
)]

use mesh_tests::eventually;
use mesh_tests::gateway::{Authority, Edge, GATEWAY, VISITOR, Visit, json};
use mesh_tests::mesh::Mesh;
use mesh_tests::promtext;
use nix::sys::signal::Signal;
use serde_json::Value;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(10);

/// `near` is on the gateway's node, `far` on the other; `both` is a service of the two.
fn edge() -> Edge {
    let mesh = Mesh::build()
        .pod(1, "near")
        .app("both")
        .http()
        .pod(2, "far")
        .app("both")
        .http()
        .service("both", "both", 1, "http-web", 80, 8080);
    Edge::start(mesh).unwrap()
}

fn get(edge: &Edge, port: u16, host: &str, path: &str, more: &[&str]) -> Value {
    let to = edge.at(port).to_string();
    let args = ["get", "--to", &to, "--host", host, "--path", path];
    edge.mesh
        .pod(VISITOR)
        .podkit(&[&args[..], more].concat())
        .unwrap()
}

/// The Gateway and VirtualService of S130, with the ports that the process may have.
const MICRO: &str = r#"
apiVersion: networking.istio.io/v1alpha3
kind: Gateway
metadata: {name: micro-gateway, namespace: mesh}
spec:
  selector: {istio: ingressgateway}
  servers:
  - {port: {number: 8080, name: http, protocol: HTTP}, hosts: ["*"]}
---
apiVersion: networking.istio.io/v1alpha3
kind: VirtualService
metadata: {name: micro, namespace: mesh}
spec:
  hosts: ["*"]
  gateways: [micro-gateway]
  http:
  - match: [{uri: {exact: /api/order/create}}]
    route: [{destination: {host: both, port: {number: 80}}}]
"#;

/// S130, S131, S133: the guides' first steps; both pods get requests, over the mesh's own TLS, by the gateway's identity.
#[test]
fn the_guides_gateway_leads_into_the_mesh() {
    let edge = edge();
    edge.write("30-gateway.yaml", MICRO).unwrap();
    edge.listens(8080).unwrap();
    let answer = get(
        &edge,
        8080,
        "10.0.0.1:32277",
        "/api/order/create",
        &["--count", "20"],
    );
    assert_eq!(answer["statuses"]["200"], 20, "{answer}");
    assert!(
        answer["fields"]["near"].as_u64() > Some(3) && answer["fields"]["far"].as_u64() > Some(3),
        "per request, not per connection: {answer}"
    );
    let seen = &answer["last"]["body"]["headers"];
    let visitor = edge.mesh.pod(VISITOR).v4.to_string();
    assert_eq!(seen["x-forwarded-for"], visitor, "{answer}");
    assert_eq!(seen["x-forwarded-proto"], "http", "{answer}");
    assert_eq!(seen["x-forwarded-host"], "10.0.0.1:32277", "{answer}");
    assert!(
        seen["x-request-id"].as_str().is_some_and(|id| id.len() == 36),
        "{answer}"
    );
    let forged = [
        "--header",
        "x-forwarded-for: 1.2.3.4",
        "--header",
        "x-forwarded-proto: https",
        "--header",
        "x-forwarded-client-cert: By=me",
    ];
    let answer = get(&edge, 8080, "any", "/api/order/create", &forged);
    let seen = &answer["last"]["body"]["headers"];
    assert_eq!(seen["x-forwarded-for"], format!("1.2.3.4, {visitor}"), "{answer}");
    assert_eq!(seen["x-forwarded-proto"], "http", "{answer}");
    assert!(seen["x-forwarded-client-cert"].is_null(), "{answer}");
    let other = get(&edge, 8080, "any", "/api/order", &[]);
    assert_eq!(other["statuses"]["404"], 1, "{other}");

    let own = edge.metrics().unwrap();
    let labels = [
        ("reporter", "source"),
        ("source_workload", "istio-ingressgateway"),
        ("source_workload_namespace", "plain"),
        ("destination_service_name", "both"),
        ("response_code", "200"),
        ("connection_security_policy", "mutual_tls"),
    ];
    assert!(
        promtext::sum(&own, "istio_requests_total", &labels) >= 21.0,
        "{own:?}"
    );
    for agent in &edge.mesh.agents {
        let told = [
            ("reporter", "destination"),
            ("source_principal", "spiffe://cluster.local/ns/plain/sa/gw"),
            ("connection_security_policy", "mutual_tls"),
        ];
        let samples = agent.spec.metrics().unwrap();
        assert!(
            promtext::sum(&samples, "istio_requests_total", &told) > 3.0,
            "{}: {samples:?}",
            agent.spec.node.name
        );
    }
}

const TLS: &str = r#"
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: tls, namespace: mesh}
spec:
  selector: {istio: ingressgateway}
  servers:
  - {port: {number: 8080, name: http, protocol: HTTP}, hosts: [shop.example.com], tls: {httpsRedirect: true}}
  - {port: {number: 8443, name: shop, protocol: HTTPS}, hosts: [shop.example.com], tls: {mode: SIMPLE, credentialName: shop}}
  - {port: {number: 8443, name: bank, protocol: HTTPS}, hosts: [bank.example.com], tls: {mode: MUTUAL, credentialName: bank}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: tls, namespace: mesh}
spec:
  hosts: [shop.example.com, bank.example.com]
  gateways: [tls]
  http:
  - route: [{destination: {host: both}}]
"#;

struct Keys {
    ca: Authority,
    clients: Authority,
}

impl Keys {
    fn write(&self, edge: &Edge) {
        let shop = self.ca.sign("shop.example.com").unwrap();
        let bank = self.ca.sign("bank.example.com").unwrap();
        let secrets = shop.secret("shop", None).unwrap() + &bank.secret("bank", Some(&self.clients)).unwrap();
        edge.write("31-secrets.yaml", secrets).unwrap();
    }

    fn visit<'a>(&'a self, name: &'a str, http2: bool) -> Visit<'a> {
        Visit {
            port: 8443,
            name,
            roots: &self.ca,
            shows: None,
            http2,
        }
    }
}

fn with_tls() -> (Edge, Keys) {
    let edge = edge();
    let keys = Keys {
        ca: Authority::new().unwrap(),
        clients: Authority::new().unwrap(),
    };
    keys.write(&edge);
    edge.write("30-gateway.yaml", TLS).unwrap();
    edge.listens(8443).unwrap();
    eventually("the certificates", PATIENCE, || {
        edge.visit(&keys.visit("shop.example.com", false), |_| Ok(()))
            .ok()
    })
    .unwrap();
    (edge, keys)
}

/// S139, T-50: SIMPLE and MUTUAL by Secret, HTTP/1.1 and HTTP/2, 421, unknown names, the redirect.
#[test]
fn tls_ends_at_the_gateway_as_each_server_says() {
    let (edge, keys) = with_tls();
    for http2 in [false, true] {
        let asked = [
            ("shop.example.com", "/a"),
            ("bank.example.com", "/"),
            ("none.example.com", "/"),
            ("shop.example.com:443", "/b"),
        ];
        let answers = edge
            .visit(&keys.visit("shop.example.com", http2), |c| c.ask(&asked))
            .unwrap();
        let statuses: Vec<u16> = answers.iter().map(|(status, _)| *status).collect();
        assert_eq!(statuses, [200, 421, 404, 200], "http2 {http2}");
        let seen = &json(&answers[0].1).unwrap()["headers"];
        assert_eq!(seen["x-forwarded-proto"], "https");
    }
    let unknown = edge.visit(&keys.visit("none.example.com", false), |_| Ok(()));
    assert!(unknown.is_err(), "an SNI that no server has");

    let bare = edge.visit(&keys.visit("bank.example.com", false), |c| {
        c.ask(&[("bank.example.com", "/")])
    });
    assert!(bare.is_err(), "without a certificate: {bare:?}");
    let stranger = Authority::new().unwrap().sign("client").unwrap();
    let known = keys.clients.sign("client").unwrap();
    let with = |leaf| Visit {
        shows: Some(leaf),
        ..keys.visit("bank.example.com", false)
    };
    let refused = edge.visit(&with(&stranger), |c| c.ask(&[("bank.example.com", "/")]));
    assert!(refused.is_err(), "with somebody else's certificate: {refused:?}");
    let answers = edge
        .visit(&with(&known), |c| c.ask(&[("bank.example.com", "/")]))
        .unwrap();
    assert_eq!(answers[0].0, 200);
    let said = &json(&answers[0].1).unwrap()["headers"]["x-forwarded-client-cert"];
    assert!(said.as_str().is_some_and(|s| s.contains("DNS=client")), "{said}");

    let moved = get(&edge, 8080, "shop.example.com", "/x?y", &[]);
    assert_eq!(moved["statuses"]["301"], 1, "{moved}");
    assert_eq!(
        moved["last"]["headers"]["location"],
        "https://shop.example.com/x?y"
    );
}

/// A new Secret is in use without a restart, and no request notices; a wrong one takes its server away and no other.
#[test]
fn a_certificate_is_replaced_under_load_and_a_wrong_one_serves_nothing() {
    let (edge, keys) = with_tls();
    let (stop, done, lost) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    let before = edge
        .visit(&keys.visit("shop.example.com", false), |c| Ok(c.shown()))
        .unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let asked = [("shop.example.com", "/"); 5];
                match edge.visit(&keys.visit("shop.example.com", true), |c| c.ask(&asked)) {
                    Ok(answers) if answers.iter().all(|(status, _)| *status == 200) => {
                        done.fetch_add(5, Ordering::Relaxed);
                    }
                    other => {
                        eprintln!("{other:?}");
                        lost.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
        });
        keys.write(&edge);
        let changed = eventually("the new certificate", PATIENCE, || {
            let shown = edge.visit(&keys.visit("shop.example.com", false), |c| Ok(c.shown()));
            shown.ok().filter(|shown| *shown != before)
        });
        std::thread::sleep(Duration::from_millis(300));
        stop.store(true, Ordering::Relaxed);
        changed.unwrap();
    });
    assert_eq!(lost.load(Ordering::Relaxed), 0);
    assert!(done.load(Ordering::Relaxed) > 10);

    let bank = keys.ca.sign("bank.example.com").unwrap();
    let wrong = "apiVersion: v1\nkind: Secret\nmetadata: {name: shop, namespace: plain}\nstringData: {tls.crt: nothing, tls.key: nothing}\n---\n";
    let secrets = wrong.to_owned() + &bank.secret("bank", Some(&keys.clients)).unwrap();
    edge.write("31-secrets.yaml", secrets).unwrap();
    eventually("the server to be taken away", PATIENCE, || {
        edge.visit(&keys.visit("shop.example.com", false), |_| Ok(()))
            .err()
    })
    .unwrap();
    let known = keys.clients.sign("client").unwrap();
    let visit = Visit {
        shows: Some(&known),
        ..keys.visit("bank.example.com", false)
    };
    let answers = edge
        .visit(&visit, |c| c.ask(&[("bank.example.com", "/")]))
        .unwrap();
    assert_eq!(answers[0].0, 200, "the other server goes on");
    assert!(
        edge.process.stderr().contains("Secret plain/shop key tls.crt"),
        "{}",
        edge.process.stderr()
    );
}

/// A route change under load loses nothing, and SIGTERM first takes the gateway out of its Service.
#[test]
fn changes_and_the_end_lose_no_request() {
    let mut edge = edge();
    edge.write("30-gateway.yaml", MICRO).unwrap();
    edge.listens(8080).unwrap();
    let to = edge.at(8080).to_string();
    let args = [
        "load",
        "--to",
        &to,
        "--host",
        "any",
        "--path",
        "/api/order/create",
        "--seconds",
        "3",
    ];
    let load = edge.mesh.pod(VISITOR).start_podkit(&args);
    let mut load = load.unwrap();
    for i in 0..10 {
        let more = format!(
            "- match: [{{uri: {{prefix: /x{i}}}}}]\n    route: [{{destination: {{host: both}}}}]\n  - match: [{{uri: {{exact:"
        );
        edge.write("30-gateway.yaml", MICRO.replace("- match: [{uri: {exact:", &more))
            .unwrap();
        std::thread::sleep(Duration::from_millis(100));
    }
    load.wait(Duration::from_secs(20)).unwrap();
    let said = mesh_tests::podkit::last_json(&load.stdout()).unwrap();
    assert_eq!(said["failures"].as_array().map(Vec::len), Some(0), "{said}");

    edge.process.signal(Signal::SIGTERM).unwrap();
    eventually("readiness to go first", Duration::from_secs(2), || {
        (edge.status(15021, "/healthz/ready").ok()?.0 == 503).then_some(())
    })
    .unwrap();
    let last = get(&edge, 8080, "any", "/api/order/create", &[]);
    assert_eq!(last["statuses"]["200"], 1, "connections are still taken: {last}");
    let ended = edge.process.wait(PATIENCE).unwrap();
    assert!(ended.success(), "{ended}");
    assert_eq!(edge.mesh.pod(GATEWAY).name, GATEWAY);
}

const BYTES: &str = r#"
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: bytes, namespace: mesh}
spec:
  selector: {istio: ingressgateway}
  servers:
  - {port: {number: 31400, name: tcp, protocol: TCP}, hosts: ["*"]}
  - {port: {number: 8443, name: ended, protocol: TLS}, hosts: [ended.example.com], tls: {mode: SIMPLE, credentialName: ended}}
  - {port: {number: 8443, name: passed, protocol: TLS}, hosts: [passed.example.com], tls: {mode: PASSTHROUGH}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: bytes, namespace: mesh}
spec:
  hosts: ["*"]
  gateways: [bytes]
  tcp:
  - match: [{port: 31400}, {port: 8443}]
    route: [{destination: {host: both, port: {number: 80}}}]
  tls:
  - match: [{port: 8443, sniHosts: [passed.example.com]}]
    route: [{destination: {host: front, port: {number: 443}}}]
"#;

/// § 4.4, S126: a TCP server, TLS that ends at the gateway, and TLS that does not. Behind the last stands the gateway itself: its
/// own certificate is seen through it.
#[test]
fn bytes_are_carried_by_port_and_by_server_name() {
    let edge = edge();
    let ca = Authority::new().unwrap();
    let ended = ca.sign("ended.example.com").unwrap();
    let passed = ca.sign("passed.example.com").unwrap();
    let secrets = ended.secret("ended", None).unwrap() + &passed.secret("passed", None).unwrap();
    edge.write("31-secrets.yaml", secrets).unwrap();
    // A service whose only endpoint is another port of the gateway, which ends TLS as any server would.
    let gateway = edge.mesh.pod(GATEWAY).v4;
    let behind = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: front, namespace: mesh}}\nspec: {{clusterIP: 10.96.1.77, ports: [{{name: tls, port: 443, targetPort: 9443}}]}}\n---\n\
         apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: front, namespace: mesh, labels: {{kubernetes.io/service-name: front}}}}\naddressType: IPv4\nports: [{{name: tls, port: 9443}}]\nendpoints: [{{addresses: [{gateway}]}}]\n---\n\
         apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{name: inner, namespace: mesh}}\nspec: {{selector: {{istio: ingressgateway}}, servers: [{{port: {{number: 9443, name: s, protocol: HTTPS}}, hosts: [passed.example.com], tls: {{mode: SIMPLE, credentialName: passed}}}}]}}\n---\n\
         apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: inner, namespace: mesh}}\nspec: {{hosts: [passed.example.com], gateways: [inner], http: [{{route: [{{destination: {{host: both}}}}]}}]}}\n"
    );
    edge.write("32-front.yaml", behind).unwrap();
    edge.write("30-gateway.yaml", BYTES).unwrap();
    edge.listens(31400).unwrap();
    edge.listens(9443).unwrap();
    let plain = get(&edge, 31400, "anything", "/", &["--count", "4"]);
    assert_eq!(plain["statuses"]["200"], 4, "{plain}");
    assert!(
        plain["last"]["body"]["headers"]["x-forwarded-for"].is_null(),
        "{plain}"
    );

    let visit = |name| Visit {
        port: 8443,
        name,
        roots: &ca,
        shows: None,
        http2: false,
    };
    for (name, leaf) in [("ended.example.com", &ended), ("passed.example.com", &passed)] {
        let shown = eventually("the server", PATIENCE, || {
            edge.visit(&visit(name), |c| Ok(c.shown())).ok()
        });
        assert_eq!(shown.unwrap(), leaf.certificate.to_vec(), "{name}");
        let answers = edge
            .visit(&visit(name), |c| c.ask(&[(name, "/"), (name, "/")]))
            .unwrap();
        assert!(
            answers.iter().all(|(status, _)| *status == 200),
            "{name}: {answers:?}"
        );
    }
    let samples = edge.metrics().unwrap();
    let opened = [("destination_service_name", "both"), ("reporter", "source")];
    assert!(
        promtext::sum(&samples, "istio_tcp_connections_opened_total", &opened) >= 5.0,
        "{samples:?}"
    );
}
