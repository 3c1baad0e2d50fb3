//! What the faces of agent and gateway have in common: pages, and the socket that only their own user can open.

use anyhow::Context;
use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::convert::Infallible;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixListener;

/// The longest question, bytes.
pub(crate) const MAX_BODY_BYTES: usize = 64 * 1024;

/// Plain text.
pub(crate) fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    typed(status, body, "text/plain; charset=utf-8")
}

/// JSON.
pub(crate) fn json(status: StatusCode, value: &Value) -> Response<Full<Bytes>> {
    typed(status, value.to_string(), "application/json")
}

/// Metrics, in the text format that every Prometheus reads; `promtool check metrics` takes no other.
pub(crate) fn metrics(body: String) -> Response<Full<Bytes>> {
    typed(StatusCode::OK, body, "text/plain; version=0.0.4; charset=utf-8")
}

fn typed(status: StatusCode, body: impl Into<Bytes>, kind: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static(kind);
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

/// Reads a question.
///
/// # Errors
/// What is wrong with it, in words.
pub(crate) async fn asked<T: DeserializeOwned>(body: Incoming) -> Result<T, String> {
    let body = Limited::new(body, MAX_BODY_BYTES).collect().await;
    let body = body.map_err(|error| error.to_string())?.to_bytes();
    serde_json::from_slice(&body).map_err(|error| error.to_string())
}

/// The answer to a question, or why there is none.
pub(crate) fn explained(answer: Result<Value, String>) -> Response<Full<Bytes>> {
    match answer {
        Ok(answer) => json(StatusCode::OK, &answer),
        Err(reason) => json(StatusCode::BAD_REQUEST, &json!({"error": reason})),
    }
}

/// Listens on a Unix socket that only the process's own user can open. One that an earlier process left is replaced.
///
/// # Errors
/// The path cannot be bound.
pub(crate) fn private_socket(path: &Path) -> anyhow::Result<UnixListener> {
    if let Err(error) = std::fs::remove_file(path)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        return Err(error).with_context(|| format!("replace {}", path.display()));
    }
    let socket = UnixListener::bind(path).with_context(|| format!("listen on {}", path.display()))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
        .with_context(|| format!("chmod {}", path.display()))?;
    Ok(socket)
}

/// Answers what is asked on one connection of a face. A head that takes longer than `patience` ends it.
pub(crate) async fn serve<S, A>(stream: S, patience: Duration, answer: impl Fn(Request<Incoming>) -> A)
where
    S: AsyncRead + AsyncWrite + Unpin,
    A: Future<Output = Response<Full<Bytes>>>,
{
    let service = service_fn(|request| {
        let answer = answer(request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(patience)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        tracing::debug!(%error, "admin connection");
    }
}

/// After a connection that could not be accepted.
pub(crate) async fn pause(error: &std::io::Error) {
    tracing::warn!(%error, "admin accept");
    tokio::time::sleep(Duration::from_millis(50)).await;
}
