//! XBackendTrafficPolicies: which one is a service's.

use super::ObjectKey;
use super::aged::Aged;
use super::findings::Findings;
use super::tables::Tables;
use super::world::Warning;
use crate::model::ObjectName;
use crate::model::traffic::BackendPolicy;
use crate::translate::BackendTrafficSpec;
use crate::translate::gateway_api::{BACKEND_TRAFFIC, EXPERIMENTAL_GROUP};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Service → its policy.
pub(super) type Policies = imbl::HashMap<ObjectName, Arc<BackendPolicy>>;

/// Which policy names which services.
#[derive(Default)]
pub(super) struct Backends {
    by_service: Aged<ObjectName>,
    findings: Findings<ObjectName>,
}

impl Backends {
    /// Follows changes of policies, and looks again at those that name `services`, which came or went. Of several policies
    /// for one service the oldest applies. Returns the services of which they said something before or say something now.
    pub(super) fn rebuild(
        &mut self,
        tables: &Tables,
        changed: &BTreeSet<ObjectName>,
        services: &BTreeSet<ObjectName>,
        policies: &mut Policies,
    ) -> BTreeSet<ObjectName> {
        let mut touched = BTreeSet::new();
        for name in changed {
            let spec = tables.backend_traffic.get(name);
            let names = |spec: &BackendTrafficSpec| spec.services.iter().map(|(_, s)| s.clone()).collect();
            let now = spec.map(|spec| (&spec.created, names(spec)));
            touched.extend(self.by_service.follow(name, now));
        }
        for service in &touched {
            let oldest = self.by_service.of(service).next();
            match oldest.and_then(|name| tables.backend_traffic.get(name)) {
                Some(spec) => _ = policies.insert(service.clone(), Arc::clone(&spec.policy)),
                None => _ = policies.remove(service),
            }
        }
        let naming = services
            .iter()
            .chain(&touched)
            .flat_map(|s| self.by_service.of(s));
        let concerned: BTreeSet<&ObjectName> = naming.chain(changed).collect();
        for name in concerned {
            self.findings.put(name, problems(tables, policies, name));
        }
        touched
    }

    /// Policies that do not apply.
    pub(super) fn warnings(&self) -> impl Iterator<Item = &Warning> {
        self.findings.iter()
    }
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

/// Of which of its targets a policy does not apply.
fn problems(tables: &Tables, policies: &Policies, name: &ObjectName) -> Vec<Warning> {
    let services = tables
        .backend_traffic
        .get(name)
        .into_iter()
        .flat_map(|spec| &spec.services);
    let warning = |(place, (_, service)): (usize, &(_, ObjectName))| {
        let (_, reason) = problem(tables, policies, name, service)?;
        Some(Warning {
            key: ObjectKey::of(EXPERIMENTAL_GROUP, BACKEND_TRAFFIC, name),
            field: format!("spec.targetRefs[{place}]"),
            reason,
        })
    };
    services.enumerate().filter_map(warning).collect()
}
