//! Who a caller is and whose certificate it may have. Pure.
//!
//! A caller asks for itself, or, if its account is trusted (the node agents'), for an account of which a pod runs on the
//! caller's own node. The node comes from the API server's word on the token, never from the caller.

use super::pods::PodIndex;
use k8s_openapi::api::authentication::v1::TokenReviewStatus;
use mesh_core::model::identity::SpiffeId;
use std::collections::BTreeSet;

/// Extra of a token bound to a pod: its node (Kubernetes 1.30 and later).
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";
/// Extra of a token bound to a pod: the pod.
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
/// Extra of a token bound to a pod: the pod's UID.
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";
/// Life of a certificate when the caller names none, seconds (istiod's).
pub const DEFAULT_TTL: u64 = 24 * 3600;

/// Who holds a token, by the API server's word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Namespace of the service account.
    pub namespace: String,
    /// The service account.
    pub service_account: String,
    /// The node to which the token is bound.
    pub node: Option<String>,
    /// Name and UID of the pod to which the token is bound.
    pub pod: Option<(String, String)>,
}

/// What callers may have.
#[derive(Clone, Debug)]
pub struct Policy {
    /// The mesh's trust domain.
    pub trust_domain: String,
    /// Namespace and name of accounts that may ask for the pods of their node.
    pub trusted: BTreeSet<(String, String)>,
    /// Longest life, seconds.
    pub max_ttl: u64,
}

/// Why a caller gets nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denial {
    /// The token proves nobody.
    #[error("authentication failure: {0}")]
    Token(String),
    /// Not allowed to ask for this identity.
    #[error("request impersonation authentication failure: {0}")]
    Impersonation(String),
    /// The request itself is wrong.
    #[error("{0}")]
    Invalid(String),
    /// Nobody can say yet.
    #[error("{0}")]
    NotReady(&'static str),
}

/// Reads the answer to a TokenReview that asked for `audience`.
///
/// # Errors
/// The token is not authenticated for that audience, or is not a service account's.
pub fn caller(status: &TokenReviewStatus, audience: &str) -> Result<Caller, Denial> {
    let failed = |reason: &str| Denial::Token(reason.to_owned());
    if status.authenticated != Some(true) {
        let reason = status.error.as_deref().unwrap_or("token is not authenticated");
        return Err(failed(reason));
    }
    // A server that knows no audiences answers with none: then nobody has checked it.
    let audiences = status.audiences.iter().flatten();
    if !audiences.into_iter().any(|one| one == audience) {
        return Err(failed("token is not for this audience"));
    }
    let user = status.user.as_ref();
    let name = user.and_then(|user| user.username.as_deref()).unwrap_or_default();
    let account = name.strip_prefix("system:serviceaccount:");
    let Some((namespace, service_account)) = account.and_then(|rest| rest.split_once(':')) else {
        return Err(failed("token is not a service account's"));
    };
    if namespace.is_empty() || service_account.is_empty() || service_account.contains(':') {
        return Err(failed("token is not a service account's"));
    }
    let extra = |key: &str| {
        let values = user.and_then(|user| user.extra.as_ref())?.get(key)?;
        match values.as_slice() {
            [one] if !one.is_empty() => Some(one.clone()),
            _ => None,
        }
    };
    Ok(Caller {
        namespace: namespace.to_owned(),
        service_account: service_account.to_owned(),
        node: extra(NODE_NAME),
        pod: extra(POD_NAME).zip(extra(POD_UID)),
    })
}

/// Whose certificate `caller` gets: its own, or the one it asks for.
///
/// # Errors
/// See [`Denial`].
pub fn identity(
    caller: &Caller,
    requested: Option<&str>,
    policy: &Policy,
    pods: &PodIndex,
) -> Result<SpiffeId, Denial> {
    let own = SpiffeId::parse(&format!(
        "spiffe://{}/ns/{}/sa/{}",
        policy.trust_domain, caller.namespace, caller.service_account
    ))
    .map_err(|error| Denial::Token(error.to_string()))?;
    let Some(uri) = requested else {
        return Ok(own);
    };
    let wanted =
        SpiffeId::parse(uri).map_err(|error| Denial::Invalid(format!("ImpersonatedIdentity: {error}")))?;
    if wanted == own {
        return Ok(own);
    }
    let refused = |reason: String| Err(Denial::Impersonation(reason));
    if wanted.trust_domain() != policy.trust_domain {
        return refused(format!(
            "trust domain {} is not {}",
            wanted.trust_domain(),
            policy.trust_domain
        ));
    }
    let account = (caller.namespace.clone(), caller.service_account.clone());
    if !policy.trusted.contains(&account) {
        return refused(format!(
            "{}/{} may ask for itself only",
            caller.namespace, caller.service_account
        ));
    }
    if !pods.complete() {
        return Err(Denial::NotReady("the pods of the cluster are still being listed"));
    }
    let Some(node) = node(caller, pods) else {
        return refused("token is not bound to a pod of a node".to_owned());
    };
    if !pods.runs(&node, wanted.namespace(), wanted.service_account()) {
        return refused(format!(
            "no pod of {}/{} on node {node}",
            wanted.namespace(),
            wanted.service_account()
        ));
    }
    Ok(wanted)
}

fn node(caller: &Caller, pods: &PodIndex) -> Option<String> {
    caller.node.clone().or_else(|| {
        let (name, uid) = caller.pod.as_ref()?;
        pods.node_of(&caller.namespace, name, uid)
            .map(|node| node.to_string())
    })
}

/// Life of the certificate, seconds.
///
/// # Errors
/// More than the policy allows.
pub fn ttl(requested: i64, policy: &Policy) -> Result<u64, Denial> {
    match u64::try_from(requested) {
        Err(_) | Ok(0) => Ok(DEFAULT_TTL.min(policy.max_ttl)),
        Ok(asked) if asked > policy.max_ttl => Err(Denial::Invalid(format!(
            "requested TTL {asked} s is greater than the max allowed TTL {} s",
            policy.max_ttl
        ))),
        Ok(asked) => Ok(asked),
    }
}

#[cfg(test)]
mod tests;
