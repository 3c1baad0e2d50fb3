//! Peers that are not who or what they should be.

use super::*;
use crate::contract::IdentityTls;
use crate::proxy::tunnel::Reason;
use crate::testing::Empty;
use crate::tls::{identity_tls, peer_identity};
use http::{Method, Request, StatusCode, Uri, Version};
use rustls::pki_types::ServerName;
use time::OffsetDateTime;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

const EVE: &str = "spiffe://cluster.local/ns/weather/sa/eve";
const FOREIGN: &str = "spiffe://other.mesh/ns/weather/sa/frontend";

fn bad(ca: &TestCa, uris: &[&str], change: impl FnOnce(&mut rcgen::CertificateParams)) -> Arc<IdentityTls> {
    Arc::new(identity_tls(ca.material(uris, change)).unwrap())
}

fn expired(params: &mut rcgen::CertificateParams) {
    params.not_after = OffsetDateTime::now_utc() - time::Duration::minutes(1);
}

/// Certificates that a server must refuse, and why.
fn bad_clients(ca: &TestCa) -> Vec<(&'static str, Arc<IdentityTls>)> {
    let server_only = |params: &mut rcgen::CertificateParams| {
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    };
    let dns = |params: &mut rcgen::CertificateParams| {
        params.subject_alt_names = vec![rcgen::SanType::DnsName(
            ALICE.replace(['/', ':'], "x").try_into().unwrap(),
        )];
        params.distinguished_name.push(rcgen::DnType::CommonName, ALICE);
    };
    let authority = |params: &mut rcgen::CertificateParams| {
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    };
    let stranger = TestCa::new();
    let mut untrusted = stranger.material(&[ALICE], |_| ());
    untrusted.roots = ca.material(&[ALICE], |_| ()).roots;
    vec![
        ("other trust domain", bad(ca, &[FOREIGN], |_| ())),
        ("no URI SAN", bad(ca, &[], dns)),
        (
            "URI that is no identity",
            bad(ca, &["https://cluster.local/ns/a/sa/b"], |_| ()),
        ),
        ("two URI SANs", bad(ca, &[ALICE, EVE], |_| ())),
        ("expired", bad(ca, &[ALICE], expired)),
        ("serverAuth only", bad(ca, &[ALICE], server_only)),
        ("CA as leaf", bad(ca, &[ALICE], authority)),
        ("other root", Arc::new(identity_tls(untrusted).unwrap())),
    ]
}

#[tokio::test]
async fn a_server_takes_no_client_without_one_valid_identity_of_its_trust_domain() {
    for native in [true, false] {
        local(async {
            let fixture = Fixture::new(native).await;
            for (what, tls) in bad_clients(&fixture.ca) {
                let client = fixture.client_with(Arc::new(Fixed(tls)));
                let error = client.open(&fixture.tcp(ECHO)).await.expect_err(what);
                // With TLS 1.3 the refusal comes after the client's handshake; HBONE may see the end only.
                let reason = error.reason();
                assert!(
                    matches!(reason, Reason::HandshakeFailed | Reason::Reset),
                    "{what}: {reason:?} {error}"
                );
            }
            until("every refusal is told", || fixture.app.failed.borrow().len() == 8).await;
            assert!(
                fixture
                    .app
                    .failed
                    .borrow()
                    .iter()
                    .all(|reason| *reason == "handshake_failed")
            );
            assert!(fixture.app.seen.borrow().is_empty());
        })
        .await;
    }
}

