//! Which namespaces' Secrets the gateway of one Gateway follows, and whether they are known.

use crate::source::kube::secrets::News;
use mesh_core::model::ObjectName;
use mesh_core::state::{Change, State};
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio::sync::watch;

/// The namespaces that are wanted, and those that are known.
pub(super) struct Secrets {
    gateway: Option<ObjectName>,
    wanted: watch::Sender<BTreeSet<Arc<str>>>,
    known: BTreeSet<Arc<str>>,
    /// Whether Secrets come with everything else.
    together: std::cell::Cell<bool>,
}

impl Secrets {
    /// Those that `gateway` names.
    pub(super) fn of(gateway: Option<ObjectName>) -> Self {
        Self {
            gateway,
            wanted: watch::Sender::default(),
            known: BTreeSet::new(),
            together: false.into(),
        }
    }

    /// The one Gateway that is served, if it is only one.
    pub(super) const fn gateway(&self) -> Option<&ObjectName> {
        self.gateway.as_ref()
    }

    /// The source gives Secrets by itself.
    pub(super) fn come_with_everything(&self) {
        self.together.set(true);
    }

    /// The namespaces that are to be followed.
    pub(super) fn wanted(&self) -> watch::Receiver<BTreeSet<Arc<str>>> {
        self.wanted.subscribe()
    }

    /// What is told, as changes.
    pub(super) fn take(&mut self, news: News) -> Vec<Change> {
        news.noted(&mut self.known)
    }

    /// Looks anew at what the Gateway names.
    pub(super) fn want(&self, state: &State) {
        if self.together.get() {
            return;
        }
        let wanted: BTreeSet<_> = state
            .certificate_namespaces(self.gateway.as_ref())
            .into_keys()
            .collect();
        self.wanted.send_if_modified(|before| {
            let changed = *before != wanted;
            *before = wanted;
            changed
        });
    }

    /// Whether every Secret that is wanted is known, if it is there.
    pub(super) fn complete(&self) -> bool {
        self.together.get() || self.wanted.borrow().is_subset(&self.known)
    }
}
