//! What every object has: version, kind, names, labels.

use super::Rejected;
use super::value::{FieldError, decode, is_label, is_subdomain, join, too_deep};
use crate::model::ObjectName;
use crate::state::ObjectKey;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Under this hash the kubelet runs a static pod; the `uid` in the API is that of its mirror.
pub(super) const CONFIG_HASH: &str = "kubernetes.io/config.hash";

/// `apiVersion`, `kind` and the parts of `metadata` that mean something to the mesh.
#[derive(Clone, Debug)]
pub struct Head {
    /// Kind, group, namespace and name.
    pub key: ObjectKey,
    /// Version of the API group.
    pub version: String,
    /// `creationTimestamp`, empty where the source gives none: then it counts as the oldest.
    pub created: Arc<str>,
    /// `uid`.
    pub uid: Option<Arc<str>>,
    /// `labels`.
    pub labels: BTreeMap<Arc<str>, Arc<str>>,
    /// `annotations` of the mesh; others are not kept.
    pub annotations: BTreeMap<String, String>,
    /// Whether `deletionTimestamp` is set.
    pub deleting: bool,
    /// The controlling owner: kind and name.
    pub owner: Option<(String, String)>,
    /// `generation`: raised with each change of the object's spec.
    pub generation: Option<i64>,
    /// `resourceVersion`.
    pub resource_version: Option<Arc<str>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TypeMeta {
    api_version: Option<String>,
    kind: Option<String>,
    metadata: Option<Metadata>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<Arc<str>>,
    creation_timestamp: Option<Arc<str>>,
    deletion_timestamp: Option<String>,
    labels: Option<BTreeMap<Arc<str>, Option<Arc<str>>>>,
    annotations: Option<BTreeMap<String, Option<String>>>,
    owner_references: Option<Vec<OwnerReference>>,
    generation: Option<i64>,
    resource_version: Option<Arc<str>>,
}

#[derive(Deserialize)]
struct OwnerReference {
    kind: String,
    name: String,
    controller: Option<bool>,
}

impl Head {
    /// Namespace and name.
    #[must_use]
    pub fn name(&self) -> ObjectName {
        ObjectName::new(self.key.namespace.as_str(), self.key.name.as_str())
    }

    /// A setting of the mesh, given as label or as annotation.
    #[must_use]
    pub fn setting(&self, key: &str) -> Option<&str> {
        self.labels
            .get(key)
            .map(|v| &**v)
            .or_else(|| self.annotations.get(key).map(String::as_str))
    }

    /// Names a field of this object in a report.
    pub(crate) fn reject(&self, error: FieldError) -> Rejected {
        Rejected {
            object: describe(&self.key),
            field: error.field,
            reason: error.reason,
        }
    }

    /// Reads the head of any object.
    ///
    /// # Errors
    /// No kind, no name, names that Kubernetes does not allow, or an object too deep to be walked.
    pub fn read(value: &Value) -> Result<Self, Rejected> {
        let mut key = ObjectKey {
            kind: String::new(),
            group: String::new(),
            namespace: String::new(),
            name: String::new(),
        };
        Self::read_into(value, &mut key).map_err(|e| Rejected {
            object: describe(&key),
            field: e.field,
            reason: e.reason,
        })
    }

    /// Which object this seems to be, if only its head were right.
    pub(crate) fn guess(value: &Value) -> ObjectKey {
        let api_version = value
            .get("apiVersion")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let (group, _) = api_version.split_once('/').unwrap_or_default();
        let mut key = ObjectKey {
            kind: String::new(),
            group: group.into(),
            namespace: String::new(),
            name: String::new(),
        };
        guess(value, &mut key);
        key
    }

