//! What streams do between peers that mean well.

use super::*;
use crate::proxy::tunnel::{PoolStats, Reason, Retry, TunnelError};

const BOTH: [bool; 2] = [true, false];

async fn echo(client: &TunnelClient, request: &TunnelRequest, payload: &[u8]) {
    let mut stream = client.open(request).await.unwrap();
    stream.write_all(payload).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut got = Vec::new();
    stream.read_to_end(&mut got).await.unwrap();
    assert!(
        got == payload,
        "{} bytes came back instead of {}",
        got.len(),
        payload.len()
    );
}

#[tokio::test]
async fn a_stream_echoes_and_half_closes_each_way_in_every_form_and_kind() {
    for native in BOTH {
        for kind in [TunnelKind::Tcp, TunnelKind::Http1, TunnelKind::Http2] {
            local(async {
                let fixture = Fixture::new(native).await;
                let client = fixture.client();
                echo(&client, &fixture.request(ECHO, kind), b"hello").await;
                let mut stream = client.open(&fixture.request(SPEAKS_FIRST, kind)).await.unwrap();
                assert_eq!(stream.is_native(), native);
                let mut got = Vec::new();
                stream.read_to_end(&mut got).await.unwrap();
                assert_eq!(got, b"welcome");
                stream.write_all(b"still open this way").await.unwrap();
                stream.shutdown().await.unwrap();
            })
            .await;
        }
    }
}

#[tokio::test]
async fn both_ends_learn_who_the_other_is() {
    for native in BOTH {
        local(async {
            let fixture = Fixture::new(native).await;
            let stream = fixture
                .client()
                .open(&fixture.request(ECHO, TunnelKind::Http1))
                .await
                .unwrap();
            let name = |workload| {
                format!(
                    "k8s.cluster.name=Kubernetes,k8s.namespace.name=weather,k8s.deployment.name={workload},\
                     service.name={workload},service.version=v1"
                )
            };
            assert_eq!(stream.peer_identity(), &id(BOB));
            assert_eq!(stream.response_baggage().unwrap().encode(), name("forecast"));
            let seen = fixture.app.seen.borrow()[0].clone();
            assert_eq!(seen.peer, ALICE);
            assert_eq!(seen.client, (Ipv4Addr::LOCALHOST, 4321).into());
            assert_eq!(seen.baggage, name("frontend"));
            assert_eq!(
                seen.kind,
                if native {
                    TunnelKind::Http1
                } else {
                    TunnelKind::Tcp
                }
            );
        })
        .await;
    }
}

#[tokio::test]
async fn three_hundred_parallel_streams_all_come_through() {
    for native in BOTH {
        local(async {
            let fixture = Fixture::new(native).await;
            let client = fixture.client();
            let payload = vec![3; 20_000];
            let one = async || echo(&client, &fixture.tcp(ECHO), &payload).await;
            futures_util::future::join_all((0..300).map(|_| one())).await;
            assert_eq!(fixture.app.seen.borrow().len(), 300);
            let stats = client.pool_stats();
            assert_eq!(stats.active_streams, 0);
            assert!(
                stats.hbone_connections <= 4 && (native || stats.native_idle == 0),
                "{stats:?}"
            );
        })
        .await;
    }
}

#[tokio::test]
async fn a_hundred_held_streams_open_a_second_hbone_connection() {
    local(async {
        let fixture = Fixture::new(false).await;
        let client = fixture.client();
        let mut held = Vec::new();
        for _ in 0..99 {
            held.push(client.open(&fixture.tcp(ECHO)).await.unwrap());
        }
        assert_eq!(
            client.pool_stats().hbone_connections,
            0,
            "left the pool at 99 streams"
        );
        let next = client.open(&fixture.tcp(ECHO)).await.unwrap();
        assert!(!next.reused());
        assert_eq!(client.pool_stats().hbone_connections, 1);
        for stream in &mut held {
            stream.write_all(b"x").await.unwrap();
            assert_eq!(stream.read_u8().await.unwrap(), b'x');
        }
    })
    .await;
}

