//! How a listener terminates TLS.

use crate::model::ObjectName;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

/// The settings of one listener, with what they refer to. Equal settings make equal configurations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerTls {
    /// Who must show a certificate.
    pub mode: TlsMode,
    /// Certificates with their keys; the client's abilities choose among them. Empty only for [`TlsMode::IstioMutual`].
    pub certificates: Vec<Credential>,
    /// What is asked of clients' certificates.
    pub clients: ClientCertificates,
    /// `minProtocolVersion`.
    pub min: TlsVersion,
    /// `maxProtocolVersion`.
    pub max: TlsVersion,
    /// `cipherSuites`; empty = all that are safe.
    pub cipher_suites: Vec<CipherSuite>,
    /// Protocols that are offered (ALPN), best first.
    pub alpn: Vec<&'static str>,
    /// Why nothing can be served: a Secret that is missing or wrong. The port stays open and every handshake fails.
    pub broken: Option<Arc<str>>,
}

/// Who shows certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TlsMode {
    /// The server.
    Simple,
    /// Both.
    Mutual,
    /// The server, and a client that likes to; one that is shown must be right.
    OptionalMutual,
    /// Both, with certificates of the mesh.
    IstioMutual,
}

/// What is asked of a client's certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientCertificates {
    /// PEM of the CAs that clients' certificates must lead to.
    pub authorities: Option<CredentialSource>,
    /// PEM of revocation lists.
    pub revoked: Option<CredentialSource>,
    /// `subjectAltNames`: one of them must be in it; empty = any.
    pub names: Vec<Arc<str>>,
    /// `verifyCertificateSpki`: SHA-256 of acceptable public keys.
    pub spki_hashes: Vec<[u8; 32]>,
    /// `verifyCertificateHash`: SHA-256 of acceptable certificates.
    pub hashes: Vec<[u8; 32]>,
    /// `insecureSkipVerify`: a certificate that leads to no CA is taken too.
    pub skip_verify: bool,
}

/// A certificate chain and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credential {
    /// PEM, leaf first.
    pub certificate: CredentialSource,
    /// PEM.
    pub key: CredentialSource,
}

/// Where PEM text is.
#[derive(Clone, PartialEq, Eq)]
pub enum CredentialSource {
    /// In a key of a Secret or ConfigMap.
    Object {
        /// `Secret shop/cert key tls.key`, for reports.
        named: Arc<str>,
        /// The text.
        pem: Arc<[u8]>,
    },
    /// In a file of the process.
    File(PathBuf),
}

/// What is inside never shows in a log.
impl fmt::Debug for CredentialSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for CredentialSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Object { named, .. } => f.write_str(named),
            Self::File(path) => write!(f, "{}", path.display()),
        }
    }
}

/// A protocol version that can be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TlsVersion {
    /// 1.2.
    V12,
    /// 1.3.
    V13,
}

/// The cipher suites of TLS 1.2 that can be served, by the names of OpenSSL. Those of TLS 1.3 are not chosen by configuration
/// (nor are they in Envoy).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CipherSuite {
    /// `ECDHE-ECDSA-AES128-GCM-SHA256`.
    EcdheEcdsaAes128Gcm,
    /// `ECDHE-ECDSA-AES256-GCM-SHA384`.
    EcdheEcdsaAes256Gcm,
    /// `ECDHE-ECDSA-CHACHA20-POLY1305`.
    EcdheEcdsaChacha20,
    /// `ECDHE-RSA-AES128-GCM-SHA256`.
    EcdheRsaAes128Gcm,
    /// `ECDHE-RSA-AES256-GCM-SHA384`.
    EcdheRsaAes256Gcm,
    /// `ECDHE-RSA-CHACHA20-POLY1305`.
    EcdheRsaChacha20,
}

/// The key of a Secret that holds a certificate, and that of its key, in the order in which they are looked for: type
/// `kubernetes.io/tls`, then Istio's generic form.
pub const CERTIFICATE_KEYS: [(&str, &str); 2] = [("tls.crt", "tls.key"), ("cert", "key")];
/// Keys of a Secret or ConfigMap that hold CAs.
pub const AUTHORITY_KEYS: [&str; 2] = ["ca.crt", "cacert"];
/// Keys that hold revocation lists.
pub const REVOCATION_KEYS: [&str; 2] = ["ca.crl", "crl"];

/// The object that holds the CAs of `credentialName`.
#[must_use]
pub fn authorities_of(credential: &ObjectName) -> ObjectName {
    ObjectName::new(
        Arc::clone(&credential.namespace),
        format!("{}-cacert", credential.name),
    )
}
