//! TLS that a gateway terminates: certificates that users give, for clients that are no part of the mesh.

use mesh_core::model::gateway::{
    CipherSuite, ClientCertificates, Credential, CredentialSource, ServerTls, TlsMode, TlsVersion,
};
use rustls::crypto::aws_lc_rs::{cipher_suite, default_provider};
use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{
    DigitallySignedStruct, DistinguishedName, Error, RootCertStore, ServerConfig, SignatureScheme,
    SupportedCipherSuite, SupportedProtocolVersion,
};
use sha2::{Digest as _, Sha256};
use std::fmt::Display;
use std::io;
use std::path::Path;
use std::sync::Arc;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// Why a listener serves nothing.
#[derive(Debug, thiserror::Error)]
pub enum EdgeTlsError {
    /// What the settings refer to is not there.
    #[error("{0}")]
    Broken(Arc<str>),
    /// A file.
    #[error("{source_name}: {reason}")]
    Material {
        /// Secret and key, or file.
        source_name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The settings leave nothing to offer.
    #[error("no TLS can be offered with these settings: {0}")]
    Settings(String),
}

/// The configuration of a listener with certificates of its own ([`TlsMode::IstioMutual`] has the mesh's).
///
/// Reads files, where the settings name files.
///
/// # Errors
/// See [`EdgeTlsError`].
pub fn server_config(tls: &ServerTls) -> Result<ServerConfig, EdgeTlsError> {
    if let Some(reason) = &tls.broken {
        return Err(EdgeTlsError::Broken(Arc::clone(reason)));
    }
    let provider = Arc::new(provider(&tls.cipher_suites));
    let settings = |error: Error| EdgeTlsError::Settings(error.to_string());
    let keys = tls
        .certificates
        .iter()
        .map(|credential| certified(credential, &provider))
        .collect::<Result<Vec<_>, _>>()?;
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions(tls.min, tls.max))
        .map_err(settings)?;
    let builder = match tls.mode {
        TlsMode::Simple | TlsMode::IstioMutual => builder.with_no_client_auth(),
        TlsMode::Mutual | TlsMode::OptionalMutual => {
            builder.with_client_cert_verifier(Arc::new(Clients::new(tls, &provider)?))
        }
    };
    let mut config = builder.with_cert_resolver(Arc::new(Choice(keys)));
    config.alpn_protocols = tls.alpn.iter().map(|p| p.as_bytes().to_vec()).collect();
    Ok(config)
}

fn versions(min: TlsVersion, max: TlsVersion) -> &'static [&'static SupportedProtocolVersion] {
    use rustls::version::{TLS12, TLS13};
    static ONLY_12: [&SupportedProtocolVersion; 1] = [&TLS12];
    static BOTH: [&SupportedProtocolVersion; 2] = [&TLS13, &TLS12];
    static ONLY_13: [&SupportedProtocolVersion; 1] = [&TLS13];
    match (min, max) {
        (TlsVersion::V12, TlsVersion::V12) => &ONLY_12,
        (TlsVersion::V12, TlsVersion::V13) => &BOTH,
        (TlsVersion::V13, _) => &ONLY_13,
    }
}

/// The suites of TLS 1.3 stay, whatever is chosen for 1.2.
fn provider(chosen: &[CipherSuite]) -> CryptoProvider {
    let default = default_provider();
    if chosen.is_empty() {
        return default;
    }
    let is_13 = |suite: &SupportedCipherSuite| suite.tls13().is_some();
    let for_13 = default.cipher_suites.iter().copied().filter(is_13);
    let kx_groups: Vec<&'static dyn SupportedKxGroup> = default.kx_groups.clone();
    CryptoProvider {
        cipher_suites: for_13.chain(chosen.iter().map(|s| suite(*s))).collect(),
        kx_groups,
        ..default
    }
}

const fn suite(suite: CipherSuite) -> SupportedCipherSuite {
    match suite {
        CipherSuite::EcdheEcdsaAes128Gcm => cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        CipherSuite::EcdheEcdsaAes256Gcm => cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        CipherSuite::EcdheEcdsaChacha20 => cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        CipherSuite::EcdheRsaAes128Gcm => cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        CipherSuite::EcdheRsaAes256Gcm => cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
        CipherSuite::EcdheRsaChacha20 => cipher_suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    }
}

