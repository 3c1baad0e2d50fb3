//! Sidecar (`networking.istio.io`): what workloads see of the registry, and what becomes of everything else. There is no
//! sidecar here; the scope holds all the same.

use super::head::Head;
use super::service_entry::{namespace_of, selector};
use super::value::{FieldError, Unsupported, decode};
use super::virtual_service::check_host;
use super::workload_entry::RawSelector;
use crate::model::scope::{EgressHost, EgressScope};
use crate::model::workload::Labels;
use serde::Deserialize;
use serde_json::Value;
use std::sync::Arc;

/// A Sidecar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SidecarSpec {
    /// `workloadSelector`; `None` = every workload of the namespace, in the root namespace of the mesh.
    pub selector: Option<Labels>,
    /// What the selected workloads see.
    pub scope: Arc<EgressScope>,
    /// `creationTimestamp`.
    pub created: Arc<str>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Spec {
    #[serde(alias = "workload_selector")]
    workload_selector: Option<RawSelector>,
    egress: Option<Vec<Egress>>,
    #[serde(alias = "outbound_traffic_policy")]
    outbound_traffic_policy: Option<OutboundTrafficPolicy>,
    #[serde(rename = "ingress")]
    _ingress: Option<Unsupported>,
    #[serde(rename = "inboundConnectionPool", alias = "inbound_connection_pool")]
    _inbound_connection_pool: Option<Unsupported>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Egress {
    hosts: Option<Vec<String>>,
    #[serde(rename = "port")]
    _port: Option<Unsupported>,
    #[serde(rename = "bind")]
    _bind: Option<Unsupported>,
    #[serde(alias = "capture_mode")]
    capture_mode: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct OutboundTrafficPolicy {
    mode: Option<String>,
    #[serde(rename = "egressProxy", alias = "egress_proxy")]
    _egress_proxy: Option<Unsupported>,
}

pub(super) fn sidecar(head: &Head, value: &Value) -> Result<SidecarSpec, FieldError> {
    let source = value.get("spec").filter(|s| !s.is_null());
    let empty = Value::Object(serde_json::Map::new());
    let spec: Spec = decode(source.unwrap_or(&empty), "spec")?;
    let registry_only = match spec.outbound_traffic_policy.map(|p| p.mode) {
        None => None,
        Some(Some(mode)) if mode == "ALLOW_ANY" => Some(false),
        // The zero value of the field is REGISTRY_ONLY.
        Some(None) => Some(true),
        Some(Some(mode)) if mode == "REGISTRY_ONLY" => Some(true),
        Some(Some(_)) => {
            let expected = "expected REGISTRY_ONLY or ALLOW_ANY";
            return Err(FieldError::new("spec.outboundTrafficPolicy.mode", expected));
        }
    };
    let scope = EgressScope {
        object: head.name(),
        hosts: match spec.egress {
            None => None,
            Some(listeners) => Some(hosts(listeners, &head.key.namespace)?),
        },
        registry_only,
    };
    Ok(SidecarSpec {
        selector: selector("spec.workloadSelector", spec.workload_selector)?,
        scope: Arc::new(scope),
        created: Arc::clone(&head.created),
    })
}

fn hosts(listeners: Vec<Egress>, own: &str) -> Result<Vec<EgressHost>, FieldError> {
    let mut hosts = Vec::new();
    for (i, listener) in listeners.into_iter().enumerate() {
        let at = format!("spec.egress[{i}]");
        if listener
            .capture_mode
            .is_some_and(|m| m != "DEFAULT" && m != "IPTABLES")
        {
            let reason = "connections are always captured: NONE is not supported";
            return Err(FieldError::new(format!("{at}.captureMode"), reason));
        }
        let given = listener.hosts.unwrap_or_default();
        if given.is_empty() {
            let reason = "sidecar: egress listener must contain at least one host";
            return Err(FieldError::new(format!("{at}.hosts"), reason));
        }
        for (j, text) in given.iter().enumerate() {
            let field = || format!("{at}.hosts[{j}]");
            let (namespace, host) = text
                .split_once('/')
                .ok_or_else(|| FieldError::new(field(), "expected namespace/host"))?;
            if namespace == "~" {
                continue;
            }
            let namespace = namespace_of(namespace, own).ok_or_else(|| {
                FieldError::new(field(), "expected *, ., ~ or a namespace before the slash")
            })?;
            if host != "*" {
                check_host(host, true).map_err(|reason| FieldError::new(field(), reason))?;
            }
            let host = host.trim_end_matches('.').to_ascii_lowercase().into();
            hosts.push(EgressHost { namespace, host });
        }
    }
    Ok(hosts)
}
