//! What DestinationRules ask for, as clients and servers see it.

use super::mesh::{GET_CLOSE, Mesh, Plan, Seen, eventually, field, ok, read_head, server, web};
use mesh_core::model::service::Protocol;
use mesh_core::model::traffic::{
    Algorithm, ClientTls, ConnectionPool, ConsistentHash, Cookie, HashKey, HashTable, HttpSettings,
    LoadBalancer, OutlierDetection, ProxyProtocol, Simple, TcpSettings, TlsMode, TrafficPolicy,
};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

fn http(endpoints: &[SocketAddr], policy: TrafficPolicy) -> Mesh {
    Mesh::start(Plan {
        protocol: Protocol::Http,
        endpoints: endpoints.to_vec(),
        policy: Some(policy),
        ..Plan::default()
    })
}

fn pool(tcp: TcpSettings, http: HttpSettings) -> TrafficPolicy {
    TrafficPolicy {
        connection_pool: ConnectionPool { tcp, http },
        ..TrafficPolicy::default()
    }
}

/// A server that answers when it is let.
async fn held() -> (SocketAddr, Arc<Semaphore>, Seen) {
    let gate = Arc::new(Semaphore::new(0));
    let seen = Seen::default();
    let (open, log) = (Arc::clone(&gate), seen.clone());
    let addr = server(move |mut stream| {
        let (open, log) = (Arc::clone(&open), log.clone());
        async move {
            loop {
                let head = read_head(&mut stream).await;
                if !head.ends_with("\r\n\r\n") {
                    return;
                }
                log.heads.lock().push(head);
                open.acquire().await.unwrap().forget();
                let _ = stream.write_all(ok("done").as_bytes()).await;
            }
        }
    })
    .await;
    (addr, gate, seen)
}

async fn asks(mesh: &Mesh) -> TcpStream {
    let mut stream = mesh.dial().await;
    stream.write_all(GET_CLOSE.as_bytes()).await.unwrap();
    stream
}

async fn arrived(seen: &Seen, n: usize) {
    let there = eventually(|| (seen.heads.lock().len() >= n).then_some(())).await;
    assert!(there.is_some(), "{n} requests never arrived");
}

/// S210: one in use, one waits, the third is too many.
#[tokio::test]
async fn what_finds_no_connection_waits_and_what_cannot_wait_overflows() {
    let (addr, gate, seen) = held().await;
    let policy = pool(
        TcpSettings {
            max_connections: Some(1),
            ..TcpSettings::default()
        },
        HttpSettings {
            max_pending: Some(1),
            ..HttpSettings::default()
        },
    );
    let mesh = http(&[addr], policy);
    let mut first = asks(&mesh).await;
    arrived(&seen, 1).await;
    let mut second = asks(&mesh).await;
    // Who waits is told nothing: the third shows that the second has taken the only place.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let third = read_head(&mut asks(&mesh).await).await;
    assert!(third.starts_with("HTTP/1.1 503"), "{third}");
    mesh.metric(&["istio_requests_total", "response_flags=\"UO\"", "} 1"])
        .await;
    mesh.metric(&["heddle_proxy_overflows_total", "http1MaxPendingRequests", "} 1"])
        .await;
    assert_eq!(seen.heads.lock().len(), 1, "the second is still waiting");
    gate.add_permits(2);
    for stream in [&mut first, &mut second] {
        let head = read_head(stream).await;
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    }
}

#[tokio::test]
async fn requests_at_once_are_limited_to_the_number_and_free_their_place() {
    let (addr, gate, seen) = held().await;
    let policy = pool(
        TcpSettings::default(),
        HttpSettings {
            max_requests: Some(3),
            ..HttpSettings::default()
        },
    );
    let mesh = http(&[addr], policy);
    let mut running = Vec::new();
    for n in 1..=3 {
        running.push(asks(&mesh).await);
        arrived(&seen, n).await;
    }
    for _ in 0..4 {
        let head = read_head(&mut asks(&mesh).await).await;
        assert!(head.starts_with("HTTP/1.1 503"), "{head}");
    }
    gate.add_permits(100);
    for stream in &mut running {
        assert!(read_head(stream).await.starts_with("HTTP/1.1 200"));
    }
    let again = read_head(&mut asks(&mesh).await).await;
    assert!(again.starts_with("HTTP/1.1 200"), "{again}");
}

