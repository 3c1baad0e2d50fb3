//! HTTP client: one request after another, and what came of them.

use crate::say;
use anyhow::{Context, Result};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Version};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;

/// Where and what to ask. `{seq}` in host, path and headers is the request's number.
#[derive(Clone, clap::Args)]
pub(crate) struct Ask {
    #[arg(long)]
    pub(crate) to: SocketAddr,
    /// The authority; the address if none.
    #[arg(long)]
    host: Option<String>,
    #[arg(long, default_value = "/")]
    path: String,
    #[arg(long, default_value = "GET")]
    method: Method,
    /// `name: value`, repeated.
    #[arg(long = "header")]
    headers: Vec<String>,
    /// HTTP/2 with prior knowledge.
    #[arg(long)]
    http2: bool,
    /// Sends a gRPC message (over HTTP/2).
    #[arg(long)]
    grpc: bool,
    /// Bytes of the request's body.
    #[arg(long, default_value_t = 0)]
    body: usize,
    #[arg(long, default_value_t = 5000)]
    timeout_ms: u64,
    /// Field of a JSON answer to count the values of.
    #[arg(long, default_value = "server")]
    pub(crate) field: String,
}

#[derive(clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    ask: Ask,
    #[arg(long, default_value_t = 1)]
    count: u64,
    /// All requests on one connection, in place of a fresh one each.
    #[arg(long)]
    keepalive: bool,
}

/// One connection.
pub(crate) enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

/// One answer.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) trailers: Option<HeaderMap>,
    pub(crate) body: Bytes,
}

impl Answer {
    /// The value of a field of the JSON body, as text.
    pub(crate) fn field(&self, name: &str) -> Option<String> {
        let body: Value = serde_json::from_slice(&self.body).ok()?;
        match body.get(name)? {
            Value::String(text) => Some(text.clone()),
            other => Some(other.to_string()),
        }
    }
}

impl Ask {
    pub(crate) async fn connect(&self) -> Result<Sender> {
        let stream = TcpStream::connect(self.to).await.context("connect")?;
        stream.set_nodelay(true)?;
        let io = TokioIo::new(stream);
        if self.http2 || self.grpc {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
            tokio::spawn(connection);
            Ok(Sender::Http2(sender))
        } else {
            let (sender, connection) = http1::handshake(io).await?;
            tokio::spawn(connection);
            Ok(Sender::Http1(sender))
        }
    }

    fn request(&self, sequence: u64) -> Result<Request<Full<Bytes>>> {
        let numbered = |text: &str| text.replace("{seq}", &sequence.to_string());
        let host = self.host.as_deref().map_or_else(|| self.to.to_string(), numbered);
        let path = numbered(&self.path);
        let http2 = self.http2 || self.grpc;
        let uri = if http2 {
            format!("http://{host}{path}")
        } else {
            path
        };
        let mut request = Request::builder()
            .method(self.method.clone())
            .uri(uri)
            .header("x-seq", sequence);
        if http2 {
            request = request.version(Version::HTTP_2);
        } else {
            request = request.header("host", host);
        }
        for line in &self.headers {
            let (name, value) = line.split_once(':').context("--header takes `name: value`")?;
            request = request.header(numbered(name.trim()), numbered(value.trim()));
        }
        let mut body = vec![b'b'; self.body];
        if self.grpc {
            request = request
                .method("POST")
                .header("content-type", "application/grpc")
                .header("te", "trailers");
            let length = u32::try_from(body.len())?.to_be_bytes();
            body.splice(0..0, [0, length[0], length[1], length[2], length[3]]);
        }
        Ok(request.body(Full::new(Bytes::from(body)))?)
    }

