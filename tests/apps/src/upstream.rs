//! Calls to other services: a fresh connection per HTTP call, so that what the mesh does to connections is seen at
//! once.

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpStream;

/// Headers that an application in a mesh hands on: the trace's, and what routes are made of here.
const HANDED_ON: [&str; 12] = [
    "x-request-id",
    "x-b3-traceid",
    "x-b3-spanid",
    "x-b3-parentspanid",
    "x-b3-sampled",
    "x-b3-flags",
    "b3",
    "traceparent",
    "tracestate",
    "baggage",
    "user-agent",
    "x-test-id",
];

/// A service to call.
#[derive(Clone, Debug)]
pub(crate) struct Upstream {
    /// `host:port`, as in `Host`.
    pub(crate) authority: String,
    /// What to dial if the name shall not be resolved.
    pub(crate) address: Option<SocketAddr>,
}

impl Upstream {
    pub(crate) async fn dial(&self) -> Result<TcpStream> {
        let dialled = async {
            match self.address {
                Some(address) => TcpStream::connect(address).await,
                None => TcpStream::connect(&self.authority).await,
            }
        };
        let stream = tokio::time::timeout(Duration::from_secs(5), dialled)
            .await
            .with_context(|| format!("{}: connect timeout", self.authority))?
            .with_context(|| format!("{}: connect", self.authority))?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// `GET path`, which has to answer 200 with JSON.
    pub(crate) async fn get(&self, path: &str, incoming: &HeaderMap) -> Result<Value> {
        let (mut sender, connection) = http1::handshake(TokioIo::new(self.dial().await?)).await?;
        tokio::spawn(connection);
        let mut request = Request::get(path)
            .header("host", &self.authority)
            .body(Empty::<Bytes>::new())?;
        hand_on(incoming, request.headers_mut());
        let exchange = async {
            let response = sender.send_request(request).await?;
            let status = response.status();
            let body = response.into_body().collect().await?.to_bytes();
            anyhow::ensure!(
                status.is_success(),
                "{status}: {}",
                String::from_utf8_lossy(&body)
            );
            Ok(serde_json::from_slice(&body)?)
        };
        tokio::time::timeout(Duration::from_secs(5), exchange)
            .await
            .with_context(|| format!("{}: timeout", self.authority))?
            .with_context(|| self.authority.clone())
    }
}

/// Copies the trace's headers from one request to another.
pub(crate) fn hand_on(from: &HeaderMap, to: &mut HeaderMap) {
    for name in HANDED_ON {
        if let Some(value) = from.get(name) {
            to.insert(name, value.clone());
        }
    }
}
