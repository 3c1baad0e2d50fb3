//! ServiceEntry (`networking.istio.io`): hosts that are no Kubernetes services.

use super::head::{Head, labels};
use super::service::by_protocol_name;
use super::value::{FieldError, decode, is_label, spec_of};
use super::virtual_service::{check_host, export_to};
use super::workload_entry::{self, EntryAddress, RawSelector, WorkloadEntrySpec, usable};
use crate::model::service::{Protocol, Resolution};
use crate::model::visibility::Visibility;
use crate::model::workload::Labels;
use ipnet::IpNet;
use serde::Deserialize;
use serde_json::Value;
use std::net::IpAddr;
use std::sync::Arc;

/// A ServiceEntry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceEntrySpec {
    /// `hosts`, lower case; `*.suffix` kept as it is.
    pub hosts: Vec<Arc<str>>,
    /// `addresses` that are one address.
    pub vips: Vec<IpAddr>,
    /// `addresses` that are a CIDR.
    pub cidrs: Vec<IpNet>,
    /// `ports`.
    pub ports: Vec<EntryPort>,
    /// `location: MESH_INTERNAL`.
    pub internal: bool,
    /// `resolution`.
    pub resolution: Resolution,
    /// `endpoints`.
    pub endpoints: Vec<WorkloadEntrySpec>,
    /// `workloadSelector`.
    pub selector: Option<Labels>,
    /// `exportTo`.
    pub export_to: Visibility,
    /// `subjectAltNames`.
    pub subject_alt_names: Vec<Arc<str>>,
    /// `creationTimestamp`.
    pub created: Arc<str>,
}

