//! Pods and namespaces. Only what the mesh reads is decoded; the rest of these large objects is not looked at.

use super::head::{CONFIG_HASH, Head};
use super::value::{FieldError, decode};
use crate::model::workload::FailMode;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

/// What a label says about membership in the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Membership {
    /// `heddle.io/mesh: enabled` or `istio.io/dataplane-mode: ambient`.
    In,
    /// `heddle.io/mesh: disabled` or `istio.io/dataplane-mode: none`.
    Out,
}

/// A Namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamespaceSpec {
    /// Membership of its pods.
    pub membership: Option<Membership>,
    /// `heddle.io/fail-mode`.
    pub fail_mode: FailMode,
    /// `heddle.io/l7: disabled`.
    pub l4_only: bool,
    /// `metadata.labels`, by which Gateways select namespaces.
    pub labels: Arc<BTreeMap<Arc<str>, Arc<str>>>,
}

/// A Pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodSpec {
    /// `metadata.uid`; of a static pod the hash under which its node knows it.
    pub uid: Option<Arc<str>>,
    /// `metadata.labels`.
    pub labels: Arc<BTreeMap<Arc<str>, Arc<str>>>,
    /// `spec.nodeName`.
    pub node: Arc<str>,
    /// At most one of each family.
    pub ips: Vec<IpAddr>,
    /// `spec.serviceAccountName`.
    pub service_account: Arc<str>,
    /// `spec.hostNetwork`.
    pub host_network: bool,
    /// Runtime class whose sockets this kernel does not see.
    pub sandboxed: bool,
    /// Phase `Succeeded` or `Failed`.
    pub ended: bool,
    /// Ready condition and not being deleted.
    pub ready: bool,
    /// Kind (lower case) and name of what made the pod.
    pub owner: Option<(Arc<str>, Arc<str>)>,
    /// The pod's own word on membership.
    pub membership: Option<Membership>,
    /// Annotation `heddle.io/netns`.
    pub netns: Option<Arc<str>>,
    /// `ambient.istio.io/dns-capture: "false"`.
    pub resolves_itself: bool,
    /// Sorted.
    pub probe_ports: Vec<u16>,
    /// Named container ports.
    pub named_ports: Vec<(Arc<str>, u16)>,
}

