//! What config sources say: which objects there are, one step after the other.

use crate::model::ObjectName;
use serde_json::Value;
use std::net::IpAddr;
use std::sync::Arc;

/// Where an object came from and what it is, enough to name it in a report.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    /// `kind`.
    pub kind: String,
    /// API group without the version, empty for core.
    pub group: String,
    /// Namespace, empty for cluster-scoped kinds.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl ObjectKey {
    /// Of an object with a namespace.
    #[must_use]
    pub fn of(group: &str, kind: &str, name: &ObjectName) -> Self {
        Self {
            kind: kind.to_owned(),
            group: group.to_owned(),
            namespace: name.namespace.to_string(),
            name: name.name.to_string(),
        }
    }
}

/// One step of the stream that a config source yields. The same for files and for Kubernetes watches.
#[derive(Clone, Debug)]
pub enum Change {
    /// A full listing begins; what it does not mention is gone when it ends.
    Init,
    /// The object is like this now. `origin` is where it was read (`file.yaml:3`), for reports.
    Apply {
        /// The whole object.
        object: Value,
        /// Human-readable place.
        origin: String,
    },
    /// The object is gone.
    Delete(ObjectKey),
    /// What this node knows of one of its own pods, or `None` once the pod's sandbox is gone. Not part of listings.
    Sandbox {
        /// `metadata.uid` of the pod.
        uid: Arc<str>,
        /// The facts.
        sandbox: Option<Sandbox>,
    },
    /// What a name that [`Snapshot::names`] asks for resolves to. Not part of listings.
    Resolved {
        /// The name, as it was asked for.
        name: Arc<str>,
        /// Its addresses; empty if it has none.
        ips: Vec<IpAddr>,
    },
    /// Something of this listing could not be read at all: whatever came from `origin` before stays in force.
    Unreadable {
        /// Human-readable place.
        origin: String,
        /// Why, with line and column if known.
        reason: String,
    },
    /// The listing is complete.
    InitDone,
}

/// Where a pod of this node runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sandbox {
    /// Path of its network namespace.
    pub netns: Arc<str>,
    /// Its addresses, which count while its status has none.
    pub ips: Vec<IpAddr>,
}
