//! HTTP/1.1 through the proxy.

use super::mesh::{
    GET, GET_CLOSE, Mesh, Plan, Seen, field, mirror_to, ok, read_all, read_head, rule, server, web,
};
use crate::testing::refusing;
use mesh_core::model::route::{HeaderEdits, RetryOn, RetryPolicy};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test]
async fn requests_on_kept_connections_reuse_one_upstream_connection() {
    let seen = Seen::default();
    let addr = web(&seen, |_| ok("hello")).await;
    let mesh = Mesh::to(&[addr]);
    let mut stream = mesh.dial().await;
    for _ in 0..20 {
        stream.write_all(GET.as_bytes()).await.unwrap();
        let head = read_head(&mut stream).await;
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        let mut body = [0; 5];
        stream.read_exact(&mut body).await.unwrap();
        assert_eq!(&body, b"hello");
    }
    assert_eq!(*seen.connections.lock(), 1);
    assert_eq!(seen.heads.lock().len(), 20);
    let line = mesh
        .metric(&[
            "istio_requests_total",
            "reporter=\"source\"",
            "response_code=\"200\"",
            "} 20",
        ])
        .await;
    for label in [
        "source_workload=\"frontend\"",
        "source_principal=\"spiffe://cluster.local/ns/weather/sa/frontend\"",
        "destination_service=\"web.weather.svc.cluster.local\"",
        "destination_service_name=\"web\"",
        "request_protocol=\"http\"",
        "response_flags=\"-\"",
    ] {
        assert!(line.contains(label), "{label} is not in {line}");
    }
}

#[tokio::test]
async fn hop_by_hop_fields_stay_on_their_hop_and_ids_are_made() {
    let seen = Seen::default();
    let addr = web(&seen, |_| {
        "HTTP/1.1 200 OK\r\nkeep-alive: timeout=1\r\ncontent-length: 0\r\n\r\n".into()
    })
    .await;
    let mesh = Mesh::to(&[addr]);
    let answer = mesh
        .exchange(
            "GET /a?b HTTP/1.1\r\nHost: web\r\nConnection: close, x-mine\r\nX-Mine: 1\r\nKeep-Alive: 3\r\n\
             X-Envoy-Max-Retries: 9\r\nX-Theirs: 2\r\n\r\n",
        )
        .await;
    assert!(!answer.contains("keep-alive: timeout"), "{answer}");
    let head = seen.heads.lock()[0].clone();
    assert!(head.starts_with("GET /a?b HTTP/1.1\r\n"), "{head}");
    for gone in ["x-mine", "keep-alive", "x-envoy-max-retries", "connection"] {
        assert_eq!(field(&head, gone), None, "{head}");
    }
    assert_eq!(field(&head, "host").as_deref(), Some("web"));
    assert_eq!(field(&head, "x-theirs").as_deref(), Some("2"));
    assert_eq!(field(&head, "x-forwarded-proto").as_deref(), Some("http"));
    assert_eq!(field(&head, "x-request-id").unwrap().len(), 36);
}

#[tokio::test]
async fn header_operations_of_a_route_are_applied_both_ways() {
    let seen = Seen::default();
    let addr = web(&seen, |_| {
        "HTTP/1.1 200 OK\r\nserver: x\r\ncontent-length: 0\r\n\r\n".into()
    })
    .await;
    let mut rule = rule();
    rule.headers.get_or_insert_default().request = HeaderEdits {
        set: vec![("host".into(), "other.example".into())],
        add: vec![("x-added".into(), "1".into())],
        remove: vec!["x-gone".into()],
    };
    rule.headers.get_or_insert_default().response = HeaderEdits {
        remove: vec!["server".into()],
        ..HeaderEdits::default()
    };
    let mesh = Mesh::with_rule(&[addr], rule);
    let answer = mesh
        .exchange("GET / HTTP/1.1\r\nhost: web\r\nx-gone: 1\r\nconnection: close\r\n\r\n")
        .await;
    assert!(!answer.contains("server:"), "{answer}");
    let head = seen.heads.lock()[0].clone();
    assert_eq!(field(&head, "host").as_deref(), Some("other.example"));
    assert_eq!(field(&head, "x-added").as_deref(), Some("1"));
    assert_eq!(field(&head, "x-gone"), None);
}

#[tokio::test]
async fn an_unreachable_upstream_is_a_503_with_uf() {
    let (_bound, dead) = refusing();
    let mesh = Mesh::to(&[dead]);
    let answer = mesh.exchange(GET_CLOSE).await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    mesh.metric(&[
        "istio_requests_total",
        "response_code=\"503\"",
        "response_flags=\"UF\"",
        "} 1",
    ])
    .await;
}

