//! Ingress (`networking.k8s.io/v1`) of class `heddle`.

use super::head::Head;
use super::kubernetes::{PortRef, part};
use super::value::{FieldError, Unsupported, is_label};
use super::virtual_service::check_host;
use serde::Deserialize;
use serde_json::Value;
use std::sync::Arc;

/// The class that is served.
const CLASS: &str = "heddle";

/// An Ingress.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IngressSpec {
    /// Every path of every rule, and the default backend as a path of host `*` that takes everything.
    pub paths: Vec<IngressPath>,
    /// `tls`.
    pub tls: Vec<IngressTls>,
    /// `creationTimestamp`.
    pub created: Arc<str>,
}

/// One of `rules[].http.paths`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IngressPath {
    /// `*` or a host, perhaps `*.example.com`, lower case.
    pub host: Arc<str>,
    /// Place of its rule in `rules`.
    pub rule: usize,
    /// Whether the whole path must be equal; otherwise it is a prefix of whole segments.
    pub exact: bool,
    /// `path`; a prefix has no slash at its end.
    pub path: Arc<str>,
    /// Name of the Service, in the Ingress' own namespace.
    pub service: Arc<str>,
    /// Its port.
    pub port: PortRef,
}

/// One of `tls`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IngressTls {
    /// `hosts`; `*` where none is written.
    pub hosts: Vec<Arc<str>>,
    /// `secretName`.
    pub secret: Arc<str>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Raw {
    #[serde(rename = "ingressClassName")]
    _ingress_class_name: Option<String>,
    default_backend: Option<Backend>,
    rules: Option<Vec<Rule>>,
    tls: Option<Vec<Tls>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    host: Option<String>,
    http: Option<Http>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Http {
    paths: Option<Vec<Path>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Path {
    path: Option<String>,
    path_type: Option<String>,
    backend: Backend,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Backend {
    service: Option<Service>,
    #[serde(rename = "resource")]
    _resource: Option<Unsupported>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Service {
    name: String,
    port: Option<Port>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Port {
    name: Option<Arc<str>>,
    number: Option<u16>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Tls {
    hosts: Option<Vec<String>>,
    secret_name: Option<String>,
}

/// `None` for an Ingress of another class: it is somebody else's.
pub(super) fn ingress(head: &Head, value: &Value) -> Result<Option<IngressSpec>, FieldError> {
    let annotated = value
        .pointer("/metadata/annotations/kubernetes.io~1ingress.class")
        .and_then(Value::as_str);
    let named = value.pointer("/spec/ingressClassName").and_then(Value::as_str);
    if named.or(annotated) != Some(CLASS) {
        return Ok(None);
    }
    let raw: Raw = part(value, "spec")?;
    let mut paths = Vec::new();
    for (rule, raw) in raw.rules.into_iter().flatten().enumerate() {
        let at = format!("spec.rules[{rule}]");
        let host = host(&format!("{at}.host"), raw.host)?;
        for (i, raw) in raw.http.and_then(|h| h.paths).into_iter().flatten().enumerate() {
            paths.push(path(&format!("{at}.http.paths[{i}]"), rule, &host, raw)?);
        }
    }
    if let Some(backend) = raw.default_backend {
        let (service, port) = backend_of("spec.defaultBackend", backend)?;
        paths.push(IngressPath {
            host: "*".into(),
            rule: 0,
            exact: false,
            path: "".into(),
            service,
            port,
        });
    }
    let mut tls = Vec::new();
    for (i, raw) in raw.tls.into_iter().flatten().enumerate() {
        let at = format!("spec.tls[{i}]");
        let secret = raw.secret_name.filter(|s| !s.is_empty());
        let secret = secret.ok_or_else(|| FieldError::new(format!("{at}.secretName"), "is missing"))?;
        let mut hosts = Vec::new();
        for (j, given) in raw.hosts.into_iter().flatten().enumerate() {
            hosts.push(host(&format!("{at}.hosts[{j}]"), Some(given))?);
        }
        if hosts.is_empty() {
            hosts.push("*".into());
        }
        tls.push(IngressTls {
            hosts,
            secret: secret.into(),
        });
    }
    Ok(Some(IngressSpec {
        paths,
        tls,
        created: Arc::clone(&head.created),
    }))
}

fn host(at: &str, given: Option<String>) -> Result<Arc<str>, FieldError> {
    match given.as_deref() {
        None | Some("" | "*") => Ok("*".into()),
        Some(given) => {
            check_host(given, true).map_err(|reason| FieldError::new(at, reason))?;
            Ok(given.trim_end_matches('.').to_ascii_lowercase().into())
        }
    }
}

/// `ImplementationSpecific` is `Prefix` here.
fn path(at: &str, rule: usize, host: &Arc<str>, raw: Path) -> Result<IngressPath, FieldError> {
    let exact = match raw.path_type.as_deref() {
        Some("Exact") => true,
        Some("Prefix" | "ImplementationSpecific") => false,
        _ => {
            return Err(FieldError::new(
                format!("{at}.pathType"),
                "expected Exact, Prefix or ImplementationSpecific",
            ));
        }
    };
    let path = raw.path.filter(|p| !p.is_empty()).unwrap_or_else(|| "/".into());
    if !path.starts_with('/') {
        return Err(FieldError::new(format!("{at}.path"), "does not begin with /"));
    }
    let (service, port) = backend_of(&format!("{at}.backend"), raw.backend)?;
    let kept = if exact { &*path } else { path.trim_end_matches('/') };
    Ok(IngressPath {
        host: Arc::clone(host),
        rule,
        exact,
        path: kept.into(),
        service,
        port,
    })
}

fn backend_of(at: &str, raw: Backend) -> Result<(Arc<str>, PortRef), FieldError> {
    let service = raw
        .service
        .ok_or_else(|| FieldError::new(format!("{at}.service"), "is missing"))?;
    if !is_label(&service.name) {
        return Err(FieldError::new(
            format!("{at}.service.name"),
            "is no name of a Service",
        ));
    }
    let port = match service.port.map(|p| (p.number, p.name)) {
        Some((Some(number), None)) if number > 0 => PortRef::Number(number),
        Some((None, Some(name))) => PortRef::Name(name),
        _ => {
            return Err(FieldError::new(
                format!("{at}.service.port"),
                "expected a number or a name",
            ));
        }
    };
    Ok((service.name.into(), port))
}
