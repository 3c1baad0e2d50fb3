//! PeerAuthentications → what pods take.

use super::ObjectKey;
use super::tables::Tables;
use super::world::Warning;
use crate::model::ObjectName;
use crate::model::peer::PeerPolicies;
use crate::translate::PeerAuthenticationSpec;
use std::collections::HashMap;
use std::sync::Arc;

/// All of them, the oldest first.
pub(super) fn policies(tables: &Tables) -> PeerPolicies {
    PeerPolicies::new(
        by_age(tables)
            .into_iter()
            .map(|(_, spec)| Arc::clone(&spec.policy)),
    )
}

/// Of two for the same pods the younger has no say, and is told so (T-70).
pub(super) fn conflicts(tables: &Tables) -> Vec<Warning> {
    let mut warnings = Vec::new();
    let mut holders = HashMap::new();
    for (name, spec) in by_age(tables) {
        let place = (&name.namespace, &spec.policy.selector);
        let Some(older) = holders.get(&place) else {
            holders.insert(place, name);
            continue;
        };
        warnings.push(Warning {
            key: ObjectKey::of("security.istio.io", "PeerAuthentication", name),
            field: "spec.selector".into(),
            reason: format!(
                "the older PeerAuthentication {older} speaks of the same pods: this one has no effect"
            ),
        });
    }
    warnings
}

fn by_age(tables: &Tables) -> Vec<(&ObjectName, &PeerAuthenticationSpec)> {
    let mut all: Vec<_> = tables.peer_authentications.iter().collect();
    all.sort_by_key(|(name, spec)| (&spec.created, *name));
    all
}