#[tokio::test]
async fn a_big_transfer_passes_a_stream_that_nobody_reads() {
    for native in BOTH {
        local(async {
            let fixture = Fixture::new(native).await;
            let client = fixture.client();
            let mut stuck = client.open(&fixture.tcp(NEVER_READS)).await.unwrap();
            let filler = vec![1; 1 << 20];
            // Fills whatever windows there are.
            let filling = async {
                loop {
                    stuck.write_all(&filler).await.unwrap();
                }
            };
            let _full = tokio::time::timeout(Duration::from_millis(500), filling).await;
            let stream = client.open(&fixture.tcp(ECHO)).await.unwrap();
            let (mut reader, mut writer) = tokio::io::split(stream);
            let size = 32 << 20;
            let sending = async {
                for start in (0..size).step_by(1 << 20) {
                    let part: Vec<u8> = (start..start + (1 << 20)).map(|n| (n % 251) as u8).collect();
                    writer.write_all(&part).await.unwrap();
                }
                writer.shutdown().await.unwrap();
            };
            let receiving = async {
                let (mut at, mut buf) = (0, vec![0; 100_000]);
                while let n @ 1.. = reader.read(&mut buf).await.unwrap() {
                    assert!(
                        buf[..n]
                            .iter()
                            .zip(at..)
                            .all(|(byte, n)| *byte == (n % 251) as u8),
                        "at {at}"
                    );
                    at += n;
                }
                at
            };
            let ((), received) = tokio::join!(sending, receiving);
            assert_eq!(received, size);
        })
        .await;
    }
}

#[tokio::test]
async fn refusals_keep_their_code_and_spare_the_connection() {
    for native in BOTH {
        local(async {
            let fixture = Fixture::new(native).await;
            let client = fixture.client();
            let refused = async |request: TunnelRequest| client.open(&request).await.unwrap_err();
            let denied = refused(fixture.tcp(DENIED)).await;
            assert_eq!(
                (denied.reason(), denied.retryable()),
                (Reason::PolicyDenied, Retry::No),
                "{denied}"
            );
            let closed = refused(fixture.tcp(CLOSED)).await;
            assert_eq!(
                (closed.reason(), closed.retryable()),
                (Reason::PeerUnavailable, Retry::Yes),
                "{closed}"
            );
            for port in [15001, 15006, 15008] {
                assert_eq!(refused(fixture.tcp(port)).await.reason(), Reason::PeerUnavailable);
            }
            assert!(client.open(&fixture.tcp(ECHO)).await.unwrap().reused());
            assert_eq!(
                fixture.app.seen.borrow().len(),
                3,
                "ports of the mesh never reach the handler"
            );
        })
        .await;
    }
}

#[tokio::test]
async fn a_cleanly_ended_native_stream_leaves_its_connection_for_the_next() {
    local(async {
        let fixture = Fixture::new(true).await;
        let client = fixture.client();
        for round in 0..3 {
            let mut stream = client.open(&fixture.tcp(ECHO)).await.unwrap();
            assert_eq!(stream.reused(), round > 0);
            stream.shutdown().await.unwrap();
            assert_eq!(stream.read(&mut [0; 8]).await.unwrap(), 0);
            drop(stream);
            assert_eq!(
                client.pool_stats(),
                PoolStats {
                    native_idle: 1,
                    ..PoolStats::default()
                }
            );
        }
        drop(client.open(&fixture.tcp(ECHO)).await.unwrap());
        assert_eq!(
            client.pool_stats().native_idle,
            0,
            "a stream cut short takes its connection along"
        );
    })
    .await;
}

#[tokio::test]
async fn a_dropped_native_stream_is_an_error_at_the_other_end_not_an_end() {
    local(async {
        let fixture = Fixture::new(true).await;
        let mut stream = fixture.client().open(&fixture.tcp(ECHO)).await.unwrap();
        fixture.drain.cut();
        let error = stream.read_to_end(&mut Vec::new()).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof);
    })
    .await;
}