#[tokio::test]
async fn tcp_connections_above_the_limit_are_closed_at_once() {
    let addr = server(|mut stream| async move {
        let mut byte = [0];
        while stream.read_exact(&mut byte).await.is_ok() {
            let _ = stream.write_all(&byte).await;
        }
    })
    .await;
    let policy = pool(
        TcpSettings {
            max_connections: Some(2),
            ..TcpSettings::default()
        },
        HttpSettings::default(),
    );
    let mesh = Mesh::start(Plan {
        protocol: Protocol::Tcp,
        endpoints: vec![addr],
        policy: Some(policy),
        ..Plan::default()
    });
    let echo = async |stream: &mut TcpStream| {
        let mut byte = [0];
        stream.write_all(b"x").await.is_ok() && stream.read_exact(&mut byte).await.is_ok()
    };
    let (mut one, mut two) = (mesh.dial().await, mesh.dial().await);
    assert!(echo(&mut one).await && echo(&mut two).await);
    assert!(!echo(&mut mesh.dial().await).await, "the third is refused");
    mesh.metric(&["istio_tcp_connections_opened_total", "response_flags=\"UO\""])
        .await;
    drop(one);
    let free = async {
        while !echo(&mut mesh.dial().await).await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), free).await.unwrap();
    assert!(echo(&mut two).await);
}

#[tokio::test]
async fn a_connection_serves_as_many_requests_as_it_may() {
    let seen = Seen::default();
    let addr = web(&seen, |_| ok("")).await;
    let policy = pool(
        TcpSettings::default(),
        HttpSettings {
            max_requests_per_connection: Some(2),
            ..HttpSettings::default()
        },
    );
    let mesh = http(&[addr], policy);
    let mut stream = mesh.dial().await;
    for _ in 0..6 {
        stream.write_all(super::mesh::GET.as_bytes()).await.unwrap();
        assert!(read_head(&mut stream).await.starts_with("HTTP/1.1 200"));
    }
    assert_eq!(*seen.connections.lock(), 3);
}

#[tokio::test]
async fn an_endpoint_that_fails_is_left_out_and_comes_back() {
    let bad = Arc::new(AtomicBool::new(true));
    let (of_bad, of_good) = (Seen::default(), Seen::default());
    let broken = Arc::clone(&bad);
    let failing = web(&of_bad, move |_| {
        if broken.load(Ordering::SeqCst) {
            "HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n".into()
        } else {
            ok("")
        }
    })
    .await;
    let fine = web(&of_good, |_| ok("")).await;
    let policy = TrafficPolicy {
        load_balancer: LoadBalancer {
            algorithm: Algorithm::Simple(Simple::RoundRobin),
            ..LoadBalancer::default()
        },
        outlier_detection: Some(OutlierDetection {
            server_errors: 2,
            interval: Duration::from_millis(100),
            base_ejection: Duration::from_millis(700),
            ..OutlierDetection::default()
        }),
        ..TrafficPolicy::default()
    };
    let mesh = http(&[failing, fine], policy);
    let mut failed = 0;
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(400) {
        failed += usize::from(mesh.exchange(GET_CLOSE).await.starts_with("HTTP/1.1 500"));
    }
    assert_eq!(failed, 2, "each error but the limit's two was spared");
    let out = mesh.proxy.ejected();
    assert_eq!(out.len(), 1);
    assert_eq!((out[0].addr, &*out[0].service.name), (failing, "web"));
    mesh.metric(&["heddle_outlier_ejections_total", "consecutive5xxErrors", "} 1"])
        .await;
    bad.store(false, Ordering::SeqCst);
    let before = of_bad.heads.lock().len();
    let back = async {
        while of_bad.heads.lock().len() == before {
            mesh.exchange(GET_CLOSE).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), back).await.unwrap();
    assert!(mesh.proxy.ejected().is_empty());
}

/// T-36: with panic off, nobody is asked when everybody is out.
#[tokio::test]
async fn with_every_endpoint_out_the_answer_is_503_uh() {
    let seen = Seen::default();
    let addr = web(&seen, |_| "HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n".into()).await;
    let policy = TrafficPolicy {
        outlier_detection: Some(OutlierDetection {
            gateway_errors: 1,
            max_ejection_percent: 100,
            ..OutlierDetection::default()
        }),
        ..TrafficPolicy::default()
    };
    let mesh = http(&[addr], policy);
    mesh.exchange(GET_CLOSE).await;
    let second = mesh.exchange(GET_CLOSE).await;
    assert!(second.contains("no healthy upstream"), "{second}");
    assert_eq!(seen.heads.lock().len(), 1);
}

