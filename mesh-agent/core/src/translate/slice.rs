//! EndpointSlices.

use super::head::Head;
use super::value::{FieldError, is_subdomain};
use serde::Deserialize;
use serde_json::Value;
use std::net::IpAddr;
use std::sync::Arc;

/// An EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceSpec {
    /// Label `kubernetes.io/service-name`; a slice without belongs to nobody.
    pub service: Option<Arc<str>>,
    /// TCP ports: name and number.
    pub ports: Vec<(Arc<str>, u16)>,
    /// Every endpoint, ready or not.
    pub endpoints: Vec<EndpointSpec>,
}

/// One endpoint of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSpec {
    /// `addresses`; all of one family.
    pub addresses: Vec<IpAddr>,
    /// `conditions`.
    pub condition: Condition,
    /// `targetRef`, if it is a pod of the slice's namespace.
    pub pod: Option<PodRef>,
    /// `nodeName`, empty if none.
    pub node: Arc<str>,
}

/// The pod behind an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodRef {
    /// `targetRef.name`.
    pub name: Arc<str>,
    /// `targetRef.uid`.
    pub uid: Option<Arc<str>>,
}

/// Whether an endpoint takes new connections (discovery.k8s.io/v1 EndpointConditions).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Condition {
    /// `ready`, or not said.
    Ready,
    /// Being deleted and still `serving`: used only where nothing is ready, as kube-proxy does.
    Draining,
    /// Neither.
    NotReady,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawSlice {
    address_type: Option<String>,
    ports: Option<Vec<RawPort>>,
    endpoints: Option<Vec<RawEndpoint>>,
}

#[derive(Deserialize)]
struct RawPort {
    name: Option<Arc<str>>,
    port: Option<u16>,
    protocol: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawEndpoint {
    addresses: Vec<String>,
    conditions: Option<RawConditions>,
    target_ref: Option<RawTarget>,
    node_name: Option<Arc<str>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawConditions {
    ready: Option<bool>,
    serving: Option<bool>,
    terminating: Option<bool>,
}

#[derive(Deserialize)]
struct RawTarget {
    kind: Option<String>,
    namespace: Option<String>,
    name: Option<Arc<str>>,
    uid: Option<Arc<str>>,
}

impl RawConditions {
    fn condition(&self) -> Condition {
        let ready = self.ready.unwrap_or(true);
        if ready {
            Condition::Ready
        } else if self.terminating == Some(true) && self.serving == Some(true) {
            Condition::Draining
        } else {
            Condition::NotReady
        }
    }
}

pub(super) fn slice(head: &Head, value: &Value) -> Result<SliceSpec, FieldError> {
    let raw: RawSlice = super::value::decode(value, "")?;
    if raw.address_type.as_deref() == Some("FQDN") {
        return Err(FieldError::new("addressType", "FQDN is not supported yet"));
    }
    let ports = raw
        .ports
        .into_iter()
        .flatten()
        .filter(|p| p.protocol.as_deref().is_none_or(|protocol| protocol == "TCP"))
        .filter_map(|p| {
            Some((
                p.name.unwrap_or_else(|| "".into()),
                p.port.filter(|port| *port != 0)?,
            ))
        })
        .collect();
    let endpoints = raw
        .endpoints
        .into_iter()
        .flatten()
        .enumerate()
        .map(|(i, endpoint)| self::endpoint(head, endpoint, &format!("endpoints[{i}]")))
        .collect::<Result<_, _>>()?;
    Ok(SliceSpec {
        service: head.labels.get("kubernetes.io/service-name").cloned(),
        ports,
        endpoints,
    })
}

fn endpoint(head: &Head, raw: RawEndpoint, at: &str) -> Result<EndpointSpec, FieldError> {
    let addresses = raw
        .addresses
        .iter()
        .enumerate()
        .map(|(i, text)| {
            address(text).map_err(|reason| FieldError::new(format!("{at}.addresses[{i}]"), reason))
        })
        .collect::<Result<_, _>>()?;
    let pod = match raw.target_ref {
        Some(target) if target.kind.as_deref() == Some("Pod") => pod(head, target, at)?,
        _ => None,
    };
    Ok(EndpointSpec {
        addresses,
        condition: raw.conditions.unwrap_or_default().condition(),
        pod,
        node: raw.node_name.unwrap_or_else(|| "".into()),
    })
}

/// A pod of another namespace is nothing that a slice may speak for.
fn pod(head: &Head, target: RawTarget, at: &str) -> Result<Option<PodRef>, FieldError> {
    let Some(name) = target.name else {
        return Err(FieldError::new(format!("{at}.targetRef.name"), "is missing"));
    };
    if !is_subdomain(&name) {
        return Err(FieldError::new(
            format!("{at}.targetRef.name"),
            "is no DNS name (RFC 1123 subdomain, lower case)",
        ));
    }
    if target
        .namespace
        .as_ref()
        .is_some_and(|ns| *ns != head.key.namespace)
    {
        return Err(FieldError::new(
            format!("{at}.targetRef.namespace"),
            "is not the slice's own",
        ));
    }
    let uid = target.uid.filter(|uid| !uid.is_empty());
    Ok(Some(PodRef { name, uid }))
}

fn address(text: &str) -> Result<IpAddr, String> {
    let ip: IpAddr = text.parse().map_err(|_| format!("{text:?} is no IP address"))?;
    let ip = ip.to_canonical();
    if ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() {
        return Err(format!("{ip} cannot be an endpoint"));
    }
    Ok(ip)
}
