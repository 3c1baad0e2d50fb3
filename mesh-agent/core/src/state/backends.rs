//! XBackendTrafficPolicies: which one is a service's.

use super::ObjectKey;
use super::tables::Tables;
use super::world::Warning;
use crate::model::ObjectName;
use crate::model::snapshot::Snapshot;
use crate::model::traffic::BackendPolicy;
use crate::translate::gateway_api::{BACKEND_TRAFFIC, EXPERIMENTAL_GROUP, precedence};
use std::collections::HashMap;
use std::sync::Arc;

/// Service → its policy.
pub(super) type Policies = HashMap<ObjectName, Arc<BackendPolicy>>;

/// The policies of services; of several for one service, the oldest.
pub(super) fn policies(tables: &Tables) -> Policies {
    let mut by_age: Vec<_> = tables.backend_traffic.iter().collect();
    by_age.sort_by(|a, b| precedence((&a.1.created, a.0), (&b.1.created, b.0)));
    let mut policies = Policies::new();
    for (_, spec) in by_age {
        for (_, service) in &spec.services {
            let policy = policies.entry(service.clone());
            policy.or_insert_with(|| Arc::clone(&spec.policy));
        }
    }
    policies
}

/// Why a policy does not apply to a service that it names: reason of its condition, and the words.
pub(super) fn problem(
    tables: &Tables,
    policies: &Policies,
    object: &ObjectName,
    service: &ObjectName,
) -> Option<(&'static str, String)> {
    if tables.service(service).is_none() {
        return Some(("TargetNotFound", format!("Service {service} is not there")));
    }
    let winner = &policies.get(service)?.object;
    (winner != object).then(|| {
        let reason = format!("Service {service} has the older {BACKEND_TRAFFIC} {winner}");
        ("Conflicted", reason)
    })
}

/// Reports the policies that do not apply.
pub(super) fn warn(tables: &Tables, policies: &Policies, warnings: &mut Vec<Warning>) {
    for (name, spec) in &tables.backend_traffic {
        for (place, service) in &spec.services {
            let Some((_, reason)) = problem(tables, policies, name, service) else {
                continue;
            };
            warnings.push(Warning {
                key: ObjectKey::of(EXPERIMENTAL_GROUP, BACKEND_TRAFFIC, name),
                field: format!("spec.targetRefs[{place}]"),
                reason,
            });
        }
    }
}

/// Adds to `steered` the ports whose requests are counted, or belong to sessions: the kernel sees none.
pub(super) fn steer(next: &mut Snapshot) {
    let mut steered = std::mem::take(&mut next.steered);
    let concerned = next.backend_policies.keys().filter_map(|name| next.service(name));
    let ports = concerned.flat_map(|service| &service.ports);
    steered.extend(
        ports
            .filter(|port| port.protocol.needs_bytes())
            .map(|port| port.id),
    );
    next.steered = steered;
}
