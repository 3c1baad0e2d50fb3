//! Objects of Istio's first APIs → the current ones.
//!
//! `config.istio.io/v1alpha2` (RouteRule, DestinationPolicy, EgressRule), Ingresses of class `istio`, and the fields of
//! `networking.istio.io` that later versions renamed or took out. Nothing is dropped in silence: each change is a
//! [`Note`], and what has no modern form refuses its object by name.

mod destination_policy;
mod egress;
mod hosts;
mod ingress;
mod legacy;
mod matching;
mod raw;
mod route_rule;
mod workloads;

use crate::state::ObjectKey;
use crate::translate::value::{FieldError, decode, spec_of};
use crate::translate::{Head, Rejected, describe};
use hosts::Hosts;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// What became of a set of objects.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Conversion {
    /// Current objects: those that needed nothing first, in the order given, then what was made.
    pub objects: Vec<Value>,
    /// What differs between then and now, one for each change.
    pub notes: Vec<Note>,
    /// What cannot be converted; it is not among `objects`.
    pub refused: Vec<Rejected>,
}

/// A change that was made to an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// `Kind namespace/name` of the old object.
    pub object: String,
    /// Path inside of it.
    pub field: String,
    /// What it is now, and what that changes.
    pub text: String,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.field.is_empty() {
            write!(f, "{}: {}", self.object, self.text)
        } else {
            write!(f, "{}: {}: {}", self.object, self.field, self.text)
        }
    }
}

/// Takes the notes of one object.
struct Notes<'a> {
    object: String,
    all: &'a mut Vec<Note>,
}

impl Notes<'_> {
    fn add(&mut self, field: impl Into<String>, text: impl Into<String>) {
        self.all.push(Note {
            object: self.object.clone(),
            field: field.into(),
            text: text.into(),
        });
    }
}

/// Converts the documents of one or more files; `List`s are taken apart.
///
/// RouteRules of one destination become one VirtualService, the highest precedence first, and one DestinationRule that
/// names the versions. Of two objects with one name the later replaces the earlier, as `istioctl replace` did.
#[must_use]
pub fn convert(documents: &[Value]) -> Conversion {
    let mut converter = Converter {
        services: services(documents),
        ..Converter::default()
    };
    let mut items = Vec::new();
    for document in documents {
        flatten(document, &mut items);
    }
    for object in latest(&items, &mut converter.out) {
        converter.take(object);
    }
    converter.finish()
}

fn flatten<'a>(document: &'a Value, into: &mut Vec<&'a Value>) {
    let list = document["kind"]
        .as_str()
        .is_some_and(|kind| kind.ends_with("List"));
    match document["items"].as_array() {
        Some(items) if list => into.extend(items),
        _ if document.is_null() => {}
        _ => into.push(document),
    }
}

/// Objects by name, each in its last version at the place of its first.
fn latest<'a>(items: &[&'a Value], out: &mut Conversion) -> Vec<&'a Value> {
    let mut places: BTreeMap<ObjectKey, usize> = BTreeMap::new();
    let mut kept: Vec<&Value> = Vec::new();
    for item in items {
        let Ok(head) = Head::read(item) else {
            kept.push(item);
            continue;
        };
        match places.get(&head.key) {
            Some(place) => {
                if let Some(kept) = kept.get_mut(*place) {
                    *kept = item;
                }
                out.notes.push(Note {
                    object: describe(&head.key),
                    field: String::new(),
                    text: "is there more than once: the last one counts, as after `istioctl replace`".into(),
                });
            }
            None => {
                places.insert(head.key, kept.len());
                kept.push(item);
            }
        }
    }
    kept
}

/// Services among the documents: their selectors and ports say what old rules only named.
fn services(documents: &[Value]) -> BTreeMap<(String, String), Value> {
    let mut items = Vec::new();
    for document in documents {
        flatten(document, &mut items);
    }
    items
        .into_iter()
        .filter(|item| item["kind"] == "Service" && item["apiVersion"] == "v1")
        .filter_map(|item| {
            let key = Head::read(item).ok()?.key;
            Some(((key.namespace, key.name), item.clone()))
        })
        .collect()
}

#[derive(Default)]
struct Converter {
    services: BTreeMap<(String, String), Value>,
    hosts: Hosts,
    made: Vec<Value>,
    out: Conversion,
}

