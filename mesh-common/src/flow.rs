//! What one hook leaves for another about one connection.

use crate::{AddrPort, Ip};

/// Values of [`SocketRecord::kind`].
pub mod record_kind {
    /// Nothing was decided for this socket.
    pub const NONE: u32 = 0;
    /// A client socket rewritten to the agent; `original` is what the application dialled.
    pub const PROXY: u32 = 1;
    /// A client socket rewritten to a backend; `original` is what the application dialled.
    pub const DIRECT: u32 = 2;
    /// A socket of the agent towards an application; `original` is the real client's address.
    pub const AGENT: u32 = 3;
    /// An accepted socket of the agent; `original` is what the client dialled.
    pub const CAPTURED: u32 = 4;
    /// An accepted socket of an application; `original` is the real client's address.
    pub const SERVED: u32 = 5;
}

/// `SOCKETS` (SK_STORAGE): what is known of one socket. It dies with the socket.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "std", derive(Debug))]
pub struct SocketRecord {
    /// [`record_kind`].
    pub kind: u32,
    /// [`crate::Workload::id`] of the client pod, 0 if unknown.
    pub workload: u32,
    /// The address shown to the application instead of the one on the wire.
    pub original: AddrPort,
    /// The address the connection was sent to; together with `original` it tells hooks what to undo.
    pub actual: AddrPort,
}

/// `FLOWS` key: a connection whose listening side has not been told of it yet. The destination address is a
/// pod's, unique on the node, so no network namespace is part of the key.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
#[cfg_attr(feature = "std", derive(Debug))]
pub struct FlowKey {
    /// Listening side.
    pub dst: Ip,
    /// Connecting side.
    pub src: Ip,
    /// Listening port, host byte order.
    pub dst_port: u16,
    /// Connecting port, host byte order.
    pub src_port: u16,
}

/// `FLOWS` value.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "std", derive(Debug))]
pub struct FlowRecord {
    /// When it was written, `bpf_ktime_get_ns`.
    pub since_ns: u64,
    /// [`record_kind`] of the accepting socket.
    pub kind: u32,
    /// [`crate::Workload::id`] of the client pod, 0 if unknown.
    pub workload: u32,
    /// See [`SocketRecord::original`].
    pub original: AddrPort,
    /// Zero.
    pub pad: u32,
}

/// `DIRECT_FLOWS` key: both ends of a connection that has no proxy on it.
pub type DirectKey = FlowKey;

/// `DIRECT_FLOWS` value.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "std", derive(Debug))]
pub struct DirectFlow {
    /// When it was written, `bpf_ktime_get_ns`.
    pub since_ns: u64,
    /// [`crate::Workload::id`] of the client pod.
    pub workload: u32,
    /// [`crate::Service::id`] it was sent by.
    pub service: u32,
}
