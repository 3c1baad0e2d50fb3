//! The decisions of the kernel hooks as pure functions, called by the programs, by `heddle why` and by tests.
//!
//! The hooks gather [`Outbound`] or [`Inbound`] facts from maps and context; nothing is decided outside of here.

use crate::{AddrPort, Backend, Ip, Service, backend_flags, maps, service_flags, workload_flags};

/// Why a verdict was given. The numbers index the `COUNTERS` map and travel in events.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "std", derive(Debug, Hash))]
pub enum Reason {
    /// Not an enrolled pod's socket.
    NotEnrolled = 0,
    /// A socket of the agent itself, recognised by its mark.
    OwnSocket = 1,
    /// Loopback or the unspecified address.
    Loopback = 2,
    /// The pod dialled its own address.
    OwnAddress = 3,
    /// Not TCP.
    NotTcp = 4,
    /// No service or pod of the mesh has this address; left alone.
    UnknownDestination = 5,
    /// As above, and the mesh admits known destinations only.
    RegistryOnly = 6,
    /// Known, and nothing to do for it.
    NothingToDo = 7,
    /// The service has no ready backend.
    NoBackend = 8,
    /// HTTP, or not known not to be.
    NeedsBytes = 9,
    /// The chosen backend is an enrolled pod of another node: mutual TLS.
    NeedsTls = 10,
    /// L4 only and on this node, or not in the mesh: no proxy on the path.
    Spliced = 11,
    /// No agent is alive and the workload is set to fail open.
    AgentGoneOpen = 12,
    /// No agent is alive and the workload is set to fail closed.
    AgentGoneClosed = 13,
    /// A helper failed or a map was full.
    HelperFailed = 14,
    /// Inbound to the agent's capture port from the pod itself.
    CapturePort = 15,
    /// Inbound to the agent's capture port from somebody else.
    Stranger = 16,
    /// Inbound to the tunnel port.
    Tunnel = 17,
    /// The agent's own connection to the application.
    FromAgent = 18,
    /// Announced by the client's kernel side as a direct flow.
    DirectFlow = 19,
    /// A kubelet probe.
    Probe = 20,
    /// Inbound plaintext, handed to the agent.
    Plaintext = 21,
    /// An event that was not sent because its pod sends too many, or the ring was full.
    EventLost = 22,
    /// A backend was counted in its service but is not in the map.
    BackendMissing = 23,
    /// A question for a name, taken by the agent.
    NameAsked = 24,
    /// A question for a name to one name server too many, left alone.
    NameServersFull = 25,
}

impl Reason {
    /// Number of reasons: the size of `COUNTERS`.
    pub const COUNT: u32 = 26;

    /// Every reason, in the order of its number.
    pub const ALL: [Self; Self::COUNT as usize] = [
        Self::NotEnrolled,
        Self::OwnSocket,
        Self::Loopback,
        Self::OwnAddress,
        Self::NotTcp,
        Self::UnknownDestination,
        Self::RegistryOnly,
        Self::NothingToDo,
        Self::NoBackend,
        Self::NeedsBytes,
        Self::NeedsTls,
        Self::Spliced,
        Self::AgentGoneOpen,
        Self::AgentGoneClosed,
        Self::HelperFailed,
        Self::CapturePort,
        Self::Stranger,
        Self::Tunnel,
        Self::FromAgent,
        Self::DirectFlow,
        Self::Probe,
        Self::Plaintext,
        Self::EventLost,
        Self::BackendMissing,
        Self::NameAsked,
        Self::NameServersFull,
    ];

    /// The name used in metrics, events and `heddle why`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NotEnrolled => "not_enrolled",
            Self::OwnSocket => "own_socket",
            Self::Loopback => "loopback",
            Self::OwnAddress => "own_address",
            Self::NotTcp => "not_tcp",
            Self::UnknownDestination => "unknown_destination",
            Self::RegistryOnly => "registry_only",
            Self::NothingToDo => "nothing_to_do",
            Self::NoBackend => "no_backend",
            Self::NeedsBytes => "needs_bytes",
            Self::NeedsTls => "needs_tls",
            Self::Spliced => "spliced",
            Self::AgentGoneOpen => "agent_gone_open",
            Self::AgentGoneClosed => "agent_gone_closed",
            Self::HelperFailed => "helper_failed",
            Self::CapturePort => "capture_port",
            Self::Stranger => "stranger",
            Self::Tunnel => "tunnel",
            Self::FromAgent => "from_agent",
            Self::DirectFlow => "direct_flow",
            Self::Probe => "probe",
            Self::Plaintext => "plaintext",
            Self::EventLost => "event_lost",
            Self::BackendMissing => "backend_missing",
            Self::NameAsked => "name_asked",
            Self::NameServersFull => "name_servers_full",
        }
    }
}

