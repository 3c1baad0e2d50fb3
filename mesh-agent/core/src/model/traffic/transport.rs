//! `tls` and `proxyProtocol`: what comes before the first byte of a request.

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

    pub(super) fn describe(&self) -> String {
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
