//! What a BackendTLSPolicy asks for, as clients and servers see it.

use super::mesh::{GET_CLOSE, Mesh, Plan};
use super::policies::{issued, tls_server_for};
use mesh_core::model::ObjectName;
use mesh_core::model::gateway::{Credential, CredentialSource};
use mesh_core::model::service::Protocol;
use mesh_core::model::traffic::{ClientTls, TlsMode, TrafficPolicy, Vouched};
use parking_lot::Mutex;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

fn object(pem: &str) -> CredentialSource {
    CredentialSource::Object {
        named: "ConfigMap weather/ca key ca.crt".into(),
        pem: pem.as_bytes().into(),
    }
}

fn policy(sni: &str, names: &[&str], vouched: Vouched) -> TrafficPolicy {
    TrafficPolicy {
        tls: Some(ClientTls {
            mode: match vouched.certificate {
                Some(_) => TlsMode::Mutual,
                None => TlsMode::Simple,
            },
            sni: Some(sni.into()),
            subject_alt_names: names.iter().map(|name| (*name).into()).collect(),
            credential: None,
            credential_optional: false,
            skip_verify: false,
            vouched: Some(Arc::new(vouched)),
        }),
        ..TrafficPolicy::default()
    }
}

fn by(authorities: Option<CredentialSource>) -> Vouched {
    Vouched {
        object: ObjectName::new("weather", "web"),
        authorities,
        certificate: None,
        broken: None,
    }
}

/// A mesh where a policy vouches for `web`.
fn mesh(protocol: Protocol, addr: SocketAddr, policy: TrafficPolicy) -> Mesh {
    let mesh = Mesh::start(Plan {
        protocol,
        endpoints: vec![addr],
        ..Plan::default()
    });
    let mut snapshot = mesh_core::model::snapshot::Snapshot::clone(&mesh.snapshots.load());
    let host = "web.weather.svc.cluster.local";
    snapshot
        .vouched
        .insert(host.into(), Arc::from([Arc::new(policy)]));
    mesh.snapshots.store(Arc::new(snapshot));
    mesh
}

fn roots() -> Arc<RootCertStore> {
    let mut roots = RootCertStore::empty();
    let authority = CertificateDer::from_pem_slice(issued().0.as_bytes()).unwrap();
    roots.add(authority).unwrap();
    Arc::new(roots)
}

/// A certificate that leads to no authority but itself.
fn stranger() -> (String, String) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["web.example".to_owned()]).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

/// The certificate of the test authority, as a Gateway would show it.
fn shown() -> Credential {
    let (_, leaf, key) = issued();
    let text = |label: &str, der: &[u8]| {
        use base64::Engine as _;
        let text = base64::engine::general_purpose::STANDARD.encode(der);
        object(&format!(
            "-----BEGIN {label}-----\n{text}\n-----END {label}-----\n"
        ))
    };
    Credential {
        certificate: text("CERTIFICATE", leaf),
        key: text("PRIVATE KEY", key),
    }
}

#[tokio::test]
async fn a_server_is_verified_as_its_policy_says_and_nobody_is_reached_otherwise() {
    let names: Arc<Mutex<Vec<String>>> = Arc::default();
    let addr = tls_server_for(Arc::clone(&names), WebPkiClientVerifier::no_client_auth()).await;
    let ca = || Some(object(&issued().0));
    let broken = Vouched {
        broken: Some("ConfigMap weather/ca is not there".into()),
        ..by(None)
    };
    let two = format!("{}\n{}", stranger().0, issued().0);
    for (what, policy, through) in [
        ("its name", policy("web.example", &[], by(ca())), true),
        ("another name", policy("other.example", &[], by(ca())), false),
        (
            "a listed name",
            policy("other.example", &["web.example"], by(ca())),
            true,
        ),
        (
            "a name that a wildcard takes in",
            policy("other.example", &["*.example"], by(ca())),
            true,
        ),
        (
            "a wildcard of elsewhere",
            policy("web.example", &["*.web.example"], by(ca())),
            false,
        ),
        (
            "another's CA",
            policy("web.example", &[], by(Some(object(&stranger().0)))),
            false,
        ),
        (
            "one of two CAs",
            policy("web.example", &[], by(Some(object(&two)))),
            true,
        ),
        ("the system's roots", policy("web.example", &[], by(None)), false),
        (
            "a CA that is none",
            policy("web.example", &[], by(Some(object("nonsense")))),
            false,
        ),
        (
            "a CA that is not there",
            policy("web.example", &[], broken),
            false,
        ),
    ] {
        let answer = mesh(Protocol::Http, addr, policy).exchange(GET_CLOSE).await;
        assert_eq!(answer.ends_with("sealed"), through, "{what}: {answer}");
        assert!(through || answer.starts_with("HTTP/1.1 503"), "{what}: {answer}");
    }
    let names = names.lock();
    assert!(names.iter().all(|name| name.ends_with(".example")), "{names:?}");
}

#[tokio::test]
async fn a_gateways_certificate_is_what_the_server_sees() {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let clients = WebPkiClientVerifier::builder_with_provider(roots(), provider);
    let addr = tls_server_for(Arc::default(), clients.build().unwrap()).await;
    let strange = stranger();
    let strange = Credential {
        certificate: object(&strange.0),
        key: object(&strange.1),
    };
    for (what, certificate, through) in [
        ("of the authority", Some(shown()), true),
        ("of nobody", Some(strange), false),
        ("none", None, false),
    ] {
        let vouched = Vouched {
            certificate,
            ..by(Some(object(&issued().0)))
        };
        let mesh = mesh(Protocol::Http, addr, policy("web.example", &[], vouched));
        let answer = mesh.exchange(GET_CLOSE).await;
        assert_eq!(answer.ends_with("sealed"), through, "{what}: {answer}");
    }
}

/// A client that verifies the server by itself.
async fn own_tls(mesh: &Mesh) -> String {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots())
        .with_no_client_auth();
    let name = ServerName::try_from("web.example").unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let mut stream = connector.connect(name, mesh.dial().await).await.unwrap();
    stream.write_all(GET_CLOSE.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // The server closes without a notice.
    let _ended = stream.read_to_end(&mut answer).await;
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn a_client_that_speaks_tls_itself_reaches_the_server_as_before() {
    let addr = tls_server_for(Arc::default(), WebPkiClientVerifier::no_client_auth()).await;
    for protocol in [Protocol::Auto, Protocol::Tls] {
        let by_policy = policy("web.example", &[], by(Some(object(&issued().0))));
        let mesh = mesh(protocol, addr, by_policy);
        assert!(own_tls(&mesh).await.ends_with("sealed"), "{protocol:?}");
        let plain = mesh.exchange(GET_CLOSE).await;
        assert!(plain.ends_with("sealed"), "{protocol:?}: {plain}");
    }
}
