//! Heddle against the ztunnel of Istio's ambient mode, the one at one end of the tunnel and the other at the other.
//!
//! Runs when `HEDDLE_ZTUNNEL` names a ztunnel built with its feature `testing` and `HEDDLE_ZTUNNEL_CA` the folder
//! with its test CA (`src/tls` of its source); says so and passes otherwise.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

#[path = "interop_ztunnel/raw.rs"]
mod raw;
#[path = "interop_ztunnel/stage.rs"]
mod stage;

use http::Method;
use mesh_tests::eventually;
use mesh_tests::promtext::sum;
use mesh_tests::topology::Pod;
use nix::sys::signal::Signal;
use raw::{Answer, Raw, Shown};
use stage::{Beliefs, ECHO, HTTP, Side, Stage, established, ztunnel};
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(10);

/// The stage with both sides right about each other, if there is a ztunnel.
fn stage() -> Option<Stage> {
    Some(Stage::start(&ztunnel()?, &Beliefs::default()).unwrap())
}

fn say(stream: &mut TcpStream, text: &str) -> std::io::Result<String> {
    stream.write_all(text.as_bytes())?;
    let mut back = vec![0; text.len()];
    stream.read_exact(&mut back)?;
    Ok(String::from_utf8_lossy(&back).into_owned())
}

/// Whether a connection comes to nothing: refused, reset or closed before an answer.
fn is_refused(from: &Side, to: IpAddr, port: u16) -> bool {
    let Ok(mut stream) = from.connect(to, port) else {
        return true;
    };
    let mut byte = [0];
    // The writing may still succeed, into a socket whose far end is about to close.
    let _ = stream.write_all(b"x");
    match stream.read(&mut byte) {
        Ok(n) => n == 0,
        Err(error) => error.kind() != ErrorKind::WouldBlock,
    }
}

#[test]
fn bytes_and_both_half_closes_pass_in_both_families() {
    let Some(stage) = stage() else { return };
    for (way, from, to) in stage.directions() {
        for ip in to.ips() {
            let mut stream = from.connect(ip, ECHO).unwrap();
            assert_eq!(say(&mut stream, "hello").unwrap(), "hello", "{way} {ip}");
            stream.write_all(b"last").unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            let mut rest = String::new();
            stream.read_to_string(&mut rest).unwrap();
            assert_eq!(rest, "last", "{way} {ip}: what follows our half close");
        }
        assert!(stage.tunnels(&from).unwrap() > 0, "{way}: not through a tunnel");
    }
}

#[test]
fn what_cannot_be_reached_is_refused_not_tried_without_the_mesh() {
    let Some(stage) = stage() else { return };
    for (way, from, to) in stage.directions() {
        for ip in to.ips() {
            assert!(is_refused(&from, ip, 9), "{way} {ip}: nobody listens there");
        }
    }
}

#[test]
fn neither_talks_to_an_identity_that_it_does_not_expect() {
    let Some(from) = ztunnel() else { return };
    let beliefs = [
        (
            "wrong account of ztunnel",
            Beliefs {
                heddle_expects: "other",
                ..Beliefs::default()
            },
            [true, false],
        ),
        (
            "wrong account of heddle",
            Beliefs {
                ztunnel_expects: "other",
                ..Beliefs::default()
            },
            [false, true],
        ),
        (
            "foreign trust domain",
            Beliefs {
                ztunnel_domain: "other.local",
                ..Beliefs::default()
            },
            [true, true],
        ),
    ];
    for (what, beliefs, refused) in beliefs {
        let stage = Stage::start(&from, &beliefs).unwrap();
        for ((way, from, to), refused) in stage.directions().into_iter().zip(refused) {
            assert_eq!(is_refused(&from, to.v4.into(), ECHO), refused, "{what}, {way}");
        }
    }
}

