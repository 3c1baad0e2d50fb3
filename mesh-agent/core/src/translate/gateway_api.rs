//! Gateway API (`gateway.networking.k8s.io`, CRDs of 1.2 to 1.6).
//!
//! A route is compiled for itself. What it means where it is attached (which of its rules come first, which of its
//! backends may be used) is found where objects meet, in the state.

pub(super) mod backend_tls;
mod backend_traffic;
mod common;
mod connection_route;
mod cors;
mod filters;
mod gateway;
mod gateway_tls;
mod grpc_route;
mod http_route;
mod listener_set;
mod matches;
mod raw;
mod reference_grant;
mod selector;
mod session;

use super::Translated;
use super::head::Head;
use super::value::{Digest, FieldError};
use crate::model::ObjectName;
use crate::model::route::{RouteRule, Split};
use crate::model::snapshot::MeshSettings;
use serde_json::Value;
use std::cmp::Ordering;
use std::sync::Arc;

pub use backend_tls::{BackendAuthorities, BackendTlsSpec, LocalRef, PolicyTarget};
pub use backend_traffic::{BACKEND_TRAFFIC, BackendTrafficSpec, EXPERIMENTAL_GROUP, services_of_policy};
pub use gateway::{
    ApiGatewaySpec, GatewayClassSpec, Infrastructure, ListenerKind, ListenerSpec, RoutesFrom, SecretRef,
};
pub use gateway_tls::{ClientValidation, GatewayTlsSpec};
pub use listener_set::{ListenerSetSpec, gateway_of_set};
pub use reference_grant::{GrantFrom, GrantTo, ReferenceGrantSpec};

/// Group of the API.
pub const GROUP: &str = "gateway.networking.k8s.io";

/// The kinds of routes. Of several kinds on one port of a service the first in this order applies (GEP-1294).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RouteKind {
    /// GRPCRoute.
    Grpc,
    /// HTTPRoute.
    Http,
    /// TLSRoute.
    Tls,
    /// TCPRoute.
    Tcp,
    /// UDPRoute: known, so that it can be said that datagrams are not carried.
    Udp,
}

impl RouteKind {
    /// Every kind.
    pub const ALL: [Self; 5] = [Self::Grpc, Self::Http, Self::Tls, Self::Tcp, Self::Udp];

    /// `kind`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Grpc => "GRPCRoute",
            Self::Http => "HTTPRoute",
            Self::Tls => "TLSRoute",
            Self::Tcp => "TCPRoute",
            Self::Udp => "UDPRoute",
        }
    }

    /// The kind with this name.
    #[must_use]
    pub fn named(kind: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|k| k.name() == kind)
    }

    /// Whether its rules are about requests, not connections.
    #[must_use]
    pub const fn of_requests(self) -> bool {
        matches!(self, Self::Grpc | Self::Http)
    }
}

/// A route of Gateway API.
#[derive(Clone, Debug)]
pub struct ApiRouteSpec {
    /// Its kind.
    pub kind: RouteKind,
    /// `parentRefs`.
    pub parents: Vec<ParentRef>,
    /// `hostnames`, lower case, wildcards as `*.suffix`. They mean nothing on a Service (GEP-1294).
    pub hostnames: Vec<Arc<str>>,
    /// Rules on requests, one for each match block, in written order.
    pub rules: Vec<RankedRule>,
    /// Rules on connections, in written order.
    pub connections: Vec<ConnectionRule>,
    /// Every object that a rule refers to.
    pub references: Vec<Reference>,
    /// `creationTimestamp`.
    pub created: Arc<str>,
    /// What it was made of, to tell whether a new version differs.
    source: Digest,
}

impl PartialEq for ApiRouteSpec {
    fn eq(&self, other: &Self) -> bool {
        self.created == other.created && self.source == other.source
    }
}

/// A rule and how specific it is.
#[derive(Clone, Debug)]
pub struct RankedRule {
    /// Greater comes first, whatever route it is in.
    pub rank: Rank,
    /// The rule, with at most one match block.
    pub rule: RouteRule,
}

/// What the API compares first; later criteria decide ties.
///
/// HTTPRoute: kind of the path match, characters of the path, method, number of headers, number of parameters.
/// GRPCRoute: characters of the service, characters of the method, number of headers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank(pub [u32; 5]);

/// A rule of a TLSRoute or TCPRoute.
#[derive(Clone, Debug)]
pub struct ConnectionRule {
    /// `name`, empty if none.
    pub name: Arc<str>,
    /// Place in `spec.rules`.
    pub index: usize,
    /// Where connections go; of no total weight where none is valid.
    pub split: Split,
}

/// One of `parentRefs`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ParentRef {
    /// `group`, the API's own where nothing is written.
    pub group: Arc<str>,
    /// `kind`, `Gateway` where nothing is written.
    pub kind: Arc<str>,
    /// Namespace (the route's where nothing is written) and name.
    pub name: ObjectName,
    /// `sectionName`: a listener, or a port of a Service by its name.
    pub section: Option<Arc<str>>,
    /// `port`.
    pub port: Option<u16>,
}

impl ParentRef {
    /// Whether it names a Service of Kubernetes.
    #[must_use]
    pub fn is_service(&self) -> bool {
        self.group.is_empty() && &*self.kind == "Service"
    }

