//! Heddle's decision core: what is known of the mesh ([`state`]), what it means ([`translate`], [`model`]), what
//! becomes of a request ([`routing`]) and what the kernel must be told ([`datapath`]).
//!
//! Nothing here does I/O, reads a clock, draws a random number or is async: times and draws are arguments. The same
//! functions serve the proxy, `heddle why` and the tests.

pub mod analyze;
mod changes;
pub mod convert;
pub mod datapath;
pub mod model;
pub mod names;
pub mod outlier;
pub mod rotation;
pub mod routing;
pub mod state;
pub mod translate;
pub mod whatif;

#[cfg(test)]
mod testing;