#[test]
fn what_ztunnels_policy_denies_ends_at_once_and_the_rest_passes() {
    let Some(from) = ztunnel() else { return };
    let beliefs = Beliefs {
        ztunnel_policies: "[{name: p, namespace: interop, scope: Namespace, action: Deny, dryRun: false, \
                           rules: [[[{destinationPorts: [7000]}]]]}]",
        ..Beliefs::default()
    };
    let stage = Stage::start(&from, &beliefs).unwrap();
    let (heddle, peer) = (&stage.heddle_side, &stage.ztunnel_side.pod);
    let begun = Instant::now();
    assert!(is_refused(heddle, peer.v4.into(), ECHO));
    assert!(begun.elapsed() < Duration::from_secs(2));
    let to = format!("{}:{HTTP}", peer.v4);
    let answer = heddle.pod.podkit(&["get", "--to", &to]).unwrap();
    assert_eq!(answer["statuses"]["200"], 1, "{answer}");
}

#[test]
fn many_streams_share_connections_and_none_waits() {
    const STREAMS: usize = 300;
    let Some(stage) = stage() else { return };
    for (way, from, to) in stage.directions() {
        let begun = Instant::now();
        let mut streams: Vec<TcpStream> = std::thread::scope(|scope| {
            let dialling: Vec<_> = (0..STREAMS)
                .map(|n| {
                    let (from, to) = (&from, &to);
                    scope.spawn(move || {
                        let mut stream = from.connect(to.ips()[n % 2], ECHO).unwrap();
                        let back = say(&mut stream, "first").unwrap_or_else(|error| panic!("{way}: {error}"));
                        assert_eq!(back, "first");
                        stream
                    })
                })
                .collect();
            dialling
                .into_iter()
                .map(|dialling| dialling.join().unwrap())
                .collect()
        });
        // All are open at once, and all still answer.
        for stream in &mut streams {
            assert_eq!(say(stream, "again").unwrap(), "again", "{way}");
        }
        let tunnels = stage.tunnels(&from).unwrap();
        assert!(
            (3..=24).contains(&tunnels),
            "{way}: {STREAMS} streams on {tunnels} connections"
        );
        assert!(begun.elapsed() < PATIENCE, "{way}: {:?}", begun.elapsed());
    }
}

/// Writes to an echo without reading, until nothing more goes in: the stream and how much went in.
fn fill(from: &Side, to: &Pod) -> (TcpStream, u64) {
    let mut stream = from.connect(to.v4, ECHO).unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
    let (mut written, chunk) = (0, vec![0x5a; 1 << 20]);
    loop {
        match stream.write(&chunk) {
            Ok(n) => written += n as u64,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                return (stream, written);
            }
        }
        assert!(written < 256 << 20, "an echo that nobody reads must fill up");
    }
}

#[test]
fn a_reader_that_pauses_holds_up_only_itself() {
    const BULK: usize = 256 << 20;
    let Some(stage) = stage() else { return };
    for (way, from, to) in stage.directions() {
        let chunk = vec![0x5a; 1 << 20];
        let (mut paused, written) = fill(&from, &to);
        let mut bulk = from.connect(to.v4, ECHO).unwrap();
        let (mut reader, mut read) = (bulk.try_clone().unwrap(), 0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                (0..BULK / chunk.len()).for_each(|_| bulk.write_all(&chunk).unwrap());
                bulk.shutdown(Shutdown::Write).unwrap();
            });
            read = std::io::copy(&mut reader, &mut std::io::sink()).unwrap();
        });
        assert_eq!(read, BULK as u64, "{way}");
        paused.shutdown(Shutdown::Write).unwrap();
        let late = std::io::copy(&mut paused, &mut std::io::sink()).unwrap();
        assert_eq!(late, written, "{way}: what was held back comes whole");
    }
}

#[test]
fn leaving_the_mesh_closes_heddles_tunnels() {
    let Some(stage) = stage() else { return };
    for (way, from, to) in stage.directions() {
        let mut stream = from.connect(to.v4, ECHO).unwrap();
        assert_eq!(say(&mut stream, "hello").unwrap(), "hello", "{way}");
    }
    let (heddle, peer) = (&stage.heddle_side.pod, &stage.ztunnel_side.pod);
    assert!(established(heddle, "dport = :15008 or sport = :15008").unwrap() >= 2);
    stage.config.edit("mesh.yaml", "enabled", "disabled").unwrap();
    // Without traffic they are kept for five minutes.
    eventually("the tunnels to close", PATIENCE, || {
        (established(heddle, "dport = :15008 or sport = :15008").unwrap() == 0).then_some(())
    })
    .unwrap();
    let to = format!("{}:{HTTP}", peer.v4);
    let answer = heddle.podkit(&["get", "--to", &to]).unwrap();
    assert_eq!(answer["statuses"]["200"], 1, "in plaintext: {answer}");
}

