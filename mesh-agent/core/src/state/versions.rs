//! Which versions of objects are in force: what an agent can prove of its data plane.

use super::ObjectKey;
use crate::translate::Head;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A version of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectVersion {
    /// `metadata.generation`, where the source gives one.
    pub generation: Option<i64>,
    /// `metadata.resourceVersion`, where the source gives one.
    pub resource_version: Option<Arc<str>>,
}

/// The versions in force, of rules by object and of every kind the newest.
#[derive(Debug, Default)]
pub struct Versions {
    rules: BTreeMap<ObjectKey, ObjectVersion>,
    newest: BTreeMap<String, u64>,
}

impl Versions {
    /// Rules (VirtualService, DestinationRule, …) and the version of each that is in force: after a version that was
    /// refused, the last good one.
    #[must_use]
    pub fn rules(&self) -> &BTreeMap<ObjectKey, ObjectVersion> {
        &self.rules
    }

    /// Kind → newest `resourceVersion` of its objects that was taken in. Those of one kind may be compared as numbers
    /// (KEP-5504).
    #[must_use]
    pub fn newest(&self) -> &BTreeMap<String, u64> {
        &self.newest
    }

    /// This version of an object is in force.
    pub(super) fn put(&mut self, head: &Head) {
        if is_rule(&head.key) {
            let version = ObjectVersion {
                generation: head.generation,
                resource_version: head.resource_version.clone(),
            };
            self.rules.insert(head.key.clone(), version);
        }
    }

    /// This version of an object was read.
    pub(super) fn read(&mut self, head: &Head) {
        let Some(version) = head.resource_version.as_ref().and_then(|v| v.parse::<u64>().ok()) else {
            return;
        };
        match self.newest.get_mut(&head.key.kind) {
            Some(newest) => *newest = version.max(*newest),
            None => _ = self.newest.insert(head.key.kind.clone(), version),
        }
    }

    pub(super) fn remove(&mut self, key: &ObjectKey) {
        if is_rule(key) {
            self.rules.remove(key);
        }
    }
}

fn is_rule(key: &ObjectKey) -> bool {
    matches!(
        key.group.as_str(),
        "networking.istio.io" | "security.istio.io" | "telemetry.istio.io" | "gateway.networking.k8s.io"
    )
}
