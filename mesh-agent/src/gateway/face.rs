//! What a gateway tells on its own ports: readiness and metrics.

use super::config::GatewayConfig;
use crate::pages::{metrics, text};
use crate::telemetry::Telemetry;
use anyhow::Context;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::spawn_local;

/// Whether connections should be sent here.
#[derive(Default)]
pub(super) struct Health {
    listed: AtomicBool,
    leaving: AtomicBool,
}

impl Health {
    /// The config is known.
    pub(super) fn listed(&self) {
        if !self.listed.swap(true, Ordering::Relaxed) {
            tracing::info!("ready");
        }
    }

    /// The gateway is about to end.
    pub(super) fn leave(&self) {
        self.leaving.store(true, Ordering::Relaxed);
    }

    /// Whether connections should be sent here.
    pub(super) fn ready(&self) -> bool {
        self.state().0 == StatusCode::OK
    }

    fn state(&self) -> (StatusCode, &'static str) {
        if self.leaving.load(Ordering::Relaxed) {
            (StatusCode::SERVICE_UNAVAILABLE, "draining\n")
        } else if self.listed.load(Ordering::Relaxed) {
            (StatusCode::OK, "ready\n")
        } else {
            (StatusCode::SERVICE_UNAVAILABLE, "no config has been read yet\n")
        }
    }
}

/// Serves both addresses until the runtime ends.
///
/// # Errors
/// An address that cannot be bound.
pub(super) async fn start(
    config: &GatewayConfig,
    health: Arc<Health>,
    telemetry: Arc<Telemetry>,
) -> anyhow::Result<()> {
    let mut addrs: Vec<SocketAddr> = vec![config.status_addr, config.metrics_addr];
    addrs.dedup();
    for addr in addrs {
        let listener = TcpListener::bind(addr)
            .await
            .with_context(|| format!("listen on {addr} for readiness and metrics"))?;
        let (health, telemetry) = (Arc::clone(&health), Arc::clone(&telemetry));
        spawn_local(async move {
            loop {
                match listener.accept().await {
                    Ok((stream, _)) => {
                        let (health, telemetry) = (Arc::clone(&health), Arc::clone(&telemetry));
                        let service = service_fn(move |request| {
                            let answer = answer(&request, &health, &telemetry);
                            async move { Ok::<_, Infallible>(answer) }
                        });
                        let connection = http1::Builder::new()
                            .timer(TokioTimer::new())
                            .header_read_timeout(HEAD_DEADLINE)
                            .serve_connection(TokioIo::new(stream), service);
                        spawn_local(async move {
                            if let Err(error) = connection.await {
                                tracing::debug!(%error, "status connection");
                            }
                        });
                    }
                    Err(error) => {
                        tracing::warn!(%error, "status accept");
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                }
            }
        });
    }
    Ok(())
}

fn answer(request: &Request<Incoming>, health: &Health, telemetry: &Telemetry) -> Response<Full<Bytes>> {
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/healthz/ready") => {
            let (status, words) = health.state();
            text(status, words)
        }
        (&Method::GET, "/healthz/live") => text(StatusCode::OK, "alive\n"),
        (&Method::GET, "/metrics" | "/stats/prometheus") => metrics(telemetry.encode()),
        _ => text(StatusCode::NOT_FOUND, "no such page\n"),
    }
}

const HEAD_DEADLINE: Duration = Duration::from_secs(5);
