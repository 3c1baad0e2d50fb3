//! Where the control loop's news comes from.

use super::authorities;
use super::config::AgentConfig;
use super::handover::{self, Handover, Predecessor};
use super::signs;
use crate::source::{files, kube};
use crate::sys::NetnsFiles;
use crate::telemetry::Telemetry;
use anyhow::Context;
use mesh_core::state::{Change, State};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// A config source that runs.
pub(super) struct Source {
    /// For what it tells.
    pub(super) state: State,
    pub(super) task: JoinHandle<anyhow::Result<()>>,
    /// What it tells of itself, if it is the Kubernetes API.
    pub(super) figures: Option<kube::SourceFigures>,
}

/// Starts the config source: a folder, or the Kubernetes API. The state must know which: of the API it sees one node's
/// pods only.
pub(super) async fn start_source(
    config: &AgentConfig,
    telemetry: &Telemetry,
    sender: mpsc::Sender<Vec<Change>>,
) -> anyhow::Result<Source> {
    if let Some(folder) = config.config.clone() {
        let source = async move { Ok(files::watch(folder, sender).await?) };
        return Ok(Source {
            state: State::new(config.settings()),
            task: tokio::task::spawn_local(source),
            figures: None,
        });
    }
    let settings = kube::WatchSettings::default();
    let figures = telemetry.register(kube::SourceFigures::register);
    let client = kube::client(&settings, &figures)
        .await
        .context("no config folder is given (--config), and")?;
    let node = config.node.clone();
    let state = State::for_node(config.settings(), node.as_str());
    let told = figures.clone();
    let (watched, changes) = mpsc::channel(1);
    let joined = authorities::join(client.clone(), settings.clone(), figures.clone(), changes, sender);
    let source = async move {
        let watching = kube::watch(client, kube::Reader::Agent(node), settings, figures, watched);
        tokio::join!(watching, joined);
        Ok(())
    };
    Ok(Source {
        state,
        task: tokio::task::spawn_local(source),
        figures: Some(told),
    })
}

/// What the sources said.
pub(super) enum Batch {
    New(Vec<Change>),
    /// The first listing, which the state has already.
    Listed,
}

/// Whether anything is different, and whether a listing is complete with it.
pub(super) fn apply(state: &mut State, changes: Vec<Change>) -> (bool, bool) {
    let mut changed = false;
    let mut complete = false;
    for change in changes {
        complete |= matches!(change, Change::InitDone);
        changed |= state.apply(change);
    }
    (changed, complete)
}

/// Takes the first listing in while another agent serves, and says meanwhile what it waits for; whether it is complete.
/// Not complete if the other agent leaves before: then there is nobody to wait for. Not kept until it is needed: as the API
/// server sent them, all objects are many times as large as what is known of them.
pub(super) async fn first_listing(
    config: &AgentConfig,
    source: &mut Source,
    changes: &mut mpsc::Receiver<Vec<Change>>,
) -> bool {
    let mut ticker = tokio::time::interval(Duration::from_millis(250));
    loop {
        tokio::select! {
            batch = changes.recv() => {
                let Some(batch) = batch else { return false };
                let (_, complete) = apply(&mut source.state, batch);
                if complete {
                    return true;
                }
            }
            _ = ticker.tick() => {
                signs::waits_for(config, source.figures.as_ref());
                if !handover::is_due(config) {
                    return false;
                }
            }
        }
    }
}

/// What the control loop listens to.
pub(super) struct Inputs {
    /// Whether the state has the first listing already.
    pub(super) listed: bool,
    pub(super) changes: mpsc::Receiver<Vec<Change>>,
    pub(super) successors: mpsc::Receiver<Handover>,
    /// The agent that drains once this one serves.
    pub(super) predecessor: Option<Predecessor>,
    pub(super) netns_files: Arc<NetnsFiles>,
}