#[test]
fn a_silent_stream_outlives_minutes_of_pings_and_a_short_freeze() {
    let Some(mut stage) = stage() else { return };
    let mut streams: Vec<_> = stage
        .directions()
        .into_iter()
        .map(|(way, from, to)| {
            let mut stream = from.connect(to.v4, ECHO).unwrap();
            assert_eq!(say(&mut stream, "before").unwrap(), "before");
            (way, stream)
        })
        .collect();
    std::thread::sleep(Duration::from_secs(65));
    for (way, stream) in &mut streams {
        assert_eq!(say(stream, "after").unwrap(), "after", "{way}: silence");
    }
    for frozen in [&mut stage.agent.proc, &mut stage.ztunnel] {
        frozen.signal(Signal::SIGSTOP).unwrap();
        std::thread::sleep(Duration::from_secs(12));
        frozen.signal(Signal::SIGCONT).unwrap();
        for (way, stream) in &mut streams {
            assert_eq!(say(stream, "thawed").unwrap(), "thawed", "{way}: freeze");
        }
    }
}

#[test]
fn what_hangs_is_given_up_and_dialled_anew() {
    let Some(mut stage) = stage() else { return };
    let directions = stage.directions();
    for (way, from, to) in &directions {
        let mut stream = from.connect(to.v4, ECHO).unwrap();
        assert_eq!(say(&mut stream, "before").unwrap(), "before");
        let hangs = if Arc::ptr_eq(to, &stage.ztunnel_side.pod) {
            &mut stage.ztunnel
        } else {
            &mut stage.agent.proc
        };
        hangs.signal(Signal::SIGSTOP).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(35))).unwrap();
        // The other side gets no PING answered: after at most 10 + 20 s it ends what is on that connection.
        let end = stream.read(&mut [0]);
        let timed_out = |error: &std::io::Error| error.kind() == ErrorKind::WouldBlock;
        assert!(
            !end.is_err_and(|error| timed_out(&error)),
            "{way}: the stream hangs with its peer"
        );
        hangs.signal(Signal::SIGCONT).unwrap();
        for (again, from, to) in &directions {
            eventually(again, PATIENCE, || {
                let mut stream = from.connect(to.v4, ECHO).ok()?;
                say(&mut stream, "anew").ok().filter(|back| back == "anew")
            })
            .unwrap();
        }
    }
}

#[test]
fn streams_finish_while_heddle_or_ztunnel_goes() {
    let Some(from) = ztunnel() else { return };
    for heddle_goes in [true, false] {
        let beliefs = Beliefs {
            ztunnel_env: &[("TERMINATION_GRACE_PERIOD_SECONDS", "25")],
            ..Beliefs::default()
        };
        let mut stage = Stage::start(&from, &beliefs).unwrap();
        let going = if heddle_goes {
            "heddle goes"
        } else {
            "ztunnel goes"
        };
        let mut streams: Vec<_> = stage
            .directions()
            .into_iter()
            .map(|(way, from, to)| {
                let mut stream = from.connect(to.v4, ECHO).unwrap();
                assert_eq!(say(&mut stream, "before").unwrap(), "before");
                (way, stream)
            })
            .collect();
        let proc = if heddle_goes {
            &mut stage.agent.proc
        } else {
            &mut stage.ztunnel
        };
        proc.signal(Signal::SIGTERM).unwrap();
        // Longer than the farewells of both, shorter than their patience.
        std::thread::sleep(Duration::from_secs(3));
        if !heddle_goes {
            // Heddle's own listeners stay, for its successor.
            let begun = Instant::now();
            assert!(is_refused(
                &stage.heddle_side,
                stage.ztunnel_side.pod.v4.into(),
                ECHO
            ));
            assert!(
                begun.elapsed() < Duration::from_secs(2),
                "heddle waits for a ztunnel that goes"
            );
        }
        for (way, stream) in &mut streams {
            assert_eq!(say(stream, "during").unwrap(), "during", "{going}, {way}");
            stream.shutdown(Shutdown::Write).unwrap();
            assert_eq!(stream.read(&mut [0]).unwrap(), 0, "{going}, {way}: a clean end");
        }
        drop(streams);
        // Nothing is left to wait for.
        let status = proc.wait(PATIENCE).unwrap();
        assert!(status.success(), "{going}: {status}");
    }
}