/// One of `ports`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryPort {
    /// `name`.
    pub name: Arc<str>,
    /// `number`.
    pub number: u16,
    /// `targetPort`, or `number`.
    pub target: u16,
    /// `protocol`.
    pub protocol: Protocol,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Spec {
    hosts: Option<Vec<String>>,
    addresses: Option<Vec<String>>,
    ports: Option<Vec<RawPort>>,
    location: Option<String>,
    resolution: Option<String>,
    endpoints: Option<Vec<workload_entry::Raw>>,
    #[serde(alias = "workload_selector")]
    workload_selector: Option<RawSelector>,
    #[serde(alias = "export_to")]
    export_to: Option<Vec<String>>,
    #[serde(alias = "subject_alt_names")]
    subject_alt_names: Option<Vec<Arc<str>>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawPort {
    number: u16,
    protocol: Option<String>,
    name: Option<Arc<str>>,
    #[serde(alias = "target_port")]
    target_port: Option<u16>,
}

pub(super) fn service_entry(head: &Head, value: &Value) -> Result<ServiceEntrySpec, FieldError> {
    let spec: Spec = decode(spec_of(value)?, "spec")?;
    let resolution = resolution(spec.resolution.as_deref())?;
    let (vips, cidrs) = addresses(spec.addresses.unwrap_or_default())?;
    let endpoints = endpoints(spec.endpoints.unwrap_or_default())?;
    let selector = selector("spec.workloadSelector", spec.workload_selector)?;
    let entry = ServiceEntrySpec {
        hosts: hosts(&spec.hosts.unwrap_or_default())?,
        vips,
        cidrs,
        ports: ports(spec.ports.unwrap_or_default())?,
        internal: match spec.location.as_deref() {
            None | Some("MESH_EXTERNAL") => false,
            Some("MESH_INTERNAL") => true,
            Some(_) => {
                let expected = "expected MESH_EXTERNAL or MESH_INTERNAL";
                return Err(FieldError::new("spec.location", expected));
            }
        },
        resolution,
        endpoints,
        selector,
        export_to: export_to(spec.export_to.unwrap_or_default(), &head.key.namespace)?,
        subject_alt_names: spec.subject_alt_names.unwrap_or_default(),
        created: Arc::clone(&head.created),
    };
    consistent(&entry)?;
    Ok(entry)
}

/// What Istio's validation demands of fields together.
fn consistent(entry: &ServiceEntrySpec) -> Result<(), FieldError> {
    let wildcard = entry.hosts.iter().position(|h| h.starts_with('*'));
    let by_name = entry
        .endpoints
        .iter()
        .position(|e| matches!(e.address, EntryAddress::Name(_)));
    let resolves = matches!(entry.resolution, Resolution::Names | Resolution::FirstName);
    if !entry.endpoints.is_empty() && entry.selector.is_some() {
        let reason = "only one of workloadSelector and endpoints can be set";
        return Err(FieldError::new("spec.workloadSelector", reason));
    }
    if let Some(i) = wildcard.filter(|_| entry.resolution != Resolution::Original) {
        let reason = "a wildcard host needs resolution NONE: there is no name to look up";
        return Err(FieldError::new(format!("spec.hosts[{i}]"), reason));
    }
    if !entry.endpoints.is_empty() && entry.resolution == Resolution::Original {
        let reason = "endpoints are not used with resolution NONE: expected STATIC or DNS";
        return Err(FieldError::new("spec.endpoints", reason));
    }
    if let Some(i) = by_name.filter(|_| !resolves) {
        let reason = "a DNS name needs resolution DNS";
        return Err(FieldError::new(format!("spec.endpoints[{i}].address"), reason));
    }
    if !entry.cidrs.is_empty() && entry.resolution != Resolution::Original {
        let reason = "CIDR addresses need resolution NONE: the address that is dialled is the one to reach";
        return Err(FieldError::new("spec.addresses", reason));
    }
    Ok(())
}

fn hosts(given: &[String]) -> Result<Vec<Arc<str>>, FieldError> {
    if given.is_empty() {
        return Err(FieldError::new("spec.hosts", "is missing: at least one host"));
    }
    let mut hosts: Vec<Arc<str>> = Vec::new();
    for (i, host) in given.iter().enumerate() {
        let field = || format!("spec.hosts[{i}]");
        if host == "*" {
            return Err(FieldError::new(field(), "* would be every host: name a domain"));
        }
        check_host(host, true).map_err(|reason| FieldError::new(field(), reason))?;
        let host: Arc<str> = host.trim_end_matches('.').to_ascii_lowercase().into();
        if !hosts.contains(&host) {
            hosts.push(host);
        }
    }
    Ok(hosts)
}

fn addresses(given: Vec<String>) -> Result<(Vec<IpAddr>, Vec<IpNet>), FieldError> {
    let (mut vips, mut cidrs) = (Vec::new(), Vec::new());
    for (i, text) in given.into_iter().enumerate() {
        let field = || format!("spec.addresses[{i}]");
        let net = match text.parse::<IpAddr>() {
            Ok(ip) => IpNet::from(ip),
            Err(_) => text
                .parse::<IpNet>()
                .map_err(|_| FieldError::new(field(), format!("{text:?} is no IP address or CIDR")))?,
        };
        if net.prefix_len() == net.max_prefix_len() {
            let ip = usable(net.addr()).map_err(|reason| FieldError::new(field(), reason))?;
            if !vips.contains(&ip) {
                vips.push(ip);
            }
        } else {
            cidrs.push(net.trunc());
        }
    }
    Ok((vips, cidrs))
}

fn ports(given: Vec<RawPort>) -> Result<Vec<EntryPort>, FieldError> {
    let mut ports: Vec<EntryPort> = Vec::new();
    for (i, raw) in given.into_iter().enumerate() {
        let at = format!("spec.ports[{i}]");
        if raw.number == 0 || raw.target_port == Some(0) {
            let field = if raw.number == 0 { "number" } else { "targetPort" };
            return Err(FieldError::new(format!("{at}.{field}"), "expected 1 to 65535"));
        }
        if ports.iter().any(|p| p.number == raw.number) {
            let reason = format!("port {} is there twice", raw.number);
            return Err(FieldError::new(format!("{at}.number"), reason));
        }
        let word = raw.protocol.unwrap_or_else(|| "TCP".into());
        let protocol = by_protocol_name(&word.to_ascii_lowercase()).ok_or_else(|| {
            let expected = "expected HTTP, HTTPS, HTTP2, GRPC, GRPC-WEB, MONGO, TCP or TLS";
            FieldError::new(format!("{at}.protocol"), expected)
        })?;
        ports.push(EntryPort {
            name: raw.name.unwrap_or_else(|| "".into()),
            number: raw.number,
            target: raw.target_port.unwrap_or(raw.number),
            protocol,
        });
    }
    if ports.is_empty() {
        return Err(FieldError::new("spec.ports", "is missing: at least one port"));
    }
    Ok(ports)
}

fn resolution(given: Option<&str>) -> Result<Resolution, FieldError> {
    match given {
        None | Some("NONE") => Ok(Resolution::Original),
        Some("STATIC") => Ok(Resolution::Endpoints),
        Some("DNS") => Ok(Resolution::Names),
        Some("DNS_ROUND_ROBIN") => Ok(Resolution::FirstName),
        Some("DYNAMIC_DNS") => Err(FieldError::new(
            "spec.resolution",
            "DYNAMIC_DNS is not supported yet: use DNS, or NONE for wildcard hosts",
        )),
        Some(_) => Err(FieldError::new(
            "spec.resolution",
            "expected NONE, STATIC, DNS or DNS_ROUND_ROBIN",
        )),
    }
}

fn endpoints(given: Vec<workload_entry::Raw>) -> Result<Vec<WorkloadEntrySpec>, FieldError> {
    let entry = |(i, raw)| workload_entry::entry(&format!("spec.endpoints[{i}]"), raw);
    given.into_iter().enumerate().map(entry).collect()
}

/// Labels to select by; an empty selector is none.
pub(super) fn selector(at: &str, given: Option<RawSelector>) -> Result<Option<Labels>, FieldError> {
    let Some(given) = given.and_then(|s| s.labels).filter(|l| !l.is_empty()) else {
        return Ok(None);
    };
    Ok(Some(Arc::new(labels(given, &format!("{at}.labels"))?)))
}

/// `ns/host`, `./host`, `*/host` and `~/host` of a Sidecar: which namespace, `None` = any.
pub(super) fn namespace_of(given: &str, own: &str) -> Option<Option<Arc<str>>> {
    match given {
        "*" => Some(None),
        "." => Some(Some(own.into())),
        name if is_label(name) => Some(Some(name.into())),
        _ => None,
    }
}