#[tokio::test]
async fn a_draining_server_finishes_streams_and_the_client_reuses_nothing() {
    for native in BOTH {
        local(async {
            let fixture = Fixture::new(native).await;
            let client = fixture.client();
            echo(&client, &fixture.tcp(ECHO), b"warm").await;
            let mut stream = client.open(&fixture.tcp(ECHO)).await.unwrap();
            fixture.drain.start();
            stream.write_all(b"late").await.unwrap();
            let mut got = [0; 4];
            stream.read_exact(&mut got).await.unwrap();
            assert_eq!(&got, b"late");
            stream.shutdown().await.unwrap();
            assert_eq!(stream.read(&mut got).await.unwrap(), 0);
            drop(stream);
            until("the drained connection leaves the pool", || {
                client.close_idle(std::time::Instant::now());
                let stats = client.pool_stats();
                stats.native_idle + stats.hbone_connections == 0
            })
            .await;
        })
        .await;
    }
}

#[tokio::test]
async fn idle_connections_are_closed_and_a_draining_client_waits_for_its_streams() {
    for native in BOTH {
        local(async {
            let fixture = Fixture::new(native).await;
            let client = fixture.client();
            echo(&client, &fixture.tcp(ECHO), b"x").await;
            let stats = client.pool_stats();
            assert_eq!(stats.native_idle + stats.hbone_connections, 1);
            client.close_idle(std::time::Instant::now() + Duration::from_secs(301));
            assert_eq!(client.pool_stats(), PoolStats::default());

            let stream = client.open(&fixture.tcp(ECHO)).await.unwrap();
            let drained = client.drain();
            tokio::pin!(drained);
            assert!(
                tokio::time::timeout(Duration::from_millis(50), &mut drained)
                    .await
                    .is_err()
            );
            assert!(matches!(
                client.open(&fixture.tcp(ECHO)).await,
                Err(TunnelError::Draining)
            ));
            drop(stream);
            drained.await;
        })
        .await;
    }
}

#[tokio::test]
async fn nothing_is_kept_for_a_pod_that_left_but_its_streams_go_on() {
    for native in BOTH {
        local(async {
            let fixture = Fixture::new(native).await;
            let client = fixture.client();
            echo(&client, &fixture.tcp(ECHO), b"x").await;
            let mut live = client.open(&fixture.tcp(ECHO)).await.unwrap();
            let held = client.pool_stats();
            client.retain_sources(|uid| uid == "frontend");
            assert_eq!(client.pool_stats(), held, "pods that stay lose nothing");
            client.retain_sources(|uid| uid != "frontend");
            let stats = client.pool_stats();
            assert_eq!((stats.native_idle, stats.hbone_connections), (0, 0));
            live.write_all(b"on").await.unwrap();
            live.flush().await.unwrap();
            let mut back = [0; 2];
            live.read_exact(&mut back).await.unwrap();
            assert_eq!(&back, b"on");
        })
        .await;
    }
}

fn impatient() -> TunnelConfig {
    TunnelConfig {
        native: false,
        ping_interval: Duration::from_millis(50),
        ping_timeout: Duration::from_millis(500),
        ..TunnelConfig::default()
    }
}

#[tokio::test]
async fn a_peer_that_answers_pings_stays() {
    local(async {
        let fixture = Fixture::with(impatient()).await;
        let client = fixture.client();
        let mut stream = client.open(&fixture.tcp(ECHO)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(900)).await;
        stream.write_all(b"x").await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), b'x');
    })
    .await;
}

