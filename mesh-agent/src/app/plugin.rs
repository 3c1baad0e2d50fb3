//! The CNI plug-in's life with the agent: it is served and installed once the agent is ready, and goes with the
//! installation, not with the process.

use super::config::AgentConfig;
use crate::cni::SOCKET_NAME;
use crate::cni::install::{self, CniStatus, Install};
use crate::cni::leave::daemon_set;
use crate::cni::server::{CniRequest, CniServer};
use crate::source::kube;
use crate::sys::NetnsFiles;
use anyhow::Context;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

/// Name of the agents' DaemonSet, as the chart makes it.
const DAEMON_SET: &str = "heddle-agent";

/// The plug-in of an agent that runs.
#[derive(Debug)]
pub struct Plugin {
    install: Install,
    namespace: String,
    keeper: JoinHandle<()>,
    /// Whether the runtime calls it.
    pub status: watch::Receiver<CniStatus>,
}

impl Plugin {
    /// Takes the plug-in's questions and puts it on the node, if the settings say so.
    ///
    /// # Errors
    /// The socket cannot be made.
    pub fn start(
        config: &AgentConfig,
        files: Arc<NetnsFiles>,
        requests: mpsc::Sender<CniRequest>,
    ) -> anyhow::Result<Option<Self>> {
        let Some(install) = config.cni.install(&config.state_dir) else {
            return Ok(None);
        };
        let socket = config.state_dir.join(SOCKET_NAME);
        let server = CniServer::bind(&socket, files, requests)
            .with_context(|| format!("listen on {}", socket.display()))?;
        drop(tokio::task::spawn_local(server.serve()));
        let (sender, status) = watch::channel(CniStatus::default());
        let what = install.clone();
        let keeper = tokio::task::spawn_local(async move {
            if let Err(error) = install::keep(what, sender).await {
                tracing::error!(%error, "the CNI plug-in is not looked after");
            }
        });
        Ok(Some(Self {
            install,
            namespace: config.namespace.clone(),
            keeper,
            status,
        }))
    }

    /// Takes the plug-in off the node if Heddle is being uninstalled.
    pub async fn leave(self) {
        self.keeper.abort();
        let client = match kube::client(&kube::WatchSettings::default()).await {
            Ok(client) => client,
            Err(error) => {
                tracing::warn!(%error, "the CNI plug-in stays: cannot ask whether it should");
                return;
            }
        };
        let state = daemon_set(client, &self.namespace, DAEMON_SET).await;
        if !state.uninstalled() {
            tracing::info!(
                ?state,
                "the CNI plug-in stays: pods that start wait for the next agent"
            );
            return;
        }
        match install::uninstall(Some(&self.install.bin_dir), Some(&self.install.conf_dir)) {
            Ok(changed) => tracing::info!(?state, ?changed, "the CNI plug-in is uninstalled"),
            Err(error) => tracing::error!(%error, "the CNI plug-in cannot be uninstalled"),
        }
    }
}
