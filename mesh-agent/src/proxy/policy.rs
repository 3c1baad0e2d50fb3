//! What DestinationRules ask of the proxy: which endpoint, how many at once, which endpoints are out, and what a connection
//! begins with. Decisions are the core's; here is what they remember from request to request.
//!
//! All workers share it: a limit or an ejection holds for a pod or a node, not for a thread.

mod balancers;
mod choose;
mod dress;
mod limits;
mod outliers;

pub(super) use choose::Wish;
pub(super) use dress::{Dress, Link, connect};
pub(super) use limits::{Overflow, Permit, RetryPermit, STREAMS};
pub use outliers::Ejected;
pub(super) use outliers::Watch;

use std::time::Instant;

/// See the module's description.
pub(super) struct Policies {
    balancers: balancers::Balancers,
    limits: limits::Limits,
    outliers: outliers::Outliers,
}

impl Policies {
    /// Nothing is known yet.
    pub(super) fn new() -> Self {
        Self {
            balancers: balancers::Balancers::default(),
            limits: limits::Limits::default(),
            outliers: outliers::Outliers::new(Instant::now()),
        }
    }

    /// Forgets what nobody uses any more, and lets endpoints back whose ejection is over.
    pub(super) fn sweep(&self) {
        self.balancers.sweep();
        self.limits.sweep();
        self.outliers.sweep();
    }

    /// The endpoints that are out.
    pub(super) fn ejected(&self) -> Vec<Ejected> {
        self.outliers.ejected()
    }
}
