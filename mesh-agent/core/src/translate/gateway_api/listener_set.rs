//! ListenerSet: listeners that others than its owner add to a Gateway.

use super::GROUP;
use super::gateway::{ListenerSpec, RawListener, listeners};
use crate::model::ObjectName;
use crate::translate::head::Head;
use crate::translate::value::{FieldError, decode, is_label, is_subdomain, spec_of};
use serde::Deserialize;
use serde_json::Value;
use std::sync::Arc;

/// A ListenerSet.
#[derive(Clone, Debug)]
pub struct ListenerSetSpec {
    /// `parentRef`: the Gateway, in the set's own namespace where none is written.
    pub gateway: ObjectName,
    /// `listeners`, in written order.
    pub listeners: Vec<ListenerSpec>,
    /// `creationTimestamp`.
    pub created: Arc<str>,
    /// What it was made of, to tell whether a new version differs.
    source: Value,
}

impl PartialEq for ListenerSetSpec {
    fn eq(&self, other: &Self) -> bool {
        self.created == other.created && self.source == other.source
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Spec {
    parent_ref: RawParent,
    listeners: Option<Vec<RawListener>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawParent {
    group: Option<String>,
    kind: Option<String>,
    namespace: Option<String>,
    name: String,
}

pub(super) fn listener_set(head: &Head, value: &Value) -> Result<ListenerSetSpec, FieldError> {
    let source = spec_of(value)?;
    let raw: Spec = decode(source, "spec")?;
    let listeners = listeners(raw.listeners.unwrap_or_default(), &head.key.namespace)?;
    if listeners.is_empty() {
        return Err(FieldError::new(
            "spec.listeners",
            "is missing: at least one listener",
        ));
    }
    Ok(ListenerSetSpec {
        gateway: gateway(raw.parent_ref, &head.key.namespace)?,
        listeners,
        created: Arc::clone(&head.created),
        source: source.clone(),
    })
}

fn gateway(raw: RawParent, own: &str) -> Result<ObjectName, FieldError> {
    let bad = |field: &str, reason: &str| FieldError::new(format!("spec.parentRef.{field}"), reason);
    if raw.group.is_some_and(|group| group != GROUP) {
        return Err(bad("group", "only gateway.networking.k8s.io is supported"));
    }
    if raw.kind.is_some_and(|kind| kind != "Gateway") {
        return Err(bad("kind", "only Gateway is supported"));
    }
    let namespace = raw.namespace.filter(|n| !n.is_empty());
    let namespace = namespace.unwrap_or_else(|| own.to_owned());
    if !is_label(&namespace) {
        return Err(bad("namespace", "is no namespace"));
    }
    if !is_subdomain(&raw.name) {
        return Err(bad("name", "is no name of an object"));
    }
    Ok(ObjectName::new(namespace, raw.name))
}

/// The Gateway that a ListenerSet names, even of one that is refused otherwise; none where it names no Gateway.
#[must_use]
pub fn gateway_of_set(object: &Value) -> Option<ObjectName> {
    let parent = object.pointer("/spec/parentRef")?;
    let text = |field: &str| {
        parent
            .get(field)
            .and_then(Value::as_str)
            .filter(|t| !t.is_empty())
    };
    let own = object.pointer("/metadata/namespace").and_then(Value::as_str);
    let is_gateway =
        text("group").unwrap_or(GROUP) == GROUP && text("kind").unwrap_or("Gateway") == "Gateway";
    let namespace = text("namespace").or(own).unwrap_or("default");
    is_gateway.then_some(ObjectName::new(namespace, text("name")?))
}
