//! Services: names of ports, and several services for the same pods.

use super::Report;
use super::code::{CONFLICTING_PORTS, EXTERNAL_NAME_PORT, MANY_SERVICES, PORT_NAME};
use super::world::{Object, World, selects};
use serde_json::Value;
use std::collections::HashMap;

/// Words that a port's name may begin with (T-51).
const PROTOCOLS: [&str; 11] = [
    "http", "http2", "grpc", "https", "tls", "tcp", "udp", "mongo", "redis", "mysql", "sctp",
];

pub(super) fn check(world: &World<'_>, report: &mut Report) {
    for service in world.of("", "Service") {
        if service.value["spec"]["type"] == "ExternalName" {
            external(service, report);
        } else {
            names(world, service, report);
        }
    }
    shared_pods(world, report);
}

fn named_after_protocol(name: &str) -> bool {
    let word = name.to_ascii_lowercase();
    let word = word.split('-').next().unwrap_or_default();
    PROTOCOLS.contains(&word)
}

fn is_tcp(port: &Value) -> bool {
    port["protocol"].as_str().is_none_or(|p| p == "TCP")
}

/// Ports whose protocol has to be found out on each connection. Only where the mesh looks.
fn names(world: &World<'_>, service: &Object<'_>, report: &mut Report) {
    let namespace = world
        .of("", "Namespace")
        .find(|n| n.key.name == service.key.namespace);
    if namespace.is_some_and(|n| !super::namespaces::is_enrolled(&n.value["metadata"]["labels"])) {
        return;
    }
    for (i, port) in service
        .list("ports")
        .iter()
        .enumerate()
        .filter(|(_, p)| is_tcp(p))
    {
        let name = port["name"].as_str().unwrap_or_default();
        if port["appProtocol"].is_string() || named_after_protocol(name) {
            continue;
        }
        let text = format!(
            "port {} is named {name:?}, which says no protocol: it is detected on each connection; http-{name} or appProtocol would say it",
            port["port"]
        );
        report.add(&PORT_NAME, &service.key, format!("spec.ports[{i}].name"), text);
    }
}

fn external(service: &Object<'_>, report: &mut Report) {
    for (i, port) in service.list("ports").iter().enumerate() {
        let name = port["name"].as_str().unwrap_or_default();
        if !named_after_protocol(name) && !port["appProtocol"].is_string() {
            let text = "the port of an ExternalName service must say its protocol in its name: nobody can look before";
            report.add(
                &EXTERNAL_NAME_PORT,
                &service.key,
                format!("spec.ports[{i}].name"),
                text,
            );
        }
    }
}

/// Services that select the same workload and disagree about its ports.
fn shared_pods(world: &World<'_>, report: &mut Report) {
    let mut by_namespace: HashMap<&str, Vec<&Object<'_>>> = HashMap::new();
    for service in world.of("", "Service") {
        by_namespace
            .entry(&service.key.namespace)
            .or_default()
            .push(service);
    }
    for workload in &world.workloads {
        let near = by_namespace.get(workload.key.namespace.as_str());
        let of: Vec<_> = near
            .into_iter()
            .flatten()
            .filter(|s| selects(&s.value["spec"]["selector"], workload.labels))
            .collect();
        for (i, one) in of.iter().enumerate() {
            for other in of.iter().skip(i + 1) {
                for (a, b) in pairs(one, other) {
                    let both = format!("services {} and {}", one.key.name, other.key.name);
                    if a["port"] == b["port"] && word(a) != word(b) {
                        let text = format!("{both} call port {} {:?} and {:?}", a["port"], word(a), word(b));
                        report.add(&MANY_SERVICES, &workload.key, "", text);
                    } else if target(a) == target(b) && a["port"] != b["port"] {
                        let text = format!(
                            "{both} lead to its port {} from different ports, {} and {}",
                            target(a),
                            a["port"],
                            b["port"]
                        );
                        report.add(&CONFLICTING_PORTS, &workload.key, "", text);
                    }
                }
            }
        }
    }
}

fn pairs<'a>(one: &'a Object<'_>, other: &'a Object<'_>) -> impl Iterator<Item = (&'a Value, &'a Value)> {
    let all = one.list("ports").iter().filter(|p| is_tcp(p));
    all.flat_map(|a| {
        other
            .list("ports")
            .iter()
            .filter(|p| is_tcp(p))
            .map(move |b| (a, b))
    })
}

fn target(port: &Value) -> &Value {
    match &port["targetPort"] {
        Value::Null => &port["port"],
        target => target,
    }
}

/// What a port says is spoken on it.
fn word(port: &Value) -> &str {
    let name = port["name"].as_str().unwrap_or_default();
    port["appProtocol"]
        .as_str()
        .unwrap_or_else(|| name.split('-').next().unwrap_or_default())
}
