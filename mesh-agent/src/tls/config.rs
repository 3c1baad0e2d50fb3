//! rustls configurations of one identity.

use super::verify::{ClientVerifier, ServerVerifier};
use super::{ALPN_H2, ALPN_HEDDLE};
use crate::contract::IdentityTls;
use mesh_core::model::identity::SpiffeId;
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{cipher_suite, default_provider, kx_group};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::NoServerSessionStorage;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use std::sync::{Arc, OnceLock};

/// What an identity is proven with. No `Debug`: it holds the private key.
pub struct IdentityMaterial {
    /// Who it proves.
    pub identity: SpiffeId,
    /// Leaf first, then intermediates, no root.
    pub chain: Vec<CertificateDer<'static>>,
    /// The leaf's key.
    pub key: PrivateKeyDer<'static>,
    /// Trust anchors for peers.
    pub roots: Vec<CertificateDer<'static>>,
    /// `notAfter` of the leaf, seconds since the Unix epoch.
    pub not_after: u64,
    /// Serial number of the leaf, hexadecimal.
    pub serial: String,
}

/// Why no configuration can be made.
#[derive(Debug, thiserror::Error)]
pub enum TlsConfigError {
    /// There is no usable trust anchor.
    #[error("no trust anchor can be used: {0}")]
    Roots(String),
    /// Key and certificate do not fit, or are not understood.
    #[error("certificate or key cannot be used")]
    Certificate(#[from] rustls::Error),
}

/// The suites and groups of the mesh. ChaCha20 is left out as in ztunnel; AES is in every server CPU.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    Arc::clone(PROVIDER.get_or_init(|| {
        Arc::new(CryptoProvider {
            cipher_suites: vec![
                cipher_suite::TLS13_AES_128_GCM_SHA256,
                cipher_suite::TLS13_AES_256_GCM_SHA384,
            ],
            kx_groups: vec![
                kx_group::X25519MLKEM768,
                kx_group::X25519,
                kx_group::SECP256R1,
                kx_group::SECP384R1,
            ],
            ..default_provider()
        })
    }))
}

/// Builds both configurations of an identity. The server side accepts peers of the identity's own trust domain only.
///
/// # Errors
/// The material does not fit together.
pub fn identity_tls(material: IdentityMaterial) -> Result<IdentityTls, TlsConfigError> {
    let IdentityMaterial {
        identity,
        chain,
        key,
        roots,
        not_after,
        serial,
    } = material;
    let roots = Arc::new(anchors(roots)?);
    let client = client_config(Arc::clone(&roots), chain.clone(), key.clone_key())?;
    let server = server_config(roots, identity.trust_domain(), chain, key)?;
    Ok(IdentityTls {
        identity,
        client: Arc::new(client),
        server: Arc::new(server),
        not_after,
        serial,
    })
}

fn anchors(roots: Vec<CertificateDer<'static>>) -> Result<RootCertStore, TlsConfigError> {
    let mut store = RootCertStore::empty();
    for root in roots {
        store
            .add(root)
            .map_err(|error| TlsConfigError::Roots(error.to_string()))?;
    }
    if store.is_empty() {
        return Err(TlsConfigError::Roots("the list is empty".to_owned()));
    }
    Ok(store)
}

fn client_config(
    roots: Arc<RootCertStore>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<ClientConfig, TlsConfigError> {
    let verifier = Arc::new(ServerVerifier::new(roots, provider()));
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_auth_cert(chain, key)?;
    config.alpn_protocols = vec![ALPN_HEDDLE.to_vec(), ALPN_H2.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    Ok(config)
}

fn server_config(
    roots: Arc<RootCertStore>,
    trust_domain: &str,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<ServerConfig, TlsConfigError> {
    let verifier = ClientVerifier::new(roots, &provider(), trust_domain)?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![ALPN_HEDDLE.to_vec(), ALPN_H2.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Ok(config)
}
