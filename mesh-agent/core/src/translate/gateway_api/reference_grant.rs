//! ReferenceGrant: who may refer into a namespace.

use crate::translate::value::{FieldError, decode, is_label, spec_of};
use serde::Deserialize;
use serde_json::Value;
use std::sync::Arc;

/// A ReferenceGrant. Every `from` may refer to every `to`, in the grant's own namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReferenceGrantSpec {
    /// `from`.
    pub from: Vec<GrantFrom>,
    /// `to`.
    pub to: Vec<GrantTo>,
}

/// One of `from`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GrantFrom {
    /// `group`.
    pub group: Arc<str>,
    /// `kind`.
    pub kind: Arc<str>,
    /// `namespace`.
    pub namespace: Arc<str>,
}

/// One of `to`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GrantTo {
    /// `group`.
    pub group: Arc<str>,
    /// `kind`.
    pub kind: Arc<str>,
    /// `name`; `None` = every object of the kind.
    pub name: Option<Arc<str>>,
}

impl ReferenceGrantSpec {
    /// Whether an object of this group, kind and namespace may refer to one of this group, kind and name.
    #[must_use]
    pub fn permits(&self, from: (&str, &str, &str), to: (&str, &str, &str)) -> bool {
        let of = |f: &GrantFrom| (&*f.group, &*f.kind, &*f.namespace) == from;
        let names = |t: &GrantTo| {
            (&*t.group, &*t.kind) == (to.0, to.1)
                && t.name
                    .as_deref()
                    .is_none_or(|name| name.is_empty() || name == to.2)
        };
        self.from.iter().any(of) && self.to.iter().any(names)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Spec {
    from: Vec<GrantFrom>,
    to: Vec<GrantTo>,
}

pub(super) fn reference_grant(value: &Value) -> Result<ReferenceGrantSpec, FieldError> {
    let Spec { from, to } = decode(spec_of(value)?, "spec")?;
    match from.iter().position(|f| !is_label(&f.namespace)) {
        Some(i) => Err(FieldError::new(
            format!("spec.from[{i}].namespace"),
            "is no namespace",
        )),
        None => Ok(ReferenceGrantSpec { from, to }),
    }
}
