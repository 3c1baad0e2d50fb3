//! HTTP server: echoes what it was asked; paths ask for sizes, delays, statuses, trailers and upgrades.
//!
//! `/bytes/N`, `/slow/MS`, `/status/CODE`, `/stream/N/MS` (N chunks, one each MS), `/echo` (the body back),
//! `/stream-echo` (the body back as it comes, then `grpc-status: 0`), `/trailers`, `/upgrade` (101, then the bytes back), `/stats` (requests by `x-test-id` and path); a gRPC request
//! gets its message back with `grpc-status: 0`.

use crate::say;
use anyhow::Result;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::TcpListener;

type Body = UnsyncBoxBody<Bytes, hyper::Error>;

#[derive(clap::Args)]
pub(crate) struct Options {
    #[arg(long, default_value = "[::]:8080")]
    listen: SocketAddr,
    /// Its name in answers (`server`).
    #[arg(long, default_value = "http")]
    name: String,
}

struct Server {
    name: String,
    counts: Mutex<BTreeMap<String, u64>>,
}

pub(crate) fn run(options: Options) -> Result<()> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(serve(options))
}

async fn serve(options: Options) -> Result<()> {
    let listener = TcpListener::bind(options.listen).await?;
    say(&json!({"event": "listening", "address": listener.local_addr()?.to_string()}));
    let server = Arc::new(Server {
        name: options.name,
        counts: Mutex::default(),
    });
    loop {
        let (stream, peer) = listener.accept().await?;
        let _ = stream.set_nodelay(true);
        let server = server.clone();
        tokio::spawn(async move {
            let service = hyper::service::service_fn(move |request| {
                let server = server.clone();
                async move { Ok::<_, Infallible>(server.answer(request, peer).await) }
            });
            let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
            if let Err(error) = connection.await {
                say(&json!({"event": "error", "peer": peer.to_string(), "error": error.to_string()}));
            }
        });
    }
}

impl Server {
    async fn answer(&self, mut request: Request<Incoming>, peer: SocketAddr) -> Response<Body> {
        let path = request.uri().path().to_owned();
        let mut parts = path.split('/').skip(1);
        let verb = parts.next().unwrap_or_default();
        let number: u64 = parts.next().and_then(|text| text.parse().ok()).unwrap_or(0);
        let interval = parts.next().and_then(|text| text.parse().ok()).unwrap_or(0);
        if verb != "stats" {
            self.count(&path, request.headers());
        }
        let grpc = request
            .headers()
            .get(header::CONTENT_TYPE)
            .is_some_and(|v| v.as_bytes().starts_with(b"application/grpc"));
        match verb {
            "stream-echo" => stream_echo(request.into_body()),
            _ if grpc => with_trailers(request.into_body(), "application/grpc", "grpc-status", "0").await,
            // Over HTTP/2, hyper would send the body of an answer to HEAD all the same.
            "bytes" if request.method() == http::Method::HEAD => {
                let mut response = Response::new(full(""));
                response
                    .headers_mut()
                    .insert(header::CONTENT_LENGTH, number.into());
                response
            }
            "bytes" => Response::new(full(vec![b'x'; usize::try_from(number).unwrap_or(0)])),
            "stream" => Response::new(chunks(number, interval)),
            "echo" => Response::new(request.into_body().boxed_unsync()),
            "trailers" => with_trailers(request.into_body(), "text/plain", "x-trailer", "seen").await,
            "upgrade" => upgrade(&mut request),
            "stats" => Response::new(full(self.stats())),
            _ => {
                tokio::time::sleep(Duration::from_millis(if verb == "slow" { number } else { 0 })).await;
                let mut response = self.describe(request, peer).await;
                if verb == "status" {
                    let code = u16::try_from(number)
                        .ok()
                        .and_then(|code| StatusCode::from_u16(code).ok());
                    *response.status_mut() = code.unwrap_or(StatusCode::BAD_REQUEST);
                    if matches!(number, 204 | 304) {
                        // Over HTTP/2, hyper would send it all the same.
                        *response.body_mut() = full("");
                    }
                }
                response
            }
        }
    }