    /// One request on `sender`, within the time limit.
    pub(crate) async fn send(&self, sender: &mut Sender, sequence: u64) -> Result<Answer> {
        let request = self.request(sequence)?;
        let exchange = async {
            let response = match sender {
                Sender::Http1(sender) => {
                    sender.ready().await?;
                    sender.send_request(request).await?
                }
                Sender::Http2(sender) => {
                    sender.ready().await?;
                    sender.send_request(request).await?
                }
            };
            let (parts, body) = response.into_parts();
            let collected = body.collect().await?;
            let trailers = collected.trailers().cloned();
            let body = collected.to_bytes();
            Ok(Answer {
                status: parts.status.as_u16(),
                headers: parts.headers,
                trailers,
                body,
            })
        };
        tokio::time::timeout(Duration::from_millis(self.timeout_ms), exchange)
            .await
            .context("timeout")?
    }

    /// One request on a connection of its own.
    pub(crate) async fn once(&self, sequence: u64) -> Result<Answer> {
        let limit = Duration::from_millis(self.timeout_ms);
        let mut sender = tokio::time::timeout(limit, self.connect())
            .await
            .context("connect timeout")??;
        self.send(&mut sender, sequence).await
    }
}

/// The whole chain of an error on one line.
pub(crate) fn reason(error: &anyhow::Error) -> String {
    format!("{error:#}")
}

pub(crate) fn run(options: Options) -> Result<()> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(get(options))
}

async fn get(options: Options) -> Result<()> {
    let mut statuses: BTreeMap<String, u64> = BTreeMap::new();
    let mut fields: BTreeMap<String, u64> = BTreeMap::new();
    let (mut errors, mut latencies, mut last) = (Vec::new(), Vec::new(), Value::Null);
    let mut kept = None;
    for sequence in 0..options.count {
        let start = Instant::now();
        let result = if options.keepalive {
            on_kept(&options.ask, &mut kept, sequence).await
        } else {
            options.ask.once(sequence).await
        };
        match result {
            Ok(answer) => {
                latencies.push(start.elapsed().as_secs_f64() * 1e3);
                *statuses.entry(answer.status.to_string()).or_default() += 1;
                if let Some(value) = answer.field(&options.ask.field) {
                    *fields.entry(value).or_default() += 1;
                }
                last = describe(&answer);
            }
            Err(error) => errors.push(reason(&error)),
        }
    }
    latencies.sort_by(f64::total_cmp);
    say(&json!({
        "ok": errors.is_empty(), "sent": options.count, "failed": errors.len(), "statuses": statuses,
        "fields": fields, "errors": errors.iter().take(20).collect::<Vec<_>>(), "last": last,
        "p50_ms": percentile(&latencies, 0.5), "p99_ms": percentile(&latencies, 0.99), "max_ms": latencies.last(),
    }));
    Ok(())
}

async fn on_kept(ask: &Ask, kept: &mut Option<Sender>, sequence: u64) -> Result<Answer> {
    if kept.is_none() {
        *kept = Some(ask.connect().await?);
    }
    let sender = kept.as_mut().context("a connection was just made")?;
    let result = ask.send(sender, sequence).await;
    if result.is_err() {
        *kept = None;
    }
    result
}

fn describe(answer: &Answer) -> Value {
    let text = |headers: &HeaderMap| -> BTreeMap<String, String> {
        let value = |v: &http::HeaderValue| String::from_utf8_lossy(v.as_bytes()).into_owned();
        headers
            .iter()
            .map(|(name, v)| (name.to_string(), value(v)))
            .collect()
    };
    let shown = &answer.body[..answer.body.len().min(16_384)];
    let body = serde_json::from_slice(shown).unwrap_or_else(|_| json!(String::from_utf8_lossy(shown)));
    json!({"status": answer.status, "headers": text(&answer.headers), "body": body,
           "body_bytes": answer.body.len(), "trailers": answer.trailers.as_ref().map(text)})
}

/// The value below which `share` of the sorted values lie.
pub(crate) fn percentile(sorted: &[f64], share: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    sorted.get((last as f64 * share).round() as usize).copied()
}
