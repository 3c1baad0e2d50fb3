//! DestinationRules, ServiceEntries and what selects workloads.

use super::Report;
use super::code::{
    ADDRESSES_REQUIRED, CONFLICTING_ENTRIES, Code, MANY_SIDECARS, MANY_TELEMETRIES, NO_WORKLOADS,
    SUBSET_WITHOUT_PODS,
};
use super::world::{Object, World, selects};
use serde_json::Value;
use std::collections::BTreeMap;

pub(super) fn check(world: &World<'_>, report: &mut Report) {
    for rule in world.istio("DestinationRule") {
        subsets(world, rule, report);
    }
    entries(world, report);
    selectors(world, report);
    one_without_selector(
        world,
        "networking.istio.io",
        "Sidecar",
        "workloadSelector",
        &MANY_SIDECARS,
        report,
    );
    one_without_selector(
        world,
        "telemetry.istio.io",
        "Telemetry",
        "selector",
        &MANY_TELEMETRIES,
        report,
    );
}

/// Subsets of which no workload of the service is; only where workloads are known.
fn subsets(world: &World<'_>, rule: &Object<'_>, report: &mut Report) {
    let host = rule.value["spec"]["host"].as_str().unwrap_or_default();
    let Some(service) = world.service(&world.absolute(host, &rule.key.namespace)) else {
        return;
    };
    let selector = &service.value["spec"]["selector"];
    let own: Vec<_> = world.selected(&service.key.namespace, selector).collect();
    if own.is_empty() {
        return;
    }
    for (i, subset) in rule.list("subsets").iter().enumerate() {
        let labels = &subset["labels"];
        if labels.as_object().is_some_and(|l| !l.is_empty()) && !own.iter().any(|w| selects(labels, w.labels))
        {
            let text = format!(
                "subset {} selects no pod of service {}/{}: requests for it are answered with 503 (UH)",
                subset["name"].as_str().unwrap_or_default(),
                service.key.namespace,
                service.key.name
            );
            report.add(
                &SUBSET_WITHOUT_PODS,
                &rule.key,
                format!("spec.subsets[{i}].labels"),
                text,
            );
        }
    }
}

fn entries(world: &World<'_>, report: &mut Report) {
    let mut spoken: BTreeMap<(String, u64), (String, String)> = BTreeMap::new();
    for entry in world.istio("ServiceEntry") {
        let opaque = |port: &Value| {
            port["protocol"]
                .as_str()
                .is_none_or(|p| p.eq_ignore_ascii_case("TCP"))
        };
        let open = entry.list("addresses").is_empty()
            && entry.value["spec"]["resolution"]
                .as_str()
                .is_none_or(|r| r == "NONE");
        if open && let Some(i) = entry.list("ports").iter().position(opaque) {
            let text =
                "a TCP port without addresses and with resolution NONE is for every address: write addresses";
            report.add(&ADDRESSES_REQUIRED, &entry.key, format!("spec.ports[{i}]"), text);
        }
        let name = format!("{}/{}", entry.key.namespace, entry.key.name);
        for host in entry.texts("hosts") {
            for (i, port) in entry.list("ports").iter().enumerate() {
                let (Some(number), Some(protocol)) = (port["number"].as_u64(), port["protocol"].as_str())
                else {
                    continue;
                };
                let protocol = protocol.to_ascii_uppercase();
                let first = spoken
                    .entry((host.to_ascii_lowercase(), number))
                    .or_insert_with(|| (protocol.clone(), name.clone()));
                if first.0 != protocol {
                    let text = format!(
                        "port {number} of {host} is {protocol} here and {} in {}",
                        first.0, first.1
                    );
                    report.add(
                        &CONFLICTING_ENTRIES,
                        &entry.key,
                        format!("spec.ports[{i}].protocol"),
                        text,
                    );
                }
            }
        }
    }
}

/// Kinds that are for some pods, and where they say which.
const SELECTORS: [(&str, &str, &[&str], bool); 6] = [
    ("networking.istio.io", "Gateway", &["selector"], true),
    (
        "networking.istio.io",
        "Sidecar",
        &["workloadSelector", "labels"],
        false,
    ),
    (
        "security.istio.io",
        "AuthorizationPolicy",
        &["selector", "matchLabels"],
        false,
    ),
    (
        "security.istio.io",
        "PeerAuthentication",
        &["selector", "matchLabels"],
        false,
    ),
    (
        "security.istio.io",
        "RequestAuthentication",
        &["selector", "matchLabels"],
        false,
    ),
    (
        "telemetry.istio.io",
        "Telemetry",
        &["selector", "matchLabels"],
        false,
    ),
];

/// Selectors that select nothing; only where workloads are known. Gateways select in every namespace.
fn selectors(world: &World<'_>, report: &mut Report) {
    for (group, kind, path, everywhere) in SELECTORS {
        for object in world.of(group, kind) {
            let selector = path
                .iter()
                .fold(&object.value["spec"], |value, step| &value[*step]);
            let near = || {
                let here = |namespace: &str| everywhere || namespace == object.key.namespace;
                world.workloads.iter().filter(move |w| here(&w.key.namespace))
            };
            let asks = selector.as_object().is_some_and(|s| !s.is_empty());
            if asks && near().next().is_some() && !near().any(|w| selects(selector, w.labels)) {
                let field = format!("spec.{}", path.join("."));
                report.add(
                    &NO_WORKLOADS,
                    &object.key,
                    field,
                    "selects no pod: the object has no effect",
                );
            }
        }
    }
}

fn one_without_selector(
    world: &World<'_>,
    group: &str,
    kind: &str,
    selector: &str,
    code: &'static Code,
    report: &mut Report,
) {
    let mut first: BTreeMap<&str, &str> = BTreeMap::new();
    for object in world
        .of(group, kind)
        .filter(|o| o.value["spec"][selector].is_null())
    {
        match first.get(object.key.namespace.as_str()) {
            None => {
                first.insert(&object.key.namespace, &object.key.name);
            }
            Some(other) => {
                let text =
                    format!("{kind} {other} is for the whole namespace already: which of them holds is open");
                report.add(code, &object.key, format!("spec.{selector}"), text);
            }
        }
    }
}