/// What becomes of an outbound connection.
#[derive(Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "std", derive(Debug))]
pub enum Verdict {
    /// Refused at once.
    Deny(Reason),
    /// Untouched.
    Pass(Reason),
    /// To a backend that the kernel chooses, no proxy on the path.
    Direct(Reason),
    /// To the agent.
    Proxy(Reason),
}

impl Verdict {
    /// The reason inside.
    #[inline(always)]
    #[must_use]
    pub const fn reason(self) -> Reason {
        match self {
            Self::Deny(r) | Self::Pass(r) | Self::Direct(r) | Self::Proxy(r) => r,
        }
    }
}

/// First step of an outbound decision: is there anything to look up at all?
#[inline(always)]
#[must_use]
pub fn outbound_shortcut(own_socket: bool, tcp: bool, dst: &AddrPort, ip4: &Ip, ip6: &Ip) -> Option<Verdict> {
    if own_socket {
        return Some(Verdict::Pass(Reason::OwnSocket));
    }
    if !tcp {
        return Some(Verdict::Pass(Reason::NotTcp));
    }
    if dst.ip.is_loopback() || dst.ip.is_unspecified() {
        return Some(Verdict::Pass(Reason::Loopback));
    }
    if dst.ip == *ip4 || dst.ip == *ip6 {
        return Some(Verdict::Pass(Reason::OwnAddress));
    }
    None
}

/// Whether what is dialled is a name server whose questions the agent takes, if it serves. A name server in the pod
/// itself is the application's own affair; one on the link is reached by an interface, which loopback is not.
#[inline(always)]
#[must_use]
pub fn asks_name(own_socket: bool, flags: u32, dst: &AddrPort, ip4: &Ip, ip6: &Ip) -> bool {
    dst.port == maps::NAME_PORT
        && flags & workload_flags::NAMES != 0
        && !own_socket
        && !dst.ip.is_loopback()
        && !dst.ip.is_unspecified()
        && !dst.ip.is_link_local_v6()
        && dst.ip != *ip4
        && dst.ip != *ip6
}

/// Where the agent takes what is meant for the name server with this slot.
#[inline(always)]
#[must_use]
pub const fn resolver_at(slot: u32, v4: bool) -> AddrPort {
    let ip = if v4 { Ip::LOOPBACK_V4 } else { Ip::LOOPBACK_V6 };
    AddrPort::new(ip, maps::RESOLVER_PORT_BASE + slot as u16)
}

/// The slot of the name server in whose place an address stands: the reverse of [`resolver_at`].
#[inline(always)]
#[must_use]
pub fn resolver_slot(from: &AddrPort) -> Option<u32> {
    let distance = from.port.wrapping_sub(maps::RESOLVER_PORT_BASE);
    let ours =
        distance < maps::RESOLVERS_PER_POD && (from.ip == Ip::LOOPBACK_V4 || from.ip == Ip::LOOPBACK_V6);
    ours.then_some(distance as u32)
}

/// Second step: what the service table says of the destination, before a backend is chosen.
///
/// `None` means: choose a backend, then ask [`outbound_backend`].
#[inline(always)]
#[must_use]
pub fn outbound_service(service: Option<&Service>, flags: u32, agent_alive: bool) -> Option<Verdict> {
    let Some(service) = service else {
        return Some(if flags & workload_flags::REGISTRY_ONLY != 0 {
            Verdict::Deny(Reason::RegistryOnly)
        } else {
            Verdict::Pass(Reason::UnknownDestination)
        });
    };
    if service.flags & service_flags::PASS != 0 {
        return Some(Verdict::Pass(Reason::NothingToDo));
    }
    let looked_into = service.flags & service_flags::L7 != 0 || flags & workload_flags::SCOPED != 0;
    if looked_into || service.backends > maps::MAX_BACKENDS_PER_SERVICE {
        return Some(proxy(Reason::NeedsBytes, flags, agent_alive));
    }
    if service.flags & service_flags::EMPTY != 0 || service.backends == 0 || service.total_weight == 0 {
        return Some(Verdict::Deny(Reason::NoBackend));
    }
    None
}

