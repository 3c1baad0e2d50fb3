//! VirtualServices: gateways that are not there, rules that nothing reaches.

use super::Report;
use super::code::{
    HOST_NOT_IN_GATEWAY, INEFFECTIVE_MATCH, PORT_NOT_SAID, REFERENCE_NOT_FOUND, UNREACHABLE_RULE,
};
use super::world::{Object, World, covers};
use serde_json::{Map, Value};

pub(super) fn check(world: &World<'_>, report: &mut Report) {
    for object in world.istio("VirtualService") {
        gateways(world, object, report);
        for list in ["http", "tcp", "tls"] {
            let rules = object.list(list);
            reachable(object, list, rules, report);
            ports(world, object, list, rules, report);
        }
        if !in_mesh(object) {
            hosts(world, object, report);
        }
    }
}

/// Whether it applies to clients in the mesh: then the state looks after its destinations.
fn in_mesh(object: &Object<'_>) -> bool {
    object.list("gateways").is_empty() || object.texts("gateways").any(|g| g == "mesh")
}

fn gateways(world: &World<'_>, object: &Object<'_>, report: &mut Report) {
    for (i, name) in object.texts("gateways").enumerate() {
        if name == "mesh" {
            continue;
        }
        let field = format!("spec.gateways[{i}]");
        let (namespace, wanted) = name.split_once('/').unwrap_or((&object.key.namespace, name));
        let found = world
            .istio("Gateway")
            .find(|g| g.key.namespace == namespace && g.key.name == wanted);
        let Some(gateway) = found else {
            let text = format!("Gateway {namespace}/{wanted} is not there");
            report.add(&REFERENCE_NOT_FOUND, &object.key, field, text);
            continue;
        };
        let served = |host: &str| {
            gateway
                .list("servers")
                .iter()
                .flat_map(|server| server["hosts"].as_array().into_iter().flatten())
                .filter_map(Value::as_str)
                .any(|pattern| covers(pattern, host))
        };
        for (j, host) in object
            .texts("hosts")
            .enumerate()
            .filter(|(_, host)| !served(host))
        {
            let text = format!(
                "no server of Gateway {namespace}/{wanted} is for host {host}: the rules never apply there"
            );
            report.add(
                &HOST_NOT_IN_GATEWAY,
                &object.key,
                format!("spec.hosts[{j}]"),
                text,
            );
        }
    }
}

/// Every destination of a rule with its path.
fn destinations<'a>(list: &str, rules: &'a [Value]) -> Vec<(String, &'a Value)> {
    let mut all = Vec::new();
    for (i, rule) in rules.iter().enumerate() {
        let routes = rule["route"].as_array().into_iter().flatten().enumerate();
        all.extend(routes.map(|(j, r)| {
            (
                format!("spec.{list}[{i}].route[{j}].destination"),
                &r["destination"],
            )
        }));
        if rule["mirror"].is_object() {
            all.push((format!("spec.{list}[{i}].mirror"), &rule["mirror"]));
        }
        let mirrors = rule["mirrors"].as_array().into_iter().flatten().enumerate();
        all.extend(mirrors.map(|(j, m)| {
            (
                format!("spec.{list}[{i}].mirrors[{j}].destination"),
                &m["destination"],
            )
        }));
    }
    all
}

/// What only gateways use.
fn hosts(world: &World<'_>, object: &Object<'_>, report: &mut Report) {
    for list in ["http", "tcp", "tls"] {
        for (at, destination) in destinations(list, object.list(list)) {
            let Some(host) = destination["host"].as_str() else {
                continue;
            };
            let absolute = world.absolute(host, &object.key.namespace);
            if !world.knows_host(&absolute) {
                let text = format!("host {absolute} is no service");
                report.add(&REFERENCE_NOT_FOUND, &object.key, format!("{at}.host"), text);
                continue;
            }
            let Some(subset) = destination["subset"].as_str() else {
                continue;
            };
            let defines = |rule: &Object<'_>| {
                let of = rule.value["spec"]["host"].as_str().unwrap_or_default();
                covers(&world.absolute(of, &rule.key.namespace), &absolute)
                    && rule.list("subsets").iter().any(|s| s["name"] == subset)
            };
            if !world.istio("DestinationRule").any(defines) {
                let text = format!("no DestinationRule defines subset {subset} of {absolute}");
                report.add(&REFERENCE_NOT_FOUND, &object.key, format!("{at}.subset"), text);
            }
        }
    }
}