#[tokio::test]
async fn a_cookie_keeps_its_endpoint_through_a_scale_up() {
    let served: Arc<Mutex<HashMap<String, usize>>> = Arc::default();
    let mut addrs = Vec::new();
    for n in 0..10_usize {
        let (seen, served) = (Seen::default(), Arc::clone(&served));
        let addr = web(&seen, move |head| {
            let user = field(head, "cookie").unwrap_or_default();
            served.lock().insert(user, n);
            ok("")
        });
        addrs.push(addr.await);
    }
    let cookie = Cookie {
        name: "user".into(),
        path: "/".into(),
        ttl: Some(Duration::from_secs(60)),
        attributes: Vec::new(),
    };
    let policy = TrafficPolicy {
        load_balancer: LoadBalancer {
            algorithm: Algorithm::Hash(ConsistentHash {
                key: HashKey::Cookie(cookie),
                table: HashTable::Maglev(65_537),
            }),
            ..LoadBalancer::default()
        },
        ..TrafficPolicy::default()
    };
    let mesh = http(&addrs[..9], policy);
    let mut given = Vec::new();
    for _ in 0..60 {
        let answer = mesh.exchange(GET_CLOSE).await;
        let set = field(&answer, "set-cookie").unwrap();
        assert!(set.contains("; Max-Age=60; Path=/; HttpOnly"), "{set}");
        given.push(set.split(';').next().unwrap().to_owned());
    }
    let go = async |cookie: &str| {
        let request = format!("GET / HTTP/1.1\r\nhost: web\r\ncookie: {cookie}\r\nconnection: close\r\n\r\n");
        let answer = mesh.exchange(&request).await;
        assert!(!answer.contains("set-cookie"), "it has one: {answer}");
        served.lock()[cookie]
    };
    let mut before = Vec::new();
    for cookie in &given {
        let first = go(cookie).await;
        assert_eq!(go(cookie).await, first, "sticky");
        before.push(first);
    }
    mesh.scale(&addrs);
    let mut moved = 0;
    for (cookie, old) in given.iter().zip(&before) {
        moved += usize::from(go(cookie).await != *old);
    }
    assert!(moved <= 15, "{moved} of 60 moved; a tenth is right");
}

#[tokio::test]
async fn the_server_sees_the_clients_address_in_the_proxy_header() {
    for (version, begin) in [
        (ProxyProtocol::V1, &b"PROXY TCP4 127.0.0.1 127.0.0.1 "[..]),
        (
            ProxyProtocol::V2,
            &b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x7f\0\0\x01\x7f\0\0\x01"[..],
        ),
    ] {
        let seen: Arc<Mutex<Vec<u8>>> = Arc::default();
        let log = Arc::clone(&seen);
        let addr = server(move |mut stream| {
            let log = Arc::clone(&log);
            async move {
                let mut all = Vec::new();
                while !all.ends_with(b"\r\n\r\n") || all.len() < 20 {
                    let Ok(byte) = stream.read_u8().await else { return };
                    all.push(byte);
                }
                *log.lock() = all;
                let _ = stream.write_all(ok("").as_bytes()).await;
            }
        })
        .await;
        let policy = TrafficPolicy {
            proxy_protocol: Some(version),
            ..TrafficPolicy::default()
        };
        let mesh = http(&[addr], policy);
        let mut stream = asks(&mesh).await;
        let client = stream.local_addr().unwrap().port();
        assert!(read_head(&mut stream).await.starts_with("HTTP/1.1 200"));
        let seen = seen.lock().clone();
        assert!(seen.starts_with(begin), "{version:?}: {seen:?}");
        let after = &seen[begin.len()..];
        let named = match version {
            ProxyProtocol::V1 => after.starts_with(client.to_string().as_bytes()),
            ProxyProtocol::V2 => after.starts_with(&client.to_be_bytes()),
        };
        assert!(named, "{version:?} does not name port {client}: {seen:?}");
    }
}

#[tokio::test]
async fn connections_are_given_up_after_their_own_time() {
    // An address of documentation (RFC 5737): nobody answers, or the network says so at once.
    let nowhere: SocketAddr = "192.0.2.1:80".parse().unwrap();
    let policy = pool(
        TcpSettings {
            connect_timeout: Some(Duration::from_millis(50)),
            ..TcpSettings::default()
        },
        HttpSettings::default(),
    );
    let mesh = http(&[nowhere], policy);
    let began = Instant::now();
    let answer = mesh.exchange(GET_CLOSE).await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
}

