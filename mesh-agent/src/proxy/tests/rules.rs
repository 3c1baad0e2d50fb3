//! What a rule can say besides where to: rewrites, faults, answers of the proxy's own, CORS, mirrors, deadlines.

use super::mesh::{GET_CLOSE, Mesh, Plan, Seen, eventually, field, mirror_to, ok, rule, server, web};
use crate::testing::refusing;
use mesh_core::model::route::{
    Abort, AbortWith, Cors, Delay, DirectResponse, Fault, HeaderEdits, Outcome, PathChange, Redirect,
    Rewrite, RouteAction, StringMatch,
};
use std::time::{Duration, Instant};
use tokio::io::AsyncReadExt;

const ALWAYS: u32 = 1_000_000;
const GRPC: &str = "POST /s/m HTTP/1.1\r\nhost: web\r\ncontent-type: application/grpc\r\nconnection: close\r\n\
                    content-length: 0\r\n\r\n";

fn aborting(with: AbortWith) -> RouteAction {
    let abort = Abort {
        with,
        per_million: ALWAYS,
    };
    RouteAction {
        fault: Some(Box::new(Fault {
            delay: None,
            abort: Some(abort),
        })),
        ..rule()
    }
}

fn delaying(time: Duration) -> Option<Delay> {
    Some(Delay {
        time,
        per_million: ALWAYS,
    })
}

#[tokio::test]
async fn a_rewrite_changes_path_and_authority_and_tells_the_old_path() {
    let seen = Seen::default();
    let addr = web(&seen, |_| ok("")).await;
    let mut action = rule();
    action.rewrite = Some(Box::new(Rewrite {
        authority: Some("other.example:81".into()),
        path: Some(PathChange::Full("/new".into())),
    }));
    // `rewrite.authority` wins over a `Host` that the route sets, and loses to the destination's.
    action.headers.get_or_insert_default().request.set = vec![("host".into(), "set.example".into())];
    let mesh = Mesh::with_rule(&[addr], action);
    let answer = mesh
        .exchange("GET /old?q=1 HTTP/1.1\r\nhost: web\r\nx-envoy-original-path: /forged\r\nconnection: close\r\n\r\n")
        .await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let head = seen.heads.lock()[0].clone();
    assert!(head.starts_with("GET /new?q=1 HTTP/1.1\r\n"), "{head}");
    assert_eq!(field(&head, "host").as_deref(), Some("other.example:81"));
    assert_eq!(field(&head, "x-envoy-original-path").as_deref(), Some("/old?q=1"));
}

#[tokio::test]
async fn an_authority_is_rewritten_where_no_header_is_changed() {
    let seen = Seen::default();
    let addr = web(&seen, |_| ok("")).await;
    let mut action = rule();
    action.headers = None;
    action.rewrite = Some(Box::new(Rewrite {
        authority: Some("other.example".into()),
        path: None,
    }));
    let mesh = Mesh::with_rule(&[addr], action);
    let answer = mesh.exchange(GET_CLOSE).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let head = seen.heads.lock()[0].clone();
    assert_eq!(field(&head, "host").as_deref(), Some("other.example"));
}

#[tokio::test]
async fn an_aborted_request_never_arrives_and_counts_with_fi() {
    let seen = Seen::default();
    let addr = web(&seen, |_| ok("")).await;
    let mut action = aborting(AbortWith::Http(418));
    action.mirrors = vec![mirror_to("web")];
    let mesh = Mesh::with_rule(&[addr], action);
    let answer = mesh.exchange(GET_CLOSE).await;
    assert!(answer.starts_with("HTTP/1.1 418"), "{answer}");
    assert!(answer.ends_with("fault filter abort"), "{answer}");
    mesh.metric(&[
        "istio_requests_total",
        "reporter=\"source\"",
        "response_code=\"418\"",
        "response_flags=\"FI\"",
        "destination_service_name=\"web\"",
        "} 1",
    ])
    .await;
    assert!(seen.heads.lock().is_empty(), "neither the request nor its copy");
}

