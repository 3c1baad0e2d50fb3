//! Istio Gateways among each other and with the services before them.

use super::Report;
use super::code::{CONFLICTING_GATEWAYS, PORT_NOT_ON_SERVICE};
use super::world::{Object, World, covers, selects};
use serde_json::Value;

pub(super) fn check(world: &World<'_>, report: &mut Report) {
    let gateways: Vec<&Object<'_>> = world.istio("Gateway").collect();
    for (i, gateway) in gateways.iter().enumerate() {
        for other in gateways.iter().skip(i + 1) {
            conflict(gateway, other, report);
        }
        ports(world, gateway, report);
    }
}

fn servers<'a>(gateway: &'a Object<'_>) -> impl Iterator<Item = (usize, &'a Value, u64)> {
    let each = gateway.list("servers").iter().enumerate();
    each.filter_map(|(i, server)| Some((i, server, server["port"]["number"].as_u64()?)))
}

fn hosts(server: &Value) -> impl Iterator<Item = &str> {
    server["hosts"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
}

/// Two Gateways for the same pods that both want a host on a port.
fn conflict(one: &Object<'_>, other: &Object<'_>, report: &mut Report) {
    if one.value["spec"]["selector"] != other.value["spec"]["selector"] {
        return;
    }
    for (i, server, number) in servers(one) {
        for (j, rival, rival_number) in servers(other) {
            if number != rival_number || server["bind"] != rival["bind"] {
                continue;
            }
            let shared = hosts(server).find(|host| hosts(rival).any(|r| exactly(host, r)));
            let Some(host) = shared else { continue };
            let mut say = |gateway: &Object<'_>, place: usize, of: &Object<'_>| {
                let text = format!(
                    "port {number} of host {host} is also served by Gateway {}/{} for the same pods",
                    of.key.namespace, of.key.name
                );
                report.add(
                    &CONFLICTING_GATEWAYS,
                    &gateway.key,
                    format!("spec.servers[{place}]"),
                    text,
                );
            };
            say(one, i, other);
            say(other, j, one);
        }
    }
}

/// The same host, not a wildcard beside a name that it covers: the more specific wins there.
fn exactly(a: &str, b: &str) -> bool {
    let bare = |h: &str| h.split_once('/').map_or(h, |(_, host)| host).to_ascii_lowercase();
    bare(a) == bare(b) && covers(a, b)
}

/// A port that no service in front of the gateway's pods leads to.
fn ports(world: &World<'_>, gateway: &Object<'_>, report: &mut Report) {
    let selector = &gateway.value["spec"]["selector"];
    let own: Vec<_> = world
        .workloads
        .iter()
        .filter(|w| selects(selector, w.labels))
        .collect();
    let before: Vec<&Object<'_>> = world
        .of("", "Service")
        .filter(|service| {
            own.iter().any(|w| {
                w.key.namespace == service.key.namespace
                    && selects(&service.value["spec"]["selector"], w.labels)
            })
        })
        .collect();
    if before.is_empty() {
        return;
    }
    for (i, _, number) in servers(gateway) {
        let leads = |port: &Value| {
            port["port"].as_u64() == Some(number) || port["targetPort"].as_u64() == Some(number)
        };
        if !before
            .iter()
            .any(|service| service.list("ports").iter().any(leads))
        {
            let names: Vec<String> = before
                .iter()
                .map(|s| format!("{}/{}", s.key.namespace, s.key.name))
                .collect();
            let text = format!(
                "no port {number} on service {}, which leads to the gateway's pods",
                names.join(", ")
            );
            report.add(
                &PORT_NOT_ON_SERVICE,
                &gateway.key,
                format!("spec.servers[{i}].port.number"),
                text,
            );
        }
    }
}
