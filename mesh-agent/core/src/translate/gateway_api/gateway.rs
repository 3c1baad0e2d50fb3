//! Gateway and GatewayClass. A listener that cannot be served is kept, with the reason: its neighbours go on, and its
//! status says so.

use super::common::hostname;
use super::gateway_tls::{self, GatewayTlsSpec, gateway_tls};
use super::selector::{self, LabelSelector};
use super::{GROUP, RouteKind};
use crate::model::ObjectName;
use crate::translate::head::Head;
use crate::translate::value::{FieldError, Unsupported, decode, is_label, is_subdomain, spec_of};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A Gateway of Gateway API.
#[derive(Clone, Debug)]
pub struct ApiGatewaySpec {
    /// `gatewayClassName`.
    pub class: Arc<str>,
    /// `listeners`, in written order.
    pub listeners: Vec<ListenerSpec>,
    /// `allowedListeners.namespaces`: from where ListenerSets may attach; nowhere, where nothing is written.
    pub sets_from: RoutesFrom,
    /// `addresses`: type (`IPAddress` where none is written) and value (perhaps empty).
    pub addresses: Vec<(Arc<str>, Arc<str>)>,
    /// `infrastructure`.
    pub infrastructure: Infrastructure,
    /// `tls`.
    pub tls: GatewayTlsSpec,
    /// `creationTimestamp`.
    pub created: Arc<str>,
    /// What it was made of, to tell whether a new version differs.
    source: Value,
}

impl PartialEq for ApiGatewaySpec {
    fn eq(&self, other: &Self) -> bool {
        self.created == other.created && self.source == other.source
    }
}

/// What the objects that a Gateway is made of carry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Infrastructure {
    /// `labels`.
    pub labels: BTreeMap<Arc<str>, Arc<str>>,
    /// `annotations`.
    pub annotations: BTreeMap<Arc<str>, Arc<str>>,
    /// `parametersRef`, as `Kind.group namespace/name`.
    pub parameters: Option<Arc<str>>,
}

/// A GatewayClass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayClassSpec {
    /// `controllerName`.
    pub controller: Arc<str>,
    /// `parametersRef`, as `Kind.group namespace/name`.
    pub parameters: Option<Arc<str>>,
}

/// One of `listeners`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerSpec {
    /// `name`.
    pub name: Arc<str>,
    /// `hostname`, lower case; `None` = every host.
    pub hostname: Option<Arc<str>>,
    /// `port`.
    pub port: u16,
    /// `protocol`, or why it is none that can be served.
    pub protocol: Result<ListenerKind, Arc<str>>,
    /// `tls.certificateRefs`, with the reason where one names no Secret.
    pub certificates: Vec<SecretRef>,
    /// `allowedRoutes.namespaces`.
    pub from: RoutesFrom,
    /// `allowedRoutes.kinds` (group, kind) where they are written.
    pub kinds: Option<Vec<(Arc<str>, Arc<str>)>>,
}

/// What a listener does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ListenerKind {
    /// `HTTP`.
    Http,
    /// `HTTPS`: HTTP inside TLS, which ends here.
    Https,
    /// `TLS` with mode `Passthrough`.
    TlsPassthrough,
    /// `TLS` with mode `Terminate`.
    TlsTerminate,
    /// `TCP`.
    Tcp,
}

impl RoutesFrom {
    /// Whether an object in `namespace`, which has these labels if it is known, may attach to one in `own`.
    #[must_use]
    pub fn admits(&self, namespace: &str, own: &str, labels: Option<&BTreeMap<Arc<str>, Arc<str>>>) -> bool {
        match self {
            Self::All => true,
            Self::Same => namespace == own,
            Self::Nowhere => false,
            Self::Selector(selector) => labels.is_some_and(|labels| selector.selects(labels)),
        }
    }
}

impl ListenerKind {
    /// Routes that it can have.
    #[must_use]
    pub const fn routes(self) -> &'static [RouteKind] {
        match self {
            Self::Http | Self::Https => &[RouteKind::Http, RouteKind::Grpc],
            Self::TlsPassthrough | Self::TlsTerminate => &[RouteKind::Tls],
            Self::Tcp => &[RouteKind::Tcp],
        }
    }

    /// Whether it shows a certificate.
    #[must_use]
    pub const fn terminates(self) -> bool {
        matches!(self, Self::Https | Self::TlsTerminate)
    }
}

/// A certificate, or CAs, that are named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretRef {
    /// Group and kind; `("", "Secret")` is what can be read, of CAs `("", "ConfigMap")`.
    pub kind: (Arc<str>, Arc<str>),
    /// Namespace (that of the Gateway or ListenerSet where none is written) and name.
    pub name: ObjectName,
}