#[tokio::test]
async fn a_slow_upstream_is_a_504_with_ut() {
    let addr = server(|mut stream| async move {
        let mut buf = [0; 1024];
        while stream.read(&mut buf).await.is_ok_and(|n| n > 0) {}
    })
    .await;
    let mut rule = rule();
    rule.timeout = Some(Duration::from_millis(100));
    let mesh = Mesh::with_rule(&[addr], rule);
    let since = Instant::now();
    let answer = mesh.exchange(GET_CLOSE).await;
    assert!(answer.starts_with("HTTP/1.1 504"), "{answer}");
    assert!(answer.ends_with("upstream request timeout"), "{answer}");
    assert!(since.elapsed() < Duration::from_secs(2));
    mesh.metric(&[
        "istio_requests_total",
        "response_code=\"504\"",
        "response_flags=\"UT\"",
    ])
    .await;
}

#[tokio::test]
async fn a_retry_sends_the_same_body_and_only_when_asked() {
    let tries = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&tries);
    let seen = Seen::default();
    let addr = web(&seen, move |_| {
        if counted.fetch_add(1, Ordering::SeqCst) < 2 {
            "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n".into()
        } else {
            ok("third")
        }
    })
    .await;
    let post = "POST / HTTP/1.1\r\nhost: web\r\ncontent-length: 4\r\nconnection: close\r\n\r\nbody";
    let mesh = Mesh::to(&[addr]);
    assert!(
        mesh.exchange(post).await.starts_with("HTTP/1.1 503"),
        "503 is not a reason by default"
    );
    assert_eq!(tries.swap(0, Ordering::SeqCst), 1);
    let mut rule = rule();
    rule.retries = Arc::new(RetryPolicy {
        attempts: 3,
        per_try_timeout: None,
        on: RetryOn {
            gateway_error: true,
            ..RetryOn::default()
        },
        backoff: Duration::from_millis(1),
        ..RetryPolicy::mesh_default().clone()
    });
    let mesh = Mesh::with_rule(&[addr], rule);
    let answer = mesh.exchange(post).await;
    assert!(answer.ends_with("third"), "{answer}");
    assert_eq!(tries.load(Ordering::SeqCst), 3);
    mesh.metric(&["heddle_proxy_retries_total 2"]).await;
    mesh.metric(&["istio_requests_total", "response_code=\"200\"", "} 1"])
        .await;
}

#[tokio::test]
async fn a_request_is_not_lost_on_a_connection_that_the_upstream_closes() {
    let addr = server(|mut stream| async move {
        // One request per connection, without saying so.
        let head = read_head(&mut stream).await;
        if !head.is_empty() {
            stream.write_all(ok("once").as_bytes()).await.unwrap();
        }
    })
    .await;
    let mesh = Mesh::to(&[addr]);
    let mut stream = mesh.dial().await;
    for round in 0..50 {
        stream.write_all(GET.as_bytes()).await.unwrap();
        let head = read_head(&mut stream).await;
        assert!(head.starts_with("HTTP/1.1 200"), "round {round}: {head}");
        stream.read_exact(&mut [0; 4]).await.unwrap();
    }
}

#[tokio::test]
async fn a_mirror_gets_the_request_and_nobody_waits_for_it() {
    let (first, second) = (Seen::default(), Seen::default());
    let addr = web(&first, |_| ok("first")).await;
    let slow = {
        let second = second.clone();
        server(move |stream| {
            let second = second.clone();
            async move {
                tokio::time::sleep(Duration::from_millis(300)).await;
                super::mesh::web_connection(stream, second, |_| ok("second")).await;
            }
        })
        .await
    };
    let mut rule = rule();
    rule.mirrors.push(mirror_to("shadow"));
    let mesh = Mesh::start(Plan {
        endpoints: vec![addr],
        second: vec![slow],
        rule: Some(rule),
        ..Plan::default()
    });
    let since = Instant::now();
    let post = "POST /m HTTP/1.1\r\nhost: web\r\ncontent-length: 4\r\nconnection: close\r\n\r\nbody";
    let answer = mesh.exchange(post).await;
    assert!(answer.ends_with("first"), "{answer}");
    assert!(
        since.elapsed() < Duration::from_millis(250),
        "waited for the mirror"
    );
    let heads = super::mesh::eventually(|| {
        let heads = second.heads.lock().clone();
        (!heads.is_empty()).then_some(heads)
    });
    let head = heads.await.unwrap().remove(0);
    assert!(head.starts_with("POST /m "), "{head}");
    assert_eq!(field(&head, "host").as_deref(), Some("web-shadow"));
    assert_eq!(first.heads.lock().len(), 1);
}