#[test]
fn after_a_crash_of_either_the_first_connection_and_request_succeed() {
    let Some(mut stage) = stage() else { return };
    let directions = stage.directions();
    let to_peer = format!("{}:{HTTP}", directions[0].2.v4);
    let all_well = |when: &str| {
        let answer = directions[0]
            .1
            .pod
            .podkit(&["get", "--to", &to_peer, "--count", "20"])
            .unwrap();
        assert_eq!(answer["statuses"]["200"], 20, "{when}: {answer}");
        for (way, from, to) in &directions {
            let mut stream = from.connect(to.v4, ECHO).unwrap();
            assert_eq!(say(&mut stream, "hello").unwrap(), "hello", "{when}, {way}");
        }
    };
    all_well("at first");
    stage.restart_ztunnel().unwrap();
    all_well("after ztunnel's");
    stage.agent.restart().unwrap();
    stage.agent.ready(PATIENCE).unwrap();
    all_well("after Heddle's");
}

#[test]
fn http_in_the_tunnel_is_seen_and_counted_by_heddle() {
    let Some(stage) = stage() else { return };
    let (app, peer) = (&stage.heddle_side, &stage.ztunnel_side);
    for ip in peer.pod.ips() {
        let to = std::net::SocketAddr::new(ip, HTTP).to_string();
        for http2 in [false, true] {
            let mut args = vec!["get", "--to", &to, "--count", "10"];
            args.extend(http2.then_some("--http2"));
            let answer = app.pod.podkit(&args).unwrap();
            assert_eq!(answer["statuses"]["200"], 10, "{to}: {answer}");
        }
    }
    for ip in app.pod.ips() {
        let mut stream = peer.connect(ip, HTTP).unwrap();
        for _ in 0..10 {
            stream.write_all(b"GET / HTTP/1.1\r\nhost: app\r\n\r\n").unwrap();
            let mut head = [0; 12];
            stream.read_exact(&mut head).unwrap();
            assert_eq!(&head, b"HTTP/1.1 200");
            drain_silence(&mut stream);
        }
        let stream = peer.connect(ip, HTTP).unwrap();
        assert_eq!(raw::http2(stream, "http://app/", 10).unwrap(), [200; 10]);
    }
    let spiffe = |account| format!("spiffe://cluster.local/ns/{}/sa/{account}", stage::NAMESPACE);
    let (app_id, peer_id) = (spiffe("app"), spiffe("peer"));
    for (reporter, source, destination, from, requests) in [
        ("source", &app_id, &peer_id, "app", 40.0),
        ("destination", &peer_id, &app_id, "peer", 40.0),
    ] {
        let labels = [
            ("reporter", reporter),
            ("source_principal", source.as_str()),
            ("destination_principal", destination.as_str()),
            ("connection_security_policy", "mutual_tls"),
            ("source_workload", from),
        ];
        let counted = eventually("the requests to be counted", PATIENCE, || {
            let metrics = stage.agent.spec.metrics().ok()?;
            (sum(&metrics, "istio_requests_total", &labels) == requests).then_some(())
        });
        counted.unwrap_or_else(|error| panic!("{error}: {}", stage.agent.spec.get("/metrics").unwrap().1));
    }
}