#[tokio::test]
async fn a_fault_needs_no_endpoint() {
    let mesh = Mesh::with_rule(&[], aborting(AbortWith::Http(400)));
    let answer = mesh.exchange(GET_CLOSE).await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
}

#[tokio::test]
async fn a_grpc_client_gets_an_injected_status_as_trailers_only() {
    for (with, status) in [(AbortWith::Grpc(7), "7"), (AbortWith::Http(503), "14")] {
        let mesh = Mesh::with_rule(&[], aborting(with));
        let answer = mesh.exchange(GRPC).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert_eq!(field(&answer, "grpc-status").as_deref(), Some(status));
        assert_eq!(
            field(&answer, "grpc-message").as_deref(),
            Some("fault filter abort")
        );
        mesh.metric(&[
            "istio_requests_total",
            &format!("grpc_response_status=\"{status}\""),
            "FI",
        ])
        .await;
    }
}

#[tokio::test]
async fn an_injected_delay_comes_before_the_request_and_outside_of_its_timeout() {
    let seen = Seen::default();
    let addr = web(&seen, |_| ok("")).await;
    let mut action = rule();
    action.timeout = Some(Duration::from_millis(100));
    action.fault = Some(Box::new(Fault {
        delay: delaying(Duration::from_millis(300)),
        abort: None,
    }));
    let mesh = Mesh::with_rule(&[addr], action);
    let since = Instant::now();
    let answer = mesh.exchange(GET_CLOSE).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(since.elapsed() >= Duration::from_millis(300));
    mesh.metric(&[
        "istio_requests_total",
        "response_code=\"200\"",
        "response_flags=\"DI\"",
    ])
    .await;
}

#[tokio::test]
async fn a_delay_and_an_abort_are_both_told() {
    let mut action = aborting(AbortWith::Http(500));
    if let Some(fault) = &mut action.fault {
        fault.delay = delaying(Duration::from_millis(20));
    }
    let mesh = Mesh::with_rule(&[], action);
    let answer = mesh.exchange(GET_CLOSE).await;
    assert!(answer.starts_with("HTTP/1.1 500"), "{answer}");
    mesh.metric(&["istio_requests_total", "response_flags=\"DI,FI\""])
        .await;
}

#[tokio::test]
async fn a_redirect_and_a_direct_response_are_answered_here_with_the_rules_fields() {
    let redirect = Redirect {
        status: 302,
        host: Some("other.example".into()),
        ..Redirect::default()
    };
    let answer = Mesh::with_rule(&[], RouteAction::new(Outcome::Redirect(Box::new(redirect))))
        .exchange(GET_CLOSE)
        .await;
    assert!(answer.starts_with("HTTP/1.1 302"), "{answer}");
    assert_eq!(
        field(&answer, "location").as_deref(),
        Some("http://other.example/")
    );

    let mut action = RouteAction::new(Outcome::Respond(DirectResponse {
        status: 503,
        body: b"closed".as_slice().into(),
    }));
    action.headers.get_or_insert_default().response = HeaderEdits {
        set: vec![("x-why".into(), "holidays".into())],
        ..HeaderEdits::default()
    };
    let mesh = Mesh::with_rule(&[], action);
    let answer = mesh.exchange(GET_CLOSE).await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(answer.ends_with("\r\n\r\nclosed"), "{answer}");
    assert_eq!(field(&answer, "content-type").as_deref(), Some("text/plain"));
    assert_eq!(field(&answer, "x-why").as_deref(), Some("holidays"));
    let answer = mesh.exchange(GRPC).await;
    assert_eq!(field(&answer, "grpc-status").as_deref(), Some("14"));
    assert_eq!(field(&answer, "grpc-message").as_deref(), Some("closed"));
}

