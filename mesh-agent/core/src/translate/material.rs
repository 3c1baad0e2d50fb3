//! Secrets and ConfigMaps, as far as a gateway reads certificates from them.

use super::value::FieldError;
use crate::model::gateway::{AUTHORITY_KEYS, CERTIFICATE_KEYS, REVOCATION_KEYS};
use base64::Engine as _;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// The keys of a Secret or ConfigMap that hold certificates; others are not kept.
#[derive(Clone, PartialEq, Eq)]
pub struct MaterialSpec {
    /// `Secret` or `ConfigMap`.
    pub kind: &'static str,
    /// Key → contents.
    pub data: BTreeMap<&'static str, Arc<[u8]>>,
}

/// Contents never show in a log.
impl fmt::Debug for MaterialSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct(self.kind)
            .field("keys", &self.data.keys())
            .finish()
    }
}

pub(super) fn secret(value: &Value) -> Result<MaterialSpec, FieldError> {
    let mut data = BTreeMap::new();
    for key in keys() {
        // The API server merges `stringData` into `data`; files may have either.
        if let Some(text) = text_at(value, "stringData", key)? {
            data.insert(key, text.as_bytes().into());
        } else if let Some(text) = text_at(value, "data", key)? {
            let compact: String = text.split_ascii_whitespace().collect();
            let bytes = base64::engine::general_purpose::STANDARD.decode(compact);
            let bytes =
                bytes.map_err(|_| FieldError::new(format!("data.{key}"), "is not base64 (RFC 4648 § 4)"))?;
            data.insert(key, bytes.into());
        }
    }
    Ok(MaterialSpec { kind: "Secret", data })
}

pub(super) fn config_map(value: &Value) -> Result<MaterialSpec, FieldError> {
    let mut data = BTreeMap::new();
    for key in AUTHORITY_KEYS.into_iter().chain(REVOCATION_KEYS) {
        if let Some(text) = text_at(value, "data", key)? {
            data.insert(key, text.as_bytes().into());
        }
    }
    Ok(MaterialSpec {
        kind: "ConfigMap",
        data,
    })
}

fn keys() -> impl Iterator<Item = &'static str> {
    let pairs = CERTIFICATE_KEYS
        .into_iter()
        .flat_map(|(certificate, key)| [certificate, key]);
    pairs.chain(AUTHORITY_KEYS).chain(REVOCATION_KEYS)
}

fn text_at<'a>(value: &'a Value, field: &str, key: &str) -> Result<Option<&'a str>, FieldError> {
    match value.get(field).and_then(|data| data.get(key)) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(FieldError::new(format!("{field}.{key}"), "is no text")),
    }
}
