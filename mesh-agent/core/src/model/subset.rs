//! What DestinationRules come to for a service.

use super::ObjectName;
use super::service::Endpoint;
use super::visibility::Visibility;
use super::workload::Labels;
use std::sync::Arc;

/// The DestinationRules of one namespace for one host, concatenated (T-29).
#[derive(Clone, Debug, PartialEq)]
pub struct HostSubsets {
    /// Namespace of the rules.
    pub namespace: Arc<str>,
    /// Who sees them.
    pub export_to: Visibility,
    /// Every subset, oldest rule first.
    pub subsets: Vec<Subset>,
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
}
