//! What an agent does to its node when it ends for good: an agent that is replaced leaves everything in place.

use super::config::AgentConfig;
use crate::bpf::{cgroup2_mount, pods_cgroup, remove_agent_cgroup, remove_residue};
use crate::cni::install;
use crate::cni::leave::DaemonSetState;
use crate::errors::chain;
use k8s_openapi::api::apps::v1::DaemonSet;
use kube::{Api, Client};
use std::time::Duration;

/// Name of the agents' DaemonSet in the chart.
const DAEMON_SET: &str = "heddle-agent";
const PATIENCE: Duration = Duration::from_secs(3);

/// Whether the agents' DaemonSet is gone, and Heddle with it from this node.
pub(super) async fn uninstalled(config: &AgentConfig) -> bool {
    let asking = async {
        let client = Client::try_default().await.ok()?;
        let sets: Api<DaemonSet> = Api::namespaced(client, &config.namespace);
        Some(match sets.get(DAEMON_SET).await {
            Ok(set) => DaemonSetState::from_answer(200, set.metadata.deletion_timestamp.is_some()),
            Err(kube::Error::Api(status)) => DaemonSetState::from_answer(status.code, false),
            Err(_) => DaemonSetState::Unknown,
        })
    };
    let state = tokio::time::timeout(PATIENCE, asking).await.ok().flatten();
    let state = state.unwrap_or(DaemonSetState::Unknown);
    tracing::info!(?state, "the agents' DaemonSet");
    state.uninstalled()
}

/// Takes the plug-in out of the node's network configuration: pods start without the mesh from here on.
pub(super) fn remove_cni(config: &AgentConfig) {
    match install::uninstall(
        config.cni.cni_bin_dir.as_deref(),
        config.cni.cni_conf_dir.as_deref(),
    ) {
        Ok(changed) => tracing::info!(?changed, "CNI plug-in removed"),
        Err(error) => tracing::error!(error = %chain(&error), "the CNI plug-in is not removed"),
    }
}

/// Removes what the agent made in the kernel and on disk. The agent must hold nothing of it any more.
pub(super) fn remove_everything(config: &AgentConfig) {
    let cgroup = config
        .cgroup
        .clone()
        .or_else(|| cgroup2_mount().map(|mount| pods_cgroup(&mount)));
    let outcomes = [
        remove_residue(&config.bpf_dir).map(drop),
        cgroup.map_or(Ok(()), |cgroup| remove_agent_cgroup(&cgroup).map(drop)),
    ];
    for error in outcomes.into_iter().filter_map(Result::err) {
        tracing::error!(%error, "something is left of the data path");
    }
    let mine = ["admin.sock", "cni.sock", "agent.lock"].map(|name| config.state_dir.join(name));
    for path in mine {
        if let Err(error) = std::fs::remove_file(&path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::error!(%error, path = %path.display(), "cannot be removed");
        }
    }
}
