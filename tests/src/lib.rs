//! Black-box ground for Heddle: nodes and pods made of network namespaces, plain cluster IPs for them, a sniffer on
//! the wire between the nodes, and the agent under test as a process.
//!
//! Everything a [`run::Run`] makes carries its name, and goes with it: on drop, on panic, and, after a kill, with
//! the next run's [`run::sweep`].

pub mod agent;
pub mod bpf_maps;
pub mod bpf_objects;
pub mod capture;
pub mod cluster;
pub mod cluster_app;
pub mod cluster_crds;
pub mod cluster_ip;
pub mod cluster_prometheus;
pub mod gateway;
pub mod guide;
pub mod hostile;
pub mod manifests;
pub mod mesh;
pub mod netns;
pub mod podkit;
pub mod process;
pub mod prometheus;
pub mod promtext;
pub mod release;
pub mod run;
pub mod shop;
pub mod socks;
pub mod topology;
pub mod weather;

use std::time::{Duration, Instant};

/// Asks `probe` every 20 ms until it answers `Some`, and gives that.
///
/// # Errors
/// Nothing after `limit`; the message says what was waited for.
pub fn eventually<T>(what: &str, limit: Duration, mut probe: impl FnMut() -> Option<T>) -> anyhow::Result<T> {
    let start = Instant::now();
    loop {
        if let Some(value) = probe() {
            return Ok(value);
        }
        anyhow::ensure!(start.elapsed() < limit, "waited {limit:?} in vain for: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