/// A number, or the name of a container's port.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(
    untagged,
    expecting = "expected a port number (0 to 65535) or the name of a container's port"
)]
pub enum PortRef {
    /// `8080`
    Number(u16),
    /// `"http"`
    Name(Arc<str>),
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct RawSpec {
    node_name: Option<Arc<str>>,
    service_account_name: Option<Arc<str>>,
    service_account: Option<Arc<str>>,
    host_network: Option<bool>,
    runtime_class_name: Option<String>,
    containers: Option<Vec<Container>>,
    init_containers: Option<Vec<Container>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Container {
    ports: Option<Vec<ContainerPort>>,
    liveness_probe: Option<Probe>,
    readiness_probe: Option<Probe>,
    startup_probe: Option<Probe>,
    lifecycle: Option<Lifecycle>,
}

/// Hooks that the kubelet calls, as it probes.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Lifecycle {
    post_start: Option<Probe>,
    pre_stop: Option<Probe>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ContainerPort {
    name: Option<Arc<str>>,
    container_port: u16,
    protocol: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Probe {
    http_get: Option<ProbePort>,
    tcp_socket: Option<ProbePort>,
    grpc: Option<ProbePort>,
}

#[derive(Deserialize)]
struct ProbePort {
    port: PortRef,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct RawStatus {
    phase: Option<String>,
    #[serde(rename = "podIP")]
    pod_ip: Option<String>,
    #[serde(rename = "podIPs")]
    pod_ips: Option<Vec<PodIp>>,
    conditions: Option<Vec<Condition>>,
}

#[derive(Deserialize)]
struct PodIp {
    ip: Option<String>,
}

#[derive(Deserialize)]
struct Condition {
    r#type: String,
    status: String,
}

/// Whether pods of this runtime class have sockets that the node's kernel does not see.
pub(super) fn is_sandboxed(runtime_class: &str) -> bool {
    let class = runtime_class.to_ascii_lowercase();
    class == "gvisor" || class == "runsc" || class.starts_with("kata")
}

pub(super) fn membership(head: &Head) -> Result<Option<Membership>, FieldError> {
    membership_by(head.setting("heddle.io/mesh"), &head.labels)
}

/// Membership as `heddle.io/mesh` (`ours`) says, else as Istio's label does.
pub(super) fn membership_by(
    ours: Option<&str>,
    labels: &BTreeMap<Arc<str>, Arc<str>>,
) -> Result<Option<Membership>, FieldError> {
    let ours = match ours {
        None => None,
        Some("enabled") => Some(Membership::In),
        Some("disabled") => Some(Membership::Out),
        Some(_) => {
            return Err(FieldError::new(
                "metadata.labels.heddle.io/mesh",
                "expected enabled or disabled",
            ));
        }
    };
    Ok(
        ours.or(match labels.get("istio.io/dataplane-mode").map(|v| &**v) {
            Some("ambient") => Some(Membership::In),
            Some("none") => Some(Membership::Out),
            _ => None,
        }),
    )
}

/// `heddle.io/l7`.
pub(super) fn l4_only(head: &Head) -> Result<bool, FieldError> {
    match head.setting("heddle.io/l7") {
        None | Some("enabled") => Ok(false),
        Some("disabled") => Ok(true),
        Some(_) => Err(FieldError::new(
            "metadata.labels.heddle.io/l7",
            "expected enabled or disabled",
        )),
    }
}

pub(super) fn namespace(head: &Head) -> Result<NamespaceSpec, FieldError> {
    let fail_mode = match head.setting("heddle.io/fail-mode") {
        None | Some("closed") => FailMode::Closed,
        Some("open") => FailMode::Open,
        Some(_) => {
            return Err(FieldError::new(
                "metadata.labels.heddle.io/fail-mode",
                "expected open or closed",
            ));
        }
    };
    Ok(NamespaceSpec {
        membership: membership(head)?,
        fail_mode,
        l4_only: l4_only(head)?,
        labels: Arc::new(head.labels.clone()),
    })
}

pub(super) fn pod(head: &Head, value: &Value) -> Result<PodSpec, FieldError> {
    let spec: RawSpec = part(value, "spec")?;
    let status: RawStatus = part(value, "status")?;
    let containers: Vec<Container> = spec
        .containers
        .into_iter()
        .flatten()
        .chain(spec.init_containers.into_iter().flatten())
        .collect();
    let named_ports = named_ports(&containers);
    let netns = head.annotations.get("heddle.io/netns").map(String::as_str);
    if netns.is_some_and(|path| !path.starts_with('/') || path.contains('\0') || path.len() > 4_096) {
        return Err(FieldError::new(
            "metadata.annotations.heddle.io/netns",
            "is no absolute path",
        ));
    }
    let service_account = spec
        .service_account_name
        .or(spec.service_account)
        .filter(|s| !s.is_empty());
    let service_account = service_account.unwrap_or_else(|| "default".into());
    if !super::value::is_subdomain(&service_account) {
        return Err(FieldError::new(
            "spec.serviceAccountName",
            "is no DNS name (RFC 1123 subdomain)",
        ));
    }
    let ended = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    let condition = status
        .conditions
        .iter()
        .flatten()
        .find(|c| c.r#type == "Ready")
        .map(|c| c.status == "True");
    // Without conditions nobody watches the pod's readiness: files describe pods that run.
    let ready = condition.unwrap_or(status.conditions.is_none()) && !head.deleting && !ended;
    Ok(PodSpec {
        uid: head
            .annotations
            .get(CONFIG_HASH)
            .map(|hash| hash.as_str().into())
            .or_else(|| head.uid.clone()),
        labels: Arc::new(head.labels.clone()),
        node: spec.node_name.unwrap_or_else(|| "".into()),
        ips: addresses(status.pod_ips, status.pod_ip)?,
        service_account,
        host_network: spec.host_network.unwrap_or(false),
        sandboxed: spec.runtime_class_name.is_some_and(|class| is_sandboxed(&class)),
        ended,
        ready,
        owner: owner(head),
        membership: membership(head)?,
        netns: netns.map(Into::into),
        resolves_itself: resolves_itself(head)?,
        probe_ports: probe_ports(&containers, &named_ports),
        named_ports,
    })
}

const DNS_CAPTURE: &str = "ambient.istio.io/dns-capture";

/// Istio's annotation, with values as Istio reads them (Go's `strconv.ParseBool`).
fn resolves_itself(head: &Head) -> Result<bool, FieldError> {
    match head.annotations.get(DNS_CAPTURE).map(String::as_str) {
        None | Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(false),
        Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(true),
        Some(_) => Err(FieldError::new(
            format!("metadata.annotations.{DNS_CAPTURE}"),
            "expected true or false",
        )),
    }
}

/// A part of an object that may be absent or null.
pub(super) fn part<'de, T: Deserialize<'de> + Default>(value: &'de Value, at: &str) -> Result<T, FieldError> {
    match value.get(at) {
        None | Some(Value::Null) => Ok(T::default()),
        Some(found) => decode(found, at),
    }
}

fn addresses(many: Option<Vec<PodIp>>, one: Option<String>) -> Result<Vec<IpAddr>, FieldError> {
    let mut given: Vec<(String, String)> = Vec::new();
    for (i, entry) in many.into_iter().flatten().enumerate() {
        if let Some(ip) = entry.ip {
            given.push((format!("status.podIPs[{i}].ip"), ip));
        }
    }
    if given.is_empty() {
        given.extend(one.map(|ip| ("status.podIP".to_owned(), ip)));
    }
    let mut ips: Vec<IpAddr> = Vec::new();
    for (field, text) in given.into_iter().filter(|(_, text)| !text.is_empty()) {
        let ip: IpAddr = text
            .parse()
            .map_err(|_| FieldError::new(&field, format!("{text:?} is no IP address")))?;
        let ip = ip.to_canonical();
        if ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() {
            return Err(FieldError::new(field, format!("{ip} cannot be a pod's address")));
        }
        if !ips.iter().any(|other| other.is_ipv4() == ip.is_ipv4()) {
            ips.push(ip);
        }
    }
    Ok(ips)
}

fn named_ports(containers: &[Container]) -> Vec<(Arc<str>, u16)> {
    let ports = containers.iter().flat_map(|c| c.ports.iter().flatten());
    ports
        .filter(|p| p.protocol.as_deref().is_none_or(|protocol| protocol == "TCP"))
        .filter_map(|p| Some((p.name.clone()?, p.container_port)))
        .collect()
}

fn probe_ports(containers: &[Container], named: &[(Arc<str>, u16)]) -> Vec<u16> {
    let probes = containers
        .iter()
        .flat_map(|c| [&c.liveness_probe, &c.readiness_probe, &c.startup_probe])
        .flatten();
    let hooks = containers.iter().filter_map(|c| c.lifecycle.as_ref());
    let hooks = hooks.flat_map(|l| [&l.post_start, &l.pre_stop]).flatten();
    let mut ports: Vec<u16> = probes
        .chain(hooks)
        .flat_map(|p| [&p.http_get, &p.tcp_socket, &p.grpc])
        .flatten()
        .filter_map(|p| resolve_port(&p.port, named))
        .collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}

/// A port's number in a pod with these named ports.
pub(crate) fn resolve_port(port: &PortRef, named: &[(Arc<str>, u16)]) -> Option<u16> {
    match port {
        PortRef::Number(number) => Some(*number),
        PortRef::Name(name) => named.iter().find(|(n, _)| n == name).map(|(_, number)| *number),
    }
}

/// A ReplicaSet that a Deployment made is called `<deployment>-<pod-template-hash>` (S074: the name may have dots).
fn owner(head: &Head) -> Option<(Arc<str>, Arc<str>)> {
    let (kind, name) = head.owner.as_ref()?;
    if kind == "ReplicaSet" {
        let deployment = head
            .labels
            .get("pod-template-hash")
            .and_then(|hash| name.strip_suffix(&**hash))
            .and_then(|rest| rest.strip_suffix('-'))
            .filter(|rest| !rest.is_empty());
        if let Some(deployment) = deployment {
            return Some(("deployment".into(), deployment.into()));
        }
    }
    Some((kind.to_ascii_lowercase().into(), name.as_str().into()))
}
