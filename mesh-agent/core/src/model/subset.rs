//! What DestinationRules come to for a service.

use super::ObjectName;
use super::service::Endpoint;
use super::traffic::TrafficPolicy;
use super::visibility::Visibility;
use super::workload::{Labels, Workload};
use std::sync::Arc;

/// The DestinationRules of one namespace for one host, concatenated (T-29).
#[derive(Clone, Debug, PartialEq)]
pub struct HostSubsets {
    /// Namespace of the rules.
    pub namespace: Arc<str>,
    /// Who sees them.
    pub export_to: Visibility,
    /// `workloadSelector.matchLabels`: the clients, of the rules' own namespace, for which they are; `None` = all.
    pub selector: Option<Labels>,
    /// Every subset, oldest rule first.
    pub subsets: Vec<Subset>,
    /// The policy for the whole of each of `Service::ports`, in that order.
    pub policies: Vec<Arc<TrafficPolicy>>,
}

/// One named subset of a service.
#[derive(Clone, Debug, PartialEq)]
pub struct Subset {
    /// `name`.
    pub name: Arc<str>,
    /// `labels`.
    pub labels: Labels,
    /// The DestinationRule.
    pub object: ObjectName,
    /// Ready endpoints that have the labels, one list for each of `Service::ports`, in that order.
    pub endpoints: Vec<Arc<[Arc<Endpoint>]>>,
    /// The subset's policy, one for each of `Service::ports`, in that order.
    pub policies: Vec<Arc<TrafficPolicy>>,
}

impl HostSubsets {
    /// The subset of this name.
    #[must_use]
    pub fn subset(&self, name: &str) -> Option<&Subset> {
        self.subsets.iter().find(|s| &*s.name == name)
    }

    /// The policy of the port at `place`, for the whole service or one of its subsets.
    #[must_use]
    pub fn policy(&self, place: usize, subset: Option<&str>) -> Option<&Arc<TrafficPolicy>> {
        match subset {
            None => self.policies.get(place),
            Some(name) => self.subset(name)?.policies.get(place),
        }
    }

    /// Whether the rules have a selector that this client satisfies.
    #[must_use]
    pub fn selects(&self, client: Option<&Workload>) -> bool {
        let (Some(labels), Some(client)) = (&self.selector, client) else {
            return false;
        };
        client.pod.namespace == self.namespace && labels.iter().all(|(k, v)| client.labels.get(k) == Some(v))
    }
}