fn bytes(source: &CredentialSource) -> Result<Vec<u8>, EdgeTlsError> {
    match source {
        CredentialSource::Object { pem, .. } => Ok(pem.to_vec()),
        CredentialSource::File(path) => read(path).map_err(|error| wrong(source, error)),
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    std::fs::read(path)
}

fn wrong(source: &CredentialSource, reason: impl Display) -> EdgeTlsError {
    EdgeTlsError::Material {
        source_name: source.to_string(),
        reason: reason.to_string(),
    }
}

fn chain(source: &CredentialSource) -> Result<Vec<CertificateDer<'static>>, EdgeTlsError> {
    let pem = bytes(source)?;
    let all = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>();
    let all = all.map_err(|error| wrong(source, error))?;
    if all.is_empty() {
        return Err(wrong(source, "has no certificate in PEM"));
    }
    Ok(all)
}

fn certified(credential: &Credential, provider: &CryptoProvider) -> Result<Arc<CertifiedKey>, EdgeTlsError> {
    let certificates = chain(&credential.certificate)?;
    let key = PrivateKeyDer::from_pem_slice(&bytes(&credential.key)?)
        .map_err(|error| wrong(&credential.key, error))?;
    CertifiedKey::from_der(certificates, key, provider)
        .map(Arc::new)
        .map_err(|error| wrong(&credential.key, error))
}

/// Several certificates of one server: the first that the client can verify.
#[derive(Debug)]
struct Choice(Vec<Arc<CertifiedKey>>);

impl ResolvesServerCert for Choice {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let usable = |key: &&Arc<CertifiedKey>| key.key.choose_scheme(hello.signature_schemes()).is_some();
        self.0.iter().find(usable).or(self.0.first()).cloned()
    }
}

/// What is asked of clients' certificates beyond the chain.
#[derive(Debug)]
struct Clients {
    chain: Arc<dyn ClientCertVerifier>,
    wanted: ClientCertificates,
}

impl Clients {
    fn new(tls: &ServerTls, provider: &Arc<CryptoProvider>) -> Result<Self, EdgeTlsError> {
        let source = tls.clients.authorities.as_ref();
        let source = source.ok_or_else(|| EdgeTlsError::Settings("no CA for clients".to_owned()))?;
        let mut roots = RootCertStore::empty();
        for root in chain(source)? {
            roots.add(root).map_err(|error| wrong(source, error))?;
        }
        let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
        if let Some(source) = &tls.clients.revoked {
            let pem = bytes(source)?;
            let lists = CertificateRevocationListDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>();
            let lists = lists.map_err(|error| wrong(source, error))?;
            // As in Envoy: a CA without a list revokes nothing.
            builder = builder.with_crls(lists).allow_unknown_revocation_status();
        }
        if tls.mode == TlsMode::OptionalMutual {
            builder = builder.allow_unauthenticated();
        }
        let chain = builder.build().map_err(|error| wrong(source, error))?;
        Ok(Self {
            chain,
            wanted: tls.clients.clone(),
        })
    }

    /// Names and hashes: one of each kind that is asked for.
    fn check(&self, leaf: &CertificateDer<'_>) -> Result<(), Error> {
        let refused = || Error::InvalidCertificate(rustls::CertificateError::ApplicationVerificationFailure);
        let wanted = &self.wanted;
        if wanted.names.is_empty() && wanted.spki_hashes.is_empty() && wanted.hashes.is_empty() {
            return Ok(());
        }
        let malformed = |_| Error::InvalidCertificate(rustls::CertificateError::BadEncoding);
        let (_, certificate) = X509Certificate::from_der(leaf).map_err(malformed)?;
        if !wanted.names.is_empty() && !names_match(&certificate, &wanted.names) {
            return Err(refused());
        }
        // Envoy takes either kind of hash where both are given.
        let spki = Sha256::digest(certificate.public_key().raw);
        let whole = Sha256::digest(leaf);
        let asked = !wanted.spki_hashes.is_empty() || !wanted.hashes.is_empty();
        let known = wanted.spki_hashes.iter().any(|h| h[..] == spki[..])
            || wanted.hashes.iter().any(|h| h[..] == whole[..]);
        if asked && !known { Err(refused()) } else { Ok(()) }
    }
}

fn names_match(certificate: &X509Certificate<'_>, wanted: &[Arc<str>]) -> bool {
    let Ok(Some(san)) = certificate.subject_alternative_name() else {
        return false;
    };
    san.value.general_names.iter().any(|name| match name {
        GeneralName::DNSName(text) | GeneralName::URI(text) | GeneralName::RFC822Name(text) => {
            wanted.iter().any(|w| **w == **text)
        }
        _ => false,
    })
}

impl ClientCertVerifier for Clients {
    fn offer_client_auth(&self) -> bool {
        self.chain.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.chain.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        match self.chain.verify_client_cert(end_entity, intermediates, now) {
            Ok(_) => {}
            Err(error) if self.wanted.skip_verify => {
                tracing::debug!(%error, "client certificate is not verified (insecureSkipVerify)");
            }
            Err(error) => return Err(error),
        }
        self.check(end_entity)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}
