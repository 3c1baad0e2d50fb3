//! Names, sizes and layout numbers of the maps, in one table that both sides read.
//!
//! A map is pinned as `<name>-v<layout>`: a new layout of one map costs no other map its contents.

/// Ports inside a pod to which outbound connections are rewritten: [`CAPTURE_PORT_BASE`] and the following.
/// One port would leave a pod 28,232 live connections (`ip_local_port_range`) and 470 new ones a second
/// (TIME_WAIT); they lie below the range that the kernel hands out itself.
pub const CAPTURE_PORT_BASE: u16 = 15_100;
/// How many capture ports there are.
pub const CAPTURE_PORTS: u16 = 512;
/// HBONE (Istio ambient).
pub const TUNNEL_PORT: u16 = 15_008;
/// Where the agent's plaintext inbound listener is bound; nobody connects to it by this number.
pub const INBOUND_PORT: u16 = 15_006;
/// Where the agent's outbound listener is bound; nobody connects to it by this number.
pub const OUTBOUND_PORT: u16 = 15_001;

/// Where questions for names are taken inside a pod, on loopback: this port and the following, one for each name server
/// that the pod asks. A datagram arrives with nothing but its destination, so that the port says who was asked.
pub const RESOLVER_PORT_BASE: u16 = 15_060;
/// Name servers of one pod whose questions are taken; a pod that asks more of them asks the others itself. Resolvers of
/// C libraries know three (resolv.conf(5), MAXNS).
pub const RESOLVERS_PER_POD: u16 = 4;
/// The port of name servers (RFC 1035 § 4.2).
pub const NAME_PORT: u16 = 53;

/// Enrolled pods of a node.
pub const MAX_WORKLOADS: u32 = 1_024;
/// Service ports and pod addresses, unless the agent is told otherwise: 10,000 services and 50,000 pods with two addresses
/// each are 120,000. Room costs 16 bytes of kernel memory an entry (4 MiB), an entry that is there about 100 more.
pub const MAX_SERVICES: u32 = 262_144;
/// Backends in all, unless the agent is told otherwise. Costs as [`MAX_SERVICES`].
pub const MAX_BACKENDS: u32 = 262_144;
/// Backends of one service port that the kernel chooses from; a service with more goes to the proxy.
pub const MAX_BACKENDS_PER_SERVICE: u32 = 1_024;
/// Connections between `connect` and `accept`.
pub const MAX_FLOWS: u32 = 65_536;
/// Live connections without a proxy.
pub const MAX_DIRECT_FLOWS: u32 = 131_072;
/// Listening sockets of the agent.
pub const MAX_LISTENERS: u32 = MAX_WORKLOADS * 3;
/// Probe ports of the node's pods.
pub const MAX_PROBE_PORTS: u32 = MAX_WORKLOADS * 8;
/// Name servers that pods ask.
pub const MAX_RESOLVERS: u32 = MAX_WORKLOADS * RESOLVERS_PER_POD as u32;
/// Addresses of this node.
pub const MAX_NODE_ADDRS: u32 = 64;
/// Bytes of the event ring.
pub const EVENTS_BYTES: u32 = 256 * 1024;
/// Events a pod may send each second; more are counted and dropped.
pub const EVENTS_PER_SECOND: u64 = 100;

/// One pinned map.
#[derive(Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "std", derive(Debug))]
pub struct MapSpec {
    /// Name in the object file.
    pub name: &'static str,
    /// Raised when key or value change shape or meaning, or the size changes.
    pub layout: u32,
    /// Rebuilt from the plan after a layout change; otherwise it is flow state and is carried over.
    pub config: bool,
}

/// Every map of the object.
pub const MAPS: [MapSpec; 14] = [
    MapSpec {
        name: "WORKLOADS",
        layout: 1,
        config: true,
    },
    MapSpec {
        name: "LOCAL_PODS",
        layout: 1,
        config: true,
    },
    MapSpec {
        name: "PROBE_PORTS",
        layout: 1,
        config: true,
    },
    MapSpec {
        name: "NODE_ADDRS",
        layout: 1,
        config: true,
    },
    MapSpec {
        name: "SERVICES",
        layout: 2,
        config: true,
    },
    MapSpec {
        name: "BACKENDS",
        layout: 2,
        config: true,
    },
    MapSpec {
        name: "AGENT",
        layout: 1,
        config: true,
    },
    MapSpec {
        name: "LISTENERS",
        layout: 1,
        config: false,
    },
    MapSpec {
        name: "SOCKETS",
        layout: 1,
        config: false,
    },
    MapSpec {
        name: "FLOWS",
        layout: 1,
        config: false,
    },
    MapSpec {
        name: "DIRECT_FLOWS",
        layout: 1,
        config: false,
    },
    MapSpec {
        name: "COUNTERS",
        layout: 2,
        config: false,
    },
    MapSpec {
        name: "POD_COUNTERS",
        layout: 1,
        config: false,
    },
    MapSpec {
        name: "RESOLVERS",
        layout: 1,
        config: false,
    },
];
