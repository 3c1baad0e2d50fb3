//! What this node tells the state of its own pods' sandboxes, and what it tells the CNI plug-in of them.
//!
//! New pods come by the plug-in, with namespace and addresses before the API server knows them; pods that ran before the
//! agent are found in `/proc`. Both give a namespace the same path.

use crate::cni::Operation;
use crate::cni::decision::{Capture, decide, is_same_pod};
use crate::cni::pending::Pending;
use crate::cni::server::CniRequest;
use crate::sandbox::{Scanner, Unfound};
use mesh_core::model::snapshot::Snapshot;
use mesh_core::model::workload::{Enrollment, Workload};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

/// A fact for the state (`Change::Sandbox`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SandboxFact {
    /// The pod's `metadata.uid`.
    pub uid: Arc<str>,
    /// Path of its network namespace; `None` once the pod is gone.
    pub netns: Option<Arc<str>>,
    /// Its addresses, as far as the runtime has told them.
    pub ips: Vec<IpAddr>,
}

/// Pods that wait in the runtime, and sandboxes that the state has been told of.
#[derive(Debug)]
pub struct Enrol {
    node: Arc<str>,
    pending: Pending,
    scanner: Scanner,
    /// By pod UID.
    told: BTreeMap<Arc<str>, Told>,
    unfound: BTreeMap<Arc<str>, Unfound>,
}

/// What the state has been told of a pod.
#[derive(Debug)]
struct Told {
    netns: Arc<str>,
    /// The pod's addresses at that time.
    ips: Vec<IpAddr>,
}

impl Enrol {
    /// Knows nothing yet. `node` is this node's name.
    #[must_use]
    pub fn new(node: Arc<str>, scanner: Scanner) -> Self {
        Self {
            node,
            pending: Pending::default(),
            scanner,
            told: BTreeMap::new(),
            unfound: BTreeMap::new(),
        }
    }

    /// A question of the plug-in. Call [`Enrol::facts`] and [`Enrol::settle`] after it.
    pub fn take(&mut self, request: CniRequest, now: Instant) {
        self.pending.add(request, now);
    }

    /// What the state does not know yet: apply it before the next snapshot. To be asked after each change of the
    /// snapshot and each question of the plug-in, and every so often while [`Enrol::looks_for_pods`].
    ///
    /// # Errors
    /// `/proc` cannot be listed: the facts that the plug-in brought are lost to nobody, they come with the next call.
    pub fn facts(&mut self, snapshot: &Snapshot) -> std::io::Result<Vec<SandboxFact>> {
        let mut facts = self.forget_gone(snapshot);
        facts.extend(self.plugin_facts(snapshot));
        facts.extend(self.proc_facts(snapshot)?);
        Ok(facts)
    }

