//! What all routes have: parents, hostnames, backends.

use super::filters::backend_filters;
use super::raw;
use super::{ApiRouteSpec, ParentRef, Reference, RouteKind, Target};
use crate::model::ObjectName;
use crate::model::route::{Backend, Destination, Split, WeightedDestination};
use crate::model::snapshot::MeshSettings;
use crate::translate::head::Head;
use crate::translate::value::{Digest, FieldError, decode, is_label, is_subdomain, spec_of};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::net::IpAddr;
use std::sync::Arc;

/// The CRDs' own bound.
const MAX_WEIGHT: u32 = 1_000_000;

/// Where names inside a route belong, and what its rules refer to.
pub(super) struct Scope<'a> {
    pub(super) kind: RouteKind,
    pub(super) object: ObjectName,
    pub(super) settings: &'a MeshSettings,
    pub(super) references: Vec<Reference>,
}

/// Reads the parts that all kinds share; `rules` are left to the kind.
pub(super) fn route<R: DeserializeOwned>(
    kind: RouteKind,
    head: &Head,
    value: &Value,
    settings: &MeshSettings,
    compile: impl FnOnce(Option<Vec<R>>, &mut Scope<'_>, &mut ApiRouteSpec) -> Result<(), FieldError>,
) -> Result<ApiRouteSpec, FieldError> {
    let source = spec_of(value)?;
    let raw: raw::Spec<R> = decode(source, "spec")?;
    if raw
        .use_default_gateways
        .as_deref()
        .is_some_and(|scope| scope != "None")
    {
        return Err(FieldError::new(
            "spec.useDefaultGateways",
            "only None is supported",
        ));
    }
    let mut scope = Scope {
        kind,
        object: head.name(),
        settings,
        references: Vec::new(),
    };
    let mut spec = ApiRouteSpec {
        kind,
        parents: parents(raw.parent_refs.unwrap_or_default(), &scope)?,
        hostnames: hostnames(&raw.hostnames.unwrap_or_default())?,
        rules: Vec::new(),
        connections: Vec::new(),
        references: Vec::new(),
        created: Arc::clone(&head.created),
        source: Digest::of(source),
    };
    compile(raw.rules, &mut scope, &mut spec)?;
    spec.references = scope.references;
    Ok(spec)
}

fn parents(given: Vec<raw::ParentRef>, scope: &Scope<'_>) -> Result<Vec<ParentRef>, FieldError> {
    given
        .into_iter()
        .enumerate()
        .map(|(i, raw)| {
            let at = format!("spec.parentRefs[{i}]");
            let name = named(&at, raw.namespace, &raw.name, scope)?;
            if raw.port == Some(0) {
                return Err(FieldError::new(format!("{at}.port"), "expected 1 to 65535"));
            }
            Ok(ParentRef {
                group: raw.group.map_or_else(|| super::GROUP.into(), Into::into),
                kind: raw.kind.map_or_else(|| "Gateway".into(), Into::into),
                name,
                section: raw.section_name.filter(|s| !s.is_empty()).map(Into::into),
                port: raw.port,
            })
        })
        .collect()
}

fn named(
    at: &str,
    namespace: Option<String>,
    name: &str,
    scope: &Scope<'_>,
) -> Result<ObjectName, FieldError> {
    if !is_subdomain(name) {
        return Err(FieldError::new(format!("{at}.name"), "is no name of an object"));
    }
    match namespace.filter(|n| !n.is_empty()) {
        None => Ok(ObjectName::new(Arc::clone(&scope.object.namespace), name)),
        Some(namespace) if is_label(&namespace) => Ok(ObjectName::new(namespace, name)),
        Some(_) => Err(FieldError::new(format!("{at}.namespace"), "is no namespace")),
    }
}

fn hostnames(given: &[String]) -> Result<Vec<Arc<str>>, FieldError> {
    let mut hostnames: Vec<Arc<str>> = Vec::new();
    for (i, given) in given.iter().enumerate() {
        let name = hostname(&format!("spec.hostnames[{i}]"), given)?;
        if !hostnames.contains(&name) {
            hostnames.push(name);
        }
    }
    Ok(hostnames)
}

/// A host pattern in lower case: a name, perhaps with `*.` before it.
pub(super) fn hostname(at: &str, given: &str) -> Result<Arc<str>, FieldError> {
    let name = given.trim_end_matches('.').to_ascii_lowercase();
    if name.parse::<IpAddr>().is_ok() {
        return Err(FieldError::new(at, "an IP address is no hostname"));
    }
    if is_subdomain(name.strip_prefix("*.").unwrap_or(&name)) {
        Ok(name.into())
    } else {
        let reason = "is no DNS name (RFC 1123 subdomain, perhaps with *. before it)";
        Err(FieldError::new(at, reason))
    }
}

/// What a reference names, and what rules are told to do with it. The reference is kept for those who check it.
pub(super) fn backend(at: &str, raw: raw::ObjectRef, scope: &mut Scope<'_>) -> Result<Backend, FieldError> {
    let group = raw.group.unwrap_or_default();
    let kind = raw.kind.unwrap_or_else(|| "Service".into());
    let (target, backend) = match (group.as_str(), kind.as_str()) {
        ("", "Service") => service(at, raw.namespace, &raw.name, raw.port, scope)?,
        ("networking.istio.io", "Hostname") => {
            if !is_subdomain(&raw.name) {
                return Err(FieldError::new(format!("{at}.name"), "is no host name"));
            }
            let host: Arc<str> = raw.name.to_ascii_lowercase().into();
            (Target::Host(Arc::clone(&host)), destination(host, raw.port))
        }
        _ => {
            let name = named(at, raw.namespace, &raw.name, scope)?;
            let reason = format!("nothing can be sent to a {kind} of group {group:?}");
            let (group, kind) = (group.into(), kind.into());
            (
                Target::Other { group, kind, name },
                Backend::Invalid(reason.into()),
            )
        }
    };
    scope.references.push(Reference {
        field: at.to_owned(),
        target,
    });
    Ok(backend)
}

fn service(
    at: &str,
    namespace: Option<String>,
    name: &str,
    port: Option<u16>,
    scope: &Scope<'_>,
) -> Result<(Target, Backend), FieldError> {
    let name = named(at, namespace, name, scope)?;
    let Some(port) = port.filter(|p| *p != 0) else {
        let reason = "a Service needs a port from 1 to 65535";
        return Err(FieldError::new(format!("{at}.port"), reason));
    };
    let host = scope.settings.host_of(&name);
    let target = Target::Service {
        name,
        host: Arc::clone(&host),
        port,
    };
    Ok((target, destination(host, Some(port))))
}

fn destination(host: Arc<str>, port: Option<u16>) -> Backend {
    Backend::Host(Destination {
        host,
        subset: None,
        port,
    })
}

/// `backendRefs` of a rule: entries of weight 0 take nothing and are not there; all of them checked all the same.
pub(super) fn split(
    at: &str,
    given: Vec<raw::BackendRef>,
    scope: &mut Scope<'_>,
) -> Result<Split, FieldError> {
    let mut split = Split::default();
    for (index, raw) in given.into_iter().enumerate() {
        let at = format!("{at}.backendRefs[{index}]");
        let (object, weight, filters) = raw.parts();
        if weight > MAX_WEIGHT {
            return Err(FieldError::new(
                format!("{at}.weight"),
                format!("expected 0 to {MAX_WEIGHT}"),
            ));
        }
        if !filters.is_empty() && !scope.kind.of_requests() {
            return Err(FieldError::new(format!("{at}.filters"), "unknown field"));
        }
        let headers = backend_filters(&at, filters)?;
        let backend = backend(&at, object, scope)?;
        split.total_weight = split.total_weight.saturating_add(weight);
        if weight > 0 {
            split.destinations.push(WeightedDestination {
                weight,
                index,
                backend,
                headers,
            });
        }
    }
    Ok(split)
}

/// `name` of a rule, and that no two have the same.
pub(super) fn rule_name(
    at: &str,
    given: Option<String>,
    names: &mut Vec<Arc<str>>,
) -> Result<Arc<str>, FieldError> {
    let Some(name) = given.filter(|n| !n.is_empty()) else {
        return Ok("".into());
    };
    if !is_subdomain(&name) {
        return Err(FieldError::new(
            format!("{at}.name"),
            "is no name (RFC 1123 subdomain)",
        ));
    }
    let name: Arc<str> = name.into();
    if names.contains(&name) {
        return Err(FieldError::new(
            format!("{at}.name"),
            format!("rule {name} is there twice"),
        ));
    }
    names.push(Arc::clone(&name));
    Ok(name)
}
