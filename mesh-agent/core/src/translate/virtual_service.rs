//! VirtualService (`networking.istio.io`): validation and compilation.

mod action;
mod connections;
mod destinations;
mod headers;
mod http;
mod matches;
mod raw;
mod retries;

pub(super) use matches::regex;

use super::head::Head;
use super::value::{Digest, FieldError, decode, is_label, is_subdomain, spec_of};
use crate::model::ObjectName;
use crate::model::connection::ConnectionTable;
use crate::model::host;
use crate::model::route::{GatewayName, RouteApi, RouteTable, Visibility};
use crate::model::snapshot::MeshSettings;
use http::Entry;
use serde_json::Value;
use std::cell::RefCell;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

pub use http::{Delegation, Given};

/// A VirtualService.
#[derive(Clone)]
pub struct VirtualServiceSpec {
    /// Absolute hosts, lower case; may be `*.suffix`. None: a delegate, which others take over.
    pub hosts: Vec<Arc<str>>,
    /// Whether it applies to clients in the mesh, not to gateways only.
    pub mesh: bool,
    /// `gateways`; `[mesh]` where nothing is written.
    pub gateways: Vec<GatewayName>,
    /// `exportTo`.
    pub export_to: Visibility,
    /// `creationTimestamp`.
    pub created: Arc<str>,
    /// The rules of `http` that are written here.
    pub table: Arc<RouteTable>,
    /// The rules of `http` that are written elsewhere.
    pub delegations: Vec<Delegation>,
    /// Of a delegate: what each of its rules has of its own.
    pub given: Vec<Given>,
    /// `tls` and `tcp`.
    pub connections: Option<Arc<ConnectionTable>>,
    /// Fields that are accepted and have no effect, with the reason.
    pub notes: Vec<(String, String)>,
    /// What it was made of, to tell whether a new version differs.
    source: Digest,
}

/// What it means, not how it was written.
impl fmt::Debug for VirtualServiceSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VirtualServiceSpec")
            .field("hosts", &self.hosts)
            .field("gateways", &self.gateways)
            .field("export_to", &self.export_to)
            .field("table", &self.table)
            .field("delegations", &self.delegations)
            .field("connections", &self.connections)
            .finish_non_exhaustive()
    }
}

impl PartialEq for VirtualServiceSpec {
    fn eq(&self, other: &Self) -> bool {
        self.created == other.created && self.source == other.source
    }
}

impl VirtualServiceSpec {
    /// Whether `http` says anything.
    #[must_use]
    pub fn routes_http(&self) -> bool {
        !self.table.rules.is_empty() || !self.delegations.is_empty()
    }
}

/// Where names inside a rule belong.
struct Scope<'a> {
    object: ObjectName,
    namespace: &'a str,
    settings: &'a MeshSettings,
    /// The object has no hosts: others take its rules over.
    delegate: bool,
    notes: RefCell<Vec<(String, String)>>,
}

impl Scope<'_> {
    /// Tells that a field has no effect.
    fn note(&self, field: String, reason: &str) {
        self.notes.borrow_mut().push((field, reason.to_owned()));
    }
}

