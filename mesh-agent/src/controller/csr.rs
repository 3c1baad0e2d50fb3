//! What is taken from a certificate signing request: its key, once its signature shows that the caller holds it. The
//! names in it are ignored: who the caller is was decided elsewhere.

use rcgen::{PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256};
use rcgen::{PublicKeyData, SignatureAlgorithm};
use rustls::pki_types::CertificateSigningRequestDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_PKCS1_RSAENCRYPTION, OID_SIG_ED25519,
};
use x509_parser::prelude::FromDer;
use x509_parser::x509::SubjectPublicKeyInfo;

/// Larger than any request for one key.
const MAX_BYTES: usize = 16 * 1024;
/// Smallest RSA modulus, bits.
const MIN_RSA: usize = 2048;
/// Largest RSA modulus, bits: what verifiers accept.
const MAX_RSA: usize = 8192;

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCsr {
    /// Larger than 16 KiB.
    #[error("csr is larger than {MAX_BYTES} bytes")]
    TooLarge,
    /// Not a PEM-encoded PKCS#10 request.
    #[error("csr cannot be read")]
    Malformed,
    /// Not signed by its own key.
    #[error("csr is not signed by its own key")]
    Signature,
    /// A kind or size of key that the mesh does not use.
    #[error(
        "csr has an unsupported key: expected P-256, P-384, Ed25519, or RSA of {MIN_RSA} to {MAX_RSA} bits"
    )]
    Key,
}

/// The key of a request.
#[derive(Clone, Debug)]
pub struct CsrKey {
    algorithm: &'static SignatureAlgorithm,
    bytes: Vec<u8>,
}

impl PublicKeyData for CsrKey {
    fn der_bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.algorithm
    }
}

/// Reads a PEM request.
///
/// # Errors
/// See [`InvalidCsr`].
pub fn read(text: &str) -> Result<CsrKey, InvalidCsr> {
    if text.len() > MAX_BYTES {
        return Err(InvalidCsr::TooLarge);
    }
    let der =
        CertificateSigningRequestDer::from_pem_slice(text.as_bytes()).map_err(|_| InvalidCsr::Malformed)?;
    let (rest, csr) = X509CertificationRequest::from_der(&der).map_err(|_| InvalidCsr::Malformed)?;
    if !rest.is_empty() {
        return Err(InvalidCsr::Malformed);
    }
    let public = &csr.certification_request_info.subject_pki;
    let algorithm = algorithm(public).ok_or(InvalidCsr::Key)?;
    csr.verify_signature().map_err(|_| InvalidCsr::Signature)?;
    Ok(CsrKey {
        algorithm,
        bytes: public.subject_public_key.data.to_vec(),
    })
}

fn algorithm(key: &SubjectPublicKeyInfo<'_>) -> Option<&'static SignatureAlgorithm> {
    let kind = &key.algorithm.algorithm;
    if *kind == OID_SIG_ED25519 {
        return Some(&PKCS_ED25519);
    }
    if *kind == OID_PKCS1_RSAENCRYPTION {
        let bits = key.parsed().ok()?.key_size();
        return (MIN_RSA..=MAX_RSA).contains(&bits).then_some(&PKCS_RSA_SHA256);
    }
    if *kind != OID_KEY_TYPE_EC_PUBLIC_KEY {
        return None;
    }
    let curve = key.algorithm.parameters.as_ref()?.as_oid().ok()?;
    if curve == OID_EC_P256 {
        Some(&PKCS_ECDSA_P256_SHA256)
    } else if curve == OID_NIST_EC_P384 {
        Some(&PKCS_ECDSA_P384_SHA384)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P521_SHA512, PKCS_RSA_SHA512};

    fn request(key: &KeyPair) -> String {
        let params = CertificateParams::new(vec!["anyone.example".to_owned()]).unwrap();
        params.serialize_request(key).unwrap().pem().unwrap()
    }

    #[test]
    fn keys_that_peers_accept_are_taken_as_they_are() {
        for algorithm in [
            &PKCS_ECDSA_P256_SHA256,
            &PKCS_ECDSA_P384_SHA384,
            &PKCS_ED25519,
            &PKCS_RSA_SHA256,
            &PKCS_RSA_SHA512,
        ] {
            let key = KeyPair::generate_for(algorithm).unwrap();
            let read = read(&request(&key)).unwrap();
            assert_eq!(read.subject_public_key_info(), key.subject_public_key_info());
        }
    }

    #[test]
    fn garbage_foreign_signatures_and_weak_keys_are_refused() {
        let key = KeyPair::generate().unwrap();
        let good = request(&key);
        for garbage in [
            "",
            "x",
            "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n",
        ] {
            assert_eq!(read(garbage).unwrap_err(), InvalidCsr::Malformed, "{garbage:?}");
        }
        assert_eq!(read(&good.repeat(100)).unwrap_err(), InvalidCsr::TooLarge);
        let p521 = KeyPair::generate_for(&PKCS_ECDSA_P521_SHA512).unwrap();
        assert_eq!(read(&request(&p521)).unwrap_err(), InvalidCsr::Key);
        let mut der = CertificateSigningRequestDer::from_pem_slice(good.as_bytes())
            .unwrap()
            .to_vec();
        let last = der.len() - 1;
        der[last] ^= 1;
        let block = pem::Pem::new("CERTIFICATE REQUEST", der);
        assert_eq!(read(&pem::encode(&block)).unwrap_err(), InvalidCsr::Signature);
    }
}
