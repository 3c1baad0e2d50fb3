//! Answers as istiod and istio-csr give them, and answers that prove nothing.

use super::*;
use crate::ca::signer::{Signer, new_root};
use crate::ca::system_clock;
use crate::testing::{ALICE, BOB, id};
use crate::tls::identity_tls;
use rcgen::{BasicConstraints, IsCa, Issuer};

const DAY: u64 = 24 * 3600;

/// A leaf of `identity` for `key`, and the PEMs of signing certificate, intermediate and root.
struct Chain {
    leaf: String,
    signing: String,
    root: String,
}

fn pem(der: &CertificateDer<'_>) -> String {
    pem::encode(&pem::Pem::new("CERTIFICATE", der.to_vec()))
}

fn intermediate(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params
}

fn chain(identity: &str, key: &KeyPair, ttl: u64) -> Chain {
    let (root_key, signing_key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let root = intermediate("root").self_signed(&root_key).unwrap();
    let signing = intermediate("signing")
        .signed_by(&signing_key, &Issuer::new(intermediate("root"), &root_key))
        .unwrap();
    let pool = [signing.der().clone(), root.der().clone()];
    let signer = Signer::new(signing_key.serialize_pem().as_bytes(), &pool).unwrap();
    let leaf = signer
        .workload(&id(identity), key, system_clock()(), ttl)
        .unwrap();
    Chain {
        leaf: pem(&leaf.certificate),
        signing: signing.pem(),
        root: root.pem(),
    }
}

fn take(key: &KeyPair, answer: &[&str]) -> Result<Issued, String> {
    let answer: Vec<_> = answer.iter().map(|pem| (*pem).to_owned()).collect();
    accept(&id(ALICE), key, &answer, system_clock()())
}

#[test]
fn every_order_in_which_known_cas_answer_is_understood() {
    let key = leaf_key().unwrap();
    let Chain { leaf, signing, root } = chain(ALICE, &key, DAY);
    let other = new_root("other", system_clock()()).unwrap().certificate_pem;
    let (joined, roots) = (format!("{leaf}{signing}"), format!("{root}{other}"));
    for (what, answer, sent, trusted) in [
        ("istiod", vec![&*leaf, &signing, &root], 2, 1),
        ("istio-csr", vec![&*joined, &root], 2, 1),
        ("two roots", vec![&*leaf, &signing, &roots], 2, 2),
    ] {
        let issued = take(&key, &answer).unwrap_or_else(|error| panic!("{what}: {error}"));
        let material = issued.material;
        assert_eq!(
            (material.chain.len(), material.roots.len()),
            (sent, trusted),
            "{what}"
        );
        assert_eq!(material.not_after - issued.not_before, DAY + 120, "{what}");
        identity_tls(material).unwrap();
    }
}

#[test]
fn an_answer_that_does_not_prove_what_was_asked_is_refused() {
    let key = leaf_key().unwrap();
    let Chain { leaf, signing, root } = chain(ALICE, &key, DAY);
    let bob = chain(BOB, &key, DAY);
    let stolen = chain(ALICE, &KeyPair::generate().unwrap(), DAY);
    for (what, answer, said) in [
        ("nothing", vec![], "expected leaf and root"),
        ("leaf alone", vec![&*leaf], "expected leaf and root"),
        (
            "another identity",
            vec![&*bob.leaf, &bob.signing, &bob.root],
            "proves",
        ),
        (
            "another key",
            vec![&*stolen.leaf, &stolen.signing, &stolen.root],
            "another key",
        ),
        (
            "no intermediate",
            vec![&*leaf, &root],
            "does not lead to its own root",
        ),
        (
            "another root",
            vec![&*leaf, &signing, &bob.root],
            "does not lead to its own root",
        ),
        ("garbage", vec!["garbage", &root], "no certificate"),
        (
            "no root",
            vec![&*leaf, &signing, ""],
            "does not lead to its own root",
        ),
    ] {
        let error = take(&key, &answer)
            .err()
            .unwrap_or_else(|| panic!("{what}: taken"));
        assert!(error.contains(said), "{what}: {error}");
    }
    let late = accept(
        &id(ALICE),
        &key,
        &[leaf, signing, root],
        system_clock()() + 2 * DAY,
    );
    assert!(late.err().unwrap().contains("expired"));
}

#[test]
fn the_servers_name_is_the_address_or_heddles_own_service() {
    for (address, name) in [
        ("heddle-controller.mesh.svc:15012", "heddle-controller.mesh.svc"),
        ("istiod.istio-system.svc.:15012", "istiod.istio-system.svc"),
        ("10.0.0.1:15012", "heddle-controller.heddle-system.svc"),
        ("[fd00::1]:15012", "heddle-controller.heddle-system.svc"),
    ] {
        assert_eq!(server_name(address, "heddle-system"), name, "{address}");
    }
}

#[tokio::test]
async fn a_missing_token_or_root_is_named() {
    let refuse = |reason: &str| -> RootSource {
        let reason = reason.to_owned();
        Arc::new(move || {
            let reason = reason.clone();
            Box::pin(async move { Err(reason) })
        })
    };
    let ca = |token: &str| {
        RemoteCa::new(RemoteConfig {
            address: "127.0.0.1:1".to_owned(),
            server_name: "ca".to_owned(),
            token: token.into(),
            roots: refuse("ConfigMap a/b: not found"),
            ttl: 60,
        })
    };
    let ask = async |ca: RemoteCa| ca.issue(&id(ALICE), 0).await.err().unwrap().to_string();
    let error = ask(ca("/nowhere/token")).await;
    assert!(error.contains("/nowhere/token"), "{error}");
    let error = ask(ca("/proc/self/comm")).await;
    assert!(error.contains("ConfigMap a/b: not found"), "{error}");
}
