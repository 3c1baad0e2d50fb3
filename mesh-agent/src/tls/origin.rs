//! TLS towards servers outside of the mesh's trust: `tls` of a DestinationRule (SIMPLE, MUTUAL), BackendTLSPolicy.

use crate::contract::{Credential, Credentials, Origination, OriginationError};
use mesh_core::model::gateway::CredentialSource;
use mesh_core::model::traffic::{ClientTls, TlsMode, Vouched};
use parking_lot::Mutex;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// Makes configurations, each once.
pub struct Originator {
    credentials: Arc<dyn Credentials>,
    made: Mutex<HashMap<Key, Made>>,
}

type Key = (ClientTls, Option<&'static str>);

struct Made {
    config: Arc<ClientConfig>,
    credential: Option<Arc<Credential>>,
}

impl Originator {
    /// With Secrets from `credentials`.
    pub fn new(credentials: Arc<dyn Credentials>) -> Self {
        Self {
            credentials,
            made: Mutex::default(),
        }
    }
}

impl Origination for Originator {
    fn client(
        &self,
        tls: &ClientTls,
        namespace: &str,
        alpn: Option<&'static str>,
    ) -> Result<Arc<ClientConfig>, OriginationError> {
        let credential = match &tls.credential {
            // What a policy gives is part of the settings, and so of the key.
            None => None,
            Some(name) => {
                let known = self.credentials.credential(namespace, name);
                if known.is_none() && !tls.credential_optional {
                    return Err(OriginationError::NoCredential(Arc::clone(name)));
                }
                known
            }
        };
        let key = (tls.clone(), alpn);
        let same = |made: &&Made| match (&made.credential, &credential) {
            (None, None) => true,
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            _ => false,
        };
        if let Some(known) = self.made.lock().get(&key).filter(same) {
            return Ok(Arc::clone(&known.config));
        }
        let given = tls.vouched.as_deref().map(given).transpose()?;
        let mut config = config(tls, given.as_ref().or(credential.as_deref()))?;
        config.alpn_protocols = alpn.iter().map(|p| p.as_bytes().to_vec()).collect();
        let config = Arc::new(config);
        let mut made = self.made.lock();
        if made.len() >= KEPT {
            made.clear();
        }
        let kept = Made {
            config: Arc::clone(&config),
            credential,
        };
        made.insert(key, kept);
        Ok(config)
    }
}

/// What a policy gives, as a Secret would have it.
fn given(vouched: &Vouched) -> Result<Credential, OriginationError> {
    if let Some(reason) = &vouched.broken {
        let reason = format!("BackendTLSPolicy {}: {reason}", vouched.object);
        return Err(OriginationError::Unusable(reason));
    }
    let read = |source: &CredentialSource| match source {
        CredentialSource::Object { pem, .. } => Ok(pem.to_vec()),
        CredentialSource::File(path) => std::fs::read(path)
            .map_err(|error| OriginationError::Unusable(format!("{}: {error}", path.display()))),
    };
    let certificate = vouched.certificate.as_ref();
    Ok(Credential {
        certificate: certificate.map(|c| read(&c.certificate)).transpose()?,
        key: certificate.map(|c| read(&c.key)).transpose()?,
        authority: vouched.authorities.as_ref().map(read).transpose()?,
        revoked: None,
    })
}

fn config(tls: &ClientTls, credential: Option<&Credential>) -> Result<ClientConfig, OriginationError> {
    let provider = Arc::new(default_provider());
    let unusable = |error: Error| OriginationError::Unusable(error.to_string());
    let verifier = Arc::new(Servers::new(tls, credential, &provider)?);
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(unusable)?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    if tls.mode != TlsMode::Mutual {
        return Ok(builder.with_no_client_auth());
    }
    let material = credential.and_then(|c| Some((c.certificate.as_ref()?, c.key.as_ref()?)));
    let Some((certificate, key)) = material else {
        return Err(OriginationError::Unusable(
            "MUTUAL needs a Secret with tls.crt and tls.key".into(),
        ));
    };
    let chain = certificates(certificate, "tls.crt")?;
    let key = PrivateKeyDer::from_pem_slice(key)
        .map_err(|error| OriginationError::Unusable(format!("tls.key: {error}")))?;
    builder.with_client_auth_cert(chain, key).map_err(unusable)
}

fn certificates(pem: &[u8], key: &str) -> Result<Vec<CertificateDer<'static>>, OriginationError> {
    let read = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    match read {
        Ok(list) if !list.is_empty() => Ok(list),
        Ok(_) => Err(OriginationError::Unusable(format!("{key} has no certificate"))),
        Err(error) => Err(OriginationError::Unusable(format!("{key}: {error}"))),
    }
}