#[tokio::test]
async fn a_client_takes_no_server_but_the_endpoint_it_chose() {
    local(async {
        let table = [
            (
                "other account",
                Reason::IdentityMismatch,
                bad as fn(&TestCa, &[&str], _) -> _,
                EVE,
            ),
            ("other trust domain", Reason::IdentityMismatch, bad, FOREIGN),
        ];
        for (what, reason, make, uri) in table {
            let ca = TestCa::new();
            let certs = Arc::new(Fixed(make(
                &ca,
                &[uri],
                (|_| ()) as fn(&mut rcgen::CertificateParams),
            )));
            let fixture = Fixture::serving(TunnelConfig::default(), ca, certs).await;
            let error = fixture.client().open(&fixture.tcp(ECHO)).await.unwrap_err();
            assert_eq!(error.reason(), reason, "{what}: {error}");
            assert!(fixture.app.seen.borrow().is_empty());
        }
        for (what, uris, change) in [
            (
                "two URI SANs",
                &[BOB, EVE][..],
                (|_| ()) as fn(&mut rcgen::CertificateParams),
            ),
            ("no URI SAN", &[], |_| ()),
            ("expired", &[BOB], expired),
            ("clientAuth only", &[BOB], |params| {
                params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
            }),
        ] {
            let ca = TestCa::new();
            let certs = Arc::new(Fixed(bad(&ca, uris, change)));
            let fixture = Fixture::serving(TunnelConfig::default(), ca, certs).await;
            let error = fixture.client().open(&fixture.tcp(ECHO)).await.unwrap_err();
            assert_eq!(error.reason(), Reason::HandshakeFailed, "{what}: {error}");
        }
    })
    .await;
}

#[tokio::test]
async fn without_a_certificate_nothing_is_dialled_and_nothing_is_served() {
    local(async {
        let fixture = Fixture::serving(TunnelConfig::default(), TestCa::new(), Arc::new(Empty)).await;
        let error = fixture
            .client_with(Arc::new(Empty))
            .open(&fixture.tcp(ECHO))
            .await
            .unwrap_err();
        assert_eq!(error.reason(), Reason::CertificateMissing);
        assert!(fixture.app.failed.borrow().is_empty());
        assert!(fixture.client().open(&fixture.tcp(ECHO)).await.is_err());
        assert_eq!(*fixture.app.failed.borrow(), ["certificate_missing"]);
    })
    .await;
}

async fn tls(
    fixture: &Fixture,
    config: rustls::ClientConfig,
) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let tcp = TcpStream::connect((Ipv4Addr::LOCALHOST, fixture.port))
        .await
        .unwrap();
    let name = ServerName::IpAddress(Ipv4Addr::LOCALHOST.into());
    TlsConnector::from(Arc::new(config)).connect(name, tcp).await
}

fn h2_only(fixture: &Fixture) -> rustls::ClientConfig {
    let mut config = rustls::ClientConfig::clone(&fixture.ca.tls(ALICE).client);
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}

/// Answers a certificate request with none.
#[derive(Debug)]
struct Nobody;

