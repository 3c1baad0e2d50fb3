//! `tls` and `proxyProtocol`: what comes before the first byte of a request.

use crate::model::ObjectName;
use crate::model::gateway::{Credential, CredentialSource};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// `tls`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClientTls {
    /// `mode`.
    pub mode: TlsMode,
    /// `sni`; `None` = the host that the request asks for.
    pub sni: Option<Arc<str>>,
    /// `subjectAltNames`; empty = the name that is asked for.
    pub subject_alt_names: Vec<Arc<str>>,
    /// `credentialName`; `None` = the roots of the system, and no certificate of the client.
    pub credential: Option<Arc<str>>,
    /// Whether a proxy that does not have the Secret uses the system's roots: no selector says which clients it is for.
    pub credential_optional: bool,
    /// `insecureSkipVerify`.
    pub skip_verify: bool,
    /// What a BackendTLSPolicy gives in the place of `credential`.
    pub vouched: Option<Arc<Vouched>>,
}

/// The certificates by which a BackendTLSPolicy (`gateway.networking.k8s.io`) has servers verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vouched {
    /// The policy.
    pub object: ObjectName,
    /// PEM of the CAs; `None` = the roots of the system.
    pub authorities: Option<CredentialSource>,
    /// What the client shows: `spec.tls.backend.clientCertificateRef` of the Gateway.
    pub certificate: Option<Credential>,
    /// Why no connection can be made: something that the policy or the Gateway refers to is not there.
    pub broken: Option<Arc<str>>,
}

/// The certificates themselves count for equality alone: they are long, and of one policy there are seldom two versions.
impl Hash for Vouched {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.object.hash(state);
    }
}

/// `tls.mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TlsMode {
    /// `DISABLE`: plaintext, also to endpoints of the mesh.
    Disable,
    /// `SIMPLE`: the server proves itself.
    Simple,
    /// `MUTUAL`: both do, by certificates that the user gives.
    Mutual,
    /// `ISTIO_MUTUAL`: both do, by the mesh's identities, which is what happens anyway.
    Mesh,
}

impl ClientTls {
    /// Whether the proxy makes a TLS connection of the user's kind.
    #[must_use]
    pub const fn originates(&self) -> bool {
        matches!(self.mode, TlsMode::Simple | TlsMode::Mutual)
    }

    /// Whether connections that are TLS already go as they came: a BackendTLSPolicy asks for TLS, not for TLS in TLS.
    #[must_use]
    pub const fn spares_tls(&self) -> bool {
        self.vouched.is_some()
    }

    pub(super) fn describe(&self) -> String {
        if let Some(vouched) = &self.vouched {
            let name = self.sni.as_deref().unwrap_or_default();
            return match &vouched.broken {
                None => format!("TLS to {name} (BackendTLSPolicy {})", vouched.object),
                Some(reason) => format!(
                    "nobody is reached: {reason} (BackendTLSPolicy {})",
                    vouched.object
                ),
            };
        }
        match self.mode {
            TlsMode::Disable => {
                "tls DISABLE: plaintext to the endpoint, refused there if it is STRICT".into()
            }
            TlsMode::Simple => "tls SIMPLE".into(),
            TlsMode::Mutual => "tls MUTUAL".into(),
            TlsMode::Mesh => "tls ISTIO_MUTUAL".into(),
        }
    }
}

/// Version of the PROXY protocol that a connection begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProxyProtocol {
    /// Text.
    V1,
    /// Binary.
    V2,
}
