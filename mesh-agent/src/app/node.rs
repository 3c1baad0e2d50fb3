//! Keeps this node's kernel state what the snapshot says: opens and closes pods, plans and applies.
//!
//! Order, so that no connection meets half a pod. Enrolling: listeners are open and steerable before the maps name the
//! pod. Leaving: the maps forget the pod before its listeners close.

use super::config::AgentConfig;
use crate::bpf::{BpfError, Datapath, NetnsLink};
use crate::contract::PodHandle;
use crate::dns::Dns;
use crate::errors::chain;
use crate::pods::{self, CaptureError};
use crate::proxy::{Ejected, Proxy};
use mesh_common::{agent_flags, listener_kind};
use mesh_core::datapath::{self, NodeFacts, Plan};
use mesh_core::model::snapshot::Snapshot;
use mesh_core::model::workload::Workload;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// This node's side of the mesh.
pub struct Node {
    name: String,
    mark: u32,
    /// What the programs are told with each beat ([`agent_flags`]).
    flags: u32,
    drain: Duration,
    datapath: Datapath,
    proxy: Arc<Proxy>,
    dns: Arc<Dns>,
    /// Whether questions for names are taken.
    names: bool,
    /// Pods that have left, by cookie, until the answers on their way are there.
    left: Vec<(Instant, u64)>,
    live: BTreeMap<u32, LivePod>,
    failures: BTreeMap<u32, String>,
    plan: Plan,
    /// The node's own addresses.
    addrs: Vec<IpAddr>,
    refused: Vec<String>,
    swept: bool,
}

struct LivePod {
    handle: Arc<PodHandle>,
    cookie: u64,
    link: NetnsLink,
    preexisting: usize,
}

/// What is known of one captured pod.
#[derive(Clone, Copy, Debug)]
pub struct CapturedPod {
    /// Network namespace cookie.
    pub cookie: u64,
    /// Connections that lived before enrollment and go on outside of the mesh.
    pub preexisting: usize,
}

impl Node {
    /// Takes over what an earlier agent left in the maps.
    #[must_use]
    pub fn new(
        config: &AgentConfig,
        mark: u32,
        datapath: Datapath,
        proxy: Arc<Proxy>,
        dns: Arc<Dns>,
    ) -> Self {
        let plan = datapath.contents();
        let capture_probes = u32::from(config.capture_probes) * agent_flags::CAPTURE_PROBES;
        Self {
            name: config.node.clone(),
            mark,
            flags: capture_probes,
            drain: config.drain_deadline(),
            datapath,
            proxy,
            dns,
            names: config.dns_capture,
            left: Vec::new(),
            live: BTreeMap::new(),
            failures: BTreeMap::new(),
            plan,
            addrs: node_addrs(),
            refused: Vec::new(),
            swept: false,
        }
    }

    /// The endpoints that outlier detection has taken out for the time being.
    #[must_use]
    pub fn ejected(&self) -> Vec<Ejected> {
        self.proxy.ejected()
    }

    /// Makes the kernel's state what `snapshot` says, and has `publish` tell the proxy at the moment when it is true:
    /// new pods are served before anybody believes them captured, pods that leave are believed gone before they are.
    /// Pods that cannot be captured are kept with their reason and tried again at the next call; they never stop the
    /// others. Returns whether everything is as wanted.
    pub fn reconcile(&mut self, snapshot: &Snapshot, publish: impl FnOnce()) -> bool {
        let wanted: BTreeMap<u32, Arc<Workload>> = snapshot
            .workloads
            .iter()
            .filter(|workload| *workload.node == *self.name && workload.enrolled())
            .map(|workload| (workload.id, Arc::clone(workload)))
            .collect();
        let leaving = self.take_leaving(&wanted);
        self.failures.clear();
        let number_is_free = |id: &u32| !leaving.iter().any(|(old, _)| old == id);
        self.open_all(wanted.values().filter(|workload| number_is_free(&workload.id)));
        publish();
        let mut applied = self.apply(snapshot);
        for (id, pod) in &leaving {
            self.close(*id, pod);
        }
        if wanted.keys().any(|id| !number_is_free(id)) {
            self.open_all(wanted.values());
            applied = self.apply(snapshot);
        }
        if !self.swept {
            self.sweep_leftovers();
        }
        applied && self.failures.is_empty()
    }

