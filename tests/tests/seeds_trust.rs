//! The Weather Forecast guide's chapters on TLS: at its gateway, by Secrets, and between its pods, by PeerAuthentication.

#![allow(
    clippy::unwrap_used,
    reason = "what fails here fails the test that asked for it"
)]

use mesh_tests::eventually;
use mesh_tests::gateway::{Authority, Leaf, Visit, json as body};
use mesh_tests::guide::{CLIENT, Guide, SYSTEM, VISITOR};
use mesh_tests::seed;
use serde_json::json;
use std::net::SocketAddr;
use std::time::Duration;

const HOST: &str = "wistio.cc";
const PATIENCE: Duration = Duration::from_secs(10);

/// The status of the page over HTTPS, and which pod served it.
fn page(guide: &Guide, roots: &Authority, shows: Option<&Leaf>) -> anyhow::Result<(u16, String)> {
    let visit = Visit {
        port: 443,
        name: HOST,
        roots,
        shows,
        http2: true,
    };
    let to = SocketAddr::new(guide.pod("istio-ingressgateway").v4.into(), visit.port);
    let mut answers = visit.from(guide.pod(VISITOR), to, |c| c.ask(&[(HOST, "/")]))?;
    let (status, text) = answers.remove(0);
    let server = body(&text)?["server"].as_str().unwrap_or_default().to_owned();
    Ok((status, server))
}

/// S139: HTTPS by a Secret, then for clients with a certificate only; their CA in the same Secret or in the one beside it.
#[test]
fn the_page_is_served_over_https_and_then_to_clients_with_a_certificate_only() {
    let guide = Guide::of("weather")
        .pod(2, "frontend-v1", "frontend", "v1")
        .http(3000)
        .service("frontend", 1, 3000, 3000, "http")
        .gateway("ingressgateway")
        .start()
        .unwrap();
    let (ca, clients) = (Authority::new().unwrap(), Authority::new().unwrap());
    let leaf = ca.sign(HOST).unwrap();
    let secret = leaf.secret_in(SYSTEM, "istio-ingressgateway-certs", None);
    guide.config.write("40-secrets.yaml", secret.unwrap()).unwrap();
    guide
        .apply(
            "31-dr.yaml",
            seed!("destination-rule-v1.yaml").split("\n---\n").next().unwrap(),
        )
        .unwrap();
    guide.apply("30-vs.yaml", seed!("vs-frontend-tls.yaml")).unwrap();
    guide
        .config
        .write("29-gateway.yaml", seed!("gateway-tls-simple.yaml"))
        .unwrap();
    let served = eventually("the page over HTTPS", PATIENCE, || page(&guide, &ca, None).ok());
    assert_eq!(served.unwrap(), (200, "frontend-v1".to_owned()));
    let plain = guide.visit("ingressgateway", 80, HOST, &[]).unwrap();
    assert_eq!(plain["statuses"], json!({"200": 1}), "{plain}");
    let other = guide.visit("ingressgateway", 80, "other.cc", &[]).unwrap();
    assert_eq!(other["statuses"], json!({"404": 1}), "{other}");

    let known = clients.sign("visitor").unwrap();
    let stranger = Authority::new().unwrap().sign("visitor").unwrap();
    let name = "istio-ingressgateway-ca-certs";
    let together = leaf.secret_in(SYSTEM, name, Some(&clients)).unwrap();
    // The CA beside it, under the key that `kubectl create secret generic --from-file=ca.crt` makes.
    let apart = leaf.secret_in(SYSTEM, name, None).unwrap()
        + &clients
            .sign("unused")
            .and_then(|unused| unused.secret_in(SYSTEM, &format!("{name}-cacert"), Some(&clients)))
            .unwrap();
    for (n, secrets) in [together, apart].into_iter().enumerate() {
        guide.config.write("40-secrets.yaml", secrets).unwrap();
        guide
            .config
            .write("29-gateway.yaml", seed!("gateway-tls-mutual.yaml"))
            .unwrap();
        eventually("clients without a certificate to be refused", PATIENCE, || {
            page(&guide, &ca, None).err()
        })
        .unwrap();
        let served = eventually("clients with one to be served", PATIENCE, || {
            page(&guide, &ca, Some(&known)).ok()
        });
        assert_eq!(served.unwrap(), (200, "frontend-v1".to_owned()), "{n}");
        assert!(page(&guide, &ca, Some(&stranger)).is_err(), "{n}: of another CA");
    }
}

/// S217: who is not in the mesh gets a reset under STRICT and an answer under PERMISSIVE; `ISTIO_MUTUAL` changes nothing for
/// those who are.
#[test]
fn plaintext_is_reset_under_strict_and_answered_under_permissive() {
    let guide = Guide::of("weather")
        .pod(1, "advertisement-v1", "advertisement", "v1")
        .http(3003)
        .pod(2, "forecast-v1", "forecast", "v1")
        .http(3002)
        .service("advertisement", 2, 3003, 3003, "http")
        .service("forecast", 3, 3002, 3002, "http")
        .start()
        .unwrap();
    let asks = |who: &str, service: &str| guide.curl(who, service, &["--count", "5"]).unwrap();
    let served = json!({"200": 5});
    guide
        .apply("31-dr.yaml", seed!("dr-advertisement-tls.yaml"))
        .unwrap();
    for who in [CLIENT, VISITOR] {
        let answer = asks(who, "advertisement");
        assert_eq!(answer["statuses"], served, "no policy, {who}: {answer}");
    }
    guide
        .apply(
            "33-mtls.yaml",
            seed!("peerauthentication-advertisement-strict.yaml"),
        )
        .unwrap();
    let refused = eventually("plaintext to be refused", PATIENCE, || {
        let answer = asks(VISITOR, "advertisement");
        (answer["failed"] == 5).then_some(answer)
    })
    .unwrap();
    let reset = refused["errors"].as_array().unwrap().iter();
    assert!(
        reset.clone().all(|e| e.as_str().unwrap().contains("reset")),
        "{refused}"
    );
    assert_eq!(asks(VISITOR, "forecast")["statuses"], served, "not selected");
    for who in [CLIENT, "forecast-v1"] {
        let answer = asks(who, "advertisement");
        assert_eq!(answer["statuses"], served, "in the mesh, {who}: {answer}");
    }
    guide
        .apply(
            "33-mtls.yaml",
            seed!("peerauthentication-advertisement-permissive.yaml"),
        )
        .unwrap();
    eventually("plaintext to be taken again", PATIENCE, || {
        (asks(VISITOR, "advertisement")["statuses"] == served).then_some(())
    })
    .unwrap();
}
