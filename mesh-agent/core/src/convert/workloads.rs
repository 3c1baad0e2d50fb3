//! What stands beside the rules in the same files: passed on, Deployments in an API version that is still served.

use super::{Head, Notes};
use crate::translate::value::FieldError;
use serde_json::{Value, json};

/// The object as today's API servers take it.
pub(super) fn convert(head: &Head, object: &Value, notes: &mut Notes<'_>) -> Result<Value, FieldError> {
    let mut object = object.clone();
    let kind = head.key.kind.as_str();
    let old = match (head.key.group.as_str(), kind) {
        ("extensions", "Deployment" | "DaemonSet" | "ReplicaSet") => true,
        ("apps", "Deployment" | "DaemonSet" | "ReplicaSet" | "StatefulSet") => head.version != "v1",
        _ => false,
    };
    if !old {
        return Ok(object);
    }
    notes.add(
        "apiVersion",
        format!("{}/{} is no longer served: apps/v1", head.key.group, head.version),
    );
    object["apiVersion"] = "apps/v1".into();
    if object["spec"]["selector"].is_null() {
        let labels = object["spec"]["template"]["metadata"]["labels"].clone();
        if !labels.is_object() {
            return Err(FieldError::new(
                "spec.template.metadata.labels",
                "is missing: apps/v1 wants a selector, which was made of them",
            ));
        }
        object["spec"]["selector"] = json!({"matchLabels": labels});
        notes.add(
            "spec.selector",
            "was made of the template's labels; it must be written now",
        );
    }
    Ok(object)
}