    /// Whether it names this Gateway of the API.
    #[must_use]
    pub fn is_gateway(&self, name: &ObjectName) -> bool {
        &*self.group == GROUP && &*self.kind == "Gateway" && self.name == *name
    }

    /// Whether it names this ListenerSet.
    #[must_use]
    pub fn is_listener_set(&self, name: &ObjectName) -> bool {
        &*self.group == GROUP && &*self.kind == "ListenerSet" && self.name == *name
    }

    /// Whether it takes in a port of this number and name.
    #[must_use]
    pub fn covers(&self, number: u16, name: &str) -> bool {
        self.port.is_none_or(|p| p == number) && self.section.as_deref().is_none_or(|s| s == name)
    }
}

/// An object that a rule refers to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// `spec.rules[0].backendRefs[1]`.
    pub field: String,
    /// What is named.
    pub target: Target,
}

/// What a reference names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A port of a Service, and the host under which rules know it.
    Service {
        /// The service.
        name: ObjectName,
        /// Its host.
        host: Arc<str>,
        /// Port.
        port: u16,
    },
    /// A host of the registry (`networking.istio.io` `Hostname`).
    Host(Arc<str>),
    /// A kind that nothing can be sent to.
    Other {
        /// Group.
        group: Arc<str>,
        /// Kind.
        kind: Arc<str>,
        /// Namespace and name.
        name: ObjectName,
    },
}

/// The API's order among routes: the older, then the one whose `namespace/name` sorts first.
#[must_use]
pub fn precedence(a: (&str, &ObjectName), b: (&str, &ObjectName)) -> Ordering {
    let spelled = |name: &'_ ObjectName| {
        let (namespace, name) = (Arc::clone(&name.namespace), Arc::clone(&name.name));
        format!("{namespace}/{name}")
    };
    a.0.cmp(b.0).then_with(|| spelled(a.1).cmp(&spelled(b.1)))
}

/// `spec.parentRefs` of any route, as written and as read. Of an object that is refused otherwise, as much as can be.
#[must_use]
pub fn parents_of(object: &Value) -> Vec<(Value, ParentRef)> {
    let namespace = object.pointer("/metadata/namespace").and_then(Value::as_str);
    let given = object.pointer("/spec/parentRefs").and_then(Value::as_array);
    let read = |value: &Value| {
        let text = |field: &str| value.get(field).and_then(Value::as_str);
        let port = value.get("port").and_then(Value::as_u64);
        let own = namespace.unwrap_or("default");
        let parent = ParentRef {
            group: text("group").unwrap_or(GROUP).into(),
            kind: text("kind").unwrap_or("Gateway").into(),
            name: ObjectName::new(text("namespace").unwrap_or(own), text("name")?),
            section: text("sectionName").filter(|s| !s.is_empty()).map(Into::into),
            port: port.and_then(|p| u16::try_from(p).ok()),
        };
        Some((value.clone(), parent))
    };
    given.into_iter().flatten().filter_map(read).collect()
}

/// Whether [`translate`] reads this kind.
pub(super) fn is_known(kind: &str) -> bool {
    matches!(
        kind,
        "ReferenceGrant" | "Gateway" | "GatewayClass" | "ListenerSet" | "BackendTLSPolicy"
    ) || RouteKind::named(kind).is_some()
}

/// Translates an object of the API's experimental group.
pub(super) fn translate_experimental(head: &Head, value: &Value) -> Result<Translated, FieldError> {
    if head.version != "v1alpha1" {
        let reason = format!("version {:?} is not known: expected v1alpha1", head.version);
        return Err(FieldError::new("apiVersion", reason));
    }
    backend_traffic::backend_traffic(head, value).map(Translated::BackendTraffic)
}

/// Translates an object of the API.
pub(super) fn translate(
    head: &Head,
    value: &Value,
    settings: &MeshSettings,
) -> Result<Translated, FieldError> {
    known_version(head)?;
    let Some(kind) = RouteKind::named(&head.key.kind) else {
        return match head.key.kind.as_str() {
            "Gateway" => gateway::gateway(head, value).map(Translated::ApiGateway),
            "GatewayClass" => gateway::gateway_class(value).map(Translated::GatewayClass),
            "BackendTLSPolicy" => backend_tls::backend_tls(head, value).map(Translated::BackendTls),
            "ListenerSet" => listener_set::listener_set(head, value).map(Translated::ListenerSet),
            _ => reference_grant::reference_grant(value).map(Translated::ReferenceGrant),
        };
    };
    let route = match kind {
        RouteKind::Grpc => grpc_route::grpc_route(head, value, settings),
        RouteKind::Http => http_route::http_route(head, value, settings),
        RouteKind::Tls => connection_route::tls_route(head, value, settings),
        RouteKind::Tcp => connection_route::tcp_route(head, value, settings),
        RouteKind::Udp => Err(FieldError::new(
            "kind",
            "UDPRoute is not supported: no datagram is carried",
        )),
    };
    route.map(Translated::ApiRoute)
}

/// The API's versions in which the kinds here were ever served.
fn known_version(head: &Head) -> Result<(), FieldError> {
    match head.version.as_str() {
        "v1" | "v1beta1" | "v1alpha3" | "v1alpha2" => Ok(()),
        other => Err(FieldError::new(
            "apiVersion",
            format!("version {other:?} is not known: expected v1, v1beta1, v1alpha3 or v1alpha2"),
        )),
    }
}
