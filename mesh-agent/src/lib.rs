//! Heddle's node agent: the edges around `mesh-core`, and `app`, which wires them.
//!
//! Edges (`source`, `bpf`, `pods`, `proxy`, `tls`, `ca`, `telemetry`) do not import each other; what they exchange are
//! core types and the small contracts in [`contract`].

pub mod app;
pub mod bpf;
pub mod ca;
pub mod cli;
pub mod contract;
pub mod drain;
pub mod pods;
pub mod proxy;
pub mod source;
pub mod sys;
pub mod telemetry;
#[cfg(test)]
mod testing;
pub mod tls;