/// Third step: the kernel chose `backend`.
#[inline(always)]
#[must_use]
pub fn outbound_backend(backend: Option<&Backend>, flags: u32, agent_alive: bool) -> Verdict {
    let Some(backend) = backend else {
        return Verdict::Deny(Reason::BackendMissing);
    };
    let tunnel = backend_flags::MESH;
    if backend.flags & (backend_flags::LOCAL | tunnel) == tunnel {
        return proxy(Reason::NeedsTls, flags, agent_alive);
    }
    Verdict::Direct(Reason::Spliced)
}

#[inline(always)]
fn proxy(reason: Reason, flags: u32, agent_alive: bool) -> Verdict {
    if agent_alive {
        Verdict::Proxy(reason)
    } else if flags & workload_flags::FAIL_OPEN != 0 {
        Verdict::Pass(Reason::AgentGoneOpen)
    } else {
        // Also the natural state: the listener is gone. Said here so that it is counted and told.
        Verdict::Deny(Reason::AgentGoneClosed)
    }
}

/// What becomes of a connection that arrives in an enrolled pod.
#[derive(Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "std", derive(Debug))]
pub enum Steer {
    /// To the socket that the kernel finds on its own.
    Pass(Reason),
    /// To the agent's listener of this [`crate::listener_kind`].
    Assign(u32, Reason),
    /// Refused.
    Drop(Reason),
}

/// Facts of an arriving connection.
#[derive(Clone, Copy)]
#[cfg_attr(feature = "std", derive(Debug))]
pub struct Inbound {
    /// Address and port that were dialled.
    pub local: AddrPort,
    /// Who dials.
    pub remote: AddrPort,
    /// A [`crate::DirectFlow`] names this connection.
    pub direct: bool,
    /// `remote` is an address of this node, and `local` a declared probe port of the pod, and probes are exempt.
    pub probe: bool,
}

/// Decides on an arriving connection. [`steer_without_listener`] decides again when the listener is missing.
#[inline(always)]
#[must_use]
pub fn steer(facts: &Inbound) -> Steer {
    use crate::listener_kind::{INBOUND, OUTBOUND, TUNNEL};
    let port = facts.local.port;
    if port >= maps::CAPTURE_PORT_BASE && port - maps::CAPTURE_PORT_BASE < maps::CAPTURE_PORTS {
        return if facts.remote.ip == facts.local.ip {
            Steer::Assign(OUTBOUND, Reason::CapturePort)
        } else {
            Steer::Drop(Reason::Stranger)
        };
    }
    if facts.remote.ip == Ip::AGENT_V4 {
        return Steer::Pass(Reason::FromAgent);
    }
    // The pod itself, or the agent over IPv6. Who forges this from outside never sees the answer: it stays in the pod.
    if facts.remote.ip == facts.local.ip {
        return Steer::Pass(Reason::OwnAddress);
    }
    if port == maps::TUNNEL_PORT {
        return Steer::Assign(TUNNEL, Reason::Tunnel);
    }
    if facts.direct {
        return Steer::Pass(Reason::DirectFlow);
    }
    if facts.probe {
        return Steer::Pass(Reason::Probe);
    }
    Steer::Assign(INBOUND, Reason::Plaintext)
}

/// The agent's listener is gone: what the workload's fail mode makes of it.
#[inline(always)]
#[must_use]
pub fn steer_without_listener(kind: u32, flags: u32) -> Steer {
    if kind == crate::listener_kind::INBOUND && flags & workload_flags::FAIL_OPEN != 0 {
        Steer::Pass(Reason::AgentGoneOpen)
    } else {
        Steer::Drop(Reason::AgentGoneClosed)
    }
}

/// The draw that picks among weighted backends: uniform over `0..total` for a uniform `random`.
#[inline(always)]
#[must_use]
pub const fn draw(random: u32, total: u32) -> u32 {
    ((random as u64 * total as u64) >> 32) as u32
}

#[cfg(test)]
mod tests;
