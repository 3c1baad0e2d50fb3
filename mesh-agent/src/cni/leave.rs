//! Whether an agent that stops takes the plug-in out of its node.
//!
//! An agent that is replaced must leave it: pods that start meanwhile wait for the next agent. One that is uninstalled
//! must take it along: without any agent no pod would start any more. Both get the same SIGTERM. A hook of the chart
//! cannot tell them apart for us (a Job runs on one node, not on all), so the agent looks at its own DaemonSet.

use k8s_openapi::api::apps::v1::DaemonSet;
use kube::Api;
use kube::api::Resource;
use std::time::Duration;

/// The API server has this long to answer: the kubelet's patience is for draining.
const DEADLINE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(500);

/// Asks the API server for the agents' DaemonSet (needs `get` on this one object). What it cannot tell for a few seconds
/// is [`DaemonSetState::Unknown`].
pub async fn daemon_set(client: kube::Client, namespace: &str, name: &str) -> DaemonSetState {
    let api: Api<DaemonSet> = Api::namespaced(client, namespace);
    let ask = async {
        loop {
            let state = match api.get_metadata(name).await {
                Ok(found) => DaemonSetState::from_answer(200, found.meta().deletion_timestamp.is_some()),
                Err(kube::Error::Api(status)) => DaemonSetState::from_answer(status.code, false),
                Err(error) => {
                    tracing::warn!(%error, "cannot ask for the agents' DaemonSet");
                    DaemonSetState::Unknown
                }
            };
            if state != DaemonSetState::Unknown {
                return state;
            }
            tokio::time::sleep(PAUSE).await;
        }
    };
    let answer = tokio::time::timeout(DEADLINE, ask).await;
    answer.unwrap_or(DaemonSetState::Unknown)
}

/// What the API server says of the agents' DaemonSet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DaemonSetState {
    /// It is there, and not being deleted.
    There,
    /// It is there and has a `metadata.deletionTimestamp`.
    BeingDeleted,
    /// Status 404.
    Gone,
    /// Status 401 or 403: `helm uninstall` deletes account and role together with the DaemonSet.
    NoLongerAllowed,
    /// No answer. The node may be shutting down, or the API server be away.
    Unknown,
}

impl DaemonSetState {
    /// From the HTTP status of a `get`, and whether the object had a `metadata.deletionTimestamp`.
    #[must_use]
    pub const fn from_answer(status: u16, being_deleted: bool) -> Self {
        match (status, being_deleted) {
            (200, false) => Self::There,
            (200, true) => Self::BeingDeleted,
            (404, _) => Self::Gone,
            (401 | 403, _) => Self::NoLongerAllowed,
            _ => Self::Unknown,
        }
    }

    /// Whether the plug-in goes with the agent.
    ///
    /// `NoLongerAllowed` counts as uninstalled. If that is wrong (the role was cut down and the agents restarted), the
    /// next agent puts the entry back and captures what started in between, within seconds. The other mistake would
    /// leave a node on which no pod starts, and nobody there to repair it.
    #[must_use]
    pub const fn uninstalled(self) -> bool {
        match self {
            Self::BeingDeleted | Self::Gone | Self::NoLongerAllowed => true,
            Self::There | Self::Unknown => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plugin_stays_through_upgrades_and_outages_and_goes_with_the_installation() {
        let uninstalled = |status, deleting| DaemonSetState::from_answer(status, deleting).uninstalled();
        assert!(!uninstalled(200, false), "a rolling update");
        assert!(!uninstalled(500, false), "the API server is ill");
        assert!(!uninstalled(429, false), "the API server is busy");
        assert!(uninstalled(200, true), "foreground deletion");
        assert!(uninstalled(404, false), "helm uninstall");
        assert!(uninstalled(403, false), "helm uninstall has deleted the role");
        assert!(uninstalled(401, false), "helm uninstall has deleted the account");
        assert!(!DaemonSetState::Unknown.uninstalled(), "no answer");
    }
}
