//! The known world: objects in, snapshots out.

use crate::model::snapshot::Snapshot;
use crate::translate::Rejected;
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

/// One step of the stream that a config source yields. The same for files and for Kubernetes watches.
#[derive(Clone, Debug)]
pub enum Change {
    /// A full listing begins; what it does not mention is gone when it ends.
    Init,
    /// The object is like this now. `origin` is where it was read (`file.yaml:3`), for reports.
    Apply {
        /// The whole object.
        object: serde_json::Value,
        /// Human-readable place.
        origin: String,
    },
    /// The object is gone.
    Delete(ObjectKey),
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

/// A problem with one object, kept until the object is right or gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where it was read.
    pub origin: String,
    /// What is wrong.
    pub rejected: Rejected,
    /// Whether an earlier good version is still in force.
    pub last_good_in_force: bool,
}

/// The state machine behind the agent's configuration.
pub struct State {
    snapshot: Arc<Snapshot>,
}
