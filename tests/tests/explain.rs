//! `heddle why`, `status` and `routes` of gateways, and of names that the mesh answers: what they say is what then happens.

#![allow(
    clippy::unwrap_used,
    reason = "what fails here fails the test that asked for it"
)]

use mesh_tests::eventually;
use mesh_tests::gateway::{Authority, Edge, VISITOR, Visit};
use mesh_tests::mesh::{MESH, Mesh, PLAIN};
use serde_json::{Value, json};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(10);

const EDGE: &str = r#"
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge, namespace: mesh}
spec:
  selector: {istio: ingressgateway}
  servers:
  - {port: {number: 8080, name: http, protocol: HTTP}, hosts: [shop.example.com]}
  - {port: {number: 8443, name: shop, protocol: HTTPS}, hosts: [shop.example.com], tls: {mode: SIMPLE, credentialName: shop}}
  - {port: {number: 8443, name: bank, protocol: HTTPS}, hosts: [bank.example.com], tls: {mode: SIMPLE, credentialName: bank}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: edge, namespace: mesh}
spec:
  hosts: [shop.example.com, bank.example.com]
  gateways: [edge]
  http:
  - name: api
    match: [{uri: {prefix: /api}}]
    route: [{destination: {host: both}}]
  - match: [{uri: {exact: /old}}]
    redirect: {uri: /new}
"#;

fn edge() -> (Edge, Authority) {
    let mesh = Mesh::build()
        .pod(1, "near")
        .app("both")
        .http()
        .pod(2, "far")
        .app("both")
        .http()
        .service("both", "both", 1, "http-web", 80, 8080);
    let edge = Edge::start(mesh).unwrap();
    let ca = Authority::new().unwrap();
    let secret = ca.sign("shop.example.com").unwrap().secret("shop", None);
    edge.write("31-secrets.yaml", secret.unwrap()).unwrap();
    edge.write("30-gateway.yaml", EDGE).unwrap();
    edge.listens(8443).unwrap();
    edge.listens(8080).unwrap();
    (edge, ca)
}

fn why(edge: &Edge, destination: &str, path: &str) -> Value {
    let args = ["why", "plain/gw", destination, "--path", path];
    edge.heddle_json(&args).unwrap()
}

fn steps(told: &Value) -> String {
    let steps = told["steps"].as_array().unwrap().iter();
    steps.filter_map(Value::as_str).collect::<Vec<_>>().join("\n")
}

#[test]
fn why_of_a_gateway_agrees_with_what_then_happens() {
    let (edge, ca) = edge();
    let told = why(&edge, "shop.example.com:8080", "/api/x");
    assert_eq!(told["route"]["object"], "mesh/edge", "{told}");
    assert_eq!(told["route"]["name"], "api", "{told}");
    assert_eq!(told["listener"]["field"], "spec.servers[0]", "{told}");
    let pods: Vec<&str> = told["endpoints"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|end| end["pod"].as_str())
        .collect();
    assert!(
        pods.contains(&"mesh/near") && pods.contains(&"mesh/far"),
        "{told}"
    );
    let through = told["endpoints"][0]["transport"].as_str().unwrap();
    assert!(
        through.contains("mutual TLS") && through.contains("spiffe://cluster.local/ns/plain/sa/gw"),
        "{told}"
    );
    for (path, status) in [("/api/x", 200), ("/old", 301), ("/none", 404)] {
        let told = why(&edge, "shop.example.com:8080", path);
        let to = edge.at(8080).to_string();
        let args = ["get", "--to", &to, "--host", "shop.example.com", "--path", path];
        let seen = edge.mesh.pod(VISITOR).podkit(&args).unwrap();
        assert_eq!(seen["statuses"], json!({status.to_string(): 1}), "{path}: {seen}");
        let expected = match status {
            200 => told["endpoints"].is_array(),
            301 => told["answered"]["status"] == 301,
            other => told["refused"]["status"] == other,
        };
        assert!(expected, "{path}: {told}");
    }
    let secure = why(&edge, "shop.example.com:8443", "/api");
    assert!(
        steps(&secure).contains(&format!("the certificate of Secret {PLAIN}/shop key tls.crt")),
        "{secure}"
    );
    let visit = Visit {
        port: 8443,
        name: "shop.example.com",
        roots: &ca,
        shows: None,
        http2: false,
    };
    let answers = edge.visit(&visit, |c| c.ask(&[("shop.example.com", "/api")]));
    assert_eq!(answers.unwrap()[0].0, 200);
    // A Secret that is not there: told before anybody tries.
    let broken = why(&edge, "bank.example.com:8443", "/api");
    assert!(
        broken["closed"].as_str().is_some_and(|why| why.contains("bank")),
        "{broken}"
    );
    let refused = edge.visit(
        &Visit {
            name: "bank.example.com",
            ..visit
        },
        |_| Ok(()),
    );
    assert!(refused.is_err());
    let shut = why(&edge, "shop.example.com:81", "/");
    assert_eq!(
        shut["closed"],
        "nothing listens on port 81, so the connection is refused: its listeners have 8080, 8443"
    );
}

