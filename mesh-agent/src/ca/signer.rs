//! A CA's key with its certificates, and what it signs. Knows no files and no Secrets: those who read them name them.

use crate::tls::config::provider;
use mesh_core::model::identity::SpiffeId;
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SerialNumber,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Clock difference between nodes that a fresh certificate tolerates, seconds.
pub const BACKDATE: u64 = 120;
/// Longest chain that is sent: peers look at no more (ztunnel: 6).
pub const MAX_INTERMEDIATES: usize = 6;
/// Life of a root that Heddle makes: ten years, in seconds.
const ROOT_LIFE: u64 = 10 * 365 * 24 * 3600;

/// What is wrong with a CA's key and certificates.
#[derive(Debug, thiserror::Error)]
pub enum SignerError {
    /// The key cannot be used.
    #[error("{0}")]
    Key(String),
    /// The certificates cannot be used, or none is that of the key.
    #[error("{0}")]
    Certificates(String),
    /// A certificate cannot be made.
    #[error("{0}")]
    Sign(String),
}

/// Signs leaves.
pub struct Signer {
    issuer: rcgen::Issuer<'static, KeyPair>,
    chain: Vec<CertificateDer<'static>>,
    not_after: u64,
}

/// A signed leaf.
pub struct Leaf {
    /// The certificate.
    pub certificate: CertificateDer<'static>,
    /// `notBefore`, seconds since the Unix epoch.
    pub not_before: u64,
    /// `notAfter`, seconds since the Unix epoch.
    pub not_after: u64,
    /// Serial number, hexadecimal.
    pub serial: String,
}

/// A key and self-signed certificate of a new root.
pub struct NewRoot {
    /// PKCS#8.
    pub key_pem: String,
    /// The certificate.
    pub certificate_pem: String,
}

impl Signer {
    /// Takes a key (PEM; EC, RSA or Ed25519 in any of the usual forms) and finds its certificate, and those above it,
    /// among `pool`.
    ///
    /// # Errors
    /// The key is not understood, or no certificate of `pool` is that of the key.
    pub fn new(key_pem: &[u8], pool: &[CertificateDer<'static>]) -> Result<Self, SignerError> {
        // Not `KeyPair::from_pem`: openssl writes curve parameters in front of an EC key.
        let key =
            PrivateKeyDer::from_pem_slice(key_pem).map_err(|error| SignerError::Key(error.to_string()))?;
        let key = KeyPair::try_from(&key).map_err(|error| SignerError::Key(error.to_string()))?;
        let parsed = pool
            .iter()
            .map(|one| X509Certificate::from_der(one).map(|(_, parsed)| parsed))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| SignerError::Certificates(error.to_string()))?;
        let public = key.subject_public_key_info();
        let Some(signing) = parsed.iter().position(|one| one.public_key().raw == public) else {
            return Err(SignerError::Certificates(format!(
                "none of its {} certificates is that of the key",
                pool.len()
            )));
        };
        Ok(Self {
            issuer: rcgen::Issuer::from_ca_cert_der(&pool[signing], key)
                .map_err(|error| SignerError::Certificates(error.to_string()))?,
            chain: intermediates(&parsed, signing)
                .map(|index| pool[index].clone())
                .collect(),
            not_after: u64::try_from(parsed[signing].validity().not_after.timestamp()).unwrap_or(0),
        })
    }

    /// Sent behind a leaf: the signing certificate where it is an intermediate one, and those above it, no root.
    #[must_use]
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// `notAfter` of the signing certificate, seconds since the Unix epoch.
    #[must_use]
    pub fn not_after(&self) -> u64 {
        self.not_after
    }

    /// A leaf that proves `identity` for both sides of a connection.
    ///
    /// # Errors
    /// The signing certificate has expired at `now`, or the library refuses.
    pub fn workload(
        &self,
        identity: &SpiffeId,
        key: &impl PublicKeyData,
        now: u64,
        ttl: u64,
    ) -> Result<Leaf, SignerError> {
        let uri = identity.to_string().try_into().map_err(refused)?;
        let usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        self.leaf(vec![SanType::URI(uri)], usages, key, now, ttl)
    }

