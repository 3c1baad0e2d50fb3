//! What the kernel knows of the pods on its node and of the agent.

use crate::Ip;

/// Bits of [`Workload::flags`].
pub mod workload_flags {
    /// New connections pass untouched while no agent is alive (`heddle.io/fail-mode: open`). Without it they are
    /// refused.
    pub const FAIL_OPEN: u32 = 1;
    /// Destinations that the mesh does not know are refused (`outboundTrafficPolicy.mode: REGISTRY_ONLY`).
    pub const REGISTRY_ONLY: u32 = 1 << 1;
    /// The pod does not see every service (`Sidecar.egress`): who is dialled is for the proxy to judge, always.
    pub const SCOPED: u32 = 1 << 2;
    /// The agent answers the pod's questions for names that the mesh knows, as long as it lives.
    pub const NAMES: u32 = 1 << 3;
}

/// `WORKLOADS`: network namespace cookie → enrolled pod.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "std", derive(Debug))]
pub struct Workload {
    /// The pod's number, unique among the live pods of this node.
    pub id: u32,
    /// [`workload_flags`].
    pub flags: u32,
    /// The pod's IPv4 address, [`Ip::NONE`] if it has none.
    pub ip4: Ip,
    /// The pod's IPv6 address, [`Ip::NONE`] if it has none.
    pub ip6: Ip,
}

/// `LOCAL_PODS`: pod address → enrolled pod, the inbound side's view. `sk_lookup` programs have no cookie
/// (kernel: `sk_lookup_func_proto`), so the local address is the key.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "std", derive(Debug))]
pub struct LocalPod {
    /// Same number as in [`Workload`].
    pub id: u32,
    /// [`workload_flags`].
    pub flags: u32,
    /// Network namespace cookie: the key of its listeners.
    pub cookie: u64,
}

/// `PROBE_PORTS`: a port of a pod that its kubelet probes. Connections to it from an address of this node pass.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
#[cfg_attr(feature = "std", derive(Debug))]
pub struct PortKey {
    /// [`Workload::id`].
    pub workload: u32,
    /// Port, host byte order.
    pub port: u32,
}

/// `RESOLVERS` key: which of a pod's name servers. Entries come with the first question and stay as long as the pod does.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
#[cfg_attr(feature = "std", derive(Debug))]
pub struct ResolverKey {
    /// Network namespace cookie.
    pub cookie: u64,
    /// 0-based: the distance of its port from [`crate::maps::RESOLVER_PORT_BASE`].
    pub slot: u32,
    /// Zero.
    pub pad: u32,
}

/// The agent's listeners inside a pod; values of [`ListenerKey::kind`].
pub mod listener_kind {
    /// Outbound connections of the pod, rewritten by `connect4|6`.
    pub const OUTBOUND: u32 = 0;
    /// Connections to the pod that are not a tunnel.
    pub const INBOUND: u32 = 1;
    /// HBONE, port 15008.
    pub const TUNNEL: u32 = 2;
}

/// `LISTENERS` (SOCKHASH): which listening socket takes a connection. The cookie is the key and not the pod's number,
/// so that an agent that starts again cannot hand one pod's connections to another's listener while it re-numbers.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "std", derive(Debug))]
pub struct ListenerKey {
    /// Network namespace cookie.
    pub cookie: u64,
    /// [`listener_kind`].
    pub kind: u32,
    /// Zero.
    pub pad: u32,
}

/// Bits of [`Agent::flags`].
pub mod agent_flags {
    /// Kubelet probes from this node's addresses are captured like anything else.
    pub const CAPTURE_PROBES: u32 = 1;
}

/// `AGENT[0]`: the agent's word to the programs.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "std", derive(Debug))]
pub struct Agent {
    /// `bpf_ktime_get_ns` (CLOCK_MONOTONIC) of the last beat; 0 before the first.
    pub heartbeat_ns: u64,
    /// `SO_MARK` of the agent's own sockets, random per start.
    pub mark: u32,
    /// [`agent_flags`].
    pub flags: u32,
}

impl Agent {
    /// After this long without a beat the agent counts as gone. The agent beats once a second.
    pub const STALE_NS: u64 = 3_000_000_000;

    /// Whether the agent has beaten recently.
    #[inline(always)]
    #[must_use]
    pub const fn alive(&self, now_ns: u64) -> bool {
        self.heartbeat_ns != 0 && now_ns.saturating_sub(self.heartbeat_ns) < Self::STALE_NS
    }
}

/// `POD_COUNTERS` (per CPU): connections of one pod by outcome, since its enrollment.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "std", derive(Debug))]
pub struct PodCounters {
    /// Outbound connections left alone.
    pub passed: u64,
    /// Outbound connections sent to a backend by the kernel, no proxy on their path.
    pub direct: u64,
    /// Outbound connections handed to the agent.
    pub proxied: u64,
    /// Outbound connections refused.
    pub denied: u64,
    /// Inbound connections handed to the agent.
    pub steered: u64,
    /// Inbound connections let through: direct flows and probes.
    pub admitted: u64,
    /// Inbound connections dropped.
    pub dropped: u64,
    /// Start of the second in which `events` were counted, `bpf_ktime_get_ns`.
    pub window_ns: u64,
    /// Events of this window; beyond [`crate::maps::EVENTS_PER_SECOND`] they are dropped and counted.
    pub events: u64,
}
