//! The CNI plug-in's life with the agent: it is served and installed once the agent is ready, and goes with the
//! installation, not with the process.

use super::config::AgentConfig;
use super::control::World;
use crate::cni::SOCKET_NAME;
use crate::cni::install::{self, CniStatus};
use crate::cni::server::{CniRequest, CniServer};
use crate::sys::NetnsFiles;
use anyhow::Context;
use std::cell::RefCell;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

/// The plug-in of an agent that runs.
#[derive(Debug)]
pub struct Plugin {
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
        let Some(install) = config
            .cni
            .install(&config.state_dir, &config.bpf_dir, &config.namespace)
        else {
            return Ok(None);
        };
        let socket = config.state_dir.join(SOCKET_NAME);
        let server = CniServer::bind(&socket, files, requests)
            .with_context(|| format!("listen on {}", socket.display()))?;
        drop(tokio::task::spawn_local(server.serve()));
        let (sender, status) = watch::channel(CniStatus::default());
        let keeper = tokio::task::spawn_local(async move {
            if let Err(error) = install::keep(install, sender).await {
                tracing::error!(%error, "the CNI plug-in is not looked after");
            }
        });
        Ok(Some(Self { keeper, status }))
    }
}

/// Looks after the plug-in no longer, if this agent has it. It stays for the next agent, so that pods that start meanwhile
/// wait.
pub(super) async fn leave(world: &RefCell<World>) {
    let Some(Plugin { keeper, status }) = world.borrow_mut().plugin.take() else {
        return;
    };
    // Nobody looks at it any more: the keeper ends, after what it has under way.
    drop(status);
    if let Err(error) = keeper.await {
        tracing::error!(%error, "the CNI plug-in was not looked after");
    }
}

/// Takes the plug-in off the node, with the installation. It may be there though this agent never served: an earlier one
/// has put it there.
pub(super) fn uninstall(config: &AgentConfig) {
    let (Some(bin_dir), Some(conf_dir)) = (&config.cni.cni_bin_dir, &config.cni.cni_conf_dir) else {
        return;
    };
    match install::uninstall(Some(bin_dir), Some(conf_dir)) {
        Ok(changed) => tracing::info!(?changed, "the CNI plug-in is uninstalled"),
        Err(error) => tracing::error!(%error, "the CNI plug-in cannot be uninstalled"),
    }
}
