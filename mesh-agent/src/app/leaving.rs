//! How an agent that is told to end lets go of its node: one that ends for good takes everything along, any other leaves it
//! in place and makes room for the next one.

use super::config::AgentConfig;
use super::control::World;
use super::{admin, plugin};
use crate::bpf::{cgroup2_mount, pods_cgroup, remove_agent_cgroup, remove_residue};
use crate::cni::leave::daemon_set;
use crate::cni::{LIFE_SIGN, SOCKET_NAME};
use crate::proxy::Proxy;
use crate::source::kube;
use std::cell::RefCell;
use tokio::task::JoinHandle;

/// Name of the agents' DaemonSet, as the chart makes it.
const DAEMON_SET: &str = "heddle-agent";

/// Told to end: takes nothing new, and lets go of the node while what is under way comes to its end. Of an agent that ends
/// for good nothing stays; any other makes room for the next one at once.
pub(super) async fn leave(world: &RefCell<World>, proxy: &Proxy, admin: [JoinHandle<()>; 2]) {
    let config = world.borrow().config.clone();
    let drain = config.drain_deadline();
    let for_good = config.config.is_none() && uninstalled(&config).await;
    plugin::leave(world).await;
    if for_good {
        plugin::uninstall(&config);
        // Nobody takes over: from here on the pods' connections are made as before the mesh.
        world.borrow_mut().release_all();
    }
    tracing::info!(deadline_s = drain.as_secs(), for_good, "draining");
    world.borrow_mut().node.stop_taking();
    world.borrow().node.leave_names();
    if !for_good {
        // The next agent need not wait for the last connection of this one.
        admin::close(admin).await;
        world.borrow_mut().node.datapath_mut().release_locks();
    }
    proxy.drain(drain).await;
    if for_good {
        remove_everything(&config);
    }
}

/// Whether Heddle is being uninstalled: the agents' DaemonSet is gone. No answer is a no.
async fn uninstalled(config: &AgentConfig) -> bool {
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
fn remove_everything(config: &AgentConfig) {
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
