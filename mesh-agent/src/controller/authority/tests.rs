//! Secrets as users make them, right and wrong.

use super::*;
use crate::ca::{signer::new_root, system_clock};
use crate::testing::{ALICE, id};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

fn secret(parts: [(&str, &str); 4]) -> BTreeMap<String, Vec<u8>> {
    parts
        .map(|(key, text)| (key.to_owned(), text.as_bytes().to_vec()))
        .into()
}

/// root → middle → signing, as `cacerts` holds it.
fn intermediate() -> BTreeMap<String, Vec<u8>> {
    let keys: Vec<_> = (0..3).map(|_| KeyPair::generate().unwrap()).collect();
    let root = params("root").self_signed(&keys[0]).unwrap();
    let middle = params("middle")
        .signed_by(&keys[1], &Issuer::new(params("root"), &keys[0]))
        .unwrap();
    let signing = params("signing")
        .signed_by(&keys[2], &Issuer::new(params("middle"), &keys[1]))
        .unwrap();
    secret([
        (CA_KEY, &keys[2].serialize_pem()),
        (CA_CERT, &signing.pem()),
        (CERT_CHAIN, &(signing.pem() + &middle.pem() + &root.pem())),
        (ROOT_CERT, &root.pem()),
    ])
}

fn refused(data: &BTreeMap<String, Vec<u8>>, now: u64) -> InvalidSecret {
    Authority::read(data, &[], now).err().unwrap()
}

#[test]
fn an_answer_is_leaf_then_intermediates_then_roots() {
    let now = system_clock()();
    let retired = certificates(new_root("old", now).unwrap().certificate_pem.as_bytes()).unwrap();
    let authority = Authority::read(&intermediate(), &retired, now).unwrap();
    let answer = authority.sign(&id(ALICE), &leaf_key().unwrap(), now, 60).unwrap();
    let counts: Vec<_> = answer
        .chain
        .iter()
        .map(|pem| pem.matches("BEGIN").count())
        .collect();
    assert_eq!(counts, [1, 1, 1, 2]);
    assert_eq!(answer.chain[3], authority.roots());
    assert_eq!(answer.not_after, now + 60);
}

#[test]
fn each_wrong_part_of_a_secret_is_named() {
    let now = system_clock()();
    let good = intermediate();
    let other = intermediate();
    assert!(Authority::read(&good, &[], now).is_ok());
    for (key, named) in [
        (CA_KEY, CA_CERT),
        (CA_CERT, CA_CERT),
        (CERT_CHAIN, CERT_CHAIN),
        (ROOT_CERT, CERT_CHAIN),
    ] {
        let mut foreign = good.clone();
        foreign.insert(key.to_owned(), other[key].clone());
        assert_eq!(refused(&foreign, now).key, named, "foreign {key}");
        if key == CERT_CHAIN {
            continue;
        }
        let mut missing = good.clone();
        missing.remove(key);
        assert_eq!(
            refused(&missing, now).to_string(),
            format!("data.{key}: is missing")
        );
        let mut garbage = good.clone();
        garbage.insert(key.to_owned(), b"garbage".to_vec());
        assert_eq!(refused(&garbage, now).key, key, "garbage in {key}");
    }
}

#[test]
fn a_leafs_key_and_an_expired_root_sign_nothing() {
    let now = system_clock()();
    let root = new_root("cluster.local", now).unwrap();
    let own = secret([
        (CA_KEY, &root.key_pem),
        (CA_CERT, &root.certificate_pem),
        (CERT_CHAIN, ""),
        (ROOT_CERT, &root.certificate_pem),
    ]);
    assert!(Authority::read(&own, &[], now).is_ok());
    let expired = refused(&own, now + 11 * 365 * 24 * 3600);
    assert!(expired.reason.contains("expired"), "{expired}");
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
    let leaf = leaf.self_signed(&key).unwrap();
    let data = secret([
        (CA_KEY, &key.serialize_pem()),
        (CA_CERT, &leaf.pem()),
        (CERT_CHAIN, ""),
        (ROOT_CERT, &leaf.pem()),
    ]);
    assert!(refused(&data, now).reason.contains("may not sign"));
}
