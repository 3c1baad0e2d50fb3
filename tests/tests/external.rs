//! Hosts outside of the cluster: ServiceEntries, what is not in the registry, and what a Sidecar lets be seen.

#![allow(
    clippy::unwrap_used,
    reason = "what fails here fails the test that asked for it"
)]

use mesh_tests::eventually;
use mesh_tests::mesh::Mesh;
use mesh_tests::process::Proc;
use serde_json::Value;
use std::net::SocketAddr;
use std::time::Duration;

/// A mesh of one client, and a server that no object knows.
struct World {
    mesh: Mesh,
    outside: SocketAddr,
    _server: Proc,
}

impl World {
    fn open(policy: &str, yaml: &str) -> Self {
        let mut mesh = Mesh::build()
            .pod(1, "client")
            .pod(1, "near")
            .http()
            .service("near", "near", 1, "http-web", 80, 8080)
            .agent_args(&["--outbound-traffic-policy", policy])
            .ground()
            .unwrap();
        let world = mesh.ground.pod(2, "world").unwrap();
        let server = world.serve(&["http-server", "--name", "world"]).unwrap();
        let outside = SocketAddr::new(world.ips()[0], 8080);
        let yaml = yaml.replace("OUTSIDE", &outside.ip().to_string());
        mesh.config.write("50-rules.yaml", yaml).unwrap();
        mesh.start_agents().unwrap();
        Self {
            mesh,
            outside,
            _server: server,
        }
    }

    fn get(&self, to: SocketAddr, host: &str) -> Value {
        let to = to.to_string();
        let args = ["get", "--to", &to, "--host", host];
        self.mesh.pod("client").podkit(&args).unwrap()
    }

    fn status(&self, to: SocketAddr, host: &str) -> String {
        let answer = self.get(to, host);
        answer["statuses"]
            .as_object()
            .and_then(|statuses| statuses.keys().next().cloned())
            .unwrap_or_else(|| answer.to_string())
    }
}

fn entry(spec: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: api, namespace: mesh}}\nspec: {spec}\n"
    )
}

const BY_HOST: &str = "{hosts: [api.example.com], ports: [{number: 8080, name: http, protocol: HTTP}]}";
const ROUTE: &str = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: api, namespace: mesh}\n\
    spec: {hosts: [api.example.com], http: [{headers: {response: {set: {x-routed: \"yes\"}}}, \
    route: [{destination: {host: api.example.com}}]}]}\n";

#[test]
fn a_host_outside_is_found_by_its_name_on_an_address_that_nobody_knows_and_gets_its_routes() {
    let world = World::open("ALLOW_ANY", &format!("{}---\n{ROUTE}", entry(BY_HOST)));
    let answer = world.get(world.outside, "api.example.com");
    assert_eq!(answer["statuses"]["200"], 1, "{answer}");
    assert_eq!(answer["last"]["headers"]["x-routed"], "yes", "{answer}");
    let other = world.get(world.outside, "other.example.com");
    assert_eq!(other["statuses"]["200"], 1, "left alone: {other}");
    assert!(other["last"]["headers"]["x-routed"].is_null(), "{other}");
    let samples = world.mesh.agents[0].spec.metrics().unwrap();
    let of = |name: &str| {
        samples
            .iter()
            .any(|s| s.name == "istio_requests_total" && s.label("destination_service_name") == name)
    };
    assert!(of("api.example.com") && of("PassthroughCluster"));
}

#[test]
fn only_the_registry_is_reached_where_the_policy_says_so() {
    let world = World::open("REGISTRY_ONLY", &entry(BY_HOST));
    assert_eq!(world.status(world.outside, "api.example.com"), "200");
    assert_eq!(world.status(world.outside, "other.example.com"), "502");
    let elsewhere = SocketAddr::new(world.outside.ip(), 9);
    let refused = world
        .mesh
        .pod("client")
        .podkit(&["connect", "--to", &elsewhere.to_string()])
        .unwrap();
    assert_eq!(refused["errno_name"], "ECONNREFUSED", "in the kernel: {refused}");
    world.mesh.config.remove("50-rules.yaml").unwrap();
    eventually("the entry gone", Duration::from_secs(5), || {
        let to = world.outside.to_string();
        let refused = world
            .mesh
            .pod("client")
            .podkit(&["connect", "--to", &to])
            .unwrap();
        (refused["errno_name"] == "ECONNREFUSED").then_some(())
    })
    .unwrap();
}

#[test]
fn static_endpoints_are_reached_by_a_virtual_address_and_a_sidecar_hides_the_rest() {
    let spec = "{hosts: [api.example.com], addresses: [203.0.113.5], resolution: STATIC, \
                ports: [{number: 80, name: http, protocol: HTTP, targetPort: 8080}], endpoints: [{address: OUTSIDE}]}";
    let world = World::open("REGISTRY_ONLY", &entry(spec));
    let vip: SocketAddr = "203.0.113.5:80".parse().unwrap();
    let near = world.mesh.service("near").vips()[0];
    assert_eq!(world.status(vip, "api.example.com"), "200");
    assert_eq!(world.status(near, "near"), "200");
    let sidecar = "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {name: only, namespace: mesh}\n\
                   spec: {egress: [{hosts: [\"*/api.example.com\"]}]}\n";
    world.mesh.config.write("60-sidecar.yaml", sidecar).unwrap();
    eventually("the scope", Duration::from_secs(5), || {
        (world.status(near, "near") == "502").then_some(())
    })
    .unwrap();
    assert_eq!(world.status(vip, "api.example.com"), "200");
}
