//! An object as the API server sent it, whatever it is: one that cannot be understood must not cost the others of its page.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::{ApiResource, DynamicResourceScope, PartialObjectMeta, Resource};
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::fmt;

/// What `kubectl apply` wrote before server-side apply: the whole object once more.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// An object without what nobody here reads.
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub(super) value: Value,
    /// Name, namespace and resource version; no more.
    meta: ObjectMeta,
}

impl Item {
    /// An object of which nothing but names and labels was asked for.
    pub(super) fn bare(object: PartialObjectMeta<Self>) -> Self {
        let meta = object.metadata;
        Self::new(serde_json::json!({"metadata": {
            "name": meta.name,
            "namespace": meta.namespace,
            "resourceVersion": meta.resource_version,
            "labels": meta.labels,
        }}))
    }

    fn new(value: Value) -> Self {
        let text = |field: &str| {
            let found = value.get("metadata")?.get(field)?.as_str()?;
            (!found.is_empty()).then(|| found.to_owned())
        };
        let meta = ObjectMeta {
            name: text("name"),
            namespace: text("namespace"),
            resource_version: text("resourceVersion"),
            ..ObjectMeta::default()
        };
        Self { value, meta }
    }
}

impl Resource for Item {
    type DynamicType = ApiResource;
    type Scope = DynamicResourceScope;

    fn kind(dt: &ApiResource) -> Cow<'_, str> {
        dt.kind.as_str().into()
    }

    fn group(dt: &ApiResource) -> Cow<'_, str> {
        dt.group.as_str().into()
    }

    fn version(dt: &ApiResource) -> Cow<'_, str> {
        dt.version.as_str().into()
    }

    fn plural(dt: &ApiResource) -> Cow<'_, str> {
        dt.plural.as_str().into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.meta
    }
}

impl<'de> serde::Deserialize<'de> for Item {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Part::Object.deserialize(deserializer).map(Self::new)
    }
}

/// Where in an object a value stands.
#[derive(Clone, Copy)]
enum Part {
    Object,
    Metadata,
    Annotations,
    Other,
}

impl Part {
    /// What stands under a key, `None` if nobody reads it.
    fn below(self, key: &str) -> Option<Self> {
        match (self, key) {
            (Self::Object, "metadata") => Some(Self::Metadata),
            (Self::Metadata, "managedFields") | (Self::Annotations, LAST_APPLIED) => None,
            (Self::Metadata, "annotations") => Some(Self::Annotations),
            _ => Some(Self::Other),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Part {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        match self {
            Self::Other => serde::Deserialize::deserialize(deserializer),
            _ => deserializer.deserialize_any(self),
        }
    }
}

impl<'de> Visitor<'de> for Part {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_bool<E: Error>(self, v: bool) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_i64<E: Error>(self, v: i64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_u64<E: Error>(self, v: u64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_f64<E: Error>(self, v: f64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_str<E: Error>(self, v: &str) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            match self.below(&key) {
                Some(part) => _ = fields.insert(key, map.next_value_seed(part)?),
                None => _ = map.next_value::<IgnoredAny>()?,
            }
        }
        Ok(Value::Object(fields))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_reads_is_not_kept_and_everything_else_is() {
        let text = r#"{"kind": "Pod", "metadata": {"name": "p", "managedFields": [{"a": 1}], "annotations":
            {"kubectl.kubernetes.io/last-applied-configuration": "{}", "heddle.io/mesh": "enabled"}},
            "spec": {"metadata": {"managedFields": [1.5, null, true, -1, {"x": []}]}}}"#;
        let item: Item = serde_json::from_str(text).unwrap();
        let mut whole: Value = serde_json::from_str(text).unwrap();
        let meta = whole["metadata"].as_object_mut().unwrap();
        meta.remove("managedFields");
        meta["annotations"].as_object_mut().unwrap().remove(LAST_APPLIED);
        assert_eq!(item.value, whole);
        assert_eq!(item.meta.name.as_deref(), Some("p"));
    }

    #[test]
    fn anything_at_all_is_an_item() {
        for text in [
            "1",
            "null",
            "\"x\"",
            "[{}]",
            "{\"metadata\": 7}",
            "{\"metadata\": {\"name\": {}}}",
        ] {
            let item: Item = serde_json::from_str(text).unwrap();
            assert_eq!(item.value, serde_json::from_str::<Value>(text).unwrap());
        }
    }
}
