//! The mesh's CA as it stands in a Secret: read, checked as a whole, and used to sign.
//!
//! The keys are Istio's (`cacerts`): `ca-key.pem` and `ca-cert.pem` sign, `cert-chain.pem` leads from there to the root,
//! `root-cert.pem` is what everyone trusts. Several roots there are all trusted: that is how one is replaced.

use crate::ca::signer::{Leaf, Signer, SignerError, certificates, leaf_key};
use mesh_core::model::identity::SpiffeId;
use rcgen::PublicKeyData;
use rustls::RootCertStore;
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use std::collections::BTreeMap;
use std::time::Duration;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Key of the signing key.
pub const CA_KEY: &str = "ca-key.pem";
/// Key of the signing key's certificate.
pub const CA_CERT: &str = "ca-cert.pem";
/// Key of the certificates from the signing one up to the root.
pub const CERT_CHAIN: &str = "cert-chain.pem";
/// Key of the roots.
pub const ROOT_CERT: &str = "root-cert.pem";

/// What is wrong with the Secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("data.{key}: {reason}")]
pub struct InvalidSecret {
    /// Key of `data`.
    pub key: &'static str,
    /// What is wrong with it.
    pub reason: String,
}

/// A CA that can sign.
pub struct Authority {
    signer: Signer,
    /// Own and retired roots, PEM, each once.
    roots: String,
}

/// A signed workload certificate in the form of the answer: leaf, intermediates, roots.
pub struct Answer {
    /// One PEM each; the last holds all roots.
    pub chain: Vec<String>,
    /// `notAfter` of the leaf, seconds since the Unix epoch.
    pub not_after: u64,
}

impl Authority {
    /// Reads `data` of a Secret; `retired` are roots of before that peers may still hold certificates of.
    ///
    /// # Errors
    /// The first key that is missing or does not fit the others. What is signed at `now` leads to one of the roots,
    /// or this is an error.
    pub fn read(
        data: &BTreeMap<String, Vec<u8>>,
        retired: &[CertificateDer<'static>],
        now: u64,
    ) -> Result<Self, InvalidSecret> {
        let key = required(data, CA_KEY)?;
        let own = parse(CA_CERT, required(data, CA_CERT)?)?;
        let mut roots = parse(ROOT_CERT, required(data, ROOT_CERT)?)?;
        let signing = own
            .first()
            .ok_or_else(|| invalid(CA_CERT, "holds no certificate"))?;
        is_ca(signing)?;
        let mut pool = own.clone();
        // Istio writes an empty one where the root itself signs.
        if let Some(chain) = data
            .get(CERT_CHAIN)
            .filter(|chain| !chain.trim_ascii().is_empty())
        {
            pool.extend(parse(CERT_CHAIN, chain)?);
        }
        pool.extend(roots.iter().cloned());
        let signer = Signer::new(key, &pool).map_err(|error| match error {
            SignerError::Key(reason) => invalid(CA_KEY, reason),
            other => invalid(CA_CERT, other.to_string()),
        })?;
        let own_key = Signer::new(key, &own[..1]).is_ok();
        if !own_key {
            return Err(invalid(CA_CERT, "is not the certificate of ca-key.pem"));
        }
        leads_to_a_root(&signer, &roots, now)?;
        roots.extend(retired.iter().cloned());
        Ok(Self {
            signer,
            roots: bundle(&roots),
        })
    }

    /// Every root that peers are to trust, PEM.
    #[must_use]
    pub fn roots(&self) -> &str {
        &self.roots
    }

    /// `notAfter` of the signing certificate, seconds since the Unix epoch.
    #[must_use]
    pub fn not_after(&self) -> u64 {
        self.signer.not_after()
    }

    /// Signs for a workload.
    ///
    /// # Errors
    /// The CA has expired, or the library refuses.
    pub fn sign(
        &self,
        identity: &SpiffeId,
        key: &impl PublicKeyData,
        now: u64,
        ttl: u64,
    ) -> Result<Answer, SignerError> {
        let leaf = self.signer.workload(identity, key, now, ttl)?;
        let mut chain = vec![pem(&leaf.certificate)];
        chain.extend(self.signer.chain().iter().map(|one| pem(one)));
        chain.push(self.roots.clone());
        Ok(Answer {
            chain,
            not_after: leaf.not_after,
        })
    }

    /// A key and certificate for a server of these names, with its `notAfter`.
    ///
    /// # Errors
    /// As [`Authority::sign`].
    pub fn serving(&self, names: &[String], now: u64, ttl: u64) -> Result<(CertifiedKey, u64), SignerError> {
        let key = leaf_key()?;
        let leaf: Leaf = self.signer.server(names, &key, now, ttl)?;
        let mut chain = vec![leaf.certificate];
        chain.extend_from_slice(self.signer.chain());
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        CertifiedKey::from_der(chain, key, &default_provider())
            .map(|certified| (certified, leaf.not_after))
            .map_err(|error| SignerError::Sign(error.to_string()))
    }
}

/// PEM of these certificates, each once, in their order.
#[must_use]
pub fn bundle(certificates: &[CertificateDer<'_>]) -> String {
    let mut seen: Vec<&[u8]> = Vec::new();
    let mut text = String::new();
    for one in certificates {
        if !seen.contains(&one.as_ref()) {
            seen.push(one);
            text.push_str(&pem(one));
        }
    }
    text
}

fn pem(certificate: &CertificateDer<'_>) -> String {
    let block = pem::Pem::new("CERTIFICATE", certificate.to_vec());
    let unix = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    pem::encode_config(&block, unix)
}

fn required<'a>(
    data: &'a BTreeMap<String, Vec<u8>>,
    key: &'static str,
) -> Result<&'a Vec<u8>, InvalidSecret> {
    data.get(key)
        .filter(|bytes| !bytes.is_empty())
        .ok_or_else(|| invalid(key, "is missing"))
}