    /// Answers the plug-in where the answer is known. `capture` says how far the data path is with a workload.
    pub fn settle<'a>(
        &mut self,
        snapshot: &Snapshot,
        now: Instant,
        capture: impl Fn(&Workload) -> Capture<'a>,
    ) {
        self.pending.settle(now, |request, waited| {
            let pod = find(snapshot, request);
            decide(
                request,
                pod.map(Arc::as_ref),
                pod.map_or(Capture::NotYet, |pod| capture(pod)),
                waited,
            )
        });
    }

    /// Whether pods of the mesh run whose namespaces are not found.
    #[must_use]
    pub fn looks_for_pods(&self) -> bool {
        !self.unfound.is_empty()
    }

    /// Why a pod's namespace is not known, by `metadata.uid`.
    #[must_use]
    pub fn unfound(&self, uid: &str) -> Option<&Unfound> {
        self.unfound.get(uid)
    }

    /// Whether a plug-in waits for an answer.
    #[must_use]
    pub fn has_waiting(&self) -> bool {
        !self.pending.is_empty()
    }

    fn forget_gone(&mut self, snapshot: &Snapshot) -> Vec<SandboxFact> {
        let here: BTreeSet<&str> = self.own_pods(snapshot).map(|pod| &*pod.uid).collect();
        let gone: Vec<Arc<str>> = self
            .told
            .keys()
            .filter(|uid| !here.contains(&***uid))
            .cloned()
            .collect();
        self.unfound.retain(|uid, _| here.contains(&**uid));
        let forget = |uid: Arc<str>| {
            self.told.remove(&uid);
            self.scanner.forget(&uid);
            SandboxFact {
                uid,
                netns: None,
                ips: Vec::new(),
            }
        };
        gone.into_iter().map(forget).collect()
    }

    fn plugin_facts(&mut self, snapshot: &Snapshot) -> Vec<SandboxFact> {
        let mut facts = Vec::new();
        for request in self.pending.requests() {
            let (Operation::Add, Some(netns)) = (request.operation, &request.netns) else {
                continue;
            };
            let Some(pod) = find(snapshot, request).filter(|pod| is_same_pod(request, pod)) else {
                continue;
            };
            if self.told.get(&pod.uid).is_some_and(|told| told.netns == *netns) {
                continue;
            }
            let told = Told {
                netns: Arc::clone(netns),
                ips: request.ips.clone(),
            };
            self.told.insert(Arc::clone(&pod.uid), told);
            facts.push(SandboxFact {
                uid: Arc::clone(&pod.uid),
                netns: Some(Arc::clone(netns)),
                ips: request.ips.clone(),
            });
        }
        facts
    }

    fn proc_facts(&mut self, snapshot: &Snapshot) -> std::io::Result<Vec<SandboxFact>> {
        self.unfound.clear();
        // A pod whose addresses change has a new sandbox, of which the plug-in may not have told: it does not ask for
        // pods of excluded namespaces, and nobody answered it while no agent ran.
        let to_find: BTreeMap<Arc<str>, &Workload> = self
            .own_pods(snapshot)
            .filter(|pod| matches!(pod.enrollment, Enrollment::Enrolled | Enrollment::NoAddress))
            .filter(|pod| match self.told.get(&pod.uid) {
                Some(told) => !pod.ips.is_empty() && told.ips != pod.ips,
                None => pod.netns.is_none(),
            })
            .map(|pod| (Arc::clone(&pod.uid), &**pod))
            .collect();
        if to_find.is_empty() {
            return Ok(Vec::new());
        }
        let uids: Vec<Arc<str>> = to_find.keys().cloned().collect();
        let mut facts = Vec::new();
        for (uid, found) in self.scanner.scan(&uids)? {
            let ips = to_find.get(&uid).map(|pod| pod.ips.clone()).unwrap_or_default();
            match (found, self.told.get_mut(&uid)) {
                (Ok(netns), Some(told)) if told.netns == netns => told.ips = ips,
                (Ok(netns), _) => {
                    let told = Told {
                        netns: Arc::clone(&netns),
                        ips,
                    };
                    self.told.insert(Arc::clone(&uid), told);
                    facts.push(SandboxFact {
                        uid,
                        netns: Some(netns),
                        ips: Vec::new(),
                    });
                }
                (Err(why), _) => drop(self.unfound.insert(uid, why)),
            }
        }
        Ok(facts)
    }

    fn own_pods<'a>(&self, snapshot: &'a Snapshot) -> impl Iterator<Item = &'a Arc<Workload>> {
        let node = Arc::clone(&self.node);
        snapshot.workloads.iter().filter(move |pod| pod.node == node)
    }
}

/// The workload of the pod's name, be it the same pod or an earlier one: `decide` looks. Workloads are in order of
/// namespace and name.
fn find<'a>(snapshot: &'a Snapshot, request: &CniRequest) -> Option<&'a Arc<Workload>> {
    let wanted = (&*request.pod.namespace, &*request.pod.name);
    let workloads = &snapshot.workloads;
    let at = workloads.binary_search_by(|pod| (&*pod.pod.namespace, &*pod.pod.name).cmp(&wanted));
    at.ok().map(|at| &workloads[at])
}

#[cfg(test)]
mod tests;
