//! What is to be said of XBackendTrafficPolicies.

use super::refused;
use crate::model::ObjectName;
use crate::model::status::Condition;
use crate::state::{ObjectKey, State, backends};

impl State {
    /// What is to be said of a policy to each of the Services that it names.
    #[must_use]
    pub fn backend_traffic_status(&mut self, key: &ObjectKey, services: &[ObjectName]) -> Vec<Condition> {
        self.world.rebuild(&self.tables);
        let name = ObjectName::new(key.namespace.as_str(), key.name.as_str());
        let known = self.tables.backend_traffic.contains_key(&name);
        let problem = self.records.get(key).and_then(|r| r.problem.as_ref());
        let of_service = |service: &ObjectName| {
            if let Some(problem) = problem {
                return Condition {
                    reason: "Invalid",
                    ..refused(problem, known)
                };
            }
            match backends::problem(&self.tables, self.world.backend_policies(), &name, service) {
                Some((reason, message)) => Condition::no("Accepted", reason, message),
                None => Condition::yes("Accepted", "Accepted", format!("applies to clients of {service}")),
            }
        };
        services.iter().map(of_service).collect()
    }
}
