//! `match` of a RouteRule → one match block.

use super::raw::{IstioService, Match, StringMatch};
use super::{Notes, put};
use crate::translate::value::FieldError;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// What the RouteRule's own surroundings say.
pub(super) struct Around<'a> {
    pub(super) namespace: &'a str,
    pub(super) services: &'a BTreeMap<(String, String), Value>,
}

/// `None` if it matches everything.
pub(super) fn block(
    given: Match,
    around: &Around<'_>,
    notes: &mut Notes<'_>,
) -> Result<Option<Value>, FieldError> {
    for (field, value) in [("tcp", &given.tcp), ("udp", &given.udp)] {
        if value.is_some() {
            let reason =
                "was never implemented: write a tcp route of a VirtualService with destinationSubnets";
            return Err(FieldError::new(format!("spec.match.{field}"), reason));
        }
    }
    let mut block = Map::new();
    if let Some(source) = given.source {
        caller(&source, around, &mut block, notes)?;
    }
    let headers = given
        .request
        .and_then(|request| request.headers)
        .unwrap_or_default();
    let mut fields = Map::new();
    for (name, value) in headers {
        let at = format!("spec.match.request.headers.{name}");
        let value = string_match(&at, value, notes)?;
        // The pseudo headers of then have fields of their own.
        match name.as_str() {
            "uri" | "scheme" | "method" | "authority" => block.insert(name, value),
            _ => fields.insert(name, value),
        };
    }
    if !fields.is_empty() {
        block.insert("headers".into(), fields.into());
    }
    Ok((!block.is_empty()).then_some(block.into()))
}

fn caller(
    source: &IstioService,
    around: &Around<'_>,
    block: &mut Map<String, Value>,
    notes: &mut Notes<'_>,
) -> Result<(), FieldError> {
    let at = "spec.match.source";
    if source.service.is_some() || source.domain.is_some() {
        return Err(FieldError::new(
            at,
            "service and domain have no modern form: name the caller's labels",
        ));
    }
    let mut labels = source.labels.clone().unwrap_or_default();
    if let Some(name) = &source.name {
        let namespace = source.namespace.as_deref().unwrap_or(around.namespace);
        let service = around.services.get(&(namespace.to_owned(), name.clone()));
        let selector = service.and_then(|service| service["spec"]["selector"].as_object());
        match selector {
            Some(selector) => {
                notes.add(
                    format!("{at}.name"),
                    format!("callers are known by labels now: those that Service {namespace}/{name} selects"),
                );
                for (key, value) in selector {
                    let value = value.as_str().unwrap_or_default().to_owned();
                    labels.entry(key.clone()).or_insert(value);
                }
            }
            None => {
                notes.add(
                    format!("{at}.name"),
                    format!(
                        "callers are known by labels now: assumed app={name}, because Service {namespace}/{name} is not in the input; CHECK"
                    ),
                );
                labels.entry("app".into()).or_insert_with(|| name.clone());
            }
        }
    }
    put(block, "sourceNamespace", source.namespace.clone());
    if !labels.is_empty() {
        block.insert("sourceLabels".into(), json!(labels));
    }
    Ok(())
}

fn string_match(at: &str, given: StringMatch, notes: &mut Notes<'_>) -> Result<Value, FieldError> {
    match (given.exact, given.prefix, given.regex) {
        (Some(exact), None, None) => Ok(json!({"exact": exact})),
        (None, Some(prefix), None) => Ok(json!({"prefix": prefix})),
        (None, None, Some(regex)) => {
            if let Err(error) = regex::Regex::new(&regex) {
                let text = error.to_string();
                let said = text.lines().last().unwrap_or_default();
                return Err(FieldError::new(
                    format!("{at}.regex"),
                    format!(
                        "was ECMAScript and is RE2 now, which does not have it: {}",
                        said.trim_start_matches("error: ")
                    ),
                ));
            }
            notes.add(
                format!("{at}.regex"),
                "was ECMAScript and is RE2 now; as then, the whole value must match",
            );
            Ok(json!({"regex": regex}))
        }
        _ => Err(FieldError::new(at, "expected one of exact, prefix and regex")),
    }
}
