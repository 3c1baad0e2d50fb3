//! What of ListenerSets comes to nothing, for reports.

use super::ObjectKey;
use super::listeners::{Owner, supported};
use super::tables::Tables;
use super::world::Warning;
use crate::model::ObjectName;
use crate::translate::gateway_api::{GROUP, ListenerSetSpec};
use std::collections::BTreeMap;

/// Reports sets that no Gateway takes, and listeners that conflict or cannot be. Sets at Gateways of classes that are
/// others' are not ours to speak of.
pub(super) fn warn(tables: &Tables, warnings: &mut Vec<Warning>) {
    let mut by_gateway: BTreeMap<&ObjectName, Vec<(&ObjectName, &ListenerSetSpec)>> = BTreeMap::new();
    for (name, set) in &tables.listener_sets {
        by_gateway.entry(&set.gateway).or_default().push((name, set));
    }
    for (gateway, sets) in by_gateway {
        let Some(spec) = tables.api_gateways.get(gateway) else {
            for (name, _) in sets {
                let reason = format!("Gateway {gateway} is not there");
                warnings.push(warning(name, "spec.parentRef".into(), reason));
            }
            continue;
        };
        let Some(view) = tables.served_view(gateway) else {
            continue;
        };
        for (name, _) in sets {
            if !tables.admits_set(gateway, spec, name) {
                let reason = format!(
                    "allowedListeners of Gateway {gateway} admit no ListenerSet of namespace {}",
                    name.namespace
                );
                warnings.push(warning(name, "spec.parentRef".into(), reason));
            }
            for listener in view.of(Owner::Set(name)) {
                let conflict = listener.conflict.as_ref().map(|(_, words)| words.clone());
                let refused = supported(listener.spec).err().map(|reason| reason.to_string());
                if let Some(reason) = conflict.or(refused) {
                    let field = format!("spec.listeners[{}]", listener.index);
                    warnings.push(warning(name, field, format!("{reason}: it is not served")));
                }
            }
        }
    }
}

fn warning(set: &ObjectName, field: String, reason: String) -> Warning {
    Warning {
        key: ObjectKey::of(GROUP, "ListenerSet", set),
        field,
        reason,
    }
}
