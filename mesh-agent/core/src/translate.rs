//! API objects (as JSON values) → model. Every refusal names the object and the field.

mod destination_rule;
pub mod fields;
mod gateway;
pub mod gateway_api;
mod head;
mod ingress;
mod kubernetes;
mod material;
mod peer_authentication;
mod service;
mod service_entry;
mod sidecar;
mod slice;
mod template;
pub(crate) mod value;
mod virtual_service;
mod workload_entry;

use crate::model::locality::Locality;
use crate::model::snapshot::MeshSettings;
use crate::model::template::{GROUP, WORKLOAD_TEMPLATE};
use serde_json::Value;
use std::fmt;

pub use destination_rule::{DestinationRuleSpec, SubsetSpec};
pub use gateway::{AuthorityRef, CertificateRef, GatewaySpec, ServerHost, ServerSpec, ServerTlsSpec};
pub use gateway_api::{
    ApiGatewaySpec, ApiRouteSpec, BackendTlsSpec, BackendTrafficSpec, GatewayClassSpec, ListenerSetSpec,
    ReferenceGrantSpec, RouteKind,
};
pub use head::{Head, describe};
pub use ingress::{IngressPath, IngressSpec, IngressTls};
pub(crate) use kubernetes::resolve_port;
pub use kubernetes::{Membership, NamespaceSpec, PodSpec, PortRef};
pub use material::MaterialSpec;
pub use peer_authentication::PeerAuthenticationSpec;
pub use service::{PortSpec, ServiceSpec};
pub use service_entry::{EntryPort, ServiceEntrySpec};
pub use sidecar::SidecarSpec;
pub use slice::{Condition, EndpointSpec, PodRef, SliceSpec};
pub use template::{PodMatch, TemplateSpec};
pub use virtual_service::{Delegation, Given, VirtualServiceSpec};
pub use workload_entry::{EntryAddress, WorkloadEntrySpec};

/// An object or a field that cannot be honoured.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rejected {
    /// `Kind namespace/name`, or as much of it as could be read.
    pub object: String,
    /// Path inside the object, e.g. `spec.http[0].match[1].uri.regex`; empty for the object as a whole.
    pub field: String,
    /// What is wrong with it and what would be right.
    pub reason: String,
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.field.is_empty() {
            write!(f, "{}: {}", self.object, self.reason)
        } else {
            write!(f, "{}: {}: {}", self.object, self.field, self.reason)
        }
    }
}

impl std::error::Error for Rejected {}

/// An object that means something to the mesh.
#[derive(Clone, Debug, PartialEq)]
pub enum Translated {
    /// A Namespace.
    Namespace(NamespaceSpec),
    /// A Pod.
    Pod(PodSpec),
    /// A Service.
    Service(ServiceSpec),
    /// An EndpointSlice.
    EndpointSlice(SliceSpec),
    /// A WorkloadTemplate.
    WorkloadTemplate(TemplateSpec),
    /// Where a Node is.
    Node(Locality),
    /// A VirtualService.
    VirtualService(VirtualServiceSpec),
    /// A DestinationRule.
    DestinationRule(Box<DestinationRuleSpec>),
    /// A Gateway of Istio.
    Gateway(GatewaySpec),
    /// A Secret or ConfigMap.
    Material(MaterialSpec),
    /// An Ingress of this mesh's class.
    Ingress(IngressSpec),
    /// A PeerAuthentication.
    PeerAuthentication(PeerAuthenticationSpec),
    /// A route of Gateway API.
    ApiRoute(ApiRouteSpec),
    /// A Gateway of Gateway API.
    ApiGateway(ApiGatewaySpec),
    /// A ListenerSet.
    ListenerSet(ListenerSetSpec),
    /// A GatewayClass.
    GatewayClass(GatewayClassSpec),
    /// An XBackendTrafficPolicy.
    BackendTraffic(BackendTrafficSpec),
    /// A ReferenceGrant.
    ReferenceGrant(ReferenceGrantSpec),
    /// A BackendTLSPolicy.
    BackendTls(BackendTlsSpec),
    /// A ServiceEntry.
    ServiceEntry(ServiceEntrySpec),
    /// A WorkloadEntry.
    WorkloadEntry(WorkloadEntrySpec),
    /// A Sidecar.
    Sidecar(SidecarSpec),
    /// A companion that has nothing to say to the mesh: Deployment, ConfigMap, ServiceAccount, …
    Nothing,
}

