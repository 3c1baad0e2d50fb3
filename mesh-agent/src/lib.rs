//! Heddle's node agent: the edges around `mesh-core`, and `app`, which wires them.
//!
//! Edges (`source`, `bpf`, `pods`, `sandbox`, `cni`, `proxy`, `dns`, `tls`, `ca`, `telemetry`) do not import each other; what
//! they exchange are core types and the small contracts in [`contract`].

pub mod app;
pub mod bpf;
pub mod ca;
mod changes;
pub mod cli;
pub mod cni;
pub mod contract;
pub mod controller;
pub mod dns;
pub mod drain;
mod errors;
pub mod gateway;
mod pages;
pub mod pods;
mod problems;
pub mod proxy;
pub mod sandbox;
pub mod source;
pub mod sys;
pub mod telemetry;
#[cfg(test)]
mod testing;
pub mod tls;

/// Handshakes and bursts fragment glibc's heap; this one gives memory back after a second.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// jemalloc's settings, read by it at start: two arenas for two or more workers; what is free goes back after 250 ms,
/// by a thread of its own, because an agent that has become idle frees nothing more that would trigger it.
#[unsafe(export_name = "_rjem_malloc_conf")]
static ALLOCATOR_SETTINGS: &[u8] = b"narenas:2,background_thread:true,max_background_threads:1,dirty_decay_ms:250,muzzy_decay_ms:0,tcache_max:4096\0";
