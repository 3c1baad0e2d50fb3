//! Which versions of objects are in force: what an agent can prove of its data plane.
//!
//! A proof of one kind is the number of its objects and a digest of their generations. Whoever knows what the cluster has
//! computes the same, and need ask for the single objects only where the two differ: the cost for thousands of objects on
//! thousands of nodes is that of a line for each kind and node.

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

/// The versions in force, of rules by object and of every kind the newest. Cheap to clone: what is large is shared.
#[derive(Clone, Debug, Default)]
pub struct Versions {
    rules: imbl::OrdMap<ObjectKey, ObjectVersion>,
    newest: BTreeMap<String, u64>,
}

/// Which generations of the objects of one kind there are, in few bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Proof {
    /// How many objects.
    pub objects: usize,
    /// Sum of a hash of each with its generation, in whatever order they come.
    digest: u128,
}

impl Proof {
    /// Adds an object; one without a generation counts as of generation 0.
    pub fn add(&mut self, key: &ObjectKey, generation: Option<i64>) {
        self.objects += 1;
        self.digest = self
            .digest
            .wrapping_add(fingerprint(key, generation.unwrap_or(0)));
    }

    /// The digest as text, 32 hexadecimal digits.
    #[must_use]
    pub fn digest(&self) -> String {
        format!("{:032x}", self.digest)
    }
}

impl Versions {
    /// Rules (VirtualService, DestinationRule, …) and the version of each that is in force: after a version that was
    /// refused, the last good one.
    #[must_use]
    pub const fn rules(&self) -> &imbl::OrdMap<ObjectKey, ObjectVersion> {
        &self.rules
    }

    /// Kind (with its group, see [`kind_of`]) → newest `resourceVersion` of its objects that was taken in. Those of one kind
    /// may be compared as numbers (KEP-5504).
    #[must_use]
    pub const fn newest(&self) -> &BTreeMap<String, u64> {
        &self.newest
    }

    /// What can be shown of the rules in force, by kind (see [`kind_of`]).
    #[must_use]
    pub fn proofs(&self) -> BTreeMap<String, Proof> {
        proofs(self.rules.iter().map(|(key, version)| (key, version.generation)))
    }

    /// This version of an object is in force.
    pub(super) fn put(&mut self, head: &Head) {
        if is_rule(&head.key.group, &head.key.kind) {
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
        let kind = kind_of(&head.key);
        let newest = self.newest.entry(kind).or_default();
        *newest = version.max(*newest);
    }

    pub(super) fn remove(&mut self, key: &ObjectKey) {
        if is_rule(&key.group, &key.kind) {
            self.rules.remove(key);
        }
    }
}

/// The proofs of objects with their generations, by kind.
pub fn proofs<'a>(objects: impl Iterator<Item = (&'a ObjectKey, Option<i64>)>) -> BTreeMap<String, Proof> {
    let mut proofs: BTreeMap<String, Proof> = BTreeMap::new();
    for (key, generation) in objects {
        proofs.entry(kind_of(key)).or_default().add(key, generation);
    }
    proofs
}

/// `HTTPRoute.gateway.networking.k8s.io`, `Service`: two groups have a Gateway.
#[must_use]
pub fn kind_of(key: &ObjectKey) -> String {
    match key.group.as_str() {
        "" => key.kind.clone(),
        group => format!("{}.{group}", key.kind),
    }
}

/// Whether objects of a kind say what becomes of traffic, rather than what there is.
#[must_use]
pub fn is_rule(group: &str, kind: &str) -> bool {
    match group {
        "networking.istio.io"
        | "security.istio.io"
        | "telemetry.istio.io"
        | "gateway.networking.k8s.io"
        | "gateway.networking.x-k8s.io" => true,
        "networking.k8s.io" => kind == "Ingress",
        _ => false,
    }
}

/// FNV-1a, 128 bit: the same in every version and on every machine. Nobody gains by a collision of his own objects.
fn fingerprint(key: &ObjectKey, generation: i64) -> u128 {
    const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    let texts = [&key.group, &key.kind, &key.namespace, &key.name];
    let bytes = texts.iter().flat_map(|text| text.bytes().chain([b'/']));
    bytes
        .chain(generation.to_be_bytes())
        .fold(OFFSET, |hash, byte| (hash ^ u128::from(byte)).wrapping_mul(PRIME))
}

#[cfg(test)]
mod tests;