#[tokio::test]
async fn a_websocket_carries_bytes_only_after_the_server_agreed() {
    let addr = server(|mut stream| async move {
        let head = read_head(&mut stream).await;
        assert_eq!(field(&head, "upgrade").as_deref(), Some("websocket"), "{head}");
        let early = tokio::time::timeout(Duration::from_millis(100), stream.read_u8()).await;
        assert!(early.is_err(), "bytes of the new protocol came before 101");
        let agreed = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nserver first";
        stream.write_all(agreed.as_bytes()).await.unwrap();
        let mut buf = [0; 64];
        while let Ok(n @ 1..) = stream.read(&mut buf).await {
            stream.write_all(&buf[..n]).await.unwrap();
        }
    })
    .await;
    let mesh = Mesh::to(&[addr]);
    let mut stream = mesh.dial().await;
    let ask = "GET /chat HTTP/1.1\r\nhost: web\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\nearly";
    stream.write_all(ask.as_bytes()).await.unwrap();
    let head = read_head(&mut stream).await;
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    assert_eq!(field(&head, "upgrade").as_deref(), Some("websocket"));
    let mut told = [0; 17];
    stream.read_exact(&mut told).await.unwrap();
    assert_eq!(&told, b"server firstearly");
    stream.write_all(b"more").await.unwrap();
    let mut echo = [0; 4];
    stream.read_exact(&mut echo).await.unwrap();
    assert_eq!(&echo, b"more");
}

#[tokio::test]
async fn security_after_a_refused_upgrade_the_next_bytes_are_requests() {
    let seen = Seen::default();
    let addr = web(&seen, |_| ok("no")).await;
    let mesh = Mesh::to(&[addr]);
    let answer = mesh
        .exchange(
            "GET /1 HTTP/1.1\r\nhost: web\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n\
             GET /2 HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n",
        )
        .await;
    assert_eq!(answer.matches("HTTP/1.1 200").count(), 2, "{answer}");
    assert_eq!(seen.heads.lock().len(), 2);
    mesh.metric(&["istio_requests_total", "response_code=\"200\"", "} 2"])
        .await;
}

#[tokio::test]
async fn a_client_that_expects_100_hears_it_from_the_upstream() {
    let addr = server(|mut stream| async move {
        let head = read_head(&mut stream).await;
        assert_eq!(field(&head, "expect").as_deref(), Some("100-continue"), "{head}");
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.unwrap();
        let mut body = [0; 4];
        stream.read_exact(&mut body).await.unwrap();
        stream
            .write_all(ok(std::str::from_utf8(&body).unwrap()).as_bytes())
            .await
            .unwrap();
    })
    .await;
    let mesh = Mesh::to(&[addr]);
    let mut stream = mesh.dial().await;
    let ask = "POST / HTTP/1.1\r\nhost: web\r\nexpect: 100-continue\r\ncontent-length: 4\r\nconnection: close\r\n\r\n";
    stream.write_all(ask.as_bytes()).await.unwrap();
    assert_eq!(read_head(&mut stream).await, "HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"body").await.unwrap();
    let answer = read_all(&mut stream).await;
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.ends_with("body"),
        "{answer}"
    );
}

#[tokio::test]
async fn a_client_that_expects_100_hears_a_refusal_instead() {
    let addr = server(|mut stream| async move {
        read_head(&mut stream).await;
        let refused = "HTTP/1.1 417 Expectation Failed\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        stream.write_all(refused.as_bytes()).await.unwrap();
    })
    .await;
    let mesh = Mesh::to(&[addr]);
    let answer = mesh
        .exchange("POST / HTTP/1.1\r\nhost: web\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n")
        .await;
    assert!(answer.starts_with("HTTP/1.1 417"), "{answer}");
}

#[tokio::test]
async fn responses_without_a_body_keep_their_head() {
    let seen = Seen::default();
    let addr = web(&seen, |head| match head.split(' ').nth(1) {
        Some("/head") => "HTTP/1.1 200 OK\r\ncontent-length: 77\r\n\r\n".into(),
        Some("/204") => "HTTP/1.1 204 No Content\r\n\r\n".into(),
        _ => "HTTP/1.1 304 Not Modified\r\netag: \"x\"\r\n\r\n".into(),
    })
    .await;
    let mesh = Mesh::to(&[addr]);
    let mut stream = mesh.dial().await;
    for (ask, want) in [
        ("HEAD /head", "content-length: 77"),
        ("GET /204", "204"),
        ("GET /304", "etag: \"x\""),
    ] {
        stream
            .write_all(format!("{ask} HTTP/1.1\r\nhost: web\r\n\r\n").as_bytes())
            .await
            .unwrap();
        let head = read_head(&mut stream).await;
        assert!(head.contains(want), "{head}");
    }
    assert_eq!(*seen.connections.lock(), 1);
}