pub(super) type Issued = (String, rustls::pki_types::CertificateDer<'static>, Vec<u8>);

/// An authority, and a certificate of it for `web.example`.
pub(super) fn issued() -> &'static Issued {
    static ISSUED: OnceLock<Issued> = OnceLock::new();
    ISSUED.get_or_init(|| {
        let ca_key = rcgen::KeyPair::generate().unwrap();
        let mut ca = rcgen::CertificateParams::new(Vec::new()).unwrap();
        ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let root = ca.self_signed(&ca_key).unwrap();
        let issuer = rcgen::Issuer::from_params(&ca, &ca_key);
        let key = rcgen::KeyPair::generate().unwrap();
        let leaf = rcgen::CertificateParams::new(vec!["web.example".to_owned()]).unwrap();
        let leaf = leaf.signed_by(&key, &issuer).unwrap();
        (root.pem(), leaf.der().clone(), key.serialize_der())
    })
}

/// The authority's certificate, PEM.
pub(super) fn authority() -> String {
    issued().0.clone()
}

/// A TLS server; the name that each client asked for.
async fn tls_server(names: Arc<Mutex<Vec<String>>>) -> SocketAddr {
    tls_server_for(names, rustls::server::WebPkiClientVerifier::no_client_auth()).await
}

/// The same for clients that `clients` verifies.
pub(super) async fn tls_server_for(
    names: Arc<Mutex<Vec<String>>>,
    clients: Arc<dyn rustls::server::danger::ClientCertVerifier>,
) -> SocketAddr {
    let (_, leaf, key) = issued();
    let key = rustls::pki_types::PrivateKeyDer::try_from(key.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(clients)
        .with_single_cert(vec![leaf.clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    server(move |stream| {
        let (acceptor, names) = (acceptor.clone(), Arc::clone(&names));
        async move {
            let Ok(mut stream) = acceptor.accept(stream).await else {
                return;
            };
            let name = stream.get_ref().1.server_name().unwrap_or_default().to_owned();
            names.lock().push(name);
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let Ok(byte) = stream.read_u8().await else { return };
                head.push(byte);
            }
            let _ = stream.write_all(ok("sealed").as_bytes()).await;
            let _ = stream.flush().await;
        }
    })
    .await
}

#[tokio::test]
async fn a_server_must_prove_the_name_that_the_policy_expects() {
    let names: Arc<Mutex<Vec<String>>> = Arc::default();
    let addr = tls_server(Arc::clone(&names)).await;
    let simple = |sni: Option<&str>, sans: &[&str], credential: Option<&str>, skip_verify: bool| ClientTls {
        mode: TlsMode::Simple,
        sni: sni.map(Into::into),
        subject_alt_names: sans.iter().map(|s| (*s).into()).collect(),
        credential: credential.map(Into::into),
        credential_optional: false,
        skip_verify,
        vouched: None,
    };
    // What is asked for, and whether the answer comes through.
    let rows = [
        (
            "its name",
            simple(Some("web.example"), &[], Some("ca"), false),
            true,
        ),
        (
            "another name",
            simple(Some("other.example"), &[], Some("ca"), false),
            false,
        ),
        (
            "the host of the request",
            simple(None, &[], Some("ca"), false),
            false,
        ),
        (
            "a listed name",
            simple(Some("other.example"), &["web.example"], Some("ca"), false),
            true,
        ),
        (
            "none of the listed",
            simple(Some("web.example"), &["x.example"], Some("ca"), false),
            false,
        ),
        (
            "roots that did not issue it",
            simple(Some("web.example"), &[], None, false),
            false,
        ),
        (
            "insecureSkipVerify",
            simple(Some("other.example"), &[], None, true),
            true,
        ),
        (
            "a Secret that is not there",
            simple(Some("web.example"), &[], Some("gone"), false),
            false,
        ),
    ];
    for (what, tls, through) in rows {
        let policy = TrafficPolicy {
            tls: Some(tls),
            ..TrafficPolicy::default()
        };
        let answer = http(&[addr], policy).exchange(GET_CLOSE).await;
        assert_eq!(answer.ends_with("sealed"), through, "{what}: {answer}");
        assert!(through || answer.starts_with("HTTP/1.1 503"), "{what}: {answer}");
    }
    let names = names.lock();
    assert!(names.iter().any(|n| n == "web.example") && names.iter().any(|n| n == "other.example"));
}
