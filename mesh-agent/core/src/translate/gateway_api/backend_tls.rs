//! BackendTLSPolicy: by which certificates the servers behind a Service are known.

use super::common::hostname;
use crate::translate::head::Head;
use crate::translate::value::{FieldError, decode, is_subdomain, spec_of};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The one set of roots that has a name.
const SYSTEM: &str = "System";

/// A BackendTLSPolicy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendTlsSpec {
    /// `targetRefs`, all of them Services of the policy's namespace.
    pub targets: Vec<PolicyTarget>,
    /// Of whom servers must have certificates, or why nobody can be trusted.
    pub authorities: Result<BackendAuthorities, Arc<str>>,
    /// `hostname`, lower case: the SNI, and the name that is verified where `names` has none.
    pub hostname: Arc<str>,
    /// `subjectAltNames`: one of them must be in the certificate; host names in lower case, perhaps with `*.` before.
    pub names: Vec<Arc<str>>,
    /// `creationTimestamp`.
    pub created: Arc<str>,
}

/// One of `targetRefs`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyTarget {
    /// Name of the Service.
    pub service: Arc<str>,
    /// `sectionName`: the name of a port; `None` = all that no other policy names.
    pub section: Option<Arc<str>>,
}

/// Whose certificates are trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackendAuthorities {
    /// `wellKnownCACertificates: System`.
    System,
    /// `caCertificateRefs`: objects of the policy's namespace.
    Named(Vec<LocalRef>),
}

/// An object of the same namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalRef {
    /// Group and kind.
    pub kind: (Arc<str>, Arc<str>),
    /// Name.
    pub name: Arc<str>,
}

