//! DestinationRule (`networking.istio.io`): subsets.

use super::head::{Head, labels};
use super::value::{FieldError, Unsupported, decode, is_subdomain};
use super::virtual_service::{check_host, export_to};
use crate::model::host;
use crate::model::route::Visibility;
use crate::model::snapshot::MeshSettings;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A DestinationRule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DestinationRuleSpec {
    /// Absolute, lower case; may be `*.suffix`.
    pub host: Arc<str>,
    /// `subsets`, in written order.
    pub subsets: Vec<SubsetSpec>,
    /// `exportTo`.
    pub export_to: Visibility,
    /// `creationTimestamp`.
    pub created: Arc<str>,
}

/// One of `subsets`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubsetSpec {
    /// `name`.
    pub name: Arc<str>,
    /// `labels`; empty = every endpoint.
    pub labels: Arc<BTreeMap<Arc<str>, Arc<str>>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Spec {
    host: String,
    subsets: Option<Vec<RawSubset>>,
    #[serde(alias = "export_to")]
    export_to: Option<Vec<String>>,
    traffic_policy: Option<TrafficPolicy>,
    #[serde(rename = "workloadSelector", alias = "workload_selector")]
    _workload_selector: Option<Unsupported>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawSubset {
    name: String,
    labels: Option<BTreeMap<Arc<str>, Option<Arc<str>>>>,
    traffic_policy: Option<TrafficPolicy>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct TrafficPolicy {
    tls: Option<Tls>,
    #[serde(rename = "loadBalancer", alias = "load_balancer")]
    _load_balancer: Option<Unsupported>,
    #[serde(rename = "connectionPool", alias = "connection_pool")]
    _connection_pool: Option<Unsupported>,
    #[serde(rename = "outlierDetection", alias = "outlier_detection")]
    _outlier_detection: Option<Unsupported>,
    #[serde(rename = "portLevelSettings", alias = "port_level_settings")]
    _port_level_settings: Option<Unsupported>,
    #[serde(rename = "tunnel")]
    _tunnel: Option<Unsupported>,
    #[serde(rename = "proxyProtocol", alias = "proxy_protocol")]
    _proxy_protocol: Option<Unsupported>,
    #[serde(rename = "retryBudget", alias = "retry_budget")]
    _retry_budget: Option<Unsupported>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Tls {
    mode: Option<String>,
    #[serde(rename = "clientCertificate")]
    _client_certificate: Option<Unsupported>,
    #[serde(rename = "privateKey")]
    _private_key: Option<Unsupported>,
    #[serde(rename = "caCertificates")]
    _ca_certificates: Option<Unsupported>,
    #[serde(rename = "credentialName")]
    _credential_name: Option<Unsupported>,
    #[serde(rename = "subjectAltNames")]
    _subject_alt_names: Option<Unsupported>,
    #[serde(rename = "sni")]
    _sni: Option<Unsupported>,
    #[serde(rename = "insecureSkipVerify")]
    _insecure_skip_verify: Option<Unsupported>,
    #[serde(rename = "caCrl")]
    _ca_crl: Option<Unsupported>,
}

pub(super) fn destination_rule(
    head: &Head,
    value: &Value,
    settings: &MeshSettings,
) -> Result<DestinationRuleSpec, FieldError> {
    let source = value.get("spec").filter(|s| !s.is_null());
    let spec: Spec = decode(
        source.ok_or_else(|| FieldError::new("spec", "is missing"))?,
        "spec",
    )?;
    check_host(&spec.host, true).map_err(|reason| FieldError::new("spec.host", reason))?;
    check_policy("spec.trafficPolicy", spec.traffic_policy.as_ref())?;
    let mut subsets: Vec<SubsetSpec> = Vec::new();
    for (i, raw) in spec.subsets.into_iter().flatten().enumerate() {
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
        check_policy(&format!("{at}.trafficPolicy"), raw.traffic_policy.as_ref())?;
        let labels = labels(raw.labels.unwrap_or_default(), &format!("{at}.labels"))?;
        subsets.push(SubsetSpec {
            name: raw.name.into(),
            labels: Arc::new(labels),
        });
    }
    Ok(DestinationRuleSpec {
        host: host::absolute(&spec.host, &head.key.namespace, &settings.cluster_domain),
        subsets,
        export_to: export_to(spec.export_to.unwrap_or_default(), &head.key.namespace)?,
        created: Arc::clone(&head.created),
    })
}

/// Mutual TLS with the mesh's own identities is what happens anyway; no other mode is honoured.
fn check_policy(at: &str, policy: Option<&TrafficPolicy>) -> Result<(), FieldError> {
    let Some(tls) = policy.and_then(|p| p.tls.as_ref()) else {
        return Ok(());
    };
    match tls.mode.as_deref() {
        Some("ISTIO_MUTUAL") => Ok(()),
        Some(mode @ ("DISABLE" | "SIMPLE" | "MUTUAL")) => Err(FieldError::new(
            format!("{at}.tls.mode"),
            format!("{mode} is not supported yet"),
        )),
        _ => Err(FieldError::new(format!("{at}.tls.mode"), "expected ISTIO_MUTUAL")),
    }
}
