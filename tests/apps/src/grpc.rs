//! The one gRPC method, `weather.Advertisement/Get`: string field 1 in, string field 1 out.

use crate::upstream::{Upstream, hand_on};
use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::time::Duration;
use tokio::sync::Mutex;

/// Path of the method.
pub(crate) const PATH: &str = "/weather.Advertisement/Get";
/// Calls after which a channel is made anew, so that a change under it is seen.
const CALLS_PER_CHANNEL: u32 = 50;

/// A gRPC message with `text` as its field 1.
pub(crate) fn encode(text: &str) -> Bytes {
    let mut message = vec![0x0a];
    let mut length = text.len();
    while length >= 0x80 {
        message.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    message.push(length as u8);
    message.extend_from_slice(text.as_bytes());
    let mut framed = vec![0];
    framed.extend_from_slice(&(message.len() as u32).to_be_bytes());
    framed.extend(message);
    framed.into()
}

/// The text of [`encode`].
pub(crate) fn decode(frame: &[u8]) -> Result<String> {
    let message = frame.get(5..).context("a gRPC frame is cut")?;
    ensure!(message.first() == Some(&0x0a), "field 1 is missing");
    let (mut length, mut shift, mut at) = (0usize, 0, 1);
    loop {
        let byte = *message.get(at).context("a length is cut")?;
        length |= usize::from(byte & 0x7f) << shift;
        at += 1;
        shift += 7;
        if byte < 0x80 {
            break;
        }
        ensure!(shift < 28, "a length is too long");
    }
    let text = message.get(at..at + length).context("a string is cut")?;
    Ok(std::str::from_utf8(text)?.to_owned())
}

/// A client with one channel at a time.
pub(crate) struct Client {
    upstream: Upstream,
    channel: Mutex<Option<(http2::SendRequest<Full<Bytes>>, u32)>>,
}

impl Client {
    pub(crate) fn new(upstream: Upstream) -> Self {
        Self {
            upstream,
            channel: Mutex::new(None),
        }
    }

    /// One call.
    pub(crate) async fn call(&self, text: &str, incoming: &HeaderMap) -> Result<String> {
        let uri = format!("http://{}{PATH}", self.upstream.authority);
        let mut request = Request::post(uri)
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Full::new(encode(text)))?;
        hand_on(incoming, request.headers_mut());
        let exchange = async {
            let response = self.send(request).await?;
            let status = response.status();
            let head = response.headers().get("grpc-status").cloned();
            let collected = response.into_body().collect().await?;
            let code = collected
                .trailers()
                .and_then(|trailers| trailers.get("grpc-status").cloned())
                .or(head);
            let code = code.unwrap_or_else(|| HeaderValue::from_static("none"));
            ensure!(
                status == 200 && code == "0",
                "status {status}, grpc-status {code:?}"
            );
            decode(&collected.to_bytes())
        };
        let result = tokio::time::timeout(Duration::from_secs(5), exchange).await;
        let result = result.context("timeout").flatten();
        if result.is_err() {
            *self.channel.lock().await = None;
        }
        result.with_context(|| format!("{}{PATH}", self.upstream.authority))
    }

    /// Sends it, and on another connection if the first ended before anything of it was sent: every gRPC client does so
    /// (transparent retries, gRFC A6).
    async fn send(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>> {
        let mut first = self.sender().await?;
        match first.try_send_request(request).await {
            Ok(response) => Ok(response),
            Err(mut failed) => {
                let Some(unsent) = failed.take_message() else {
                    return Err(failed.into_error().into());
                };
                *self.channel.lock().await = None;
                Ok(self.sender().await?.send_request(unsent).await?)
            }
        }
    }

    async fn sender(&self) -> Result<http2::SendRequest<Full<Bytes>>> {
        let mut channel = self.channel.lock().await;
        if let Some((sender, left)) = channel.as_mut()
            && *left > 0
            && !sender.is_closed()
        {
            *left -= 1;
            return Ok(sender.clone());
        }
        let io = TokioIo::new(self.upstream.dial().await?);
        let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
        tokio::spawn(connection);
        *channel = Some((sender.clone(), CALLS_PER_CHANNEL - 1));
        Ok(sender)
    }
}

#[cfg(test)]
mod tests {
    use super::{decode, encode};

    #[test]
    fn a_message_survives_the_wire_whatever_its_length() {
        for length in [0, 1, 127, 128, 300, 70_000] {
            let text = "x".repeat(length);
            assert_eq!(decode(&encode(&text)).unwrap(), text);
        }
        assert!(decode(&[0, 0, 0, 0, 2, 0x0a, 9]).is_err());
    }
}