    fn open_all<'a>(&mut self, workloads: impl Iterator<Item = &'a Arc<Workload>>) {
        for workload in workloads {
            if !self.live.contains_key(&workload.id)
                && let Err(error) = self.open(workload)
            {
                tracing::warn!(pod = %workload.pod, %error, "cannot capture the pod");
                self.failures.insert(workload.id, error.to_string());
            }
        }
    }

    /// Takes nothing new: connections that need the agent are refused, or pass, as their fail mode says.
    pub fn stop_taking(&mut self) {
        if let Err(error) = self.datapath.begin(self.mark) {
            tracing::error!(error = %chain(&error), "cannot withdraw the heartbeat");
        }
    }

    /// Pods that are no longer wanted, or are other pods under an old number.
    fn take_leaving(&mut self, wanted: &BTreeMap<u32, Arc<Workload>>) -> Vec<(u32, LivePod)> {
        let stays = |id: &u32, pod: &LivePod| {
            wanted.get(id).is_some_and(|workload| {
                let old = &pod.handle.workload;
                old.uid == workload.uid && old.netns == workload.netns && old.identity == workload.identity
            })
        };
        let gone: Vec<u32> = self
            .live
            .iter()
            .filter(|(id, pod)| !stays(id, pod))
            .map(|(id, _)| *id)
            .collect();
        gone.into_iter()
            .filter_map(|id| self.live.remove(&id).map(|pod| (id, pod)))
            .collect()
    }

    /// Serves the pods again after a successor that has died. What the maps hold is read anew.
    ///
    /// # Errors
    /// As [`Datapath::take_back`], or a pod's listeners are not taken.
    pub fn take_back(&mut self) -> Result<(), BpfError> {
        self.datapath.take_back()?;
        for pod in self.live.values_mut() {
            set_listeners(&mut self.datapath, pod.cookie, &pod.handle)?;
            pod.link = self.datapath.attach_netns(&pod.handle.netns)?;
        }
        self.plan = self.datapath.contents();
        Ok(())
    }

    fn open(&mut self, workload: &Arc<Workload>) -> Result<(), CaptureError> {
        let handle = Arc::new(pods::open(workload, self.mark, self.names)?);
        let refused = |error: BpfError| CaptureError::Datapath(chain(&error));
        let cookie = handle.netns.cookie().map_err(CaptureError::Listen)?;
        let preexisting = pods::established(&handle.netns).unwrap_or(0);
        self.datapath.add_pod_counters(workload.id).map_err(refused)?;
        set_listeners(&mut self.datapath, cookie, &handle).map_err(refused)?;
        let link = self.datapath.attach_netns(&handle.netns).map_err(refused)?;
        let failed = |error: &dyn std::error::Error| CaptureError::Datapath(chain(error));
        let dns = &self.dns;
        let taken = dns
            .serve(Arc::clone(&handle), cookie)
            .map_err(|error| failed(&error))
            .and_then(|()| {
                self.proxy
                    .add_pod(Arc::clone(&handle))
                    .map_err(|error| failed(&error))
            });
        if let Err(error) = taken {
            self.dns.leave(cookie);
            self.datapath.detach_netns(&link);
            return Err(error);
        }
        tracing::info!(pod = %workload.pod, cookie, preexisting, "captured");
        self.live.insert(
            workload.id,
            LivePod {
                handle,
                cookie,
                link,
                preexisting,
            },
        );
        Ok(())
    }

    fn close(&mut self, id: u32, pod: &LivePod) {
        self.datapath.remove_listeners(pod.cookie);
        self.datapath.detach_netns(&pod.link);
        self.datapath.remove_pod_counters(id);
        self.proxy.remove_pod(id, self.drain);
        self.dns.leave(pod.cookie);
        self.left.push((Instant::now(), pod.cookie));
        tracing::info!(pod = %pod.handle.workload.pod, "released");
    }

    fn apply(&mut self, snapshot: &Snapshot) -> bool {
        let facts = NodeFacts {
            node: self.name.clone(),
            addrs: self.addrs.clone(),
            captured: self.live.iter().map(|(id, pod)| (*id, pod.cookie)).collect(),
            limits: self.datapath.config().limits,
        };
        let wanted = datapath::plan(snapshot, &facts, &self.plan);
        for object in &wanted.refused {
            if !self.refused.contains(object) {
                tracing::error!(%object, "does not fit into the data path's maps");
            }
        }
        self.refused.clone_from(&wanted.refused);
        let ops = datapath::diff(&self.plan, &wanted);
        match self.datapath.apply(&ops) {
            Ok(()) => {
                self.plan = wanted;
                true
            }
            Err(error) => {
                tracing::error!(error = %chain(&error), "the kernel refuses a map update");
                self.plan = self.datapath.contents();
                false
            }
        }
    }

    /// Removes what an earlier agent left for pods that are gone. Once, after the first listing: before it, everything
    /// would seem gone.
    fn sweep_leftovers(&mut self) {
        self.swept = true;
        let links: Vec<&NetnsLink> = self.live.values().map(|pod| &pod.link).collect();
        self.datapath.sweep_netns(&links);
        let cookies: Vec<u64> = self.live.values().map(|pod| pod.cookie).collect();
        self.datapath.servers().retain(|cookie| cookies.contains(&cookie));
        for id in self.datapath.pods_with_counters() {
            if !self.live.contains_key(&id) {
                self.datapath.remove_pod_counters(id);
            }
        }
    }

    /// A pod that is enrolled again in its namespace keeps the name servers that it had.
    fn forget_left(&mut self) {
        const ANSWERED: Duration = Duration::from_secs(10);
        let servers = self.datapath.servers();
        let live = &self.live;
        self.left.retain(|(since, cookie)| {
            let due = since.elapsed() > ANSWERED;
            if due && live.values().all(|pod| pod.cookie != *cookie) {
                servers.remove(*cookie);
            }
            !due
        });
    }

    /// Another agent serves the pods, or none will: open questions for names are answered, new ones not taken.
    pub fn leave_names(&self) {
        self.dns.end();
    }

    /// Mark of this agent's sockets.
    #[must_use]
    pub fn mark(&self) -> u32 {
        self.mark
    }

    /// Tells the programs that an agent lives.
    pub fn beat(&mut self) {
        if let Err(error) = self.datapath.beat(self.mark, self.flags) {
            tracing::error!(error = %chain(&error), "cannot write the heartbeat");
        }
    }

    /// One second's upkeep: tells the programs that the agent lives, and removes what nobody took.
    pub fn tick(&mut self) {
        const UNTAKEN_NS: u64 = 60_000_000_000;
        self.beat();
        self.addrs = node_addrs();
        self.forget_left();
        let swept = self.datapath.sweep_flows(UNTAKEN_NS);
        if swept > 0 {
            tracing::warn!(
                swept,
                "removed announcements of connections that were never accepted"
            );
        }
    }

    /// The pod under this number, if it is captured.
    #[must_use]
    pub fn captured(&self, id: u32) -> Option<CapturedPod> {
        self.live.get(&id).map(|pod| CapturedPod {
            cookie: pod.cookie,
            preexisting: pod.preexisting,
        })
    }

    /// Why a pod that should be captured is not.
    #[must_use]
    pub fn failure(&self, id: u32) -> Option<&str> {
        self.failures.get(&id).map(String::as_str)
    }

    /// What the maps hold.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Access for reports.
    #[must_use]
    pub fn datapath(&self) -> &Datapath {
        &self.datapath
    }

    /// Access for the event reader.
    pub fn datapath_mut(&mut self) -> &mut Datapath {
        &mut self.datapath
    }

    /// This node's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

fn set_listeners(datapath: &mut Datapath, cookie: u64, pod: &PodHandle) -> Result<(), BpfError> {
    let mut all = pod.listeners.iter().flat_map(|listeners| {
        [
            (listener_kind::OUTBOUND, &listeners.outbound),
            (listener_kind::INBOUND, &listeners.inbound),
            (listener_kind::TUNNEL, &listeners.tunnel),
        ]
    });
    all.try_for_each(|(kind, listener)| datapath.set_listener(cookie, kind, listener))
}

/// Addresses of the namespace that the agent runs in: the node's own.
fn node_addrs() -> Vec<IpAddr> {
    let Ok(interfaces) = nix::ifaddrs::getifaddrs() else {
        return Vec::new();
    };
    let mut addrs: Vec<IpAddr> = interfaces
        .filter_map(|interface| {
            let address = interface.address?;
            let v4 = address.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
        })
        .filter(|ip| !ip.is_loopback())
        .collect();
    addrs.sort();
    addrs.dedup();
    addrs
}
