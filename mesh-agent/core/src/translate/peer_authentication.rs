//! PeerAuthentication (`security.istio.io`).

use super::head::{Head, labels};
use super::value::{FieldError, decode, join};
use crate::model::peer::{PeerMode, PeerPolicy};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A PeerAuthentication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerAuthenticationSpec {
    /// What it says.
    pub policy: Arc<PeerPolicy>,
    /// `creationTimestamp`.
    pub created: Arc<str>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct Spec {
    selector: Option<Selector>,
    mtls: Option<MutualTls>,
    #[serde(alias = "port_level_mtls")]
    port_level_mtls: Option<BTreeMap<String, Option<MutualTls>>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct Selector {
    #[serde(alias = "match_labels")]
    match_labels: Option<BTreeMap<Arc<str>, Option<Arc<str>>>>,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct MutualTls {
    mode: Option<String>,
}

pub(super) fn peer_authentication(head: &Head, value: &Value) -> Result<PeerAuthenticationSpec, FieldError> {
    match head.version.as_str() {
        "v1beta1" | "v1" => {}
        other => {
            return Err(FieldError::new(
                "apiVersion",
                format!("version {other:?} is not known: expected v1 or v1beta1"),
            ));
        }
    }
    let spec: Spec = super::kubernetes::part(value, "spec")?;
    let selector = selector(spec.selector)?;
    let at = "spec.portLevelMtls";
    let mut ports = BTreeMap::new();
    for (key, tls) in spec.port_level_mtls.unwrap_or_default() {
        let field = join(at, &key);
        let port = key.parse::<u16>().ok().filter(|port| *port != 0);
        let port = port.ok_or_else(|| FieldError::new(&field, "is no port of a container (1 to 65535)"))?;
        ports.insert(port, mode(tls.as_ref(), &field)?);
    }
    if selector.is_empty() && !ports.is_empty() {
        return Err(FieldError::new(
            at,
            "needs spec.selector.matchLabels: ports are those of the pods that it selects",
        ));
    }
    Ok(spec_of(
        head,
        selector,
        mode(spec.mtls.as_ref(), "spec.mtls")?,
        ports,
    ))
}

/// What holds in the place of one that cannot be read: mutual TLS only, for what it selects as far as that can be
/// read. A policy is never absent because it is wrong.
pub(super) fn unreadable(head: &Head, value: &Value) -> PeerAuthenticationSpec {
    let selector = value
        .pointer("/spec/selector")
        .and_then(|given| decode::<Selector>(given, "spec.selector").ok())
        .and_then(|given| selector(Some(given)).ok())
        .unwrap_or_default();
    spec_of(head, selector, Some(PeerMode::Strict), BTreeMap::new())
}

fn spec_of(
    head: &Head,
    selector: BTreeMap<Arc<str>, Arc<str>>,
    mode: Option<PeerMode>,
    ports: BTreeMap<u16, Option<PeerMode>>,
) -> PeerAuthenticationSpec {
    PeerAuthenticationSpec {
        policy: Arc::new(PeerPolicy {
            object: head.name(),
            selector: Arc::new(selector),
            mode,
            ports,
        }),
        created: Arc::clone(&head.created),
    }
}

fn selector(given: Option<Selector>) -> Result<BTreeMap<Arc<str>, Arc<str>>, FieldError> {
    let given = given
        .and_then(|selector| selector.match_labels)
        .unwrap_or_default();
    labels(given, "spec.selector.matchLabels")
}

fn mode(tls: Option<&MutualTls>, at: &str) -> Result<Option<PeerMode>, FieldError> {
    match tls.and_then(|tls| tls.mode.as_deref()) {
        None | Some("UNSET") => Ok(None),
        Some("DISABLE") => Ok(Some(PeerMode::Disable)),
        Some("PERMISSIVE") => Ok(Some(PeerMode::Permissive)),
        Some("STRICT") => Ok(Some(PeerMode::Strict)),
        Some(_) => Err(FieldError::new(
            join(at, "mode"),
            "expected STRICT, PERMISSIVE, DISABLE or UNSET",
        )),
    }
}
