//! Typed handles of the maps.

use super::{BpfError, Datapath, sys};
use aya::Ebpf;
use aya::maps::{Array, HashMap, Map, MapData, PerCpuArray, PerCpuHashMap, PerCpuValues, RingBuf, SockHash};
use mesh_common::verdict::Reason;
use mesh_common::{
    Agent, Backend, BackendKey, DirectFlow, DirectKey, FlowKey, FlowRecord, Ip, ListenerKey, LocalPod,
    PodCounters, PortKey, Service, ServiceKey, Workload, maps as limits,
};
use mesh_core::datapath::Plan;
use std::net::TcpListener;
use std::os::fd::AsRawFd;

pub(super) struct Maps {
    pub(super) workloads: HashMap<MapData, u64, Workload>,
    pub(super) local_pods: HashMap<MapData, Ip, LocalPod>,
    pub(super) probe_ports: HashMap<MapData, PortKey, u32>,
    pub(super) node_addrs: HashMap<MapData, Ip, u32>,
    pub(super) services: HashMap<MapData, ServiceKey, Service>,
    pub(super) backends: HashMap<MapData, BackendKey, Backend>,
    agent: Array<MapData, Agent>,
    listeners: SockHash<MapData, ListenerKey>,
    flows: HashMap<MapData, FlowKey, FlowRecord>,
    direct_flows: HashMap<MapData, DirectKey, DirectFlow>,
    counters: PerCpuArray<MapData, u64>,
    pod_counters: PerCpuHashMap<MapData, u32, PodCounters>,
    pub(super) events: Option<RingBuf<MapData>>,
}

/// How full a map is.
#[derive(Clone, Copy, Debug)]
pub struct MapUsage {
    /// Name.
    pub name: &'static str,
    /// Entries now.
    pub entries: usize,
    /// Entries at most.
    pub max: u32,
}

/// [`PodCounters`] summed over CPUs.
pub type PodTotals = PodCounters;

