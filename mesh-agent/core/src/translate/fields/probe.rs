//! One field, set in a smallest object, translated with and without.

use super::{Field, Holds, IGNORED, Kind, Outcome, Unclear, bases, settings};
use crate::translate::{Head, Rejected, Translated, translate};
use serde_json::{Map, Value, json};

/// Texts that one field or another accepts; the first that it accepts is taken.
const TEXTS: [&str; 24] = [
    "probe",
    "/probe",
    "7s",
    "probe.example.com",
    "10.9.0.1",
    "10.9.0.0/16",
    "UNAVAILABLE",
    "5xx",
    "GET",
    "https",
    "HTTP",
    "http://probe.example.com",
    "cHJvYmU=",
    "*",
    "./*",
    "region/zone/*",
    "gw",
    "Service",
    "Secret",
    "System",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff",
    "NotIn",
    "ABEiM0RVZneImaq7zN3u/wARIjNEVWZ3iJmqu8zd7v8=",
];
const INTEGERS: [i64; 7] = [7, 80, 503, 302, 50, 1, 65_537];
const NUMBERS: [f64; 2] = [12.5, 0.5];
/// Keys of maps.
const KEYS: [&str; 3] = ["x-probe", "region/zone/*", "8080"];

/// What one value of a field leads to.
enum Said {
    Effect,
    NoEffect,
    NotSupported(Rejected),
    Otherwise(Rejected),
}

/// Asks the translator what becomes of a field.
///
/// # Errors
/// See [`Unclear`].
pub fn outcome(kind: &Kind, field: &Field) -> Result<Outcome, Unclear> {
    let mut refused = Vec::new();
    let mut silent = 0;
    let mut honoured = false;
    let mut other = None;
    let values = values(&field.holds);
    let every = matches!(field.holds, Holds::OneOf(_) | Holds::OneOfNumbers(_));
    for (value, key) in values.iter().flat_map(|value| KEYS.map(|key| (value, key))) {
        if key != KEYS[0] && !field.path.contains('*') {
            continue;
        }
        match say(kind, field.path, value, key) {
            Said::Effect => honoured = true,
            Said::NoEffect => silent += 1,
            Said::NotSupported(rejected) => refused.push((text(value), rejected)),
            Said::Otherwise(rejected) => other = other.or(Some(rejected)),
        }
        if honoured && !every {
            break;
        }
    }
    let unknown = |r: &&Rejected| r.reason.starts_with("unknown field") && concerns(r, field.path);
    if let Some(rejected) = other.as_ref().filter(unknown) {
        return Err(Unclear::Unknown(rejected.to_string()));
    }
    let reason = IGNORED
        .iter()
        .find(|(of, path, _)| (*of == kind.kind || *of == "*") && *path == field.path)
        .map(|(.., reason)| *reason);
    let each = || {
        refused
            .iter()
            .map(|(value, r)| (value.clone(), r.reason.clone()))
            .collect()
    };
    match (honoured, silent > 0, reason, refused.first(), other) {
        (true, ..) if every => Ok(Outcome::Honoured { refused: each() }),
        (true, ..) => Ok(Outcome::Honoured { refused: Vec::new() }),
        (false, true, Some(reason), ..) => Ok(Outcome::Ignored {
            reason,
            refused: each(),
        }),
        // Of a choice some words may say what holds anyway.
        (false, some, _, Some((value, rejected)), _) => Ok(Outcome::Refused {
            message: if some && every {
                format!("`{value}`: {}", rejected.reason)
            } else {
                rejected.reason.clone()
            },
            at: abstracted(&rejected.field),
        }),
        (false, true, None, None, _) => Err(Unclear::Silent),
        (false, false, _, None, other) => Err(Unclear::NoProbe(
            other.map_or_else(|| "no value".to_owned(), |rejected| rejected.to_string()),
        )),
    }
}