    fn count(&self, path: &str, headers: &HeaderMap) {
        let id = headers
            .get("x-test-id")
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry(format!("{id} {path}")).or_default() += 1;
    }

    fn stats(&self) -> String {
        json!({"server": self.name, "counts": *self.counts.lock().unwrap_or_else(PoisonError::into_inner)})
            .to_string()
    }

    async fn describe(&self, request: Request<Incoming>, peer: SocketAddr) -> Response<Body> {
        let mut headers: Map<String, Value> = Map::new();
        for name in request.headers().keys() {
            let values = request
                .headers()
                .get_all(name)
                .iter()
                .map(|v| String::from_utf8_lossy(v.as_bytes()));
            headers.insert(name.to_string(), json!(values.collect::<Vec<_>>().join(", ")));
        }
        let mut answer = json!({
            "server": self.name, "method": request.method().as_str(), "path": request.uri().path(),
            "query": request.uri().query(), "authority": request.uri().authority().map(ToString::to_string),
            "version": format!("{:?}", request.version()), "headers": headers, "peer": peer.to_string(),
        });
        match request.into_body().collect().await {
            Ok(body) => {
                let trailers = body
                    .trailers()
                    .map(|t| t.keys().map(ToString::to_string).collect::<Vec<_>>());
                answer["trailers"] = json!(trailers);
                answer["body_bytes"] = json!(body.to_bytes().len());
            }
            Err(error) => answer["body_error"] = json!(error.to_string()),
        }
        let mut response = Response::new(full(answer.to_string()));
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response
    }
}

fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

fn chunks(count: u64, interval: u64) -> Body {
    let stream = futures_util::stream::unfold(0, move |sent| async move {
        if sent == count {
            return None;
        }
        tokio::time::sleep(Duration::from_millis(interval)).await;
        Some((Ok(Frame::data(Bytes::from(format!("chunk {sent}\n")))), sent + 1))
    });
    StreamBody::new(stream).boxed_unsync()
}

fn stream_echo(body: Incoming) -> Response<Body> {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let body = body.with_trailers(async move { Some(Ok(trailers)) });
    let mut response = Response::new(body.boxed_unsync());
    let kind = HeaderValue::from_static("application/grpc");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

async fn with_trailers(
    body: Incoming,
    kind: &'static str,
    name: &'static str,
    value: &'static str,
) -> Response<Body> {
    let data = body
        .collect()
        .await
        .map(http_body_util::Collected::to_bytes)
        .unwrap_or_default();
    let mut trailers = HeaderMap::new();
    trailers.insert(name, HeaderValue::from_static(value));
    let body = Full::new(data).with_trailers(async move { Some(Ok(trailers)) });
    let mut response = Response::new(body.map_err(|never: Infallible| match never {}).boxed_unsync());
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
        .headers_mut()
        .insert(header::TRAILER, HeaderValue::from_static(name));
    response
}

fn upgrade(request: &mut Request<Incoming>) -> Response<Body> {
    let protocol = request.headers().get(header::UPGRADE).cloned();
    let Some(protocol) = protocol else {
        let mut response = Response::new(full("no upgrade asked"));
        *response.status_mut() = StatusCode::UPGRADE_REQUIRED;
        return response;
    };
    let upgraded = hyper::upgrade::on(request);
    tokio::spawn(async move {
        if let Ok(upgraded) = upgraded.await {
            let (mut read, mut write) = tokio::io::split(TokioIo::new(upgraded));
            let _ = tokio::io::copy(&mut read, &mut write).await;
        }
    });
    let mut response = Response::new(full(""));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(header::UPGRADE, protocol);
    response
        .headers_mut()
        .insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    response
}
