//! Fields of `networking.istio.io` that were renamed or taken out since v1alpha3.

mod destination_rule;
mod virtual_service;

pub(super) use virtual_service::cors;

use super::{Head, Notes};
use crate::translate::value::FieldError;
use serde_json::{Map, Value};

/// Keys below these are the user's own.
const USERS_OWN: [&str; 10] = [
    "headers",
    "withoutHeaders",
    "queryParams",
    "sourceLabels",
    "labels",
    "matchLabels",
    "selector",
    "to",
    "annotations",
    "patch",
];

/// The object in version v1 with the fields of today.
pub(super) fn convert(head: &Head, object: &Value, notes: &mut Notes<'_>) -> Result<Value, FieldError> {
    let mut object = object.clone();
    let newest = match head.key.kind.as_str() {
        "VirtualService" | "DestinationRule" | "Gateway" | "ServiceEntry" | "Sidecar" | "WorkloadEntry"
        | "WorkloadGroup" => "v1",
        "ProxyConfig" => "v1beta1",
        // Its version is the only one that there is.
        "EnvoyFilter" => return Ok(object),
        kind => {
            let reason = format!("kind {kind} of networking.istio.io is not known: it cannot be converted");
            return Err(FieldError::new("kind", reason));
        }
    };
    if head.version != newest {
        notes.add(
            "apiVersion",
            format!("networking.istio.io/{newest}: no field differs by the version"),
        );
        object["apiVersion"] = format!("networking.istio.io/{newest}").into();
    }
    let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) else {
        return Err(FieldError::new("spec", "is missing"));
    };
    camel_case("spec", spec, notes)?;
    match head.key.kind.as_str() {
        "VirtualService" => virtual_service::convert(spec, notes)?,
        "DestinationRule" => destination_rule::convert(spec, notes)?,
        _ => {}
    }
    Ok(object)
}

/// Protobuf's own names (`mirror_percent`) were accepted once; the CRDs' schemas know only `mirrorPercent`.
fn camel_case(at: &str, fields: &mut Map<String, Value>, notes: &mut Notes<'_>) -> Result<(), FieldError> {
    let old: Vec<String> = fields.keys().filter(|key| key.contains('_')).cloned().collect();
    for key in old {
        let new = camel(&key);
        if fields.contains_key(&new) {
            return Err(FieldError::new(
                format!("{at}.{key}"),
                format!("is there twice, as {new} too"),
            ));
        }
        if let Some(value) = fields.remove(&key) {
            notes.add(format!("{at}.{key}"), format!("is {new} now"));
            fields.insert(new, value);
        }
    }
    for (key, value) in fields
        .iter_mut()
        .filter(|(key, _)| !USERS_OWN.contains(&key.as_str()))
    {
        match value {
            Value::Object(inner) => camel_case(&format!("{at}.{key}"), inner, notes)?,
            Value::Array(items) => {
                for (i, item) in items.iter_mut().enumerate() {
                    if let Value::Object(inner) = item {
                        camel_case(&format!("{at}.{key}[{i}]"), inner, notes)?;
                    }
                }
            }
            _ => {}
        }
    }
    Ok(())
}

fn camel(snake: &str) -> String {
    let mut camel = String::with_capacity(snake.len());
    let mut upper = false;
    for c in snake.chars() {
        match c {
            '_' => upper = true,
            c if upper => {
                camel.push(c.to_ascii_uppercase());
                upper = false;
            }
            c => camel.push(c),
        }
    }
    camel
}

/// The objects in a list field, each with its path.
fn each<'a>(
    at: &str,
    fields: &'a mut Map<String, Value>,
    list: &str,
) -> impl Iterator<Item = (String, &'a mut Map<String, Value>)> {
    let at = format!("{at}.{list}");
    fields
        .get_mut(list)
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
        .enumerate()
        .filter_map(move |(i, item)| Some((format!("{at}[{i}]"), item.as_object_mut()?)))
}

/// An object field.
fn inner<'a>(fields: &'a mut Map<String, Value>, field: &str) -> Option<&'a mut Map<String, Value>> {
    fields.get_mut(field)?.as_object_mut()
}
