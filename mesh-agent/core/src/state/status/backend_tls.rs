//! What is to be said of BackendTLSPolicies.

use crate::model::ObjectName;
use crate::model::status::{Ancestor, AncestorStatus, Condition};
use crate::state::backend_tls::{authorities, effect, reason, service_of};
use crate::state::{ObjectKey, State};
use crate::translate::Rejected;
use crate::translate::gateway_api::{BackendTlsSpec, GROUP, ParentRef, PolicyTarget};
use std::collections::{BTreeMap, BTreeSet};

impl State {
    /// What is to be said of a BackendTLSPolicy: to each Gateway of ours that sends to a Service that it names, and to each
    /// of these Services, where clients in the mesh connect.
    pub fn backend_tls_status(&mut self, name: &ObjectName) -> Vec<AncestorStatus> {
        self.world.rebuild(&self.tables);
        let Some(spec) = self.tables.backend_tls.get(name) else {
            return Vec::new();
        };
        let key = ObjectKey::of(GROUP, "BackendTLSPolicy", name);
        let problem = self.records.get(&key).and_then(|r| r.problem.as_ref());
        let ancestors = self.ancestors(name, spec).into_iter();
        ancestors
            .map(|(ancestor, targets)| AncestorStatus {
                ancestor,
                conditions: self.policy_conditions(name, spec, &targets, problem),
            })
            .collect()
    }

    /// Gateways whose routes, or those of ListenerSets for them, name a Service; whether or not they take the route in the
    /// end.
    pub(in crate::state) fn gateways_to<'a>(&'a self, service: &'a ObjectName) -> BTreeSet<&'a ObjectName> {
        let routes = self.world.routes_to(service);
        let routes = routes.filter_map(|key| self.tables.api_routes.get(key));
        let parents = routes.flat_map(|route| &route.parents);
        let gateway = |parent: &'a ParentRef| {
            if parent.is_listener_set(&parent.name) {
                return self
                    .tables
                    .listener_sets
                    .get(&parent.name)
                    .map(|set| &set.gateway);
            }
            parent.is_gateway(&parent.name).then_some(&parent.name)
        };
        parents.filter_map(gateway).collect()
    }

    /// Through which objects a policy takes effect, Gateways first, and by which of its targets.
    fn ancestors<'a>(
        &self,
        name: &ObjectName,
        spec: &'a BackendTlsSpec,
    ) -> BTreeMap<Ancestor, Vec<&'a PolicyTarget>> {
        let mut ancestors: BTreeMap<Ancestor, Vec<&PolicyTarget>> = BTreeMap::new();
        for target in &spec.targets {
            let service = service_of(name, target);
            let ours = |name: &&&ObjectName| {
                let spec = self.tables.api_gateways.get(**name);
                spec.is_some_and(|spec| self.tables.is_our_class(&spec.class))
            };
            let gateways: Vec<ObjectName> = self
                .gateways_to(&service)
                .iter()
                .filter(ours)
                .map(|name| (*name).clone())
                .collect();
            let gateways = gateways.into_iter().map(Ancestor::Gateway);
            for ancestor in gateways.chain([Ancestor::Service(service)]) {
                ancestors.entry(ancestor).or_default().push(target);
            }
        }
        ancestors
    }

    fn policy_conditions(
        &self,
        name: &ObjectName,
        spec: &BackendTlsSpec,
        targets: &[&PolicyTarget],
        problem: Option<&Rejected>,
    ) -> Vec<Condition> {
        if let Some(problem) = problem {
            let words = format!("{}: {}", problem.field, problem.reason);
            return vec![Condition::no("Accepted", "Invalid", words)];
        }
        let found = authorities(&self.tables, name, spec);
        let resolved = match &found.lacking {
            Some((lacking, message)) => Condition::no("ResolvedRefs", reason(*lacking), message.clone()),
            None => Condition::yes("ResolvedRefs", "ResolvedRefs", "every reference is there"),
        };
        let effects = targets
            .iter()
            .map(|target| effect(&self.tables, &self.world.claims, name, target));
        let without: Vec<_> = effects.filter_map(Result::err).collect();
        let accepted = match (without.first(), &found.lacking) {
            (Some((reason, message)), _) if without.len() == targets.len() => {
                Condition::no("Accepted", reason, message.clone())
            }
            (_, Some((_, message))) if found.found.is_none() => {
                let words = format!("{message}: nobody is connected to");
                Condition::no("Accepted", "NoValidCACertificate", words)
            }
            (Some((_, message)), _) => Condition::yes("Accepted", "Accepted", format!("but {message}")),
            (None, _) => Condition::yes("Accepted", "Accepted", "connections are verified"),
        };
        vec![accepted, resolved]
    }
}