#[tokio::test]
async fn an_http_1_0_client_is_served_and_its_connection_closed() {
    let seen = Seen::default();
    let addr = web(&seen, |_| {
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n".into()
    })
    .await;
    let mesh = Mesh::to(&[addr]);
    let answer = mesh.exchange("GET / HTTP/1.0\r\nhost: web\r\n\r\n").await;
    assert!(
        answer.starts_with("HTTP/1.0 200") || answer.starts_with("HTTP/1.1 200"),
        "{answer}"
    );
    assert!(answer.ends_with("\r\n\r\nhi"), "{answer}");
}

#[tokio::test]
async fn chunked_trailers_pass_both_ways() {
    let addr = server(|mut stream| async move {
        let head = read_head(&mut stream).await;
        assert!(head.contains("transfer-encoding: chunked"), "{head}");
        let mut all = Vec::new();
        while !all.ends_with(b"\r\n\r\n") {
            all.push(stream.read_u8().await.unwrap());
        }
        let body = String::from_utf8_lossy(&all).to_lowercase();
        assert!(body.contains("x-sum: 1"), "{body}");
        let answer = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-end\r\n\r\n2\r\nhi\r\n0\r\nx-end: 2\r\n\r\n";
        stream.write_all(answer.as_bytes()).await.unwrap();
    })
    .await;
    let mesh = Mesh::to(&[addr]);
    let answer = mesh
        .exchange(
            "POST / HTTP/1.1\r\nhost: web\r\nte: trailers\r\ntrailer: x-sum\r\nconnection: close, te\r\n\
             transfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nx-sum: 1\r\n\r\n",
        )
        .await;
    assert!(answer.to_lowercase().contains("x-end: 2"), "{answer}");
}

#[tokio::test]
async fn a_body_too_long_to_keep_passes_whole_and_is_not_tried_again() {
    const SIZE: usize = 300_000;
    let tries = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&tries);
    let addr = server(move |mut stream| {
        let counted = Arc::clone(&counted);
        async move {
            counted.fetch_add(1, Ordering::SeqCst);
            read_head(&mut stream).await;
            let mut body = vec![0; SIZE];
            stream.read_exact(&mut body).await.unwrap();
            assert!(body.iter().all(|b| *b == b'z'));
            stream
                .write_all(b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n")
                .await
                .unwrap();
        }
    })
    .await;
    let mut rule = rule();
    let retries = Arc::make_mut(&mut rule.retries);
    retries.on.server_error = true;
    retries.attempts = 3;
    let mesh = Mesh::with_rule(&[addr], rule);
    let head = format!("POST / HTTP/1.1\r\nhost: web\r\nconnection: close\r\ncontent-length: {SIZE}\r\n\r\n");
    let answer = mesh.exchange(&(head + &"z".repeat(SIZE))).await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert_eq!(tries.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn an_upgrade_to_any_protocol_is_offered_under_its_own_name() {
    let addr = server(|mut stream| async move {
        let head = read_head(&mut stream).await;
        assert_eq!(field(&head, "upgrade").as_deref(), Some("echo/1"), "{head}");
        let agreed = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo/1\r\n\r\nhi";
        stream.write_all(agreed.as_bytes()).await.unwrap();
    })
    .await;
    let mesh = Mesh::to(&[addr]);
    let answer =
        mesh.exchange("GET / HTTP/1.1\r\nhost: web\r\nconnection: upgrade\r\nupgrade: echo/1, h2c\r\n\r\n");
    let answer = answer.await;
    assert!(
        answer.starts_with("HTTP/1.1 101") && answer.ends_with("hi"),
        "{answer}"
    );
    mesh.metric(&["istio_requests_total", "response_code=\"101\"", "} 1"])
        .await;
}

#[tokio::test]
async fn what_is_outside_of_the_mesh_is_passed_through_unless_the_mesh_says_otherwise() {
    let seen = Seen::default();
    let kept = seen.clone();
    let addr = super::mesh::server_at("127.0.0.9:0", move |s| {
        super::mesh::web_connection(s, kept.clone(), |_| ok("out"))
    })
    .await;
    let mesh = Mesh::to(&[]);
    *mesh.records.original.lock() = Some(addr);
    let ask = "GET / HTTP/1.1\r\nhost: example.org\r\nconnection: close\r\n\r\n";
    assert!(mesh.exchange(ask).await.ends_with("out"));
    mesh.metric(&[
        "istio_requests_total",
        "destination_service_name=\"PassthroughCluster\"",
        "} 1",
    ])
    .await;
    mesh.registry_only();
    let answer = mesh.exchange(ask).await;
    assert!(
        answer.starts_with("HTTP/1.1 404") || answer.starts_with("HTTP/1.1 502"),
        "{answer}"
    );
    assert_eq!(seen.heads.lock().len(), 1);
    mesh.metric(&[
        "istio_requests_total",
        "destination_service_name=\"BlackHoleCluster\"",
        "NR",
    ])
    .await;
}