/// Translates an object whose head has been read.
///
/// # Errors
/// The first field that is wrong or not supported, or a kind that is not.
pub fn translate(head: &Head, value: &Value, settings: &MeshSettings) -> Result<Translated, Rejected> {
    let translated = match (head.key.group.as_str(), head.key.kind.as_str()) {
        ("", "Namespace") => kubernetes::namespace(head).map(Translated::Namespace),
        ("", "Pod") => kubernetes::pod(head, value).map(Translated::Pod),
        ("", "Node") => Ok(Translated::Node(Locality::of_node(&head.labels))),
        ("", "Service") => service::service(head, value).map(Translated::Service),
        ("discovery.k8s.io", "EndpointSlice") => slice::slice(head, value).map(Translated::EndpointSlice),
        (GROUP, WORKLOAD_TEMPLATE) => template::template(head, value).map(Translated::WorkloadTemplate),
        ("networking.istio.io", "VirtualService") => istio_version(head)
            .and_then(|()| virtual_service::virtual_service(head, value, settings))
            .map(Translated::VirtualService),
        ("networking.istio.io", "DestinationRule") => istio_version(head)
            .and_then(|()| destination_rule::destination_rule(head, value, settings))
            .map(|rule| Translated::DestinationRule(Box::new(rule))),
        ("networking.istio.io", "Gateway") => istio_version(head)
            .and_then(|()| gateway::gateway(head, value))
            .map(Translated::Gateway),
        ("networking.k8s.io", "Ingress") => {
            ingress::ingress(head, value).map(|spec| spec.map_or(Translated::Nothing, Translated::Ingress))
        }
        ("", "Secret") => material::secret(value).map(of_material),
        ("", "ConfigMap") => material::config_map(value).map(of_material),
        ("security.istio.io", "PeerAuthentication") => {
            peer_authentication::peer_authentication(head, value).map(Translated::PeerAuthentication)
        }
        (gateway_api::GROUP, kind) if gateway_api::is_known(kind) => {
            gateway_api::translate(head, value, settings)
        }
        (gateway_api::EXPERIMENTAL_GROUP, gateway_api::BACKEND_TRAFFIC) => {
            gateway_api::translate_experimental(head, value)
        }
        ("networking.istio.io", "ServiceEntry") => istio_version(head)
            .and_then(|()| service_entry::service_entry(head, value))
            .map(Translated::ServiceEntry),
        ("networking.istio.io", "WorkloadEntry") => istio_version(head)
            .and_then(|()| workload_entry::workload_entry(head, value))
            .map(Translated::WorkloadEntry),
        ("networking.istio.io", "WorkloadGroup") => Err(workload_entry::workload_group()),
        ("networking.istio.io", "Sidecar") => istio_version(head)
            .and_then(|()| sidecar::sidecar(head, value))
            .map(Translated::Sidecar),
        (group, kind) if is_companion(group, kind) => Ok(Translated::Nothing),
        (_, kind) => Err(value::FieldError::new(
            "kind",
            format!("kind {kind} is not supported"),
        )),
    };
    translated.map_err(|e| head.reject(e))
}

/// What holds in the place of an object that [`translate`] refuses, where there is no earlier version of it: for a
/// policy the most that it could have meant, for anything else nothing.
#[must_use]
pub fn in_place_of(head: &Head, value: &Value) -> Option<Translated> {
    match (head.key.group.as_str(), head.key.kind.as_str()) {
        ("security.istio.io", "PeerAuthentication") => Some(Translated::PeerAuthentication(
            peer_authentication::unreadable(head, value),
        )),
        (gateway_api::GROUP, "BackendTLSPolicy") => Some(Translated::BackendTls(
            gateway_api::backend_tls::unreadable(head, value),
        )),
        _ => None,
    }
}

/// Most Secrets and ConfigMaps hold no certificate.
fn of_material(material: MaterialSpec) -> Translated {
    if material.data.is_empty() {
        Translated::Nothing
    } else {
        Translated::Material(material)
    }
}

fn istio_version(head: &Head) -> Result<(), value::FieldError> {
    match head.version.as_str() {
        "v1alpha3" | "v1beta1" | "v1" => Ok(()),
        other => Err(value::FieldError::new(
            "apiVersion",
            format!("version {other:?} is not known: expected v1, v1beta1 or v1alpha3"),
        )),
    }
}

/// Kinds of Kubernetes itself that stand in the same files and do not concern the mesh.
fn is_companion(group: &str, kind: &str) -> bool {
    match group {
        "" => !matches!(kind, "Endpoints"),
        "gateway.networking.k8s.io" => false,
        "apps" | "batch" | "autoscaling" | "policy" | "extensions" => true,
        _ => group.ends_with(".k8s.io"),
    }
}

#[cfg(test)]
mod tests;
