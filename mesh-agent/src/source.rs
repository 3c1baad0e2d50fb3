//! Config sources. Each yields one stream of [`mesh_core::state::Change`]; nothing behind it knows where they came from.

pub mod files;
pub mod kube;
pub mod names;
