//! Listeners: TLS with a certificate that is replaced while they run, and plain HTTP for metrics and health.

use super::authority::Authority;
use super::metrics::Metrics;
use crate::ca::Clock;
use anyhow::Context;
use arc_swap::ArcSwapOption;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::{HttpService, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

/// Handshake and request head take no longer than this.
const PATIENCE: Duration = Duration::from_secs(10);
/// Connections of one listener at once; more wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 4096;
/// Streams of one HTTP/2 connection at once.
const MAX_STREAMS: u32 = 100;
/// Life of a serving certificate, seconds; renewed at half of it.
const SERVING_TTL: u64 = 24 * 3600;
/// How often a serving certificate is looked at.
const RENEWAL_TICK: Duration = Duration::from_secs(1);

/// Which protocol a listener speaks; offered by ALPN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// `http/1.1`.
    Http1,
    /// `h2`.
    Http2,
}

/// The certificate that the controller's listeners show.
#[derive(Debug, Default)]
pub struct ServingCertificate(ArcSwapOption<CertifiedKey>);

impl ResolvesServerCert for ServingCertificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.load_full()
    }
}

impl ServingCertificate {
    /// Has the CA sign for `names`, and again at half life and when the CA has changed. Never returns.
    pub async fn keep(
        self: Arc<Self>,
        authority: Arc<ArcSwapOption<Authority>>,
        names: Vec<String>,
        clock: Clock,
    ) {
        let mut signed_by: Option<Arc<Authority>> = None;
        let mut renew_at = 0;
        let mut ticks = tokio::time::interval(RENEWAL_TICK);
        loop {
            ticks.tick().await;
            let Some(current) = authority.load_full() else {
                continue;
            };
            let now = (clock)();
            let same = signed_by
                .as_ref()
                .is_some_and(|other| Arc::ptr_eq(other, &current));
            if same && now < renew_at {
                continue;
            }
            match current.serving(&names, now, SERVING_TTL) {
                Ok((certified, not_after)) => {
                    self.0.store(Some(Arc::new(certified)));
                    renew_at = now + (not_after.saturating_sub(now)) / 2;
                    signed_by = Some(current);
                    tracing::info!(not_after, "serving certificate renewed");
                }
                Err(error) => tracing::error!(%error, "serving certificate cannot be renewed"),
            }
        }
    }

    /// Whether there is one.
    #[must_use]
    pub fn shown(&self) -> bool {
        self.0.load().is_some()
    }

    /// A server configuration that shows this certificate.
    ///
    /// # Errors
    /// The library's provider lacks what TLS 1.2 or 1.3 needs.
    pub fn config(self: &Arc<Self>, protocol: Protocol) -> Result<Arc<ServerConfig>, rustls::Error> {
        let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(self) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = match protocol {
            Protocol::Http1 => vec![b"http/1.1".to_vec()],
            Protocol::Http2 => vec![b"h2".to_vec()],
        };
        Ok(Arc::new(config))
    }
}

/// Serves TLS connections until the task is dropped.
pub async fn tls<H, F, B>(listener: TcpListener, config: Arc<ServerConfig>, protocol: Protocol, handler: H)
where
    H: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Result<Response<B>, Infallible>> + Send + 'static,
    B: http_body::Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let acceptor = TlsAcceptor::from(config);
    accept(listener, move |stream| {
        let (acceptor, handler) = (acceptor.clone(), handler.clone());
        async move {
            let Ok(Ok(tls)) = tokio::time::timeout(PATIENCE, acceptor.accept(stream)).await else {
                return;
            };
            let io = TokioIo::new(tls);
            let ended = match protocol {
                Protocol::Http1 => http1_on(io, service_fn(handler)).await,
                Protocol::Http2 => {
                    let mut builder = http2::Builder::new(TokioExecutor::new());
                    builder
                        .timer(TokioTimer::new())
                        .max_concurrent_streams(MAX_STREAMS)
                        .keep_alive_interval(Duration::from_secs(30));
                    builder.serve_connection(io, service_fn(handler)).await
                }
            };
            if let Err(error) = ended {
                tracing::debug!(%error, "connection ended");
            }
        }
    })
    .await;
}

/// Serves `/metrics`, `/healthz/ready` and `/healthz/live` until the task is dropped.
pub async fn metrics(
    listener: TcpListener,
    metrics: Arc<Metrics>,
    ready: Arc<dyn Fn() -> Result<(), String> + Send + Sync>,
) {
    accept(listener, move |stream| {
        let (metrics, ready) = (Arc::clone(&metrics), Arc::clone(&ready));
        async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let answer = page(request.method(), request.uri().path(), &metrics, &*ready);
                std::future::ready(Ok::<_, Infallible>(answer))
            });
            if let Err(error) = http1_on(TokioIo::new(stream), service).await {
                tracing::debug!(%error, "metrics connection ended");
            }
        }
    })
    .await;
}

/// Opens a listener.
///
/// # Errors
/// The address cannot be had.
pub async fn listen(addr: SocketAddr, what: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(addr)
        .await
        .with_context(|| format!("listen on {addr} for {what}"))
}

async fn http1_on<S, I>(io: I, service: S) -> Result<(), hyper::Error>
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin,
    S: HttpService<Incoming>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    S::ResBody: 'static,
    <S::ResBody as http_body::Body>::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .serve_connection(io, service)
        .await
}

async fn accept<H, F>(listener: TcpListener, serve: H)
where
    H: Fn(TcpStream) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let _nodelay = stream.set_nodelay(true);
                let connection = serve(stream);
                tokio::spawn(async move {
                    connection.await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "accept");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

fn page(
    method: &Method,
    path: &str,
    metrics: &Metrics,
    ready: &(dyn Fn() -> Result<(), String> + Send + Sync),
) -> Response<Full<Bytes>> {
    let (status, body) = match (method, path) {
        (&Method::GET, "/metrics") => (StatusCode::OK, metrics.encode()),
        (&Method::GET, "/healthz/live") => (StatusCode::OK, "alive\n".to_owned()),
        (&Method::GET, "/healthz/ready") => match ready() {
            Ok(()) => (StatusCode::OK, "ready\n".to_owned()),
            Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, reason + "\n"),
        },
        _ => (StatusCode::NOT_FOUND, "no such page\n".to_owned()),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let kind = header::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}
