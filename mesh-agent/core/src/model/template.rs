//! What the controller tells every agent of the pods that one template makes (`WorkloadTemplate`, `mesh.heddle.io`):
//! who they are and the labels by which subsets choose. Addresses and readiness come from EndpointSlices.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// API group of the mesh's own kinds.
pub const GROUP: &str = "mesh.heddle.io";
/// Version of [`GROUP`] that this program reads and writes.
pub const VERSION: &str = "v1alpha1";
/// Kind of [`WorkloadTemplate`].
pub const WORKLOAD_TEMPLATE: &str = "WorkloadTemplate";

/// `spec` of a `WorkloadTemplate`.
///
/// Exactly one of `pod_prefix` and `pod_name` is set. A name is stronger than a prefix, a longer prefix stronger than a
/// shorter one: pods that differ from their siblings (relabelled, mid-rollout) have a record of their own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct WorkloadTemplate {
    /// `metadata.generateName` of the pods, e.g. `reviews-v1-6c7f9b4d8-`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod_prefix: Option<Arc<str>>,
    /// `metadata.name` of one pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod_name: Option<Arc<str>>,
    /// `spec.serviceAccountName` of the pods.
    pub service_account_name: Arc<str>,
    /// `metadata.labels` of the pods, less those that change with every rollout and select nothing
    /// (`pod-template-hash`, `controller-revision-hash`, `statefulset.kubernetes.io/pod-name`, …).
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<Arc<str>, Arc<str>>,
    /// What made the pods; a Deployment rather than its ReplicaSet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<TemplateOwner>,
    /// `spec.hostNetwork`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub host_network: bool,
    /// `spec.runtimeClassName`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runtime_class_name: Option<Arc<str>>,
}

/// Owner of the pods of a template.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TemplateOwner {
    /// Kind in lower case: `deployment`, `statefulset`, …
    pub kind: Arc<str>,
    /// Name.
    pub name: Arc<str>,
}
