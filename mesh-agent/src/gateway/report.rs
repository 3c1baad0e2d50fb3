//! The answer to `heddle status` of a gateway.

use super::Gateway;
use crate::app::report::{certificates, problems, proofs, rules};
use mesh_core::model::gateway::{Bind, EdgePort, Listener, ServerTls};
use serde_json::{Value, json};
use std::collections::BTreeSet;

pub(super) fn status(gateway: &Gateway) -> Value {
    let snapshot = gateway.snapshots.load();
    json!({
        "gateway": {
            "version": env!("CARGO_PKG_VERSION"),
            "pod": gateway.me.pod.to_string(),
            "identity": gateway.me.identity.to_string(),
            "labels": *gateway.me.labels,
            "serves": gateway.scope.gateway().map(ToString::to_string),
            "pid": std::process::id(),
            "uptime_s": gateway.started.elapsed().as_secs(),
            "ready": gateway.health.ready(),
            "settled": gateway.listed,
            "snapshot": snapshot.version,
        },
        "ports": snapshot.edge.ports.iter().map(|(bind, at)| port(gateway, *bind, at)).collect::<Vec<_>>(),
        "problems": problems(&gateway.problems),
        "in_force": proofs(&gateway.in_force),
        "newest_resource_versions": gateway.in_force.newest(),
        "certificates": certificates(&gateway.store),
    })
}

/// What is in force, in a line for each kind; with `objects`, the version of each rule.
pub(super) fn in_force(gateway: &Gateway, objects: bool) -> Value {
    let mut answer = json!({
        "gateway": {"pod": gateway.me.pod.to_string(), "ready": gateway.health.ready(),
            "settled": gateway.listed, "snapshot": gateway.snapshots.load().version},
        "in_force": proofs(&gateway.in_force),
    });
    if objects {
        answer["objects"] = rules(&gateway.in_force);
        answer["problems"] = problems(&gateway.problems);
    }
    answer
}

fn port(gateway: &Gateway, bind: Bind, at: &EdgePort) -> Value {
    let listeners = at.listeners.iter();
    json!({
        "port": bind.port,
        "address": bind.address,
        "transport": format!("{:?}", at.transport),
        "open": gateway.ports.is_open(bind),
        "failure": gateway.ports.failure(bind),
        "listeners": listeners.map(|listener| shown(gateway, listener)).collect::<Vec<_>>(),
    })
}

fn shown(gateway: &Gateway, listener: &Listener) -> Value {
    // Sites are by patterns of rules: a host of the listener that no rule has is none.
    let hosts: BTreeSet<String> = listener.sites.iter().map(|(host, _)| host).collect();
    json!({
        "object": format!("{} {}", listener.origin.kind, listener.origin.object),
        "field": format!("{}[{}]", listener.origin.list, listener.origin.index),
        "name": listener.name,
        "port": listener.port,
        "protocol": format!("{:?}", listener.protocol),
        "hosts": listener.hosts,
        "hosts_with_rules": hosts.len(),
        "connection_tables": listener.connections.len(),
        "tls": listener.tls.as_ref().map(|tls| json!({
            "mode": format!("{:?}", tls.mode),
            "certificates": named(tls),
            "authorities": tls.clients.authorities.as_ref().map(ToString::to_string),
            "broken": tls.broken.as_deref().map(str::to_owned)
                .or_else(|| gateway.terminations.failure(&listener.origin).map(str::to_owned)),
        })),
    })
}

fn named(tls: &ServerTls) -> Vec<String> {
    tls.certificates
        .iter()
        .map(|c| c.certificate.to_string())
        .collect()
}
