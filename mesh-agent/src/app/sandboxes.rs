//! Where this node's pods run: what the container runtime says of new ones, and what `/proc` shows of the others.
//!
//! A pod whose start is held is answered once it is captured, or known to be none of the mesh's.

use super::control::World;
use crate::cni::pending::Pending;
use crate::cni::server::CniRequest;
use crate::cni::{Answer, Operation};
use crate::sandbox::Scanner;
use crate::sys::netns_id;
use mesh_core::model::snapshot::Snapshot;
use mesh_core::model::workload::{Enrollment, Workload};
use mesh_core::state::{Change, Sandbox, State};
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a pod that cannot be captured is tried again before its start fails and the kubelet tries anew.
const FAILS_AFTER: Duration = Duration::from_secs(3);
/// How long the API server may take to tell of a pod that the kubelet starts already.
const UNKNOWN_FOR: Duration = Duration::from_secs(8);

/// What is known of the sandboxes of this node's pods.
pub struct Sandboxes {
    scanner: Scanner,
    pending: Pending,
    /// By pod's uid: the sandbox that the runtime made last.
    containers: HashMap<Arc<str>, Arc<str>>,
}

impl Sandboxes {
    /// Nothing known yet.
    #[must_use]
    pub fn new(scanner: Scanner) -> Self {
        Self {
            scanner,
            pending: Pending::default(),
            containers: HashMap::new(),
        }
    }

    /// Whether the start of some pod is held.
    #[must_use]
    pub fn anybody_waits(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Looks for the namespaces of enrolled pods that have none yet; `again` also for those that have one, which may be
    /// another by now. Returns whether something new is known.
    pub fn look(&mut self, state: &mut State, snapshot: &Snapshot, node: &str, again: bool) -> bool {
        let mine = snapshot.workloads.iter().filter(|pod| *pod.node == *node);
        let wanted: Vec<&Arc<Workload>> = mine
            .filter(|pod| pod.enrolled() && (again || pod.netns.is_none()))
            .collect();
        if wanted.is_empty() {
            return false;
        }
        let uids: Vec<Arc<str>> = wanted.iter().map(|pod| Arc::clone(&pod.uid)).collect();
        let found = match self.scanner.scan(&uids) {
            Ok(found) => found,
            Err(error) => {
                tracing::error!(%error, "cannot look for the pods' network namespaces");
                return false;
            }
        };
        let mut changed = false;
        for pod in wanted {
            match found.get(&pod.uid) {
                Some(Ok(netns)) if !same_namespace(pod.netns.as_deref(), netns) => {
                    let sandbox = Sandbox {
                        netns: Arc::clone(netns),
                        ips: Vec::new(),
                    };
                    changed |= state.apply(Change::Sandbox {
                        uid: Arc::clone(&pod.uid),
                        sandbox: Some(sandbox),
                    });
                }
                Some(Err(reason)) if pod.netns.is_none() => {
                    tracing::debug!(pod = %pod.pod, %reason, "network namespace not found");
                }
                _ => {}
            }
        }
        changed
    }

    /// Forgets the sandboxes of pods that are gone.
    pub fn forget_gone(&mut self, state: &mut State, before: &Snapshot, now: &Snapshot, node: &str) {
        let alive: std::collections::HashSet<&str> = now.workloads.iter().map(|pod| &*pod.uid).collect();
        let gone = before
            .workloads
            .iter()
            .filter(|pod| *pod.node == *node && !alive.contains(&*pod.uid));
        for pod in gone {
            self.scanner.forget(&pod.uid);
            self.containers.remove(&pod.uid);
            state.apply(Change::Sandbox {
                uid: Arc::clone(&pod.uid),
                sandbox: None,
            });
        }
    }

    /// Takes a question of the plug-in. Returns whether something new is known.
    fn take(&mut self, request: CniRequest, state: &mut State) -> bool {
        let Some(uid) = request.pod.uid.clone() else {
            // A runtime that gives no uid: the pod is found in /proc once it runs, and is not held.
            let why = "the runtime does not say which pod this is (K8S_POD_UID)".to_owned();
            _ = request.reply.send(Answer::NotEnrolled { why });
            return false;
        };
        match (request.operation, request.netns.clone()) {
            (Operation::Add, Some(netns)) => {
                self.containers
                    .insert(Arc::clone(&uid), Arc::clone(&request.container_id));
                let sandbox = Sandbox {
                    netns,
                    ips: request.ips.clone(),
                };
                self.pending.add(request, Instant::now());
                state.apply(Change::Sandbox {
                    uid,
                    sandbox: Some(sandbox),
                })
            }
            (Operation::Del, _) => {
                let current = self.containers.get(&uid) == Some(&request.container_id);
                _ = request.reply.send(Answer::Captured);
                if !current {
                    return false;
                }
                self.containers.remove(&uid);
                self.scanner.forget(&uid);
                state.apply(Change::Sandbox { uid, sandbox: None })
            }
            (Operation::Add | Operation::Check, _) => {
                self.pending.add(request, Instant::now());
                false
            }
        }
    }
}

/// Whether both paths lead to one namespace. A path that no longer leads anywhere is another.
fn same_namespace(known: Option<&str>, found: &str) -> bool {
    let Some(known) = known else {
        return false;
    };
    known == found
        || matches!((netns_id(Path::new(known)), netns_id(Path::new(found))), (Ok(a), Ok(b)) if a == b)
}

impl World {
    /// Takes a question of the plug-in and answers those that can be answered.
    pub(super) fn take_cni(&mut self, request: CniRequest) {
        let Some(sandboxes) = &mut self.sandboxes else {
            return;
        };
        if sandboxes.take(request, &mut self.state) && self.ready() {
            self.publish();
        }
        self.settle_cni();
    }