impl Converter {
    fn take(&mut self, object: &Value) {
        let head = match Head::read(object) {
            Ok(head) => head,
            Err(rejected) => {
                let old = object["type"].as_str().filter(|_| object["kind"].is_null());
                let rejected = match old {
                    Some(kind) => Rejected {
                        object: format!("{kind} {}", object["name"].as_str().unwrap_or_default()),
                        field: "type".into(),
                        reason: "is of Istio 0.1, before objects had a kind: write it as config.istio.io/v1alpha2 first"
                            .into(),
                    },
                    None => rejected,
                };
                return self.out.refused.push(rejected);
            }
        };
        let before = self.out.notes.len();
        if let Err(error) = self.take_named(&head, object) {
            self.out.notes.truncate(before);
            self.out.refused.push(head.reject(error));
        }
    }

    fn take_named(&mut self, head: &Head, object: &Value) -> Result<(), FieldError> {
        let mut notes = Notes {
            object: describe(&head.key),
            all: &mut self.out.notes,
        };
        match (head.key.group.as_str(), head.key.kind.as_str()) {
            ("config.istio.io", "RouteRule") => {
                route_rule::take(head, object, &self.services, &mut self.hosts, &mut notes)
            }
            ("config.istio.io", "DestinationPolicy") => {
                destination_policy::take(head, object, &mut self.hosts, &mut notes)
            }
            ("config.istio.io", "EgressRule") => {
                self.made.extend(egress::convert(head, object, &mut notes)?);
                Ok(())
            }
            ("extensions" | "networking.k8s.io", "Ingress") if ingress::is_istio(object) => {
                self.made
                    .extend(ingress::convert(head, object, &self.services, &mut notes)?);
                Ok(())
            }
            ("networking.istio.io", _) => {
                self.out.objects.push(legacy::convert(head, object, &mut notes)?);
                Ok(())
            }
            (group, kind) => match successor(group, kind) {
                Some(hint) => Err(FieldError::new("kind", hint)),
                None => {
                    self.out
                        .objects
                        .push(workloads::convert(head, object, &mut notes)?);
                    Ok(())
                }
            },
        }
    }

    fn finish(mut self) -> Conversion {
        self.made.extend(self.hosts.objects());
        let mut names: BTreeSet<ObjectKey> = self
            .out
            .objects
            .iter()
            .filter_map(|object| Some(Head::read(object).ok()?.key))
            .collect();
        for object in self.made {
            match Head::read(&object) {
                Ok(head) if !names.insert(head.key.clone()) => self.out.refused.push(Rejected {
                    object: describe(&head.key),
                    field: "metadata.name".into(),
                    reason: "is made of old rules, and is there already: merge the two by hand".into(),
                }),
                Ok(_) => self.out.objects.push(object),
                Err(rejected) => self.out.refused.push(rejected),
            }
        }
        self.out
    }
}

/// What to write in place of a kind that has no conversion; `None` for kinds of today.
fn successor(group: &str, kind: &str) -> Option<String> {
    let by = match (group, kind) {
        ("config.istio.io", "QuotaSpec" | "QuotaSpecBinding" | "quota" | "redisquota" | "memquota") => {
            "rate limits in front of the application"
        }
        ("config.istio.io", "HTTPAPISpec" | "HTTPAPISpecBinding") => {
            "nothing: API attributes went with Mixer"
        }
        ("config.istio.io", _) => "Telemetry for metrics, logs and traces, AuthorizationPolicy for checks",
        ("authentication.istio.io", _) => {
            "PeerAuthentication for mutual TLS between pods, RequestAuthentication for tokens"
        }
        ("rbac.istio.io", _) => "AuthorizationPolicy",
        _ => return None,
    };
    Some(format!(
        "{kind} of {group} cannot be converted; its place is taken by: {by}"
    ))
}

/// A new object; `spec` without what is null.
fn object(api_version: &str, kind: &str, namespace: &str, name: &str, spec: Map<String, Value>) -> Value {
    json!({
        "apiVersion": api_version,
        "kind": kind,
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec,
    })
}

/// Inserts a value that is there.
fn put(into: &mut Map<String, Value>, field: &str, value: Option<impl Into<Value>>) {
    if let Some(value) = value {
        into.insert(field.to_owned(), value.into());
    }
}

/// A text as a DNS label (RFC 1123): `v0.1` → `v0-1`.
fn label(text: &str) -> String {
    let mut label: String = text
        .to_ascii_lowercase()
        .chars()
        .map(|c| {
            if c.is_ascii_lowercase() || c.is_ascii_digit() {
                c
            } else {
                '-'
            }
        })
        .take(63)
        .collect();
    label.truncate(label.trim_end_matches('-').len());
    let label = label.trim_start_matches('-');
    if label.is_empty() {
        "x".into()
    } else {
        label.into()
    }
}

/// Decodes `spec`.
fn spec<'de, T: serde::Deserialize<'de>>(object: &'de Value) -> Result<T, FieldError> {
    decode(spec_of(object)?, "spec")
}

#[cfg(test)]
mod tests;
