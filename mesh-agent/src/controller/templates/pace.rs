//! How fast WorkloadTemplates are written. Each write costs every agent an event, so there are few; but a mesh that has
//! just been installed has thousands to make, and is not there before they are.

use crate::controller::bucket::Bucket;

/// Writes a second, all objects together.
const RATE: f64 = 20.0;
/// Writes that may be made at once after a quiet time.
const BURST: f64 = 100.0;
/// Writes a second until everything is there for the first time, as long as the API server answers quickly.
const FILL_RATE: f64 = 200.0;
/// An API server that takes longer than this has enough to do, milliseconds.
pub(super) const SLOW_MS: u64 = 100;

/// A bucket of writes whose rate depends on how far the writing is.
#[derive(Debug)]
pub(super) struct Pace(Bucket);

impl Default for Pace {
    fn default() -> Self {
        Self(Bucket::new(FILL_RATE, BURST))
    }
}

impl Pace {
    /// Whether a write may be made now.
    pub(super) fn allows(&mut self, now: u64) -> bool {
        self.0.allows(now)
    }

    /// A write is made.
    pub(super) fn wrote(&mut self) {
        self.0.wrote();
    }

    /// A write took so long; for ever, if it failed.
    pub(super) fn answered(&mut self, took_ms: Option<u64>) {
        match took_ms {
            Some(took) if took <= SLOW_MS => {}
            Some(_) => self.0.set_rate((self.0.rate() / 2.0).max(RATE)),
            None => self.caught_up(),
        }
    }

    /// Nothing is left to write: from here on the steady limit holds.
    pub(super) fn caught_up(&mut self) {
        self.0.set_rate(RATE);
    }
}
