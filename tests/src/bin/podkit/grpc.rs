//! A gRPC stream in both directions: each message is sent when the one before has come back.

use crate::say;
use anyhow::{Context, Result, ensure};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Request};
use serde_json::json;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;

#[derive(clap::Args)]
pub(crate) struct Options {
    #[arg(long)]
    to: SocketAddr,
    #[arg(long)]
    host: String,
    #[arg(long, default_value_t = 20)]
    messages: u32,
    /// Bytes of a message.
    #[arg(long, default_value_t = 100)]
    size: u32,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let outcome = runtime.block_on(async {
        tokio::time::timeout(Duration::from_secs(20), talk(options))
            .await
            .context("timeout")?
    });
    say(&match outcome {
        Ok((rounds, longest, trailers)) => {
            let text = |name: &str| {
                trailers
                    .get(name)
                    .map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned())
            };
            json!({"ok": true, "rounds": rounds, "longest_ms": longest.as_secs_f64() * 1e3,
                   "grpc_status": text("grpc-status")})
        }
        Err(error) => json!({"ok": false, "error": format!("{error:#}")}),
    });
    Ok(())
}

async fn talk(options: &Options) -> Result<(u32, Duration, HeaderMap)> {
    let stream = TcpStream::connect(options.to).await.context("connect")?;
    stream.set_nodelay(true)?;
    let (client, connection) = h2::client::handshake(stream).await?;
    tokio::spawn(connection);
    let request = Request::post(format!("http://{}/stream-echo", options.host))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())?;
    let (response, mut send) = client.ready().await?.send_request(request, false)?;
    let mut message = BytesMut::new();
    message.extend_from_slice(&[0]);
    message.extend_from_slice(&options.size.to_be_bytes());
    message.resize(5 + options.size as usize, b'm');
    let message = message.freeze();
    send.send_data(message.clone(), false)?;
    let mut body = response.await.context("response")?.into_body();
    let mut longest = Duration::ZERO;
    for round in 0..options.messages {
        let start = Instant::now();
        if round > 0 {
            send.send_data(message.clone(), false)?;
        }
        let mut left = message.len();
        while left > 0 {
            let data = body.data().await.context("the stream ended early")??;
            body.flow_control().release_capacity(data.len())?;
            ensure!(data.len() <= left, "more came back than was sent");
            left -= data.len();
        }
        longest = longest.max(start.elapsed());
    }
    send.send_data(Bytes::new(), true)?;
    ensure!(body.data().await.is_none(), "data after the last message");
    let trailers = body.trailers().await?.context("no trailers")?;
    Ok((options.messages, longest, trailers))
}