    /// A leaf for a server of these DNS names.
    ///
    /// # Errors
    /// As [`Signer::workload`].
    pub fn server(
        &self,
        names: &[String],
        key: &impl PublicKeyData,
        now: u64,
        ttl: u64,
    ) -> Result<Leaf, SignerError> {
        let names = names
            .iter()
            .map(|name| name.as_str().try_into().map(SanType::DnsName).map_err(refused))
            .collect::<Result<_, _>>()?;
        self.leaf(names, vec![ExtendedKeyUsagePurpose::ServerAuth], key, now, ttl)
    }

    fn leaf(
        &self,
        names: Vec<SanType>,
        usages: Vec<ExtendedKeyUsagePurpose>,
        key: &impl PublicKeyData,
        now: u64,
        ttl: u64,
    ) -> Result<Leaf, SignerError> {
        if self.not_after <= now {
            return Err(SignerError::Sign(
                "the CA's own certificate has expired".to_owned(),
            ));
        }
        let not_before = now.saturating_sub(BACKDATE);
        let not_after = now.saturating_add(ttl).min(self.not_after);
        let (mut params, serial) = params(not_before, not_after)?;
        params.subject_alt_names = names;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = usages;
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(key, &self.issuer).map_err(refused)?;
        Ok(Leaf {
            certificate: certificate.der().clone(),
            not_before,
            not_after,
            serial,
        })
    }
}

/// A fresh P-256 key for a leaf.
///
/// # Errors
/// The library has no randomness.
pub fn leaf_key() -> Result<KeyPair, SignerError> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(refused)
}

/// Makes a root for `trust_domain`.
///
/// # Errors
/// No randomness, or a clock out of range.
pub fn new_root(trust_domain: &str, now: u64) -> Result<NewRoot, SignerError> {
    let key = leaf_key()?;
    let (mut params, _) = params(now.saturating_sub(BACKDATE), now.saturating_add(ROOT_LIFE))?;
    params
        .distinguished_name
        .push(DnType::OrganizationName, trust_domain);
    params.distinguished_name.push(DnType::CommonName, "Heddle root");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate: Certificate = params.self_signed(&key).map_err(refused)?;
    Ok(NewRoot {
        key_pem: key.serialize_pem(),
        certificate_pem: certificate.pem(),
    })
}

/// Every certificate in a PEM text, in its order.
///
/// # Errors
/// Something in it is no certificate.
pub fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, SignerError> {
    CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| SignerError::Certificates(error.to_string()))
}

fn params(not_before: u64, not_after: u64) -> Result<(CertificateParams, String), SignerError> {
    let (Some(from), Some(to), Some(serial)) = (moment(not_before), moment(not_after), serial()) else {
        return Err(SignerError::Sign(
            "no randomness, or the clock is out of range".to_owned(),
        ));
    };
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    (params.not_before, params.not_after) = (from, to);
    let text = serial.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    params.serial_number = Some(serial);
    Ok((params, text))
}

fn refused(error: rcgen::Error) -> SignerError {
    SignerError::Sign(error.to_string())
}

/// From the signing certificate upwards, without the self-signed end: what a peer needs that trusts only that.
fn intermediates(all: &[X509Certificate<'_>], signing: usize) -> impl Iterator<Item = usize> {
    std::iter::successors(Some(signing), |&at| {
        all.iter().position(|one| one.subject() == all[at].issuer())
    })
    .take_while(|&at| all[at].subject() != all[at].issuer())
    .take(MAX_INTERMEDIATES)
}

fn moment(seconds: u64) -> Option<OffsetDateTime> {
    OffsetDateTime::from_unix_timestamp(i64::try_from(seconds).ok()?).ok()
}

/// 127 random bits: positive in DER, and far beyond what could repeat.
fn serial() -> Option<SerialNumber> {
    let mut bytes = [0; 16];
    provider().secure_random.fill(&mut bytes).ok()?;
    bytes[0] = (bytes[0] & 0x7f) | 0x40;
    Some(SerialNumber::from_slice(&bytes))
}
