//! Moving bytes between two streams, each direction ending on its own.

pub mod buffers;
