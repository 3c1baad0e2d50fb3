//! The maps. Sizes come from `mesh_common::maps`; the loader pins them under names with a layout number.

use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::btf_maps::SkStorage;
use aya_ebpf::macros::{btf_map, map};
use aya_ebpf::maps::{Array, HashMap, PerCpuArray, PerCpuHashMap, RingBuf, SockHash};
use mesh_common::maps::{
    EVENTS_BYTES, MAX_BACKENDS, MAX_DIRECT_FLOWS, MAX_FLOWS, MAX_LISTENERS, MAX_NODE_ADDRS, MAX_PROBE_PORTS,
    MAX_RESOLVERS, MAX_SERVICES, MAX_WORKLOADS,
};
use mesh_common::verdict::Reason;
use mesh_common::{
    Agent, Backend, BackendKey, DirectFlow, DirectKey, FlowKey, FlowRecord, Ip, ListenerKey, LocalPod, PodCounters,
    PortKey, ResolverKey, Service, ServiceKey, SocketRecord, Workload,
};

// Maps that only user space writes are allocated per entry; those written in a hook are allocated at once.

#[map]
pub static WORKLOADS: HashMap<u64, Workload> = HashMap::with_max_entries(MAX_WORKLOADS, BPF_F_NO_PREALLOC);
#[map]
pub static LOCAL_PODS: HashMap<Ip, LocalPod> = HashMap::with_max_entries(MAX_WORKLOADS * 2, BPF_F_NO_PREALLOC);
#[map]
pub static PROBE_PORTS: HashMap<PortKey, u32> = HashMap::with_max_entries(MAX_PROBE_PORTS, BPF_F_NO_PREALLOC);
#[map]
pub static NODE_ADDRS: HashMap<Ip, u32> = HashMap::with_max_entries(MAX_NODE_ADDRS, BPF_F_NO_PREALLOC);
#[map]
pub static SERVICES: HashMap<ServiceKey, Service> = HashMap::with_max_entries(MAX_SERVICES, BPF_F_NO_PREALLOC);
#[map]
pub static BACKENDS: HashMap<BackendKey, Backend> = HashMap::with_max_entries(MAX_BACKENDS, BPF_F_NO_PREALLOC);
#[map]
pub static AGENT: Array<Agent> = Array::with_max_entries(1, 0);
#[map]
pub static LISTENERS: SockHash<ListenerKey> = SockHash::with_max_entries(MAX_LISTENERS, 0);
#[btf_map]
pub static SOCKETS: SkStorage<SocketRecord> = SkStorage::new();
#[map]
pub static FLOWS: HashMap<FlowKey, FlowRecord> = HashMap::with_max_entries(MAX_FLOWS, 0);
#[map]
pub static DIRECT_FLOWS: HashMap<DirectKey, DirectFlow> = HashMap::with_max_entries(MAX_DIRECT_FLOWS, 0);
#[map]
pub static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Reason::COUNT, 0);
#[map]
pub static POD_COUNTERS: PerCpuHashMap<u32, PodCounters> =
    PerCpuHashMap::with_max_entries(MAX_WORKLOADS, BPF_F_NO_PREALLOC);
#[map]
pub static RESOLVERS: HashMap<ResolverKey, Ip> = HashMap::with_max_entries(MAX_RESOLVERS, 0);
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(EVENTS_BYTES, 0);
