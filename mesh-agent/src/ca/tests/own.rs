//! CAs that users bring: any kind of key, any form of file, intermediates.

use super::{Issuer, TempDir, alices, open, system_clock};
use crate::testing::handshake;
use crate::tls::identity_tls;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, PKCS_ECDSA_P256_SHA256,
    PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256,
};
use rustls::pki_types::CertificateDer;
use x509_parser::der_parser::parse_der;
use x509_parser::prelude::{FromDer, X509Certificate};

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

/// What the CA in `dir` issues convinces both sides of a handshake.
fn convinces(issuer: &Issuer) -> Vec<CertificateDer<'static>> {
    let issued = alices(issuer, system_clock()());
    let chain = issued.material.chain.clone();
    let tls = identity_tls(issued.material).unwrap();
    handshake(&tls, &tls);
    chain
}

fn pem(label: &str, der: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in der.chunks(3) {
        let bits =
            three.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - three.len()));
        for digit in 0..4 {
            let value = bits >> (18 - 6 * digit) & 63;
            text.push(if digit <= three.len() {
                DIGITS[value as usize].into()
            } else {
                '='
            });
        }
        if text.len() % 65 == 64 {
            text.push('\n');
        }
    }
    format!(
        "-----BEGIN {label}-----\n{}\n-----END {label}-----\n",
        text.trim_end()
    )
}

/// The key inside PKCS#8: PKCS#1 for RSA, SEC1 for EC.
fn traditional(key: &KeyPair) -> Vec<u8> {
    let der = key.serialize_der();
    let (_, pkcs8) = parse_der(&der).unwrap();
    pkcs8.as_sequence().unwrap()[2].as_slice().unwrap().to_vec()
}

#[test]
fn keys_of_every_kind_and_form_sign_what_both_sides_accept() {
    let generate = |alg| KeyPair::generate_for(alg).unwrap();
    let (p256, rsa) = (generate(&PKCS_ECDSA_P256_SHA256), generate(&PKCS_RSA_SHA256));
    let sec1 = pem("EC PRIVATE KEY", &traditional(&p256));
    let with_parameters = pem("EC PARAMETERS", b"\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07") + &sec1;
    let pkcs1 = pem("RSA PRIVATE KEY", &traditional(&rsa));
    let pkcs8 = |key: &KeyPair| key.serialize_pem();
    let (p384, ed25519) = (generate(&PKCS_ECDSA_P384_SHA384), generate(&PKCS_ED25519));
    for (what, key, text) in [
        ("P-256", &p256, pkcs8(&p256)),
        ("P-256, SEC1", &p256, sec1),
        ("P-256, SEC1 behind its parameters", &p256, with_parameters),
        ("P-384", &p384, pkcs8(&p384)),
        ("Ed25519", &ed25519, pkcs8(&ed25519)),
        ("RSA", &rsa, pkcs8(&rsa)),
        ("RSA, PKCS#1", &rsa, pkcs1),
    ] {
        let dir = TempDir::new();
        let certificate = params("root").self_signed(key).unwrap();
        std::fs::write(dir.0.join("ca.key"), text).unwrap();
        std::fs::write(dir.0.join("ca.crt"), certificate.pem()).unwrap();
        let issuer = open(&dir).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(convinces(&issuer).len(), 1, "{what}");
    }
}

#[test]
fn intermediates_go_with_the_leaf_in_order_and_the_root_does_not() {
    let dir = TempDir::new();
    let keys: Vec<_> = (0..3).map(|_| KeyPair::generate().unwrap()).collect();
    let root = params("root").self_signed(&keys[0]).unwrap();
    let upper = rcgen::Issuer::new(params("root"), &keys[0]);
    let middle = params("middle").signed_by(&keys[1], &upper).unwrap();
    let upper = rcgen::Issuer::new(params("middle"), &keys[1]);
    let signing = params("signing").signed_by(&keys[2], &upper).unwrap();
    std::fs::write(dir.0.join("ca.key"), keys[2].serialize_pem()).unwrap();
    let files = [root.pem(), signing.pem(), middle.pem()].concat();
    std::fs::write(dir.0.join("ca.crt"), files).unwrap();
    let chain = convinces(&open(&dir).unwrap());
    let issuers: Vec<_> = chain
        .iter()
        .map(|one| X509Certificate::from_der(one).unwrap().1.issuer().to_string())
        .collect();
    let names = ["signing", "middle", "root"];
    assert_eq!(issuers.len(), names.len(), "{issuers:?}");
    assert!(
        issuers
            .iter()
            .zip(names)
            .all(|(issuer, name)| issuer.contains(name)),
        "{issuers:?}"
    );
}