/// A service with several ports, of which none is named.
fn ports(world: &World<'_>, object: &Object<'_>, list: &str, rules: &[Value], report: &mut Report) {
    for (at, destination) in destinations(list, rules) {
        let Some(host) = destination["host"]
            .as_str()
            .filter(|_| destination["port"].is_null())
        else {
            continue;
        };
        let service = world.service(&world.absolute(host, &object.key.namespace));
        if let Some(service) = service
            && service.list("ports").len() > 1
        {
            let text = format!(
                "service {}/{} has several ports and the destination names none: it is the one that the client used",
                service.key.namespace, service.key.name
            );
            report.add(&PORT_NOT_SAID, &object.key, format!("{at}.port"), text);
        }
    }
}

/// Rules and match blocks before which others already take everything that they could.
fn reachable(object: &Object<'_>, list: &str, rules: &[Value], report: &mut Report) {
    let mut before: Vec<(String, &Map<String, Value>)> = Vec::new();
    let everything = Map::new();
    for (i, rule) in rules.iter().enumerate() {
        let at = format!("spec.{list}[{i}]");
        let blocks = rule["match"].as_array().map_or(&[][..], Vec::as_slice);
        let mut blocks: Vec<(String, &Map<String, Value>)> = blocks
            .iter()
            .enumerate()
            .filter_map(|(j, block)| Some((format!("{at}.match[{j}]"), block.as_object()?)))
            .collect();
        let unconditional = blocks.is_empty();
        if unconditional {
            blocks.push((at.clone(), &everything));
        }
        let count = blocks.len();
        let mut dead = Vec::new();
        for (place, block) in blocks {
            match before.iter().find(|(_, earlier)| takes_all(earlier, block)) {
                Some((earlier, _)) => dead.push((place, earlier.clone())),
                None => before.push((place, block)),
            }
        }
        if dead.len() == count {
            let by: Vec<&str> = dead.iter().map(|(_, earlier)| earlier.as_str()).collect();
            let text = format!("nothing reaches this rule: {} takes it before", by.join(" and "));
            report.add(&UNREACHABLE_RULE, &object.key, at, text);
        } else {
            for (place, earlier) in dead {
                let text = format!("nothing is left for this match: {earlier} takes it before");
                report.add(&INEFFECTIVE_MATCH, &object.key, place, text);
            }
        }
    }
}

/// Names that say nothing about which requests match.
fn is_condition(field: &str) -> bool {
    !matches!(field, "name" | "statPrefix")
}

/// Whether whatever matches `later` matches `earlier`: each condition of `earlier` is there too, or follows from one. Only
/// what is certain counts.
fn takes_all(earlier: &Map<String, Value>, later: &Map<String, Value>) -> bool {
    let ignore_case = |block: &Map<String, Value>| block.get("ignoreUriCase") == Some(&Value::Bool(true));
    earlier
        .iter()
        .filter(|(field, _)| is_condition(field))
        .all(|(field, wanted)| {
            if field == "ignoreUriCase" {
                return true;
            }
            if field == "uri" && is_everything(wanted) {
                return true;
            }
            let Some(given) = later.get(field) else {
                return false;
            };
            if wanted == given && (field != "uri" || ignore_case(earlier) || !ignore_case(later)) {
                return true;
            }
            match field.as_str() {
                "uri" => !ignore_case(later) && !ignore_case(earlier) && follows(wanted, given),
                "scheme" | "method" | "authority" => follows(wanted, given),
                // Further headers only narrow.
                "headers" | "queryParams" | "sourceLabels" | "withoutHeaders" => {
                    let (Some(wanted), Some(given)) = (wanted.as_object(), given.as_object()) else {
                        return false;
                    };
                    wanted.iter().all(|(name, value)| given.get(name) == Some(value))
                }
                _ => false,
            }
        })
}

/// `prefix: /` and `regex: .*` match every path (T-12).
fn is_everything(uri: &Value) -> bool {
    uri["prefix"] == "/" || uri["regex"] == ".*"
}

/// Whether a text that matches `given` begins with the prefix that `wanted` asks for.
fn follows(wanted: &Value, given: &Value) -> bool {
    let Some(prefix) = wanted["prefix"].as_str() else {
        return false;
    };
    [&given["exact"], &given["prefix"]]
        .into_iter()
        .filter_map(Value::as_str)
        .any(|text| text.starts_with(prefix))
}
