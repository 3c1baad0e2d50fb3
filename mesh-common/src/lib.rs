//! The contract between Heddle's BPF programs and its agent: map keys and values, limits, events, and the
//! decisions that both sides take ([`verdict`]).
//!
//! ABI rules: `#[repr(C)]`, no implicit padding, no `bool`, no enum with a payload. A change to a map's key or
//! value raises that map's layout number in [`maps`], never another's. Ports are in host byte order everywhere;
//! addresses are sixteen bytes in network order, IPv4 in its `::ffff:a.b.c.d` form.
//!
//! SPDX-License-Identifier: Apache-2.0 OR GPL-2.0
#![cfg_attr(not(feature = "std"), no_std)]

mod addr;
mod event;
mod flow;
mod layout;
pub mod maps;
mod service;
pub mod verdict;
mod workload;

pub use addr::{AddrPort, Ip};
pub use event::{Event, EventKind};
pub use flow::{DirectFlow, DirectKey, FlowKey, FlowRecord, SocketRecord, record_kind};
pub use service::{Backend, BackendKey, Service, ServiceKey, backend_flags, service_flags};
pub use workload::{
    Agent, ListenerKey, LocalPod, PodCounters, PortKey, ResolverKey, Workload, agent_flags, listener_kind,
    workload_flags,
};