pub(super) fn take<T>(ebpf: &mut Ebpf, name: &'static str) -> Result<T, BpfError>
where
    T: TryFrom<Map, Error = aya::maps::MapError>,
{
    let map = ebpf.take_map(name).ok_or(BpfError::Missing(name))?;
    map.try_into().map_err(|source| BpfError::Map { name, source })
}

impl Maps {
    pub(super) fn open(ebpf: &mut Ebpf) -> Result<Self, BpfError> {
        Ok(Self {
            workloads: take(ebpf, "WORKLOADS")?,
            local_pods: take(ebpf, "LOCAL_PODS")?,
            probe_ports: take(ebpf, "PROBE_PORTS")?,
            node_addrs: take(ebpf, "NODE_ADDRS")?,
            services: take(ebpf, "SERVICES")?,
            backends: take(ebpf, "BACKENDS")?,
            agent: take(ebpf, "AGENT")?,
            listeners: take(ebpf, "LISTENERS")?,
            flows: take(ebpf, "FLOWS")?,
            direct_flows: take(ebpf, "DIRECT_FLOWS")?,
            counters: take(ebpf, "COUNTERS")?,
            pod_counters: take(ebpf, "POD_COUNTERS")?,
            events: Some(take(ebpf, "EVENTS")?),
        })
    }
}

fn map_error(name: &'static str) -> impl FnOnce(aya::maps::MapError) -> BpfError {
    move |source| BpfError::Map { name, source }
}

impl Datapath {
    /// Tells the programs by which mark this agent's sockets are known, and that it does not serve yet. An earlier
    /// agent's word is void with this: until the first beat, connections that need the agent are refused. Without it
    /// this agent's own connections would meet the earlier mark and be captured.
    ///
    /// # Errors
    /// The kernel's words.
    pub fn begin(&mut self, mark: u32) -> Result<(), BpfError> {
        let agent = Agent {
            heartbeat_ns: 0,
            mark,
            flags: 0,
        };
        self.maps.agent.set(0, agent, 0).map_err(map_error("AGENT"))
    }

    /// The mark of an agent that takes nothing new, or has ended in order: it may drain still, and its sockets must not
    /// be taken for a pod's.
    ///
    /// # Errors
    /// The kernel's words.
    pub fn withdrawn_mark(&self) -> Result<Option<u32>, BpfError> {
        let agent = self.maps.agent.get(&0, 0).map_err(map_error("AGENT"))?;
        Ok((agent.heartbeat_ns == 0 && agent.mark != 0).then_some(agent.mark))
    }

    /// By which mark the programs know the agent's sockets.
    ///
    /// # Errors
    /// The kernel's words.
    pub fn known_mark(&self) -> Result<u32, BpfError> {
        let agent = self.maps.agent.get(&0, 0).map_err(map_error("AGENT"))?;
        Ok(agent.mark)
    }

    /// Tells the programs that the agent lives, and by which mark its sockets are known.
    ///
    /// # Errors
    /// The kernel's words.
    pub fn beat(&mut self, mark: u32, flags: u32) -> Result<(), BpfError> {
        let agent = Agent {
            heartbeat_ns: sys::monotonic_ns(),
            mark,
            flags,
        };
        self.maps.agent.set(0, agent, 0).map_err(map_error("AGENT"))
    }

    /// Hands arrivals of one kind in one pod to `listener`.
    ///
    /// # Errors
    /// The map is full, or the socket is not a listening TCP socket.
    pub fn set_listener(&mut self, cookie: u64, kind: u32, listener: &TcpListener) -> Result<(), BpfError> {
        let key = ListenerKey { cookie, kind, pad: 0 };
        self.maps
            .listeners
            .insert(key, listener.as_raw_fd(), 0)
            .map_err(map_error("LISTENERS"))
    }

    /// Takes a pod's listeners out. Closed ones have left on their own.
    pub fn remove_listeners(&mut self, cookie: u64) {
        for kind in 0..3 {
            // Absent is what we want.
            let _ = self.maps.listeners.remove(&ListenerKey { cookie, kind, pad: 0 });
        }
    }

    /// Makes room for a pod's counters.
    ///
    /// # Errors
    /// The map is full.
    pub fn add_pod_counters(&mut self, workload: u32) -> Result<(), BpfError> {
        let cpus = aya::util::nr_cpus().map_err(|(_, source)| BpfError::io("count CPUs")(source))?;
        let zero = PerCpuValues::try_from(vec![PodCounters::default(); cpus])
            .map_err(BpfError::io("per-CPU zero"))?;
        self.maps
            .pod_counters
            .insert(workload, zero, 0)
            .map_err(map_error("POD_COUNTERS"))
    }

    /// Removes a pod's counters.
    pub fn remove_pod_counters(&mut self, workload: u32) {
        let _ = self.maps.pod_counters.remove(&workload);
    }

    /// Ids of all pods that have counters.
    #[must_use]
    pub fn pods_with_counters(&self) -> Vec<u32> {
        self.maps.pod_counters.keys().flatten().collect()
    }

    /// A pod's counters, summed.
    #[must_use]
    pub fn pod_totals(&self, workload: u32) -> PodTotals {
        let mut sum = PodCounters::default();
        if let Ok(values) = self.maps.pod_counters.get(&workload, 0) {
            for value in values.iter() {
                sum.passed += value.passed;
                sum.direct += value.direct;
                sum.proxied += value.proxied;
                sum.denied += value.denied;
                sum.steered += value.steered;
                sum.admitted += value.admitted;
                sum.dropped += value.dropped;
            }
        }
        sum
    }

    /// Decisions of all hooks by reason, since the maps were made.
    #[must_use]
    pub fn decisions(&self) -> Vec<(Reason, u64)> {
        Reason::ALL
            .into_iter()
            .map(|reason| {
                let values = self.maps.counters.get(&(reason as u32), 0);
                (reason, values.map_or(0, |per_cpu| per_cpu.iter().sum()))
            })
            .collect()
    }

    /// How full each map is that can fill up. What `plan` has put there is not counted in the kernel: that would be a system
    /// call for each of tens of thousands of entries, at every scrape.
    #[must_use]
    pub fn usage(&self, plan: &Plan) -> Vec<MapUsage> {
        let m = &self.maps;
        let row = |name, entries, max| MapUsage { name, entries, max };
        vec![
            row("WORKLOADS", m.workloads.keys().count(), limits::MAX_WORKLOADS),
            row(
                "LOCAL_PODS",
                m.local_pods.keys().count(),
                limits::MAX_WORKLOADS * 2,
            ),
            row(
                "PROBE_PORTS",
                m.probe_ports.keys().count(),
                limits::MAX_PROBE_PORTS,
            ),
            row("NODE_ADDRS", m.node_addrs.keys().count(), limits::MAX_NODE_ADDRS),
            row("SERVICES", plan.services.len(), self.config.limits.services),
            row("BACKENDS", plan.backends.len(), self.config.limits.backends),
            row("RESOLVERS", self.servers().count(), limits::MAX_RESOLVERS),
            row("LISTENERS", m.listeners.keys().count(), limits::MAX_LISTENERS),
            row("FLOWS", m.flows.keys().count(), limits::MAX_FLOWS),
            row(
                "DIRECT_FLOWS",
                m.direct_flows.keys().count(),
                limits::MAX_DIRECT_FLOWS,
            ),
            row(
                "POD_COUNTERS",
                m.pod_counters.keys().count(),
                limits::MAX_WORKLOADS,
            ),
        ]
    }

    /// Removes announcements of connections that nobody accepted: their client went away without closing, or an
    /// earlier agent announced them. Returns how many.
    pub fn sweep_flows(&mut self, older_than_ns: u64) -> usize {
        let now = sys::monotonic_ns();
        let stale: Vec<FlowKey> = self
            .maps
            .flows
            .iter()
            .flatten()
            .filter(|(_, flow)| now.saturating_sub(flow.since_ns) > older_than_ns)
            .map(|(key, _)| key)
            .collect();
        stale
            .iter()
            .filter(|key| self.maps.flows.remove(key).is_ok())
            .count()
    }
}