#[tokio::test]
async fn a_preflight_is_answered_here_and_an_actual_answer_is_dressed_even_a_failed_one() {
    let seen = Seen::default();
    let addr = web(&seen, |_| {
        "HTTP/1.1 200 OK\r\naccess-control-allow-origin: *\r\ncontent-length: 0\r\n\r\n".into()
    })
    .await;
    let cors = Cors {
        allow_origins: vec![StringMatch::Prefix("https://a.".into())],
        allow_methods: vec!["GET".into(), "PUT".into()],
        max_age: Some(Duration::from_secs(60)),
        ..Cors::default()
    };
    let action = || RouteAction {
        cors: Some(Box::new(cors.clone())),
        ..rule()
    };
    let mesh = Mesh::with_rule(&[addr], action());
    let answer = mesh
        .exchange(
            "OPTIONS / HTTP/1.1\r\nhost: web\r\norigin: https://a.example\r\n\
             access-control-request-method: PUT\r\nconnection: close\r\n\r\n",
        )
        .await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(seen.heads.lock().is_empty(), "a preflight is not forwarded");
    for (name, value) in [
        ("access-control-allow-origin", "https://a.example"),
        ("access-control-allow-methods", "GET,PUT"),
        ("access-control-max-age", "60"),
    ] {
        assert_eq!(field(&answer, name).as_deref(), Some(value), "{answer}");
    }
    let actual = "GET / HTTP/1.1\r\nhost: web\r\norigin: https://a.example\r\nconnection: close\r\n\r\n";
    let answer = mesh.exchange(actual).await;
    assert_eq!(
        answer.matches("access-control-allow-origin").count(),
        1,
        "{answer}"
    );
    let origin = |answer: &str| field(answer, "access-control-allow-origin");
    assert_eq!(origin(&answer).as_deref(), Some("https://a.example"));
    let (_bound, dead) = refusing();
    let answer = Mesh::with_rule(&[dead], action()).exchange(actual).await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert_eq!(origin(&answer).as_deref(), Some("https://a.example"));
}

#[tokio::test]
async fn each_mirror_gets_its_copy_marked_in_the_host_and_rewritten_alike() {
    let seen = Seen::default();
    let shadow = Seen::default();
    let addr = web(&seen, |_| ok("")).await;
    let copy = web(&shadow, |_| ok("ignored")).await;
    let mut action = rule();
    action.mirrors = vec![mirror_to("shadow"), mirror_to("shadow")];
    action.rewrite = Some(Box::new(Rewrite {
        authority: None,
        path: Some(PathChange::Full("/new".into())),
    }));
    let mesh = Mesh::start(Plan {
        endpoints: vec![addr],
        second: vec![copy],
        rule: Some(action),
        ..Plan::default()
    });
    let answer = mesh.exchange(GET_CLOSE).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    eventually(|| (shadow.heads.lock().len() == 2).then_some(()))
        .await
        .unwrap();
    for head in shadow.heads.lock().iter() {
        assert_eq!(field(head, "host").as_deref(), Some("web-shadow"), "{head}");
        assert!(head.starts_with("GET /new "), "{head}");
    }
}

#[tokio::test]
async fn a_grpc_timeout_is_honoured_and_capped_by_the_rule() {
    let (told, heads) = std::sync::mpsc::channel();
    let addr = server(move |mut stream| {
        let told = told.clone();
        async move {
            let mut buf = [0; 2048];
            while let Ok(n) = stream.read(&mut buf).await {
                if n == 0 {
                    return;
                }
                let _ = told.send(String::from_utf8_lossy(&buf[..n]).into_owned());
            }
        }
    })
    .await;
    let asking = |time: &str| {
        GRPC.replace(
            "\r\ncontent-length",
            &format!("\r\ngrpc-timeout: {time}\r\ncontent-length"),
        )
    };
    let since = Instant::now();
    let answer = Mesh::to(&[addr]).exchange(&asking("100m")).await;
    assert_eq!(field(&answer, "grpc-status").as_deref(), Some("4"), "{answer}");
    let mut action = rule();
    action.timeout = Some(Duration::from_millis(150));
    let answer = Mesh::with_rule(&[addr], action).exchange(&asking("1H")).await;
    assert_eq!(field(&answer, "grpc-status").as_deref(), Some("4"), "{answer}");
    assert!(since.elapsed() < Duration::from_secs(3));
    let heads: Vec<_> = heads
        .try_iter()
        .filter_map(|head| field(&head, "grpc-timeout"))
        .collect();
    assert_eq!(heads, ["100m", "150m"]);
}