/// Reads what comes until nothing has come for a moment.
fn drain_silence(stream: &mut TcpStream) {
    let limit = stream.read_timeout().unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let _quiet = std::io::copy(stream, &mut std::io::sink());
    stream.set_read_timeout(limit).unwrap();
}

#[test]
fn the_same_question_gets_the_same_answer_from_both() {
    const FRIEND: &[&str] = &["spiffe://cluster.local/ns/interop/sa/friend"];
    let Some(from) = ztunnel() else { return };
    let stage = Stage::start(&from, &Beliefs::default()).unwrap();
    let raw = Raw::new(&from.ca_key, &from.ca_cert).unwrap();
    let sides = stage.directions();
    // Authority with `IP` for the server's own address; expected status, 0 = no answer at all.
    let questions: &[(Method, &str, u16)] = &[
        (Method::CONNECT, "IP:7000", 200),
        (Method::GET, "IP:7000", 400),
        (Method::POST, "IP:7000", 400),
        (Method::CONNECT, "10.77.9.9:7000", 400),
        (Method::CONNECT, "[fd77:9::9]:7000", 400),
        (Method::CONNECT, "IP", 400),
        (Method::CONNECT, "IP:9", 503),
        (Method::CONNECT, "IP:15001", 503),
        (Method::CONNECT, "IP:15006", 503),
        (Method::CONNECT, "IP:15008", 503),
        (Method::CONNECT, "nobody.interop.svc.cluster.local:80", 503),
        (Method::CONNECT, "nobody", 400),
    ];
    for (method, authority, expected) in questions {
        for family in [0, 1] {
            for (way, from, to) in &sides {
                let ip = to.ips()[family];
                let own = if ip.is_ipv6() {
                    format!("[{ip}]")
                } else {
                    ip.to_string()
                };
                let uri = authority.replace("IP", &own);
                let (answer, streams) = raw
                    .ask(&from.pod.netns, ip, &Shown::Uris(FRIEND), method, &uri)
                    .unwrap();
                assert_eq!(answer, Answer::Status(*expected), "{way}: {method} {uri}");
                assert_eq!(streams, 200, "{way}: streams allowed");
            }
        }
    }
    let shown: &[(&str, Shown<'_>)] = &[
        ("no certificate", Shown::Nothing),
        ("no SAN", Shown::Uris(&[])),
        (
            "no SPIFFE SAN",
            Shown::Uris(&["https://cluster.local/ns/interop/sa/friend"]),
        ),
        (
            "foreign trust domain",
            Shown::Uris(&["spiffe://other.local/ns/interop/sa/friend"]),
        ),
    ];
    for (what, shown) in shown {
        for (way, from, to) in &sides {
            let uri = format!("{}:{ECHO}", to.v4);
            let ip = to.v4.into();
            let (answer, _) = raw
                .ask(&from.pod.netns, ip, shown, &Method::CONNECT, &uri)
                .unwrap();
            assert_eq!(answer, Answer::Failed, "{way}: {what}");
        }
    }
    let mut raw = raw;
    raw.version = &rustls::version::TLS12;
    for (way, from, to) in &sides {
        let uri = format!("{}:{ECHO}", to.v4);
        let (answer, _) = raw
            .ask(
                &from.pod.netns,
                to.v4.into(),
                &Shown::Uris(FRIEND),
                &Method::CONNECT,
                &uri,
            )
            .unwrap();
        assert_eq!(answer, Answer::Failed, "{way}: TLS 1.2");
    }
    raw.version = &rustls::version::TLS13;
    for (alpn, expected) in [
        (&[][..], Answer::Status(200)),
        (&[b"http/1.1".to_vec()][..], Answer::Failed),
    ] {
        raw.alpn = alpn.to_vec();
        for (way, from, to) in &sides {
            let uri = format!("{}:{ECHO}", to.v4);
            let ip = to.v4.into();
            let (answer, _) = raw
                .ask(&from.pod.netns, ip, &Shown::Uris(FRIEND), &Method::CONNECT, &uri)
                .unwrap();
            assert_eq!(answer, expected, "{way}: ALPN {alpn:?}");
        }
    }
}
