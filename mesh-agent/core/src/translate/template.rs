//! WorkloadTemplates.

use super::head::{Head, labels};
use super::kubernetes::{Membership, is_sandboxed, membership_by};
use super::value::{FieldError, decode, is_subdomain};
use crate::model::template::{VERSION, WorkloadTemplate};
use crate::model::workload::Labels;
use serde_json::Value;
use std::sync::Arc;

/// The API server cuts `generateName` to this many bytes before it adds five of its own (`maxGeneratedNameLength`).
const MAX_PREFIX: usize = 58;

/// What all pods of one template share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TemplateSpec {
    /// Which pods.
    pub pods: PodMatch,
    /// `spec.serviceAccountName`.
    pub service_account: Arc<str>,
    /// `metadata.labels` of the pods.
    pub labels: Labels,
    /// Kind (lower case) and name of what made the pods.
    pub owner: Option<(Arc<str>, Arc<str>)>,
    /// What the labels say on membership.
    pub membership: Option<Membership>,
    /// `spec.hostNetwork`.
    pub host_network: bool,
    /// Runtime class whose sockets the pods' kernel does not see.
    pub sandboxed: bool,
}

/// Which pods a template speaks for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PodMatch {
    /// The one with this name.
    Name(Arc<str>),
    /// Those whose name is this and a part without `-`, which is how `generateName` and StatefulSets name them: a longer
    /// prefix that nobody has announced yet is not mistaken for this one.
    Prefix(Arc<str>),
}

pub(super) fn template(head: &Head, value: &Value) -> Result<TemplateSpec, FieldError> {
    if head.version != VERSION {
        let reason = format!("version {:?} is not known: expected {VERSION}", head.version);
        return Err(FieldError::new("apiVersion", reason));
    }
    let spec = value
        .get("spec")
        .ok_or_else(|| FieldError::new("spec", "is missing"))?;
    let spec: WorkloadTemplate = decode(spec, "spec")?;
    let account = spec.service_account_name;
    if !is_subdomain(&account) {
        return Err(FieldError::new(
            "spec.serviceAccountName",
            "is no DNS name (RFC 1123 subdomain)",
        ));
    }
    let given = spec.labels.into_iter().map(|(k, v)| (k, Some(v))).collect();
    let labels = labels(given, "spec.labels")?;
    let membership = membership_by(labels.get("heddle.io/mesh").map(|v| &**v), &labels)
        .map_err(|e| FieldError::new("spec.labels.heddle.io/mesh", e.reason))?;
    Ok(TemplateSpec {
        pods: pods(spec.pod_name, spec.pod_prefix)?,
        service_account: account,
        membership,
        labels: Arc::new(labels),
        owner: spec
            .owner
            .filter(|o| !o.name.is_empty())
            .map(|o| (o.kind, o.name)),
        host_network: spec.host_network,
        sandboxed: spec.runtime_class_name.is_some_and(|class| is_sandboxed(&class)),
    })
}

fn pods(name: Option<Arc<str>>, prefix: Option<Arc<str>>) -> Result<PodMatch, FieldError> {
    match (name, prefix) {
        (Some(name), None) if is_subdomain(&name) => Ok(PodMatch::Name(name)),
        (Some(_), None) => Err(FieldError::new(
            "spec.podName",
            "is no DNS name (RFC 1123 subdomain, lower case)",
        )),
        (None, Some(prefix)) if prefix.is_empty() || !prefix.is_ascii() => Err(FieldError::new(
            "spec.podPrefix",
            "is no beginning of a pod's name",
        )),
        (None, Some(prefix)) if prefix.len() > MAX_PREFIX => {
            Ok(PodMatch::Prefix(prefix[..MAX_PREFIX].into()))
        }
        (None, Some(prefix)) => Ok(PodMatch::Prefix(prefix)),
        _ => Err(FieldError::new(
            "spec",
            "expected exactly one of podPrefix and podName",
        )),
    }
}
