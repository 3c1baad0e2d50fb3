//! An agent that takes the place of another on its node, without a connection lost.
//!
//! The successor asks on the predecessor's admin socket. The predecessor changes nothing from then on and releases its
//! locks, but goes on serving: it accepts, and tells the programs that an agent lives. The successor uses the same socket
//! mark, so that the programs know the sockets of both; when its own listeners have replaced the predecessor's in the
//! maps, it says so, and the predecessor drains.

use super::config::AgentConfig;
use super::control::World;
use crate::bpf::agent_is_locked;
use crate::proxy::Proxy;
use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::cell::RefCell;
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

/// Version of the questions below. Agents that speak another do not take each other's place.
pub(super) const PROTOCOL: u64 = 1;
/// Longest wait for the predecessor's answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often the predecessor beats, and looks whether its successor still lives.
const BEAT: Duration = Duration::from_millis(500);

/// Beats between looks whether the successor holds the locks.
const LOOK_AFTER: u32 = 6;
/// Beats within which a successor that lives must serve.
const TOLD_BY: u32 = 120;

/// A successor's question, for the control loop of the predecessor.
#[derive(Debug)]
pub struct Handover {
    /// Told the socket mark once nothing is changed any more and the locks are free.
    pub released: oneshot::Sender<u32>,
    /// Rung when the successor serves.
    pub done: oneshot::Receiver<()>,
}

/// The agent that this one takes over from. It drains when told [`Predecessor::done`]; if this agent ends before, it
/// ends as well, and the next start finds nobody.
pub(super) struct Predecessor {
    sender: SendRequest<Full<Bytes>>,
    /// Mark of its sockets.
    pub(super) mark: u32,
}

/// How a hand-over ended.
pub(super) enum Outcome {
    /// The successor serves, and this agent is done.
    Drained,
    /// The successor has died: this agent has the node again.
    Resumed,
}

/// Whether another agent serves this node, and the settings allow to take over from it.
pub(super) fn is_due(config: &AgentConfig) -> bool {
    config.takeover && agent_is_locked(&config.state_dir)
}

/// Asks the agent that serves this node, if one does and the settings allow it.
///
/// # Errors
/// It does not answer, or is of a version that cannot be taken over from.
pub(super) async fn ask(config: &AgentConfig) -> anyhow::Result<Option<Predecessor>> {
    if !is_due(config) {
        return Ok(None);
    }
    let socket = config.admin_socket();
    let stream = UnixStream::connect(&socket).await.with_context(|| {
        format!(
            "an agent holds {}, but does not answer",
            config.state_dir.display()
        )
    })?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::task::spawn_local(connection);
    let question = json!({"protocol": PROTOCOL});
    let answer = exchange(&mut sender, "/handover", &question);
    let answer = tokio::time::timeout(PATIENCE, answer)
        .await
        .context("the agent that serves this node does not hand over")??;
    let mark = answer["mark"].as_u64().and_then(|mark| u32::try_from(mark).ok());
    let mark = mark.context("the agent that serves this node does not tell its mark")?;
    tracing::info!("taking over from the agent that serves this node");
    Ok(Some(Predecessor { sender, mark }))
}

impl Predecessor {
    /// This agent serves: the other may drain.
    pub(super) async fn done(mut self) {
        match exchange(&mut self.sender, "/handover/done", &Value::Null).await {
            Ok(_) => tracing::info!("the earlier agent drains"),
            // It looks at the locks, and ends.
            Err(error) => tracing::warn!(error = format!("{error:#}"), "the earlier agent is not told"),
        }
    }
}

async fn exchange(sender: &mut SendRequest<Full<Bytes>>, path: &str, body: &Value) -> anyhow::Result<Value> {
    let request = Request::builder()
        .method(Method::POST)
        .uri(path)
        .header("host", "agent")
        .body(Full::new(Bytes::from(body.to_string())))?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let bytes = response.into_body().collect().await?.to_bytes();
    let answer: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    ensure!(
        status == StatusCode::OK,
        "the agent that serves this node refuses: {status} {}",
        answer["error"].as_str().unwrap_or_default()
    );
    Ok(answer)
}

/// The predecessor's part, after its control loop has ended: hands over and drains. Ends with the process, where nobody
/// starts it again, else with SIGTERM: a container that ended by itself would be started again, and take over back.
///
/// A successor that dies on the way gives the node back: this agent takes the data path again.
///
/// # Errors
/// Another agent has begun without asking, the successor does not come to serve, or what it left cannot be taken back.
pub(super) async fn hand_over(
    world: &RefCell<World>,
    proxy: &Proxy,
    handover: Handover,
) -> anyhow::Result<Outcome> {
    let mut terminate = signal(SignalKind::terminate()).context("watch SIGTERM")?;
    let (config, mark) = {
        let mut world = world.borrow_mut();
        world.node.datapath_mut().release_locks();
        (world.config.clone(), world.node.mark())
    };
    if handover.released.send(mark).is_err() {
        bail!("the agent that wanted to take over has gone");
    }
    tracing::info!("a new agent takes over");
    if let Some(path) = &config.ready_file {
        // Missing already is what it should be.
        let _ = std::fs::remove_file(path);
    }
    let mut done = handover.done;
    let mut told_to_end = false;
    let mut beats = 0u32;
    loop {
        tokio::select! {
            told = &mut done => match told {
                Ok(()) => break,
                Err(_) => bail!("the hand-over was abandoned"),
            },
            _ = terminate.recv(), if beats > LOOK_AFTER => {
                told_to_end = true;
                break;
            }
            () = tokio::time::sleep(BEAT) => {
                let mut world = world.borrow_mut();
                // An agent that began anew has another mark, and must not be spoken for.
                ensure!(
                    world.node.datapath().known_mark().is_ok_and(|known| known == mark),
                    "another agent has begun"
                );
                world.node.beat();
                beats += 1;
                // Looking takes the lock for a moment: not while the successor wants it.
                if beats > LOOK_AFTER && beats.is_multiple_of(LOOK_AFTER) {
                    if agent_is_locked(&config.state_dir) {
                        ensure!(beats < TOLD_BY, "the new agent has not said that it serves");
                    } else {
                        tracing::error!("the new agent has died: this one goes on");
                        world.node.take_back().context("take the data path back")?;
                        world.successor_serves = None;
                        return Ok(Outcome::Resumed);
                    }
                }
            }
        }
    }
    tracing::info!(deadline_s = config.drain_seconds, "draining");
    world.borrow().node.leave_names();
    proxy.drain(config.drain_deadline()).await;
    if config.config.is_none() && !told_to_end {
        terminate.recv().await;
    }
    Ok(Outcome::Drained)
}