/// Namespaces from which routes, or ListenerSets, may attach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RoutesFrom {
    /// `All`.
    All,
    /// `Same`, the default.
    Same,
    /// `Selector`.
    Selector(LabelSelector),
    /// `None`.
    Nowhere,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Spec {
    gateway_class_name: String,
    listeners: Option<Vec<RawListener>>,
    addresses: Option<Vec<RawAddress>>,
    infrastructure: Option<RawInfrastructure>,
    allowed_listeners: Option<RawAllowedListeners>,
    tls: Option<gateway_tls::Raw>,
    default_scope: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawAddress {
    r#type: Option<String>,
    value: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawInfrastructure {
    labels: Option<BTreeMap<Arc<str>, Arc<str>>>,
    annotations: Option<BTreeMap<Arc<str>, Arc<str>>>,
    parameters_ref: Option<RawParameters>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawParameters {
    group: String,
    kind: String,
    name: String,
    namespace: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawAllowedListeners {
    namespaces: Option<RawNamespaces>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawAllowed {
    namespaces: Option<RawNamespaces>,
    kinds: Option<Vec<RawKind>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawNamespaces {
    from: Option<String>,
    selector: Option<selector::Raw>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawKind {
    group: Option<Arc<str>>,
    kind: Arc<str>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RawListener {
    name: String,
    hostname: Option<String>,
    port: u16,
    protocol: String,
    tls: Option<RawTls>,
    allowed_routes: Option<RawAllowed>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawTls {
    mode: Option<String>,
    certificate_refs: Option<Vec<RawSecret>>,
    #[serde(rename = "options")]
    _options: Option<Unsupported>,
    #[serde(rename = "frontendValidation")]
    _frontend_validation: Option<Unsupported>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawSecret {
    group: Option<Arc<str>>,
    kind: Option<Arc<str>>,
    name: String,
    namespace: Option<String>,
}

pub(super) fn gateway(head: &Head, value: &Value) -> Result<ApiGatewaySpec, FieldError> {
    let source = spec_of(value)?;
    let raw: Spec = decode(source, "spec")?;
    if raw.default_scope.as_deref().is_some_and(|scope| scope != "None") {
        return Err(FieldError::new("spec.defaultScope", "only None is supported"));
    }
    let sets = raw.allowed_listeners.and_then(|allowed| allowed.namespaces);
    let addresses = raw.addresses.into_iter().flatten();
    let infrastructure = raw.infrastructure.unwrap_or_default();
    Ok(ApiGatewaySpec {
        class: raw.gateway_class_name.into(),
        listeners: listeners(raw.listeners.unwrap_or_default(), &head.key.namespace)?,
        sets_from: routes_from("spec.allowedListeners.namespaces", sets, RoutesFrom::Nowhere)?,
        addresses: addresses
            .map(|a| {
                let kind = a.r#type.unwrap_or_else(|| "IPAddress".into());
                (kind.into(), a.value.unwrap_or_default().into())
            })
            .collect(),
        infrastructure: Infrastructure {
            labels: infrastructure.labels.unwrap_or_default(),
            annotations: infrastructure.annotations.unwrap_or_default(),
            parameters: infrastructure.parameters_ref.map(|p| named(&p)),
        },
        tls: raw
            .tls
            .map(|tls| gateway_tls(tls, &head.key.namespace))
            .transpose()?
            .unwrap_or_default(),
        created: Arc::clone(&head.created),
        source: source.clone(),
    })
}

fn named(parameters: &RawParameters) -> Arc<str> {
    let namespace = parameters.namespace.as_deref().unwrap_or_default();
    format!(
        "{}.{} {namespace}/{}",
        parameters.kind, parameters.group, parameters.name
    )
    .into()
}

/// `spec.listeners` of a Gateway or ListenerSet in this namespace.
pub(super) fn listeners(given: Vec<RawListener>, namespace: &str) -> Result<Vec<ListenerSpec>, FieldError> {
    let mut listeners: Vec<ListenerSpec> = Vec::new();
    for (i, raw) in given.into_iter().enumerate() {
        let at = format!("spec.listeners[{i}]");
        let listener = listener(&at, raw, namespace)?;
        if listeners.iter().any(|l| l.name == listener.name) {
            let reason = format!("listener {} is there twice", listener.name);
            return Err(FieldError::new(format!("{at}.name"), reason));
        }
        listeners.push(listener);
    }
    Ok(listeners)
}

fn listener(at: &str, raw: RawListener, namespace: &str) -> Result<ListenerSpec, FieldError> {
    if !is_subdomain(&raw.name) {
        return Err(FieldError::new(
            format!("{at}.name"),
            "is no name (RFC 1123 subdomain)",
        ));
    }
    if raw.port == 0 {
        return Err(FieldError::new(format!("{at}.port"), "expected 1 to 65535"));
    }
    let host = raw.hostname.filter(|h| !h.is_empty());
    let host = host
        .map(|h| hostname(&format!("{at}.hostname"), &h))
        .transpose()?;
    let (mode, secrets) = match raw.tls {
        None => (None, Vec::new()),
        Some(tls) => (
            Some(tls.mode.unwrap_or_else(|| "Terminate".into())),
            tls.certificate_refs.unwrap_or_default(),
        ),
    };
    let protocol = match (raw.protocol.as_str(), mode.as_deref()) {
        ("HTTP", _) => Ok(ListenerKind::Http),
        ("HTTPS", Some("Terminate")) => Ok(ListenerKind::Https),
        ("TLS", Some("Terminate")) => Ok(ListenerKind::TlsTerminate),
        ("TLS", Some("Passthrough")) => Ok(ListenerKind::TlsPassthrough),
        ("TCP", _) => Ok(ListenerKind::Tcp),
        ("HTTPS" | "TLS", Some(mode)) => {
            Err(format!("protocol {} cannot have tls.mode {mode}", raw.protocol))
        }
        ("HTTPS" | "TLS", None) => Err(format!("protocol {} needs tls", raw.protocol)),
        (other, _) => Err(format!("protocol {other} is not supported")),
    };
    let mut certificates = Vec::new();
    for (i, secret) in secrets.into_iter().enumerate() {
        let at = format!("{at}.tls.certificateRefs[{i}]");
        certificates.push(reference(&at, secret, "Secret", namespace)?);
    }
    let allowed = raw.allowed_routes;
    let (from, kinds) = allowed.map_or((None, None), |a| (a.namespaces, a.kinds));
    let kind = |k: RawKind| (k.group.unwrap_or_else(|| GROUP.into()), k.kind);
    Ok(ListenerSpec {
        name: raw.name.into(),
        hostname: host,
        port: raw.port,
        protocol: protocol.map_err(Into::into),
        certificates,
        from: routes_from(&format!("{at}.allowedRoutes.namespaces"), from, RoutesFrom::Same)?,
        kinds: kinds
            .filter(|k| !k.is_empty())
            .map(|kinds| kinds.into_iter().map(kind).collect()),
    })
}

/// What a reference names; `kind` where none is written.
pub(super) fn reference(
    at: &str,
    raw: RawSecret,
    kind: &str,
    namespace: &str,
) -> Result<SecretRef, FieldError> {
    let namespace = raw
        .namespace
        .filter(|n| !n.is_empty())
        .unwrap_or_else(|| namespace.into());
    if !is_subdomain(&raw.name) || !is_label(&namespace) {
        return Err(FieldError::new(format!("{at}.name"), "is no name of an object"));
    }
    Ok(SecretRef {
        kind: (
            raw.group.unwrap_or_else(|| "".into()),
            raw.kind.unwrap_or_else(|| kind.into()),
        ),
        name: ObjectName::new(namespace, raw.name),
    })
}

fn routes_from(at: &str, raw: Option<RawNamespaces>, default: RoutesFrom) -> Result<RoutesFrom, FieldError> {
    let (from, given) = raw.map_or((None, None), |raw| (raw.from, raw.selector));
    match from.as_deref() {
        None => Ok(default),
        Some("Same") => Ok(RoutesFrom::Same),
        Some("All") => Ok(RoutesFrom::All),
        Some("None") => Ok(RoutesFrom::Nowhere),
        Some("Selector") => match given {
            Some(raw) => selector::selector(&format!("{at}.selector"), raw).map(RoutesFrom::Selector),
            None => Err(FieldError::new(
                format!("{at}.selector"),
                "is missing: from asks for it",
            )),
        },
        Some(other) => Err(FieldError::new(
            format!("{at}.from"),
            format!("{other:?} is not known: expected All, Same, Selector or None"),
        )),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ClassSpec {
    controller_name: String,
    parameters_ref: Option<RawParameters>,
    #[serde(rename = "description")]
    _description: Option<String>,
}

pub(super) fn gateway_class(value: &Value) -> Result<GatewayClassSpec, FieldError> {
    let raw: ClassSpec = decode(spec_of(value)?, "spec")?;
    Ok(GatewayClassSpec {
        controller: raw.controller_name.into(),
        parameters: raw.parameters_ref.map(|p| named(&p)),
    })
}
