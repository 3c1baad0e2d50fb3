//! The data path in user space: tunnels between nodes and what carries bytes through them.

pub mod copy;
pub mod tunnel;
