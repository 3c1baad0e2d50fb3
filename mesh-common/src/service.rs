//! Services and backends as the kernel sees them.

use crate::{AddrPort, Ip};

/// `SERVICES` key: a virtual address and port, a pod's address with port 0 for "any port of this pod", or [`Ip::NONE`]
/// with a port for "any address that is not known".
pub type ServiceKey = AddrPort;

/// Bits of [`Service::flags`].
pub mod service_flags {
    /// Needs bytes: HTTP routes, telemetry, detection. Goes to the proxy.
    pub const L7: u32 = 1;
    /// A pod's own address, not a service's.
    pub const POD: u32 = 1 << 1;
    /// Has no ready backend.
    pub const EMPTY: u32 = 1 << 2;
    /// Known to the mesh but nothing to do: leave the connection alone.
    pub const PASS: u32 = 1 << 3;
}

/// `SERVICES` value.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "std", derive(Debug))]
pub struct Service {
    /// Number of the service port, unique in this table; part of [`BackendKey`].
    pub id: u32,
    /// [`service_flags`].
    pub flags: u32,
    /// How many `BACKENDS` entries it has, at most [`crate::maps::MAX_BACKENDS_PER_SERVICE`].
    pub backends: u32,
    /// Sum of the backends' weights.
    pub total_weight: u32,
}

/// `BACKENDS` key.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
#[cfg_attr(feature = "std", derive(Debug))]
pub struct BackendKey {
    /// [`Service::id`].
    pub service: u32,
    /// 0-based place.
    pub slot: u32,
}

/// Bits of [`Backend::flags`].
pub mod backend_flags {
    /// Runs on this node.
    pub const LOCAL: u32 = 1;
    /// Is enrolled: between nodes it must be reached through mutual TLS.
    pub const MESH: u32 = 1 << 1;
}

/// `BACKENDS` value.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "std", derive(Debug))]
pub struct Backend {
    /// Address of the pod.
    pub ip: Ip,
    /// Target port, host byte order; 0 keeps the port that was dialled.
    pub port: u16,
    /// Zero.
    pub pad: u16,
    /// [`backend_flags`].
    pub flags: u32,
    /// Sum of the weights up to and with this one: the first backend whose value exceeds the draw is chosen.
    pub cumulative_weight: u32,
}