    fn read_into(value: &Value, key: &mut ObjectKey) -> Result<Self, FieldError> {
        guess(value, key);
        if !value.is_object() {
            return Err(FieldError::new(
                "",
                "not an object: expected apiVersion, kind and metadata",
            ));
        }
        if too_deep(value) {
            return Err(FieldError::new(
                "",
                "nested too deeply: at most 64 levels are read",
            ));
        }
        let TypeMeta {
            api_version,
            kind,
            metadata,
        } = decode(value, "")?;
        let required = |field: &str| FieldError::new(field, "is missing");
        let api_version = api_version
            .filter(|v| !v.is_empty())
            .ok_or_else(|| required("apiVersion"))?;
        key.kind = kind.filter(|k| !k.is_empty()).ok_or_else(|| required("kind"))?;
        let (group, version) = api_version.split_once('/').unwrap_or(("", &api_version));
        key.group = group.into();
        if !plain(&key.kind) || !plain(&api_version) {
            return Err(FieldError::new("kind", "has characters that no kind has"));
        }
        let metadata = metadata.ok_or_else(|| required("metadata"))?;
        let name = metadata
            .name
            .filter(|n| !n.is_empty())
            .ok_or_else(|| required("metadata.name"))?;
        if !is_subdomain(&name) && key.group != "rbac.authorization.k8s.io" {
            return Err(FieldError::new(
                "metadata.name",
                "is no DNS name (RFC 1123 subdomain, lower case)",
            ));
        }
        key.name = name;
        if !cluster_scoped(&key.kind) {
            let namespace = metadata
                .namespace
                .filter(|n| !n.is_empty())
                .unwrap_or_else(|| "default".into());
            if !is_label(&namespace) {
                return Err(FieldError::new(
                    "metadata.namespace",
                    "is no DNS label (RFC 1123, lower case)",
                ));
            }
            key.namespace = namespace;
        }
        let owners = metadata.owner_references.unwrap_or_default();
        let owner = owners.into_iter().find(|o| o.controller.unwrap_or(true));
        let ours = |key: &str| {
            [
                "heddle.io/",
                "istio.io/",
                "networking.istio.io/",
                "ambient.istio.io/",
            ]
            .iter()
            .any(|ours| key.starts_with(ours))
                || key == CONFIG_HASH
        };
        Ok(Self {
            key: key.clone(),
            version: version.into(),
            created: metadata.creation_timestamp.unwrap_or_else(|| "".into()),
            uid: metadata.uid.filter(|u| !u.is_empty()),
            labels: labels(metadata.labels.unwrap_or_default(), "metadata.labels")?,
            annotations: metadata
                .annotations
                .unwrap_or_default()
                .into_iter()
                .filter(|(k, _)| ours(k))
                .filter_map(|(k, v)| Some((k, v?)))
                .collect(),
            deleting: metadata.deletion_timestamp.is_some(),
            owner: owner.map(|o| (o.kind, o.name)),
            generation: metadata.generation,
            resource_version: metadata.resource_version.filter(|v| !v.is_empty()),
        })
    }
}

/// As much of the name as can be read from an object that is wrong otherwise.
fn guess(value: &Value, key: &mut ObjectKey) {
    let text = |pointer: &str| {
        let found = value.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        found
            .chars()
            .filter(|c| !c.is_control())
            .take(253)
            .collect::<String>()
    };
    key.kind = text("/kind");
    key.name = text("/metadata/name");
    key.namespace = text("/metadata/namespace");
}

fn plain(text: &str) -> bool {
    text.len() <= 253
        && text
            .bytes()
            .all(|c| c.is_ascii_alphanumeric() || b"./-".contains(&c))
}

/// `Kind namespace/name`.
#[must_use]
pub fn describe(key: &ObjectKey) -> String {
    match (key.namespace.as_str(), key.name.as_str()) {
        ("", "") => key.kind.clone(),
        ("", name) => format!("{} {name}", key.kind),
        (namespace, name) => format!("{} {namespace}/{name}", key.kind),
    }
}

fn cluster_scoped(kind: &str) -> bool {
    matches!(
        kind,
        "Namespace"
            | "Node"
            | "ClusterRole"
            | "ClusterRoleBinding"
            | "CustomResourceDefinition"
            | "GatewayClass"
            | "IngressClass"
            | "PersistentVolume"
            | "StorageClass"
            | "PriorityClass"
            | "RuntimeClass"
            | "List"
    )
}

/// A label set: keys and values of a sane size without control characters.
pub(crate) fn labels(
    given: BTreeMap<Arc<str>, Option<Arc<str>>>,
    at: &str,
) -> Result<BTreeMap<Arc<str>, Arc<str>>, FieldError> {
    let fits = |text: &str, most: usize| text.len() <= most && !text.chars().any(char::is_control);
    given
        .into_iter()
        .map(|(key, value)| {
            let value = value.unwrap_or_else(|| "".into());
            if fits(&key, 317) && !key.is_empty() && fits(&value, 63) {
                Ok((key, value))
            } else {
                Err(FieldError::new(
                    join(at, &key),
                    "is no valid label (key ≤ 317, value ≤ 63 characters)",
                ))
            }
        })
        .collect()
}