pub(super) fn virtual_service(
    head: &Head,
    value: &Value,
    settings: &MeshSettings,
) -> Result<VirtualServiceSpec, FieldError> {
    let source = spec_of(value)?;
    let raw: raw::Spec = decode(source, "spec")?;
    let given_hosts = raw.hosts.unwrap_or_default();
    let scope = Scope {
        object: head.name(),
        namespace: &head.key.namespace,
        settings,
        delegate: given_hosts.is_empty(),
        notes: RefCell::default(),
    };
    let mut gateways = matches::gateways("spec.gateways", raw.gateways.unwrap_or_default(), scope.namespace)?;
    let (tls, tcp) = (raw.tls.unwrap_or_default(), raw.tcp.unwrap_or_default());
    if scope.delegate {
        check_delegate(&gateways, !tls.is_empty(), !tcp.is_empty())?;
    } else if gateways.is_empty() {
        gateways.push(GatewayName::Mesh);
    }
    let mesh = gateways.contains(&GatewayName::Mesh);
    let hosts = hosts(&given_hosts, mesh, &scope)?;
    let http = raw.http.unwrap_or_default();
    if http.is_empty() && tls.is_empty() && tcp.is_empty() {
        return Err(FieldError::new(
            "spec.http",
            "is missing: http, tcp or tls must be provided",
        ));
    }
    let (mut rules, mut given, mut delegations) = (Vec::new(), Vec::new(), Vec::new());
    for (index, route) in http.into_iter().enumerate() {
        match http::entry(index, route, &scope)? {
            Entry::Rule(rule, parts) => {
                rules.push(rule);
                given.extend(scope.delegate.then_some(parts));
            }
            Entry::Delegation(to, rule) => delegations.push(Delegation {
                to,
                place: rules.len(),
                rule,
            }),
        }
    }
    Ok(VirtualServiceSpec {
        connections: connections::table(tls, tcp, &hosts, &scope)?,
        hosts,
        mesh,
        gateways,
        export_to: export_to(raw.export_to.unwrap_or_default(), &head.key.namespace)?,
        created: Arc::clone(&head.created),
        table: Arc::new(RouteTable {
            api: RouteApi::Istio,
            object: scope.object.clone(),
            rules,
        }),
        delegations,
        given,
        notes: scope.notes.into_inner(),
        source: Digest::of(source),
    })
}

/// An object without hosts is there for others, and says nothing of its own about where it applies.
fn check_delegate(gateways: &[GatewayName], tls: bool, tcp: bool) -> Result<(), FieldError> {
    let wrong = [
        ("spec.gateways", !gateways.is_empty(), "gateways"),
        ("spec.tls", tls, "tls route"),
        ("spec.tcp", tcp, "tcp route"),
    ];
    match wrong.into_iter().find(|(_, there, _)| *there) {
        Some((field, _, what)) => {
            let reason =
                format!("delegate virtual service (one without hosts) must have no {what} specified");
            Err(FieldError::new(field, reason))
        }
        None => Ok(()),
    }
}

fn hosts(given: &[String], mesh: bool, scope: &Scope<'_>) -> Result<Vec<Arc<str>>, FieldError> {
    let mut hosts: Vec<Arc<str>> = Vec::new();
    for (i, given) in given.iter().enumerate() {
        let field = || format!("spec.hosts[{i}]");
        if given == "*" && mesh {
            let reason = "wildcard host * is not allowed for virtual services bound to the mesh gateway";
            return Err(FieldError::new(field(), reason));
        }
        let ip = given.parse::<IpAddr>().is_ok();
        if ip && mesh {
            return Err(FieldError::new(
                field(),
                "an IP address is no host of the mesh gateway",
            ));
        }
        if !ip && given != "*" {
            check_host(given, true).map_err(|reason| FieldError::new(field(), reason))?;
        }
        let absolute = host::absolute(given, scope.namespace, &scope.settings.cluster_domain);
        hosts.push(absolute);
    }
    Ok(hosts)
}

/// Whether a text is a host name, perhaps `*.suffix`.
pub(super) fn check_host(given: &str, wildcard: bool) -> Result<(), String> {
    let name = given.trim_end_matches('.').to_ascii_lowercase();
    let name = if wildcard {
        name.strip_prefix("*.").unwrap_or(&name)
    } else {
        &name
    };
    if is_subdomain(name) {
        Ok(())
    } else {
        Err("is no DNS name (RFC 1123 subdomain)".into())
    }
}

/// `exportTo`.
pub(super) fn export_to(given: Vec<String>, namespace: &str) -> Result<Visibility, FieldError> {
    if given.is_empty() || given.iter().any(|n| n == "*") {
        return Ok(Visibility::All);
    }
    let mut names: Vec<Arc<str>> = Vec::new();
    for (i, name) in given.iter().enumerate() {
        match name.as_str() {
            "." => names.push(namespace.into()),
            "~" => {}
            name if is_label(name) => names.push(name.into()),
            _ => {
                return Err(FieldError::new(
                    format!("spec.exportTo[{i}]"),
                    "expected *, ., ~ or a namespace",
                ));
            }
        }
    }
    names.sort();
    names.dedup();
    Ok(Visibility::Namespaces(names))
}