impl BackendTlsSpec {
    /// Whether it refers to ConfigMaps.
    #[must_use]
    pub fn reads_config_maps(&self) -> bool {
        let is_map = |r: &LocalRef| (&*r.kind.0, &*r.kind.1) == ("", "ConfigMap");
        matches!(&self.authorities, Ok(BackendAuthorities::Named(refs)) if refs.iter().any(is_map))
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Spec {
    target_refs: Vec<RawTarget>,
    validation: RawValidation,
    options: Option<BTreeMap<String, Value>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawTarget {
    group: Option<String>,
    kind: String,
    name: String,
    section_name: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawValidation {
    ca_certificate_refs: Option<Vec<RawRef>>,
    #[serde(rename = "wellKnownCACertificates")]
    well_known: Option<String>,
    hostname: String,
    subject_alt_names: Option<Vec<RawName>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRef {
    group: Option<Arc<str>>,
    kind: Arc<str>,
    name: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawName {
    r#type: String,
    hostname: Option<String>,
    uri: Option<String>,
}

pub(super) fn backend_tls(head: &Head, value: &Value) -> Result<BackendTlsSpec, FieldError> {
    let raw: Spec = decode(spec_of(value)?, "spec")?;
    if raw.options.is_some_and(|options| !options.is_empty()) {
        return Err(FieldError::new("spec.options", "options are not supported"));
    }
    let targets = raw.target_refs.into_iter().enumerate().map(|(i, t)| target(i, t));
    let validation = raw.validation;
    let name = hostname("spec.validation.hostname", &validation.hostname)?;
    if name.starts_with('*') {
        let reason = "expected one name: a wildcard cannot be asked for";
        return Err(FieldError::new("spec.validation.hostname", reason));
    }
    let names = validation.subject_alt_names.into_iter().flatten().enumerate();
    Ok(BackendTlsSpec {
        targets: targets.collect::<Result<_, _>>()?,
        authorities: authorities(validation.ca_certificate_refs, validation.well_known).map(Ok)?,
        hostname: name,
        names: names.map(|(i, n)| alt_name(i, n)).collect::<Result<_, _>>()?,
        created: Arc::clone(&head.created),
    })
}

/// What holds in the place of one that cannot be read: nobody is reached where it may have meant to verify. As far as
/// targets can be read; a policy is never absent because it is wrong.
pub(in crate::translate) fn unreadable(head: &Head, value: &Value) -> BackendTlsSpec {
    let given = value.pointer("/spec/targetRefs").and_then(Value::as_array);
    let readable = |target: &Value| decode::<RawTarget>(target, "").ok();
    let targets = given.into_iter().flatten().filter_map(readable);
    BackendTlsSpec {
        targets: targets.filter_map(|t| target(0, t).ok()).collect(),
        authorities: Err("the policy is refused".into()),
        hostname: "".into(),
        names: Vec::new(),
        created: Arc::clone(&head.created),
    }
}

fn target(i: usize, raw: RawTarget) -> Result<PolicyTarget, FieldError> {
    let field = |name: &str| format!("spec.targetRefs[{i}].{name}");
    if !raw.group.as_deref().unwrap_or_default().is_empty() {
        return Err(FieldError::new(
            field("group"),
            "only \"\" is supported, of a Service",
        ));
    }
    if raw.kind != "Service" {
        return Err(FieldError::new(field("kind"), "only Service is supported"));
    }
    if !is_subdomain(&raw.name) {
        return Err(FieldError::new(field("name"), "is no name of an object"));
    }
    Ok(PolicyTarget {
        service: raw.name.into(),
        section: raw.section_name.filter(|s| !s.is_empty()).map(Into::into),
    })
}

fn authorities(
    refs: Option<Vec<RawRef>>,
    well_known: Option<String>,
) -> Result<BackendAuthorities, FieldError> {
    const REFS: &str = "spec.validation.caCertificateRefs";
    let refs = refs.unwrap_or_default();
    let well_known = well_known.filter(|name| !name.is_empty());
    match well_known.as_deref() {
        Some(_) if !refs.is_empty() => {
            let reason = "must be empty where wellKnownCACertificates is there";
            Err(FieldError::new(REFS, reason))
        }
        Some(SYSTEM) => Ok(BackendAuthorities::System),
        Some(_) => Err(FieldError::new(
            "spec.validation.wellKnownCACertificates",
            "only System is supported",
        )),
        None if refs.is_empty() => {
            let reason = "is missing: name the CAs, or have wellKnownCACertificates System";
            Err(FieldError::new(REFS, reason))
        }
        None => {
            let read = |(i, raw): (usize, RawRef)| match is_subdomain(&raw.name) {
                true => Ok(LocalRef {
                    kind: (raw.group.unwrap_or_else(|| "".into()), raw.kind),
                    name: raw.name.into(),
                }),
                false => Err(FieldError::new(
                    format!("{REFS}[{i}].name"),
                    "is no name of an object",
                )),
            };
            let refs: Result<_, _> = refs.into_iter().enumerate().map(read).collect();
            refs.map(BackendAuthorities::Named)
        }
    }
}

fn alt_name(i: usize, raw: RawName) -> Result<Arc<str>, FieldError> {
    let field = |name: &str| format!("spec.validation.subjectAltNames[{i}].{name}");
    let given = |text: Option<String>| text.filter(|t| !t.is_empty());
    let (name, uri) = (given(raw.hostname), given(raw.uri));
    match (raw.r#type.as_str(), name, uri) {
        ("Hostname", Some(name), None) => hostname(&field("hostname"), &name),
        ("URI", None, Some(uri)) => {
            let whole = uri.split_once(':').is_some_and(|(scheme, rest)| {
                scheme.starts_with(|c: char| c.is_ascii_alphabetic()) && !rest.is_empty()
            });
            if !whole || uri.len() > 2_048 || uri.chars().any(char::is_control) {
                return Err(FieldError::new(field("uri"), "is no URI with a scheme"));
            }
            Ok(uri.into())
        }
        ("Hostname", None, _) => Err(FieldError::new(field("hostname"), "is missing")),
        ("URI", _, None) => Err(FieldError::new(field("uri"), "is missing")),
        ("Hostname", _, Some(_)) => Err(FieldError::new(field("uri"), "must be empty for type Hostname")),
        ("URI", Some(_), _) => Err(FieldError::new(field("hostname"), "must be empty for type URI")),
        _ => Err(FieldError::new(field("type"), "expected Hostname or URI")),
    }
}
