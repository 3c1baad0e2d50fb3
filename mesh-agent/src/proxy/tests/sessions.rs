//! Sessions and constraints of retries, as clients and servers see them.

use super::mesh::{GET_CLOSE, Mesh, Plan, Seen, field, ok, rule, web};
use mesh_core::model::ObjectName;
use mesh_core::model::route::{RetryOn, RetryPolicy, RouteAction};
use mesh_core::model::service::Protocol;
use mesh_core::model::traffic::{BackendPolicy, Carrier, Persistence, RetryConstraint};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// Servers that answer with their number.
async fn servers(count: usize) -> Vec<SocketAddr> {
    let mut addrs = Vec::new();
    for n in 0..count {
        addrs.push(web(&Seen::default(), move |_| ok(&format!("server-{n}"))).await);
    }
    addrs
}

fn served(answer: &str) -> &str {
    answer.rsplit("\r\n").next().unwrap()
}

fn persistence(carrier: Carrier) -> Option<Arc<Persistence>> {
    Some(Arc::new(Persistence {
        carrier,
        name: "session".into(),
        absolute: None,
        permanent: false,
    }))
}

/// GEP-1619: the endpoint of a session serves it while it is there; a hash would move some when others come.
#[tokio::test]
async fn a_session_stays_with_its_endpoint_until_that_is_gone() {
    let addrs = servers(6).await;
    for carrier in [Carrier::Cookie, Carrier::Header] {
        let mesh = Mesh::start(Plan {
            protocol: Protocol::Http,
            endpoints: addrs[..3].to_vec(),
            rule: Some(RouteAction {
                session: persistence(carrier),
                ..rule()
            }),
            ..Plan::default()
        });
        let ask = async |token: &str| {
            let shown = match carrier {
                Carrier::Cookie => format!("cookie: a=b; {token}"),
                Carrier::Header => format!("session: {token}"),
            };
            let request = format!("GET / HTTP/1.1\r\nhost: web\r\n{shown}\r\nconnection: close\r\n\r\n");
            mesh.exchange(&request).await
        };
        let begun = |answer: &str| match carrier {
            Carrier::Cookie => {
                field(answer, "set-cookie").map(|set| set.split(';').next().unwrap().to_owned())
            }
            Carrier::Header => field(answer, "session"),
        };
        let mut sessions = Vec::new();
        for _ in 0..12 {
            let answer = mesh.exchange(GET_CLOSE).await;
            sessions.push((begun(&answer).unwrap(), served(&answer).to_owned()));
        }
        mesh.scale(&addrs);
        for (token, server) in &sessions {
            let answer = ask(token).await;
            assert_eq!(
                served(&answer),
                server,
                "six servers now, and the session has its own"
            );
            assert_eq!(begun(&answer), None, "nothing new to be told: {answer}");
        }
        mesh.scale(&addrs[3..]);
        let (token, server) = &sessions[0];
        let answer = ask(token).await;
        assert_ne!(served(&answer), server);
        let next = begun(&answer).expect("a new session");
        let now = served(&answer).to_owned();
        for _ in 0..5 {
            assert_eq!(served(&ask(&next).await), now);
        }
    }
}

/// GEP-3388: what is above the budget is answered with 503; the least rate is let through all the same.
#[tokio::test]
async fn retries_above_their_constraint_are_answered_with_503() {
    let seen = Seen::default();
    let addr = web(&seen, |_| "HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n".into()).await;
    let hour = Duration::from_secs(3_600);
    let mesh = Mesh::start(Plan {
        protocol: Protocol::Http,
        endpoints: vec![addr],
        rule: Some(RouteAction {
            retries: Arc::new(RetryPolicy {
                attempts: 3,
                on: RetryOn {
                    statuses: vec![500],
                    ..RetryOn::default()
                },
                backoff: Duration::from_millis(1),
                previous_hosts: true,
                ..RetryPolicy::mesh_default().clone()
            }),
            ..rule()
        }),
        backend: Some(BackendPolicy {
            object: ObjectName::new("weather", "calm"),
            session: None,
            retries: Some(RetryConstraint {
                percent: 0,
                interval: hour,
                least: 4,
                least_in: hour,
            }),
        }),
        ..Plan::default()
    });
    let first = mesh.exchange(GET_CLOSE).await;
    assert!(
        first.starts_with("HTTP/1.1 500"),
        "three retries are within it: {first}"
    );
    assert_eq!(seen.heads.lock().len(), 4);
    let second = mesh.exchange(GET_CLOSE).await;
    assert!(second.starts_with("HTTP/1.1 503"), "one was left: {second}");
    assert_eq!(seen.heads.lock().len(), 6);
    let third = mesh.exchange(GET_CLOSE).await;
    assert!(third.starts_with("HTTP/1.1 503"), "{third}");
    assert_eq!(seen.heads.lock().len(), 7, "tried once");
    mesh.metric(&["heddle_proxy_overflows_total", "retryConstraint", "} 2"])
        .await;
}
