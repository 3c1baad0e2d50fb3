//! DestinationRule (`networking.istio.io`): subsets and traffic policies.

mod balancer;
mod policy;
mod pool;
mod raw;
#[cfg(test)]
mod tests;
mod tls;

use super::head::{Head, labels};
use super::value::{FieldError, decode, is_subdomain, spec_of};
use super::virtual_service::{check_host, export_to};
use crate::model::host;
use crate::model::route::Visibility;
use crate::model::snapshot::MeshSettings;
use crate::model::traffic::PolicySpec;
use crate::model::workload::Labels;
use serde_json::Value;
use std::sync::Arc;

/// A DestinationRule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DestinationRuleSpec {
    /// Absolute, lower case; may be `*.suffix`.
    pub host: Arc<str>,
    /// `trafficPolicy`.
    pub policy: PolicySpec,
    /// `subsets`, in written order.
    pub subsets: Vec<SubsetSpec>,
    /// `exportTo`; a rule with a selector is for its own namespace.
    pub export_to: Visibility,
    /// `workloadSelector.matchLabels`; `None` = every client.
    pub selector: Option<Labels>,
    /// `creationTimestamp`.
    pub created: Arc<str>,
}

/// One of `subsets`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubsetSpec {
    /// `name`.
    pub name: Arc<str>,
    /// `labels`; empty = every endpoint.
    pub labels: Labels,
    /// `trafficPolicy`.
    pub policy: PolicySpec,
}

pub(super) fn destination_rule(
    head: &Head,
    value: &Value,
    settings: &MeshSettings,
) -> Result<DestinationRuleSpec, FieldError> {
    let spec: raw::Spec = decode(spec_of(value)?, "spec")?;
    check_host(&spec.host, true).map_err(|reason| FieldError::new("spec.host", reason))?;
    let selector = match spec.workload_selector {
        None => None,
        Some(selector) => {
            let at = "spec.workloadSelector.matchLabels";
            Some(Arc::new(labels(selector.match_labels.unwrap_or_default(), at)?))
        }
    };
    let scope = policy::Scope {
        selected: selector.is_some(),
    };
    let policy = policy::policy("spec.trafficPolicy", spec.traffic_policy, scope)?;
    let subsets = subsets(spec.subsets.unwrap_or_default(), scope)?;
    let export_to = match &selector {
        Some(_) => Visibility::Namespaces(vec![head.key.namespace.as_str().into()]),
        None => export_to(spec.export_to.unwrap_or_default(), &head.key.namespace)?,
    };
    Ok(DestinationRuleSpec {
        host: host::absolute(&spec.host, &head.key.namespace, &settings.cluster_domain),
        policy,
        subsets,
        export_to,
        selector,
        created: Arc::clone(&head.created),
    })
}

fn subsets(given: Vec<raw::Subset>, scope: policy::Scope) -> Result<Vec<SubsetSpec>, FieldError> {
    let mut subsets: Vec<SubsetSpec> = Vec::new();
    for (i, raw) in given.into_iter().enumerate() {
        let at = format!("spec.subsets[{i}]");
        if !is_subdomain(&raw.name) {
            return Err(FieldError::new(
                format!("{at}.name"),
                "is no DNS label (RFC 1123, lower case)",
            ));
        }
        if subsets.iter().any(|s| *s.name == raw.name) {
            return Err(FieldError::new(
                format!("{at}.name"),
                format!("subset {} is there twice", raw.name),
            ));
        }
        let policy = policy::policy(&format!("{at}.trafficPolicy"), raw.traffic_policy, scope)?;
        let labels = labels(raw.labels.unwrap_or_default(), &format!("{at}.labels"))?;
        subsets.push(SubsetSpec {
            name: raw.name.into(),
            labels: Arc::new(labels),
            policy,
        });
    }
    Ok(subsets)
}