    /// Answers the questions of the plug-in that can be answered now.
    pub(super) fn settle_cni(&mut self) {
        let Some(sandboxes) = &mut self.sandboxes else {
            return;
        };
        let mut pending = std::mem::take(&mut sandboxes.pending);
        pending.settle(Instant::now(), |request, waited| self.decide(request, waited));
        if let Some(sandboxes) = &mut self.sandboxes {
            sandboxes.pending = pending;
        }
    }

    fn decide(&self, request: &CniRequest, waited: Duration) -> Option<Answer> {
        let failed = |reason: String| Some(Answer::Failed { reason });
        if !self.ready() {
            return None; // the plug-in's own deadline ends this
        }
        let snapshot = self.snapshots.load();
        let uid = request.pod.uid.as_deref().unwrap_or_default();
        let known = snapshot.workloads.iter().find(|pod| *pod.uid == *uid);
        let Some(pod) = known else {
            return (waited >= UNKNOWN_FOR)
                .then(|| failed("the API server has not told the agent of this pod yet".to_owned()))
                .flatten();
        };
        match pod.enrollment {
            Enrollment::Enrolled => {}
            // The addresses that came with the question are on their way into the snapshot.
            Enrollment::NoAddress if !request.ips.is_empty() && waited < FAILS_AFTER => return None,
            other => {
                return Some(Answer::NotEnrolled {
                    why: other.describe().to_owned(),
                });
            }
        }
        let here = same_namespace(pod.netns.as_deref(), request.netns.as_deref().unwrap_or_default());
        if here && self.settled && self.node.captured(pod.id).is_some() {
            return Some(Answer::Captured);
        }
        // Another pod's trouble does not hold this one.
        if here
            && self.node.captured(pod.id).is_some()
            && self.node.failure(pod.id).is_none()
            && waited >= FAILS_AFTER
        {
            return Some(Answer::Captured);
        }
        if waited < FAILS_AFTER {
            return None;
        }
        failed(
            self.node
                .failure(pod.id)
                .unwrap_or("it is not captured yet")
                .to_owned(),
        )
    }
}