impl rustls::client::ResolvesClientCert for Nobody {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<rustls::sign::CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

#[tokio::test]
async fn a_client_without_a_certificate_gets_no_byte() {
    local(async {
        let fixture = Fixture::new(true).await;
        let trusting = fixture.ca.tls(ALICE);
        let mut config = rustls::ClientConfig::clone(&trusting.client);
        config.client_auth_cert_resolver = Arc::new(Nobody);
        if let Ok(mut stream) = tls(&fixture, config).await {
            assert!(stream.read_u8().await.is_err());
        }
        until("the refusal is told", || {
            *fixture.app.failed.borrow() == ["handshake_failed"]
        })
        .await;
    })
    .await;
}

#[tokio::test]
async fn the_handshake_is_tls_1_3_with_a_post_quantum_group_and_aes_128_first() {
    local(async {
        let fixture = Fixture::new(true).await;
        let config = rustls::ClientConfig::clone(&fixture.ca.tls(ALICE).client);
        let stream = tls(&fixture, config).await.unwrap();
        let (_, session) = stream.get_ref();
        assert_eq!(session.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
        assert_eq!(
            session.negotiated_key_exchange_group().unwrap().name(),
            rustls::NamedGroup::X25519MLKEM768
        );
        assert_eq!(
            session.negotiated_cipher_suite().unwrap().suite(),
            rustls::CipherSuite::TLS13_AES_128_GCM_SHA256
        );
        assert_eq!(session.alpn_protocol(), Some(&b"heddle/1"[..]));
        assert_eq!(
            peer_identity(session.peer_certificates().unwrap()).unwrap(),
            id(BOB)
        );
    })
    .await;
}

#[tokio::test]
async fn a_silent_client_is_dropped_at_the_deadline_of_each_step() {
    local(async {
        let short = Duration::from_millis(200);
        let config = TunnelConfig {
            handshake_timeout: short,
            head_timeout: short,
            ..TunnelConfig::default()
        };
        assert_eq!(TunnelConfig::default().handshake_timeout, Duration::from_secs(5));
        let fixture = Fixture::with(config).await;
        let mut silent = TcpStream::connect((Ipv4Addr::LOCALHOST, fixture.port))
            .await
            .unwrap();
        assert_eq!(silent.read(&mut [0; 1]).await.unwrap_or(0), 0);
        assert_eq!(*fixture.app.failed.borrow(), ["handshake_timeout"]);
        // After the handshake, in either form: no head, no preface.
        let native = rustls::ClientConfig::clone(&fixture.ca.tls(ALICE).client);
        for config in [native, h2_only(&fixture)] {
            let mut stream = tls(&fixture, config).await.unwrap();
            let mut rest = Vec::new();
            let _ended = stream.read_to_end(&mut rest).await;
        }
    })
    .await;
}

#[tokio::test]
async fn hbone_requests_that_are_no_tunnel_to_this_pod_get_their_code() {
    local(async {
        let fixture = Fixture::new(true).await;
        let stream = tls(&fixture, h2_only(&fixture)).await.unwrap();
        let (mut send, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::task::spawn_local(connection);
        let table = [
            (Method::GET, "https://127.0.0.1:80/", 400),
            (Method::CONNECT, "127.0.0.2:80", 400),
            (Method::CONNECT, "169.254.169.254:80", 400),
            (Method::CONNECT, "[::1]:80", 400),
            (Method::CONNECT, "127.0.0.1", 400),
            (Method::CONNECT, "127.0.0.1:15001", 503),
            (Method::CONNECT, "127.0.0.1:15006", 503),
            (Method::CONNECT, "127.0.0.1:15008", 503),
            (Method::CONNECT, "forecast.weather:80", 503),
            (Method::CONNECT, "127.0.0.1:81", 503),
            (Method::CONNECT, "127.0.0.1:82", 401),
            (Method::CONNECT, "[::ffff:127.0.0.1]:80", 200),
            (Method::CONNECT, "127.0.0.1:80", 200),
        ];
        for (method, uri, status) in table {
            let mut request = Request::new(());
            *request.method_mut() = method;
            *request.uri_mut() = uri.parse::<Uri>().unwrap();
            *request.version_mut() = Version::HTTP_2;
            let (response, _stream) = send.send_request(request, false).unwrap();
            let response = response.await.unwrap();
            assert_eq!(response.status(), StatusCode::from_u16(status).unwrap(), "{uri}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_pooled_connection_that_died_is_replaced_without_an_error() {
    for native in [true, false] {
        local(async {
            let fixture = Fixture::new(native).await;
            let client = fixture.client();
            let mut stream = client.open(&fixture.tcp(ECHO)).await.unwrap();
            stream.shutdown().await.unwrap();
            assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0);
            drop(stream);
            // The server goes away, and another one takes its port.
            fixture.drain.cut();
            fixture.accepting.abort();
            let certs: Arc<dyn Certificates> = Arc::new(Fixed(fixture.ca.tls(BOB)));
            let (_trigger, watch) = drain();
            let address = (Ipv4Addr::LOCALHOST, fixture.port);
            let mut listener = TcpListener::bind(address).await;
            while listener.is_err() {
                tokio::time::sleep(Duration::from_millis(5)).await;
                listener = TcpListener::bind(address).await;
            }
            let app = Rc::clone(&fixture.app);
            tokio::task::spawn_local(accept(
                listener.unwrap(),
                certs,
                fixture.config.clone(),
                app,
                watch,
            ));
            let stream = client.open(&fixture.tcp(ECHO)).await.unwrap();
            assert!(!stream.reused());
        })
        .await;
    }
}

#[tokio::test]
async fn garbage_after_the_handshake_ends_its_own_connection_only() {
    local(async {
        let fixture = Fixture::new(true).await;
        let config = rustls::ClientConfig::clone(&fixture.ca.tls(ALICE).client);
        for garbage in [
            &b"\xff\xff"[..],
            b"\x00\x00",
            b"\x00\x05\x01\x00\x00\x09\x09",
            b"GET / HTTP/1.1\r\n\r\n",
        ] {
            let mut stream = tls(&fixture, config.clone()).await.unwrap();
            stream.write_all(garbage).await.unwrap();
            stream.shutdown().await.unwrap();
            let _ended = stream.read_to_end(&mut Vec::new()).await;
        }
        assert!(fixture.app.seen.borrow().is_empty());
        assert!(fixture.client().open(&fixture.tcp(ECHO)).await.is_ok());
    })
    .await;
}

/// A server that speaks HBONE badly: `act` is called with each connection's number and its h2 end.
async fn bad_hbone_server<F: Future<Output = ()> + 'static>(
    fixture: &mut Fixture,
    act: impl Fn(u32, h2::server::Connection<tokio_rustls::server::TlsStream<TcpStream>, bytes::Bytes>) -> F
    + 'static,
) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    fixture.config.port = listener.local_addr().unwrap().port();
    let mut config = rustls::ServerConfig::clone(&fixture.ca.tls(BOB).server);
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    tokio::task::spawn_local(async move {
        for number in 0.. {
            let (tcp, _) = listener.accept().await.unwrap();
            let tls = acceptor.accept(tcp).await.unwrap();
            tokio::task::spawn_local(act(number, h2::server::handshake(tls).await.unwrap()));
        }
    });
}

#[tokio::test]
async fn a_stream_moves_to_another_connection_when_the_first_says_goaway() {
    local(async {
        let mut fixture = Fixture::new(true).await;
        bad_hbone_server(&mut fixture, |number, mut connection| async move {
            if number < 2 {
                connection.abrupt_shutdown(h2::Reason::NO_ERROR);
            }
            while let Some(Ok((_, mut respond))) = connection.accept().await {
                let _stream = respond.send_response(http::Response::new(()), false).unwrap();
            }
        })
        .await;
        let stream = fixture.client().open(&fixture.tcp(ECHO)).await.unwrap();
        assert!(!stream.is_native());
    })
    .await;
}

#[tokio::test]
async fn a_server_that_resets_every_stream_is_asked_a_few_times_at_most() {
    for reason in [h2::Reason::CANCEL, h2::Reason::REFUSED_STREAM] {
        local(async {
            let mut fixture = Fixture::new(true).await;
            let asked = Rc::new(std::cell::Cell::new(0));
            let count = Rc::clone(&asked);
            bad_hbone_server(&mut fixture, move |_, mut connection| {
                let count = Rc::clone(&count);
                async move {
                    while let Some(Ok((_, mut respond))) = connection.accept().await {
                        count.set(count.get() + 1);
                        respond.send_reset(reason);
                    }
                }
            })
            .await;
            let client = fixture.client();
            for _ in 0..3 {
                let error = client.open(&fixture.tcp(ECHO)).await.unwrap_err();
                assert_eq!(error.reason(), Reason::Reset, "{error}");
            }
            assert!(asked.get() <= 12, "{}", asked.get());
        })
        .await;
    }
}

#[tokio::test]
async fn a_lower_stream_limit_of_the_peer_opens_more_connections_instead_of_waiting() {
    local(async {
        let mut fixture = Fixture::new(true).await;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        fixture.config.port = listener.local_addr().unwrap().port();
        let mut config = rustls::ServerConfig::clone(&fixture.ca.tls(BOB).server);
        config.alpn_protocols = vec![b"h2".to_vec()];
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        tokio::task::spawn_local(async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                let tls = acceptor.accept(tcp).await.unwrap();
                tokio::task::spawn_local(async move {
                    let mut builder = h2::server::Builder::new();
                    let mut connection = builder
                        .max_concurrent_streams(2)
                        .handshake::<_, bytes::Bytes>(tls)
                        .await
                        .unwrap();
                    let mut held = Vec::new();
                    while let Some(Ok((_, mut respond))) = connection.accept().await {
                        held.push(respond.send_response(http::Response::new(()), false).unwrap());
                    }
                });
            }
        });
        let client = fixture.client();
        let mut held = Vec::new();
        for _ in 0..6 {
            held.push(client.open(&fixture.tcp(ECHO)).await.unwrap());
        }
        assert_eq!(client.pool_stats().hbone_connections, 3);
    })
    .await;
}
