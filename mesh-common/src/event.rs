//! Records that programs send to the agent over the ring buffer.

use crate::AddrPort;

/// What an [`Event`] tells. The discriminants are the wire values.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "std", derive(Debug))]
pub enum EventKind {
    /// An outbound connection was refused; `reason` says why.
    Denied = 1,
    /// An inbound connection was dropped; `reason` says why.
    Dropped = 2,
    /// A connection was sent to a backend without a proxy; `peer` is the backend.
    Direct = 3,
    /// A connection to a destination that the mesh does not know was left alone.
    Passed = 4,
}

/// One record of the `EVENTS` ring buffer.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "std", derive(Debug))]
pub struct Event {
    /// `bpf_ktime_get_ns`.
    pub at_ns: u64,
    /// [`EventKind`] as a number.
    pub kind: u32,
    /// [`crate::verdict::Reason`] as a number.
    pub reason: u32,
    /// [`crate::Workload::id`] of the pod it happened to.
    pub workload: u32,
    /// [`crate::Service::id`], 0 if none.
    pub service: u32,
    /// What was dialled.
    pub dst: AddrPort,
    /// The other end where it differs: the chosen backend, or who connected.
    pub peer: AddrPort,
}
