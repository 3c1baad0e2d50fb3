//! Services.

use super::head::Head;
use super::kubernetes::{PortRef, l4_only, part};
use super::value::{FieldError, is_label};
use crate::model::service::Protocol;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

/// A Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceSpec {
    /// Virtual addresses; empty for a headless service.
    pub vips: Vec<IpAddr>,
    /// TCP ports.
    pub ports: Vec<PortSpec>,
    /// `spec.selector`; `None` where endpoints come from slices only.
    pub selector: Option<BTreeMap<Arc<str>, Arc<str>>>,
    /// `heddle.io/l7: disabled`.
    pub l4_only: bool,
    /// `spec.publishNotReadyAddresses`.
    pub publish_not_ready: bool,
}

/// One TCP port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortSpec {
    /// `name`, empty if none.
    pub name: Arc<str>,
    /// `port`.
    pub number: u16,
    /// `targetPort`, or `port`.
    pub target: PortRef,
    /// By `appProtocol`, name or number (T-51).
    pub protocol: Protocol,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct RawService {
    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(rename = "clusterIP")]
    cluster_ip: Option<String>,
    #[serde(rename = "clusterIPs")]
    cluster_ips: Option<Vec<String>>,
    ports: Option<Vec<RawPort>>,
    selector: Option<BTreeMap<Arc<str>, Arc<str>>>,
    publish_not_ready_addresses: Option<bool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawPort {
    name: Option<Arc<str>>,
    port: u16,
    protocol: Option<String>,
    app_protocol: Option<String>,
    target_port: Option<PortRef>,
}

pub(super) fn service(head: &Head, value: &Value) -> Result<ServiceSpec, FieldError> {
    let raw: RawService = part(value, "spec")?;
    if !is_label(&head.key.name) {
        return Err(FieldError::new(
            "metadata.name",
            "is no DNS label (RFC 1123, lower case)",
        ));
    }
    if raw.kind.as_deref() == Some("ExternalName") {
        return Err(FieldError::new("spec.type", "ExternalName is not supported yet"));
    }
    let l4_only = l4_only(head)?;
    let mut ports: Vec<PortSpec> = Vec::new();
    for (i, port) in raw.ports.into_iter().flatten().enumerate() {
        if port.protocol.as_deref().is_some_and(|p| p != "TCP") {
            continue;
        }
        let at = format!("spec.ports[{i}]");
        if port.port == 0 {
            return Err(FieldError::new(format!("{at}.port"), "expected 1 to 65535"));
        }
        if ports.iter().any(|p| p.number == port.port) {
            return Err(FieldError::new(
                format!("{at}.port"),
                format!("port {} is there twice", port.port),
            ));
        }
        if port.target_port == Some(PortRef::Number(0)) {
            return Err(FieldError::new(format!("{at}.targetPort"), "expected 1 to 65535"));
        }
        let name = port.name.unwrap_or_else(|| "".into());
        let protocol = match protocol(port.app_protocol.as_deref(), &name, port.port) {
            Protocol::Tls => Protocol::Tls,
            _ if l4_only => Protocol::Tcp,
            other => other,
        };
        let target = port.target_port.unwrap_or(PortRef::Number(port.port));
        ports.push(PortSpec {
            name,
            number: port.port,
            target,
            protocol,
        });
    }
    Ok(ServiceSpec {
        vips: vips(raw.cluster_ips, raw.cluster_ip)?,
        ports,
        selector: raw.selector.filter(|s| !s.is_empty()),
        l4_only,
        publish_not_ready: raw.publish_not_ready_addresses.unwrap_or(false),
    })
}

fn vips(many: Option<Vec<String>>, one: Option<String>) -> Result<Vec<IpAddr>, FieldError> {
    let mut given: Vec<(String, String)> = many
        .into_iter()
        .flatten()
        .enumerate()
        .map(|(i, ip)| (format!("spec.clusterIPs[{i}]"), ip))
        .collect();
    if given.is_empty() {
        given.extend(one.map(|ip| ("spec.clusterIP".to_owned(), ip)));
    }
    let mut vips = Vec::new();
    for (field, text) in given
        .into_iter()
        .filter(|(_, text)| !text.is_empty() && text != "None")
    {
        let ip: IpAddr = text
            .parse()
            .map_err(|_| FieldError::new(&field, format!("{text:?} is no IP address")))?;
        let ip = ip.to_canonical();
        if ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() {
            return Err(FieldError::new(
                field,
                format!("{ip} cannot be a service's address"),
            ));
        }
        if !vips.contains(&ip) {
            vips.push(ip);
        }
    }
    Ok(vips)
}

/// What is spoken on a port: `appProtocol`, then the name's prefix, then ports whose servers speak first, else
/// detected (T-51).
fn protocol(app_protocol: Option<&str>, name: &str, number: u16) -> Protocol {
    let lower = name.to_ascii_lowercase();
    let prefix = if lower.starts_with("grpc-web") {
        "grpc-web"
    } else {
        lower.split('-').next().unwrap_or_default()
    };
    app_protocol
        .and_then(|p| by_protocol_name(&p.to_ascii_lowercase()))
        .or_else(|| by_protocol_name(prefix))
        .unwrap_or(match number {
            25 | 53 | 3306 | 27017 => Protocol::Tcp,
            _ => Protocol::Auto,
        })
}

/// What a protocol's name, in lower case, says of the bytes.
pub(super) fn by_protocol_name(word: &str) -> Option<Protocol> {
    match word {
        "http" | "kubernetes.io/ws" => Some(Protocol::Http),
        "http2" | "h2c" | "kubernetes.io/h2c" => Some(Protocol::Http2),
        "grpc" | "grpc-web" => Some(Protocol::Grpc),
        "https" | "tls" | "kubernetes.io/wss" => Some(Protocol::Tls),
        "tcp" | "mongo" | "redis" | "mysql" => Some(Protocol::Tcp),
        _ => None,
    }
}
