//! What changed since the last snapshot.

use super::tables::RouteKey;
use crate::model::ObjectName;
use crate::translate::{PodMatch, SliceSpec};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What must be built anew.
#[derive(Default)]
pub(super) struct Dirty {
    /// Namespaces whose own settings changed.
    pub(super) namespaces: BTreeSet<Arc<str>>,
    /// Pods that the source gives in full.
    pub(super) pods: BTreeSet<ObjectName>,
    /// Services: their own objects or their slices.
    pub(super) services: BTreeSet<ObjectName>,
    /// EndpointSlices, and what they were in the last snapshot.
    pub(super) slices: BTreeMap<ObjectName, Option<Arc<SliceSpec>>>,
    /// Pods of which another template speaks now: namespace and which.
    pub(super) templates: BTreeSet<(Arc<str>, PodMatch)>,
    /// VirtualServices.
    pub(super) routes: BTreeSet<ObjectName>,
    /// Routes of Gateway API.
    pub(super) api_routes: BTreeSet<RouteKey>,
    /// Services to which other routes of Gateway API are attached now.
    pub(super) attached: BTreeSet<ObjectName>,
    /// Whether a ReferenceGrant or what such routes refer to changed.
    pub(super) grants: bool,
    /// DestinationRules.
    pub(super) rules: BTreeSet<ObjectName>,
    /// BackendTLSPolicies.
    pub(super) backend_tls: BTreeSet<ObjectName>,
    /// Secrets and ConfigMaps.
    pub(super) materials: bool,
    /// Nodes.
    pub(super) nodes: bool,
    /// Gateways, and what only gateways read besides `materials`.
    pub(super) edge: bool,
    /// PeerAuthentications.
    pub(super) peers: bool,
    /// ServiceEntries, WorkloadEntries, or what names resolve to.
    pub(super) entries: bool,
    /// Sidecars.
    pub(super) sidecars: bool,
    /// XBackendTrafficPolicies.
    pub(super) backends: BTreeSet<ObjectName>,
}

impl Dirty {
    pub(super) fn is_clean(&self) -> bool {
        self.namespaces.is_empty()
            && self.pods.is_empty()
            && self.services.is_empty()
            && self.slices.is_empty()
            && self.templates.is_empty()
            && self.routes.is_empty()
            && self.api_routes.is_empty()
            && self.attached.is_empty()
            && !self.grants
            && self.rules.is_empty()
            && self.backend_tls.is_empty()
            && !self.materials
            && !self.nodes
            && !self.edge
            && !self.peers
            && !self.entries
            && !self.sidecars
            && self.backends.is_empty()
    }

    /// Remembers what a slice was, unless it has changed before.
    pub(super) fn slice(&mut self, name: ObjectName, old: Option<Arc<SliceSpec>>) {
        self.slices.entry(name).or_insert(old);
    }
}