/// The roots of the system, read once.
fn system_roots() -> Arc<RootCertStore> {
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    Arc::clone(ROOTS.get_or_init(|| {
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            tracing::warn!(%error, "some of the system's root certificates cannot be read");
        }
        let mut roots = RootCertStore::empty();
        let (_, unusable) = roots.add_parsable_certificates(found.certs);
        if unusable > 0 || roots.is_empty() {
            tracing::warn!(usable = roots.len(), unusable, "root certificates of the system");
        }
        Arc::new(roots)
    }))
}

fn roots(credential: Option<&Credential>) -> Result<Arc<RootCertStore>, OriginationError> {
    let Some(pem) = credential.and_then(|c| c.authority.as_ref()) else {
        return Ok(system_roots());
    };
    let mut roots = RootCertStore::empty();
    for certificate in certificates(pem, "ca.crt")? {
        roots
            .add(certificate)
            .map_err(|error| OriginationError::Unusable(format!("ca.crt: {error}")))?;
    }
    Ok(Arc::new(roots))
}

/// What is checked of a server.
#[derive(Debug)]
struct Servers {
    /// Chain, revocation and the name that was asked for; `None` = nothing is checked (`insecureSkipVerify`).
    chain: Option<Arc<WebPkiServerVerifier>>,
    /// `subjectAltNames`: one of these must be in the certificate, instead of the name that was asked for.
    names: Vec<Arc<str>>,
    provider: Arc<CryptoProvider>,
}

impl Servers {
    fn new(
        tls: &ClientTls,
        credential: Option<&Credential>,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, OriginationError> {
        let names = tls.subject_alt_names.clone();
        let provider = Arc::clone(provider);
        if tls.skip_verify {
            return Ok(Self {
                chain: None,
                names,
                provider,
            });
        }
        let mut builder =
            WebPkiServerVerifier::builder_with_provider(roots(credential)?, Arc::clone(&provider));
        if let Some(pem) = credential.and_then(|c| c.revoked.as_ref()) {
            let lists = CertificateRevocationListDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
            let lists = lists.map_err(|error| OriginationError::Unusable(format!("ca.crl: {error}")))?;
            builder = builder.with_crls(lists);
        }
        let chain = builder
            .build()
            .map_err(|error| OriginationError::Unusable(error.to_string()))?;
        Ok(Self {
            chain: Some(chain),
            names,
            provider,
        })
    }

    /// Whether one of the names is a SAN of the certificate.
    fn named(&self, certificate: &CertificateDer<'_>) -> bool {
        let Ok((_, parsed)) = X509Certificate::from_der(certificate) else {
            return false;
        };
        let Ok(Some(sans)) = parsed.subject_alternative_name() else {
            return false;
        };
        let is = |san: &GeneralName<'_>| match san {
            GeneralName::DNSName(name) => self.names.iter().any(|n| same_host(n, name)),
            GeneralName::URI(uri) => self.names.iter().any(|n| **n == **uri),
            GeneralName::IPAddress(bytes) => {
                let ip = match <[u8; 4]>::try_from(*bytes) {
                    Ok(v4) => Some(std::net::IpAddr::from(v4)),
                    Err(_) => <[u8; 16]>::try_from(*bytes).ok().map(std::net::IpAddr::from),
                };
                ip.is_some_and(|ip| self.names.iter().any(|n| n.parse() == Ok(ip)))
            }
            _ => false,
        };
        sans.value.general_names.iter().any(is)
    }
}

/// Whether two host names are the same, one of them perhaps with `*` for its first label (RFC 6125 § 6.4.3).
fn same_host(one: &str, other: &str) -> bool {
    let covers = |pattern: &str, name: &str| {
        let suffix = pattern.strip_prefix("*.");
        let rest = name.split_once('.').map(|(_, rest)| rest);
        suffix.is_some_and(|s| rest.is_some_and(|rest| s.eq_ignore_ascii_case(rest)))
    };
    one.eq_ignore_ascii_case(other) || covers(one, other) || covers(other, one)
}

impl ServerCertVerifier for Servers {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        use CertificateError::{NotValidForName, NotValidForNameContext};
        let Some(chain) = &self.chain else {
            return Ok(ServerCertVerified::assertion());
        };
        let verified = chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        if self.names.is_empty() {
            return verified;
        }
        match verified {
            // The name comes last: all the rest is in order.
            Ok(_) | Err(Error::InvalidCertificate(NotValidForName | NotValidForNameContext { .. })) => {}
            Err(error) => return Err(error),
        }
        if self.named(end_entity) {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(Error::InvalidCertificate(NotValidForName))
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// Configurations that are kept.
const KEPT: usize = 1_024;