fn parse(key: &'static str, bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, InvalidSecret> {
    certificates(bytes)
        .map_err(|error| invalid(key, error.to_string()))
        .and_then(|all| match all.is_empty() {
            true => Err(invalid(key, "holds no certificate")),
            false => Ok(all),
        })
}

fn is_ca(certificate: &CertificateDer<'_>) -> Result<(), InvalidSecret> {
    let (_, parsed) =
        X509Certificate::from_der(certificate).map_err(|error| invalid(CA_CERT, error.to_string()))?;
    let may_sign = parsed
        .key_usage()
        .ok()
        .flatten()
        .is_none_or(|usage| usage.value.key_cert_sign());
    match parsed.is_ca() && may_sign {
        true => Ok(()),
        false => Err(invalid(
            CA_CERT,
            "may not sign certificates (CA:TRUE and keyCertSign)",
        )),
    }
}

/// The proof that counts: what the CA signs is accepted by whoever trusts its roots.
fn leads_to_a_root(
    signer: &Signer,
    roots: &[CertificateDer<'static>],
    now: u64,
) -> Result<(), InvalidSecret> {
    let probe = || {
        let key = leaf_key()?;
        signer.server(&["probe.invalid".to_owned()], &key, now, 600)
    };
    let leaf = probe().map_err(|error| invalid(CA_CERT, error.to_string()))?;
    let mut anchors = RootCertStore::empty();
    for root in roots {
        anchors
            .add(root.clone())
            .map_err(|error| invalid(ROOT_CERT, error.to_string()))?;
    }
    let parsed = ParsedCertificate::try_from(&leaf.certificate)
        .map_err(|error| invalid(CA_CERT, error.to_string()))?;
    let at = UnixTime::since_unix_epoch(Duration::from_secs(now));
    let algorithms = default_provider().signature_verification_algorithms.all;
    verify_server_cert_signed_by_trust_anchor(&parsed, &anchors, signer.chain(), at, algorithms).map_err(
        |error| {
            let reason = format!("what ca-cert.pem signs does not lead to a root in {ROOT_CERT}: {error}");
            invalid(CERT_CHAIN, reason)
        },
    )
}

fn invalid(key: &'static str, reason: impl Into<String>) -> InvalidSecret {
    InvalidSecret {
        key,
        reason: reason.into(),
    }
}

#[cfg(test)]
mod tests;
