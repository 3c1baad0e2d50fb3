//! Where the control loop's news comes from.

use super::config::AgentConfig;
use super::handover::{Handover, Predecessor};
use crate::source::{files, kube, names};
use crate::sys::NetnsFiles;
use crate::telemetry::Telemetry;
use anyhow::Context;
use mesh_core::state::{Change, State};
use std::sync::Arc;
use tokio::sync::{mpsc, watch};
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
    let client = kube::client(&settings)
        .await
        .context("no config folder is given (--config), and")?;
    let figures = telemetry.register(kube::SourceFigures::register);
    let node = config.node.clone();
    let state = State::for_node(config.settings(), node.as_str());
    let told = figures.clone();
    let source = async move {
        kube::watch(client, node, settings, figures, sender).await;
        Ok(())
    };
    Ok(Source {
        state,
        task: tokio::task::spawn_local(source),
        figures: Some(told),
    })
}

/// Batches up to the end of the first listing; fewer if the source ends.
pub(super) async fn first_listing(changes: &mut mpsc::Receiver<Vec<Change>>) -> Vec<Vec<Change>> {
    let mut early = Vec::new();
    while let Some(batch) = changes.recv().await {
        let whole = batch.iter().any(|change| matches!(change, Change::InitDone));
        early.push(batch);
        if whole {
            break;
        }
    }
    early
}

/// What the control loop listens to.
pub(super) struct Inputs {
    /// What came before the loop began.
    pub(super) early: Vec<Vec<Change>>,
    pub(super) changes: mpsc::Receiver<Vec<Change>>,
    pub(super) successors: mpsc::Receiver<Handover>,
    /// The agent that drains once this one serves.
    pub(super) predecessor: Option<Predecessor>,
    pub(super) netns_files: Arc<NetnsFiles>,
}

/// Follows names. Without a resolver the mesh goes on, and hosts that need one have no endpoints.
pub(super) async fn resolve(wanted: watch::Receiver<names::Names>, changes: mpsc::Sender<Vec<Change>>) {
    let mut first = wanted.clone();
    if first.wait_for(|names| !names.is_empty()).await.is_err() {
        return;
    }
    if let Err(error) = names::follow_system(wanted, changes).await {
        tracing::error!(error = %crate::errors::chain(&error), "names of ServiceEntries are not resolved");
    }
}
