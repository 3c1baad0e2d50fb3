//! VirtualService.

use super::super::Notes;
use super::{each, inner};
use crate::translate::value::FieldError;
use serde_json::{Map, Value, json};

pub(super) fn convert(spec: &mut Map<String, Value>, notes: &mut Notes<'_>) -> Result<(), FieldError> {
    for (at, http) in each("spec", spec, "http") {
        if http.remove("websocketUpgrade").is_some() {
            notes.add(
                format!("{at}.websocketUpgrade"),
                "is gone: upgrades are always allowed now",
            );
        }
        headers(&at, http, notes)?;
        mirror(&at, http, notes);
        for part in ["delay", "abort"] {
            if let Some(fault) = inner(http, "fault").and_then(|fault| inner(fault, part)) {
                percent(&format!("{at}.fault.{part}"), fault, part, notes);
            }
        }
        if let Some(given) = http.remove("corsPolicy") {
            let given = match given {
                Value::Object(given) => cors(&format!("{at}.corsPolicy"), given, notes),
                other => other,
            };
            http.insert("corsPolicy".into(), given);
        }
        destinations(&at, http, notes);
        for (at, route) in each(&at, http, "route") {
            headers(&at, route, notes)?;
        }
    }
    for list in ["tcp", "tls"] {
        for (at, rule) in each("spec", spec, list) {
            destinations(&at, rule, notes);
            for (at, block) in each(&at, rule, "match") {
                if let Some(one) = block.remove("destinationSubnet") {
                    notes.add(
                        format!("{at}.destinationSubnet"),
                        "is the list destinationSubnets now",
                    );
                    block.insert("destinationSubnets".into(), json!([one]));
                }
            }
        }
    }
    Ok(())
}

/// `destination.name` of 0.8's first drafts.
fn destinations(at: &str, rule: &mut Map<String, Value>, notes: &mut Notes<'_>) {
    for (at, route) in each(at, rule, "route") {
        let Some(destination) = inner(route, "destination") else {
            continue;
        };
        if destination.contains_key("host") {
            continue;
        }
        if let Some(name) = destination.remove("name") {
            notes.add(format!("{at}.destination.name"), "is host now");
            destination.insert("host".into(), name);
        }
    }
}

fn mirror(at: &str, http: &mut Map<String, Value>, notes: &mut Notes<'_>) {
    let Some(percent) = http.remove("mirrorPercent") else {
        return;
    };
    if http.contains_key("mirrorPercentage") {
        notes.add(
            format!("{at}.mirrorPercent"),
            "is taken out: mirrorPercentage has always won over it",
        );
        return;
    }
    notes.add(format!("{at}.mirrorPercent"), "is mirrorPercentage.value now");
    http.insert("mirrorPercentage".into(), json!({"value": percent}));
}

fn percent(at: &str, fault: &mut Map<String, Value>, part: &str, notes: &mut Notes<'_>) {
    let Some(percent) = fault.remove("percent") else {
        return;
    };
    if fault.contains_key("percentage") {
        notes.add(
            format!("{at}.percent"),
            "is taken out: percentage has always won over it",
        );
        return;
    }
    let meaning = if part == "abort" {
        "is percentage.value now; the old field is no longer read, and nothing would be aborted"
    } else {
        "is percentage.value now"
    };
    notes.add(format!("{at}.percent"), meaning);
    fault.insert("percentage".into(), json!({"value": percent}));
}

/// `allowOrigin` → `allowOrigins`.
pub(in crate::convert) fn cors(at: &str, mut cors: Map<String, Value>, notes: &mut Notes<'_>) -> Value {
    if let Some(Value::Array(origins)) = cors.remove("allowOrigin") {
        notes.add(
            format!("{at}.allowOrigin"),
            "is allowOrigins now: exact matches, and a regular expression for *",
        );
        let origins: Vec<Value> = origins
            .into_iter()
            .map(|origin| match origin.as_str() {
                Some("*") => json!({"regex": ".*"}),
                _ => json!({"exact": origin}),
            })
            .collect();
        match cors.get_mut("allowOrigins").and_then(Value::as_array_mut) {
            Some(there) => there.extend(origins),
            None => _ = cors.insert("allowOrigins".into(), origins.into()),
        }
    }
    cors.into()
}

/// Old name, and its place in `headers`.
const HEADERS: [(&str, &str, &str); 5] = [
    ("appendHeaders", "request", "add"),
    ("appendRequestHeaders", "request", "add"),
    ("removeRequestHeaders", "request", "remove"),
    ("appendResponseHeaders", "response", "add"),
    ("removeResponseHeaders", "response", "remove"),
];

fn headers(at: &str, fields: &mut Map<String, Value>, notes: &mut Notes<'_>) -> Result<(), FieldError> {
    for (old, side, operation) in HEADERS {
        let Some(value) = fields.remove(old) else { continue };
        let field = format!("{at}.{old}");
        let mut place = fields.entry("headers").or_insert_with(|| json!({}));
        for step in [side, operation] {
            let Some(inside) = place.as_object_mut() else {
                return Err(FieldError::new(field, "headers is there too, and is no object"));
            };
            let empty = if step == "remove" { json!([]) } else { json!({}) };
            place = inside.entry(step).or_insert(empty);
        }
        match (place, value) {
            (Value::Array(into), Value::Array(more)) => into.extend(more),
            (Value::Object(into), Value::Object(more)) => {
                for (name, value) in more {
                    if into.contains_key(&name) {
                        let reason = format!("header {name} is in headers.{side}.{operation} too");
                        return Err(FieldError::new(field, reason));
                    }
                    into.insert(name, value);
                }
            }
            _ => {
                return Err(FieldError::new(
                    field,
                    format!("cannot become headers.{side}.{operation}"),
                ));
            }
        }
        notes.add(field, format!("is headers.{side}.{operation} now"));
    }
    Ok(())
}