#[test]
fn status_and_routes_of_a_gateway_name_listeners_certificates_and_rules() {
    let (edge, _) = edge();
    let status = edge.heddle_json(&["status"]).unwrap();
    assert_eq!(status["gateway"]["pod"], format!("{PLAIN}/gw"), "{status}");
    assert_eq!(status["gateway"]["ready"], true, "{status}");
    let listeners: Vec<&Value> = status["ports"]
        .as_array()
        .unwrap()
        .iter()
        .inspect(|port| assert_eq!(port["open"], true, "{port}"))
        .flat_map(|port| port["listeners"].as_array().unwrap())
        .collect();
    let of = |name: &str| *listeners.iter().find(|l| l["name"] == name).unwrap();
    assert_eq!(of("http")["hosts_with_rules"], 1, "{status}");
    assert_eq!(
        of("shop")["tls"]["certificates"][0],
        format!("Secret {PLAIN}/shop key tls.crt")
    );
    assert!(of("shop")["tls"]["broken"].is_null(), "{status}");
    assert!(of("bank")["tls"]["broken"].is_string(), "{status}");
    assert!(
        status["certificates"][0]["identity"]
            .as_str()
            .is_some_and(|id| id.ends_with("/ns/plain/sa/gw")),
        "{status}"
    );
    assert_eq!(
        status["in_force"]["VirtualService.networking.istio.io"]["objects"], 1,
        "{status}"
    );
    let routes = edge.heddle_json(&["routes"]).unwrap();
    let tables = routes["routes"].as_array().unwrap();
    let table = tables
        .iter()
        .find(|table| {
            table["host"] == "shop.example.com" && table["clients"].as_str().unwrap().contains("8080")
        })
        .unwrap();
    assert_eq!(table["rules"].as_array().unwrap().len(), 2, "{table}");
    assert_eq!(table["rules"][0]["destinations"][0]["endpoints"], 4, "{table}");

    // A Secret comes: the listener serves.
    let ca = Authority::new().unwrap();
    let bank = ca.sign("bank.example.com").unwrap().secret("bank", None).unwrap();
    edge.write("32-secrets.yaml", bank).unwrap();
    eventually("the listener to be whole", SOON, || {
        let status = edge.heddle_json(&["status"]).ok()?.to_string();
        (!status.contains("Secret plain/bank is")).then_some(())
    })
    .unwrap();
}

/// Addresses that the mesh gave to hosts of ServiceEntries.
#[test]
fn names_and_their_addresses_are_told_with_the_object_that_has_them() {
    let mesh = Mesh::build().pod(1, "client").ground().unwrap();
    let entry = |name: &str, more: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {name}, namespace: {MESH}}}\n\
             spec: {{hosts: [{name}.example.com], resolution: STATIC, endpoints: [{{address: 192.0.2.9}}], \
             ports: [{{number: 5432, name: tcp, protocol: TCP}}]{more}}}\n---\n"
        )
    };
    let rules = entry("red", "") + &entry("own", ", addresses: [198.51.100.7]");
    mesh.config.write("50-rules.yaml", rules).unwrap();
    let mut mesh = mesh;
    mesh.start_agents().unwrap();
    let ask = |args: &[&str]| mesh.spec(1).unwrap().heddle_json(args).unwrap();
    let status = ask(&["status"]);
    let names = status["names"].as_array().unwrap();
    let of = |host: &str| names.iter().find(|name| name["host"] == host).unwrap();
    let red = of("red.example.com");
    let address = red["addresses"][0].as_str().unwrap();
    assert!(address.starts_with("240.240."), "{red}");
    assert_eq!(red["allocated"], true);
    assert_eq!(red["service_entry"], format!("{MESH}/red"));
    let own = of("own.example.com");
    assert_eq!(own["addresses"], json!(["198.51.100.7"]));
    assert_eq!(own["allocated"], false);

    let told = ask(&["why", "mesh/client", "red.example.com:5432"]);
    assert_eq!(told["name"], *red, "{told}");
    assert_eq!(told["address"], format!("{address}:5432"), "{told}");
    assert!(
        steps(&told).starts_with(&format!(
            "the mesh answers for the name red.example.com, by ServiceEntry {MESH}/red: {address}"
        )),
        "{told}"
    );
    let by_address = ask(&["why", "mesh/client", &format!("{address}:5432")]);
    assert!(by_address["name"].is_null(), "{by_address}");
    assert!(
        steps(&by_address).contains(&format!("chosen by the mesh for ServiceEntry {MESH}/red")),
        "{by_address}"
    );
}
