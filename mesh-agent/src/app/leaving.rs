//! What an agent does to its node when it ends for good: an agent that is replaced leaves everything in place.

use super::config::AgentConfig;
use crate::bpf::{cgroup2_mount, pods_cgroup, remove_agent_cgroup, remove_residue};
use crate::cni::leave::daemon_set;
use crate::cni::{LIFE_SIGN, SOCKET_NAME};
use crate::source::kube;

/// Name of the agents' DaemonSet, as the chart makes it.
const DAEMON_SET: &str = "heddle-agent";

/// Whether Heddle is being uninstalled: the agents' DaemonSet is gone. No answer is a no.
pub(super) async fn uninstalled(config: &AgentConfig) -> bool {
    match kube::client(&kube::WatchSettings::default(), &kube::SourceFigures::default()).await {
        Ok(client) => {
            let state = daemon_set(client, &config.namespace, DAEMON_SET).await;
            tracing::info!(?state, "the agents' DaemonSet");
            state.uninstalled()
        }
        Err(error) => {
            tracing::warn!(%error, "cannot ask whether this agent ends for good: everything stays");
            false
        }
    }
}

/// Removes what the agent made in the kernel and on disk; what this process still holds goes with it.
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
    for name in ["admin.sock", SOCKET_NAME, LIFE_SIGN, "agent.lock"] {
        let path = config.state_dir.join(name);
        if let Err(error) = std::fs::remove_file(&path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::error!(%error, path = %path.display(), "cannot be removed");
        }
    }
    // The directory is a mount of the pod; on the node it is an empty directory, and is removed by the node's path.
    let on_node = config
        .cni
        .host_root
        .join(config.state_dir.strip_prefix("/").unwrap_or(&config.state_dir));
    if let Err(error) = std::fs::remove_dir(&on_node) {
        tracing::debug!(%error, path = %on_node.display(), "state directory stays");
    }
}
