//! Gateway (`networking.istio.io`): its servers, each field honoured or refused by name.

mod raw;
mod tls;

use super::head::{Head, labels};
use super::value::{FieldError, decode, is_label, spec_of};
use super::virtual_service::check_host;
use crate::model::gateway::ListenerProtocol;
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

pub use tls::{AuthorityRef, CertificateRef, ServerTlsSpec};

/// A Gateway.
#[derive(Clone, Debug, PartialEq)]
pub struct GatewaySpec {
    /// `selector`; empty = every gateway.
    pub selector: BTreeMap<Arc<str>, Arc<str>>,
    /// `servers`, in written order.
    pub servers: Vec<ServerSpec>,
    /// `creationTimestamp`.
    pub created: Arc<str>,
}

/// One of `servers`.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerSpec {
    /// `name`, or the port's; empty if none.
    pub name: Arc<str>,
    /// `port.number`: the Service's port, or where the process listens.
    pub port: u16,
    /// `bind`.
    pub bind: Option<IpAddr>,
    /// By `port.protocol` and `tls.mode`.
    pub protocol: ListenerProtocol,
    /// `hosts`.
    pub hosts: Vec<ServerHost>,
    /// `tls`, where the gateway terminates it.
    pub tls: Option<Arc<ServerTlsSpec>>,
    /// `tls.httpsRedirect`.
    pub https_redirect: bool,
}

/// `ns/host`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerHost {
    /// Namespace of the VirtualServices that may use it; `None` = any.
    pub namespace: Option<Arc<str>>,
    /// `*`, `*.example.com` or a host, lower case.
    pub pattern: Arc<str>,
}

impl ServerHost {
    /// Whether a VirtualService of this namespace may use the host.
    #[must_use]
    pub fn admits(&self, namespace: &str) -> bool {
        self.namespace.as_deref().is_none_or(|only| only == namespace)
    }
}

pub(super) fn gateway(head: &Head, value: &Value) -> Result<GatewaySpec, FieldError> {
    let raw: raw::Spec = decode(spec_of(value)?, "spec")?;
    let given = raw.servers.unwrap_or_default();
    if given.is_empty() {
        return Err(FieldError::new(
            "spec.servers",
            "is missing: gateway must have at least one server",
        ));
    }
    let mut servers: Vec<ServerSpec> = Vec::new();
    for (i, raw) in given.into_iter().enumerate() {
        let at = format!("spec.servers[{i}]");
        let own = raw.name.clone().filter(|name| !name.is_empty());
        if own.is_some_and(|own| servers.iter().any(|s| *s.name == own)) {
            return Err(FieldError::new(
                format!("{at}.name"),
                "server names must be unique",
            ));
        }
        servers.push(server(&at, raw, &head.key.namespace)?);
    }
    Ok(GatewaySpec {
        selector: labels(raw.selector.unwrap_or_default(), "spec.selector")?,
        servers,
        created: Arc::clone(&head.created),
    })
}

fn server(at: &str, raw: raw::Server, namespace: &str) -> Result<ServerSpec, FieldError> {
    let field = |name: &str| format!("{at}.{name}");
    let port = raw
        .port
        .ok_or_else(|| FieldError::new(field("port"), "is missing: server must have a port"))?;
    let number = match port.number.map(u16::try_from) {
        Some(Ok(number)) if number > 0 => number,
        _ => return Err(FieldError::new(field("port.number"), "expected 1 to 65535")),
    };
    let bind = match raw.bind.filter(|bind| !bind.is_empty()) {
        None => None,
        Some(text) => Some(text.parse::<IpAddr>().map_err(|_| {
            let reason = format!("{text:?} is no IP address: other listeners are not supported");
            FieldError::new(field("bind"), reason)
        })?),
    };
    let given = raw.hosts.unwrap_or_default();
    if given.is_empty() {
        return Err(FieldError::new(
            field("hosts"),
            "is missing: server config must contain at least one host",
        ));
    }
    let mut hosts = Vec::new();
    for (i, host) in given.iter().enumerate() {
        let host = server_host(host, namespace)
            .map_err(|reason| FieldError::new(format!("{at}.hosts[{i}]"), reason))?;
        hosts.push(host);
    }
    let https_redirect = raw
        .tls
        .as_ref()
        .is_some_and(|t| t.https_redirect.unwrap_or(false));
    let (protocol, tls) = protocol(at, &port, raw.tls)?;
    let name = raw
        .name
        .filter(|n| !n.is_empty())
        .or(port.name)
        .unwrap_or_default();
    Ok(ServerSpec {
        name: name.into(),
        port: number,
        bind,
        protocol,
        hosts,
        tls: tls.map(Arc::new),
        https_redirect,
    })
}

/// What a server does follows from its port's protocol and its TLS mode.
fn protocol(
    at: &str,
    port: &raw::Port,
    tls: Option<raw::Tls>,
) -> Result<(ListenerProtocol, Option<ServerTlsSpec>), FieldError> {
    let field = |name: &str| format!("{at}.{name}");
    let text = port.protocol.as_deref().unwrap_or_default();
    let word = text.to_ascii_uppercase();
    let redirect = tls.as_ref().is_some_and(|t| t.https_redirect.unwrap_or(false));
    match word.as_str() {
        "HTTP" | "HTTP2" | "GRPC" | "GRPC-WEB" => match tls {
            Some(tls) if tls.only_redirects() => Ok((ListenerProtocol::Http, None)),
            Some(_) => Err(FieldError::new(
                field("tls"),
                "server cannot have TLS settings for non HTTPS/TLS ports, other than httpsRedirect",
            )),
            None => Ok((ListenerProtocol::Http, None)),
        },
        "TCP" | "MONGO" | "REDIS" | "MYSQL" => match tls {
            Some(_) => Err(FieldError::new(
                field("tls"),
                "server cannot have TLS settings for non HTTPS/TLS ports",
            )),
            None => Ok((ListenerProtocol::Tcp, None)),
        },
        "HTTPS" | "TLS" => {
            let tls = tls.ok_or_else(|| {
                FieldError::new(
                    field("tls"),
                    "is missing: server must have TLS settings for HTTPS/TLS protocols",
                )
            })?;
            if redirect {
                return Err(FieldError::new(
                    field("tls.httpsRedirect"),
                    "should only be used with http servers",
                ));
            }
            tls::server_tls(&field("tls"), tls, word == "HTTPS")
        }
        "" => Err(FieldError::new(field("port.protocol"), "is missing")),
        _ => Err(FieldError::new(
            field("port.protocol"),
            format!(
                "{text:?} is not supported: expected HTTP, HTTPS, HTTP2, GRPC, GRPC-WEB, TCP, TLS or MONGO"
            ),
        )),
    }
}

/// `host`, `ns/host`, `./host`, `*/host`.
fn server_host(given: &str, namespace: &str) -> Result<ServerHost, String> {
    let (of, host) = match given.split_once('/') {
        None => (None, given),
        Some(("*", host)) => (None, host),
        Some((".", host)) => (Some(namespace), host),
        Some((of, host)) if is_label(of) => (Some(of), host),
        Some((of, _)) => return Err(format!("{of:?} is no namespace: expected *, . or a name")),
    };
    if host != "*" && host.parse::<IpAddr>().is_err() {
        check_host(host, true)?;
        if !host.contains('.') {
            return Err("short names (non FQDN) are not allowed".into());
        }
    }
    Ok(ServerHost {
        namespace: of.map(Into::into),
        pattern: host.trim_end_matches('.').to_ascii_lowercase().into(),
    })
}