fn values(holds: &Holds) -> Vec<Value> {
    let texts = || TEXTS.iter().map(|text| json!(text));
    let integers = || INTEGERS.iter().map(|number| json!(number));
    match holds {
        Holds::Text => texts().collect(),
        Holds::Integer => integers().collect(),
        Holds::Number => NUMBERS.iter().map(|number| json!(number)).collect(),
        Holds::Boolean => vec![json!(true), json!(false)],
        Holds::OneOf(words) => words.iter().map(|word| json!(word)).collect(),
        Holds::OneOfNumbers(numbers) => numbers.iter().map(|number| json!(number)).collect(),
        Holds::IntegerOrText => integers().chain(texts()).collect(),
        Holds::Free => vec![
            json!({}),
            json!({"probe": "probe"}),
            json!(["probe"]),
            json!("probe"),
        ],
    }
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// The first base that the value has an effect in, or is refused for its own sake; else what the best base says.
fn say(kind: &Kind, path: &str, value: &Value, key: &str) -> Said {
    let mut first = None;
    for base in bases::specs(kind.kind, kind.group, path) {
        match say_in(kind, &base, path, value, key) {
            said @ (Said::Effect | Said::NotSupported(_)) => return said,
            Said::NoEffect => return Said::NoEffect,
            // Perhaps only a neighbour is refused, which another base does not have.
            said @ Said::Otherwise(_) => first = first.or(Some(said)),
        }
    }
    first.unwrap_or(Said::NoEffect)
}

fn say_in(kind: &Kind, base: &Value, path: &str, value: &Value, key: &str) -> Said {
    let steps = steps(path, key);
    let mut with = object(kind, base);
    set(&mut with, &steps, value);
    let mut without = object(kind, base);
    unset(&mut without, &steps);
    match translated(&with) {
        Err(rejected) if concerns(&rejected, path) && is_refusal(&rejected.reason) => {
            Said::NotSupported(rejected)
        }
        Err(rejected) => Said::Otherwise(rejected),
        Ok(shown) => match translated(&without) {
            // What cannot be left out is honoured by being asked for.
            Err(_) => Said::Effect,
            Ok(before) if before != shown => Said::Effect,
            Ok(_) => Said::NoEffect,
        },
    }
}

/// What the translator makes of it, as text. Some keep what they were given, to tell versions apart: that is no effect.
fn translated(object: &Value) -> Result<String, Rejected> {
    let head = Head::read(object)?;
    let translated: Translated = translate(&head, object, &settings())?;
    let shown = format!("{translated:?}");
    Ok(shown.replace(&format!("{:?}", object["spec"]), ""))
}

fn object(kind: &Kind, spec: &Value) -> Value {
    let version = kind.versions.first().copied().unwrap_or("v1");
    json!({
        "apiVersion": format!("{}/{version}", kind.group),
        "kind": kind.kind,
        "metadata": {"name": "probe", "namespace": "default"},
        "spec": spec,
    })
}

/// Whether a refusal says that a field or value is not supported, not that it is wrong.
fn is_refusal(reason: &str) -> bool {
    reason.contains("not supported") || reason.contains("is supported")
}

/// Whether a refusal names this field, one around it, one inside of it, or the one that decides over it; the kind as a whole
/// is around all.
fn concerns(rejected: &Rejected, path: &str) -> bool {
    let at = abstracted(&rejected.field);
    let inside = |inner: &str, outer: &str| {
        inner
            .strip_prefix(outer)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    };
    // What stands beside these depends on them: `filters[].type` decides over `filters[].cors`.
    let decided = ["type", "mode"]
        .iter()
        .filter_map(|word| at.strip_suffix(word))
        .any(|around| path.starts_with(around));
    at.is_empty() || at == "kind" || decided || inside(path, &at) || inside(&at, path)
}

/// `spec.http[0].route` → `spec.http[].route`.
fn abstracted(field: &str) -> String {
    let mut path = String::with_capacity(field.len());
    let mut inside = false;
    for c in field.chars() {
        match c {
            '[' => inside = true,
            ']' => inside = false,
            c if inside && c.is_ascii_digit() => continue,
            _ => {}
        }
        path.push(c);
    }
    for key in KEYS {
        path = path.replace(&format!(".{key}"), ".*");
    }
    path
}

#[derive(Debug, PartialEq)]
enum Step {
    Key(String),
    Item,
}

/// The path taken apart, with `key` for keys of maps.
fn steps(path: &str, key: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    for word in path.split('.') {
        let name = word.trim_end_matches("[]");
        steps.push(Step::Key(if name == "*" {
            key.to_owned()
        } else {
            name.to_owned()
        }));
        steps.extend((0..(word.len() - name.len()) / 2).map(|_| Step::Item));
    }
    steps
}

fn set(object: &mut Value, steps: &[Step], value: &Value) {
    let mut place = object;
    for step in steps {
        place = match step {
            Step::Key(key) => {
                if !place.is_object() {
                    *place = Value::Object(Map::new());
                }
                &mut place[key.as_str()]
            }
            Step::Item => {
                if place.as_array().is_none_or(Vec::is_empty) {
                    *place = json!([null]);
                }
                &mut place[0]
            }
        };
    }
    *place = value.clone();
}

/// Takes a field out, and what is empty without it.
fn unset(place: &mut Value, steps: &[Step]) {
    let Some((step, rest)) = steps.split_first() else {
        return;
    };
    let inner = match step {
        Step::Key(key) => place.get_mut(key.as_str()),
        Step::Item => place.get_mut(0),
    };
    let Some(inner) = inner else { return };
    unset(inner, rest);
    let empty = rest.is_empty()
        || inner.as_object().is_some_and(Map::is_empty)
        || inner.as_array().is_some_and(Vec::is_empty);
    match (step, place) {
        (Step::Key(key), Value::Object(fields)) if empty && key != "spec" => {
            fields.remove(key);
        }
        (Step::Item, Value::Array(items)) if empty => {
            items.remove(0);
        }
        _ => {}
    }
}
