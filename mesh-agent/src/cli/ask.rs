//! A question to the agent over its Unix socket.

use anyhow::{Context, bail};
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::path::{Path, PathBuf};
use tokio::net::UnixStream;

/// Where the agent is asked.
#[derive(Debug, clap::Args)]
pub(super) struct Agent {
    /// The agent's Unix socket.
    #[arg(long, env = "HEDDLE_ADMIN_SOCKET", default_value = "/run/heddle/admin.sock")]
    admin_socket: PathBuf,
}

impl Agent {
    /// Asks and waits for the answer.
    pub(super) fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> anyhow::Result<Value> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(exchange(&self.admin_socket, method, path, body))
    }
}

async fn exchange(socket: &Path, method: Method, path: &str, body: Option<&Value>) -> anyhow::Result<Value> {
    let stream = UnixStream::connect(socket).await.with_context(|| {
        format!(
            "no agent answers on {}: is one running on this node?",
            socket.display()
        )
    })?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let driver = tokio::spawn(connection);
    let body = body.map(ToString::to_string).unwrap_or_default();
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "agent")
        .body(Full::new(Bytes::from(body)))?;
    let response = sender.send_request(request).await.context("ask the agent")?;
    let status = response.status();
    let bytes = response
        .into_body()
        .collect()
        .await
        .context("read the agent's answer")?
        .to_bytes();
    driver.abort();
    let answer: Value = serde_json::from_slice(&bytes).context("the agent's answer is no JSON")?;
    if status != StatusCode::OK {
        bail!(
            "{}",
            answer["error"]
                .as_str()
                .unwrap_or("the agent refuses the question")
        );
    }
    Ok(answer)
}
