//! Where questions go: to the agent of this machine over its Unix socket, or to the agents of a cluster.

use super::fleet::{Fleet, Role};
use anyhow::{Context, bail};
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tokio::net::UnixStream;

/// Which agents are asked.
#[derive(Debug, clap::Args)]
pub(super) struct Agent {
    /// The agent's Unix socket. Without one here, the agents of the kubeconfig's cluster are asked.
    #[arg(long, env = "HEDDLE_ADMIN_SOCKET", default_value = "/run/heddle/admin.sock")]
    admin_socket: PathBuf,
    /// Namespace that Heddle is installed in.
    #[arg(long, env = "HEDDLE_NAMESPACE", default_value = "heddle-system")]
    mesh_namespace: String,
}

/// Where the answer is.
pub(super) enum Place {
    /// An agent runs on this machine.
    Here,
    /// A cluster.
    Cluster(Fleet),
}

impl Agent {
    /// Whether an agent of this machine answers, else the cluster's.
    pub(super) async fn place(&self) -> anyhow::Result<Place> {
        // An agent's own pod always has the socket; elsewhere a path that was asked for must be meant.
        let named = std::env::args().any(|arg| arg.starts_with("--admin-socket"));
        if named || self.admin_socket.exists() {
            return Ok(Place::Here);
        }
        Fleet::connect(&self.mesh_namespace).await.map(Place::Cluster)
    }

    /// Asks for `path` here, or every agent and gateway of the cluster for `verb`, which asks for `path` there.
    pub(super) async fn gather(&self, verb: &str, path: &str) -> anyhow::Result<Gathered> {
        let fleet = match self.place().await? {
            Place::Here => {
                let answer = self.ask(Method::GET, path, None).await?;
                let member = match answer["gateway"]["pod"].as_str().or(answer["gateway"].as_str()) {
                    Some(pod) => format!("gateway {pod}"),
                    None => answer["agent"]["node"].as_str().unwrap_or("this node").to_owned(),
                };
                return Ok(Gathered {
                    answers: vec![(member, Role::Agent, Ok(answer))],
                    here: true,
                });
            }
            Place::Cluster(fleet) => fleet,
        };
        let mut members = fleet.agents().await?;
        members.extend(fleet.gateways().await?);
        let answers = fleet.ask_all(&members, &[verb.to_owned()]).await;
        Ok(Gathered {
            answers: answers
                .into_iter()
                .map(|(member, answer)| (member.name(), member.role, answer))
                .collect(),
            here: false,
        })
    }

    /// Asks the agent of this machine and waits for the answer.
    pub(super) async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> anyhow::Result<Value> {
        exchange(&self.admin_socket, method, path, body).await
    }
}

/// Answers of one agent or gateway here, or of a cluster's, by what they answer for.
pub(super) struct Gathered {
    answers: Vec<(String, Role, anyhow::Result<Value>)>,
    here: bool,
}

impl Gathered {
    /// Those that answered: what for, and the answer.
    pub(super) fn answers(&self) -> impl Iterator<Item = (&str, &Value)> {
        let each = self.answers.iter();
        each.filter_map(|(name, _, answer)| Some((name.as_str(), answer.as_ref().ok()?)))
    }

    /// Names those that did not.
    pub(super) fn print_silent(&self) {
        for (name, role, answer) in &self.answers {
            if let Err(error) = answer {
                let what = if *role == Role::Agent { "node " } else { "" };
                println!("{what}{name}: NO ANSWER: {error:#}");
            }
        }
    }

    /// The answer as it came from one place; of a cluster's all, in `agents` and `gateways`.
    pub(super) fn json(&self) -> Value {
        if self.here
            && let [(_, _, Ok(only))] = self.answers.as_slice()
        {
            return only.clone();
        }
        let of = |wanted: Role| -> Vec<Value> {
            let own = self.answers.iter().filter(|(_, role, _)| *role == wanted);
            own.map(|(name, _, answer)| match answer {
                Ok(answer) => answer.clone(),
                Err(error) if wanted == Role::Agent => {
                    json!({"agent": {"node": name}, "error": format!("{error:#}")})
                }
                Err(error) => json!({"gateway": {"pod": name}, "error": format!("{error:#}")}),
            })
            .collect()
        };
        json!({"agents": of(Role::Agent), "gateways": of(Role::Gateway)})
    }

    /// Failure if anyone is silent.
    pub(super) fn code(&self) -> ExitCode {
        if self.answers.iter().all(|(_, _, answer)| answer.is_ok()) {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }

    /// Whether these are a cluster's agents.
    pub(super) const fn of_cluster(&self) -> bool {
        !self.here
    }
}

/// Runs a verb that waits for answers.
pub(super) fn block_on<T>(verb: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(verb)
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