#[tokio::test]
async fn a_server_that_answers_no_ping_is_given_up() {
    local(async {
        let mut fixture = Fixture::with(impatient()).await;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        fixture.config.port = listener.local_addr().unwrap().port();
        let mut server = rustls::ServerConfig::clone(&fixture.ca.tls(BOB).server);
        server.alpn_protocols = vec![b"h2".to_vec()];
        // Takes every byte and says nothing.
        tokio::task::spawn_local(async move {
            let (tcp, _) = listener.accept().await.unwrap();
            let mut tls = tokio_rustls::TlsAcceptor::from(Arc::new(server))
                .accept(tcp)
                .await
                .unwrap();
            let _ended = tls.read_to_end(&mut Vec::new()).await;
        });
        let error = fixture.client().open(&fixture.tcp(ECHO)).await.unwrap_err();
        assert_eq!(error.reason(), Reason::Reset, "{error}");
    })
    .await;
}

#[tokio::test]
async fn a_client_that_answers_no_ping_is_given_up() {
    local(async {
        let fixture = Fixture::with(impatient()).await;
        let tcp = tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, fixture.port))
            .await
            .unwrap();
        let name = rustls::pki_types::ServerName::IpAddress(Ipv4Addr::LOCALHOST.into());
        let mut config = rustls::ClientConfig::clone(&fixture.ca.tls(ALICE).client);
        config.alpn_protocols = vec![b"h2".to_vec()];
        let mut tls = tokio_rustls::TlsConnector::from(Arc::new(config))
            .connect(name, tcp)
            .await
            .unwrap();
        tls.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
            .await
            .unwrap();
        // Ends although this side neither answers nor closes.
        let _goaway = tls.read_to_end(&mut Vec::new()).await;
    })
    .await;
}

#[tokio::test]
async fn rotation_replaces_the_certificate_and_leaves_connections_alone() {
    use crate::ca::{CertificateStore, Issuer, system_clock};
    for native in BOTH {
        local(async {
            let dir = crate::testing::TempDir::new();
            let now = system_clock()();
            let day = Duration::from_secs(24 * 3600);
            let store = || {
                let issuer = Issuer::open(&dir.0, "cluster.local", day).unwrap();
                Arc::new(CertificateStore::new(issuer, system_clock()))
            };
            let (server, source) = (store(), store());
            let (_trigger, until) = drain();
            for store in [&server, &source] {
                tokio::task::spawn_local(Arc::clone(store).run(until.clone()));
            }
            let config = TunnelConfig {
                native,
                ..TunnelConfig::default()
            };
            let certs: Arc<dyn Certificates> = server.clone();
            let fixture = Fixture::serving(config, TestCa::new(), certs).await;
            let client = fixture.client_with(source.clone());
            let mut old = client.open(&fixture.tcp(ECHO)).await.unwrap();
            let before = (server.list(), source.list());

            // At 60 % of the life every jitter has passed.
            server.settle(now + 15 * 3600).await;
            source.settle(now + 15 * 3600).await;
            let after = (server.list(), source.list());
            assert_ne!(before.0[0].serial, after.0[0].serial);
            assert_ne!(before.1[0].serial, after.1[0].serial);
            assert_eq!((after.0.len(), after.1.len()), (1, 1));

            old.write_all(b"still here").await.unwrap();
            let mut got = [0; 10];
            old.read_exact(&mut got).await.unwrap();
            assert_eq!(&got, b"still here");
        })
        .await;
    }
}

#[tokio::test]
async fn futures_that_live_as_long_as_a_connection_stay_small() {
    local(async {
        let fixture = Fixture::new(true).await;
        let client = fixture.client();
        let request = fixture.tcp(ECHO);
        let tcp = tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, fixture.port))
            .await
            .unwrap();
        let certs: Arc<dyn Certificates> = Arc::new(Fixed(fixture.ca.tls(BOB)));
        let app: Rc<dyn TunnelHandler> = fixture.app.clone();
        let (_trigger, watch) = drain();
        let pod = Arc::clone(&fixture.source);
        let sizes = [
            size_of_val(&client.open(&request)),
            size_of_val(&serve(tcp, pod, certs, fixture.config.clone(), app, watch)),
            size_of::<crate::proxy::tunnel::TunnelStream>(),
        ];
        assert!(sizes.iter().all(|size| *size <= 1024), "{sizes:?}");
    })
    .await;
}
