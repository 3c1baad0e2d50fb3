//! Who a peer is: its chain leads to our roots, and its leaf has exactly one URI SAN, a SPIFFE ID.
//!
//! Names in CN, DNS or e-mail SANs never count (CVE-2022-21656), and a second URI SAN refuses the certificate instead
//! of being ignored.

use super::config::TlsConfigError;
use mesh_core::model::identity::{InvalidSpiffeId, SpiffeId};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore,
    SignatureScheme,
};
use std::sync::Arc;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Longest chain of intermediates that is looked at (ztunnel: 6).
const MAX_INTERMEDIATES: usize = 6;

/// Why a certificate names nobody in the mesh.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The peer sent none.
    #[error("no certificate")]
    Missing,
    /// Not a certificate.
    #[error("certificate cannot be read")]
    Malformed,
    /// No URI SAN, or more than one.
    #[error("certificate has {0} URI SANs, expected exactly one")]
    UriSans(usize),
    /// The URI SAN is not an identity.
    #[error("URI SAN is not an identity: {0}")]
    Uri(#[from] InvalidSpiffeId),
    /// The identity belongs to another mesh.
    #[error("trust domain of {0} is not ours")]
    TrustDomain(SpiffeId),
    /// More intermediates than are looked at.
    #[error("more than {MAX_INTERMEDIATES} intermediate certificates")]
    ChainTooLong,
}

/// The identity in a peer's chain, leaf first. The chain itself was verified by the handshake.
///
/// # Errors
/// The leaf does not have exactly one URI SAN that is an identity.
pub fn peer_identity(chain: &[CertificateDer<'_>]) -> Result<SpiffeId, IdentityError> {
    let leaf = chain.first().ok_or(IdentityError::Missing)?;
    let (rest, certificate) = X509Certificate::from_der(leaf).map_err(|_| IdentityError::Malformed)?;
    if !rest.is_empty() {
        return Err(IdentityError::Malformed);
    }
    let san = certificate
        .subject_alternative_name()
        .map_err(|_| IdentityError::Malformed)?;
    let names = san.as_ref().map_or(&[][..], |san| &san.value.general_names);
    if names.iter().any(|name| matches!(name, GeneralName::Invalid(..))) {
        return Err(IdentityError::Malformed);
    }
    let mut uris = names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    match (uris.next(), uris.count()) {
        (Some(uri), 0) => Ok(SpiffeId::parse(uri)?),
        (None, _) => Err(IdentityError::UriSans(0)),
        (Some(_), more) => Err(IdentityError::UriSans(more + 1)),
    }
}

fn identity_of(leaf: &CertificateDer<'_>, intermediates: &[CertificateDer<'_>]) -> Result<SpiffeId, Error> {
    if intermediates.len() > MAX_INTERMEDIATES {
        return Err(refused(IdentityError::ChainTooLong));
    }
    peer_identity(std::slice::from_ref(leaf)).map_err(refused)
}

fn refused(error: IdentityError) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error))))
}

/// What a client checks of a server. The expected identity is compared by the caller, who knows the endpoint.
#[derive(Debug)]
pub(super) struct ServerVerifier {
    roots: Arc<RootCertStore>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerVerifier {
    pub(super) fn new(roots: Arc<RootCertStore>, provider: Arc<CryptoProvider>) -> Self {
        Self {
            roots,
            algorithms: provider.signature_verification_algorithms,
        }
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        identity_of(end_entity, intermediates)?;
        let certificate = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(
            &certificate,
            &self.roots,
            intermediates,
            now,
            self.algorithms.all,
        )?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is never negotiated".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// What a server checks of a client: the chain for `clientAuth`, one identity, our trust domain.
#[derive(Debug)]
pub(super) struct ClientVerifier {
    chain: Arc<dyn ClientCertVerifier>,
    trust_domain: Box<str>,
}

impl ClientVerifier {
    pub(super) fn new(
        roots: Arc<RootCertStore>,
        provider: &Arc<CryptoProvider>,
        trust_domain: &str,
    ) -> Result<Self, TlsConfigError> {
        let chain = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(provider))
            .build()
            .map_err(|error| TlsConfigError::Roots(error.to_string()))?;
        Ok(Self {
            chain,
            trust_domain: trust_domain.into(),
        })
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // One mesh, one set of roots: hints would only make the handshake larger.
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let identity = identity_of(end_entity, intermediates)?;
        if identity.trust_domain() != &*self.trust_domain {
            return Err(refused(IdentityError::TrustDomain(identity)));
        }
        self.chain.verify_client_cert(end_entity, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is never negotiated".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}
