//! Load balancers for Gateways. The suite dials `address:port of the listener`, and has many Gateways on port 80 at a time:
//! each needs an address of its own, which neither node ports nor the nodes' own addresses give.

use anyhow::{Context, Result};
use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Addresses of the data centre's network that no machine has.
pub(crate) const RANGE: &str = "172.30.0.192/26";
/// The machine that traffic for the range goes to. kube-proxy takes it on every node.
pub(crate) const VIA: &str = "172.30.0.11";
/// Of the range; given out last.
pub(crate) const USABLE: &str = "172.30.0.250";
/// Of a network for documentation, which nothing here routes.
pub(crate) const UNUSABLE: &str = "203.0.113.1";

/// The provider, as long as this lives.
pub(crate) struct Balancer {
    child: Child,
}

impl Balancer {
    /// Starts `program`, which ends with its standard input.
    pub(crate) fn start(mut program: Command, log: &Path) -> Result<Self> {
        let log = File::create(log).with_context(|| format!("writing {}", log.display()))?;
        let child = program
            .arg(RANGE)
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("starting the provider of load balancers")?;
        Ok(Self { child })
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        // It ends by itself; what it answers is of no interest.
        let _ = self.child.wait();
    }
}
