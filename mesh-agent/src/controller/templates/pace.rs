//! How fast WorkloadTemplates are written. Each write costs every agent an event, so there are few; but a mesh that has
//! just been installed has thousands to make, and is not there before they are.

/// Writes a second, all objects together.
pub(super) const RATE: u64 = 20;
/// Writes that may be made at once after a quiet time.
pub(super) const BURST: u64 = 100;
/// Writes a second until everything is there for the first time, as long as the API server answers quickly.
pub(super) const FILL_RATE: u64 = 200;
/// An API server that takes longer than this has enough to do, milliseconds.
pub(super) const SLOW_MS: u64 = 100;

/// A bucket of writes. Times are milliseconds of any clock that only rises.
#[derive(Debug)]
pub(super) struct Pace {
    tokens: f64,
    refilled: u64,
    /// Writes a second.
    rate: f64,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            tokens: amount(BURST),
            refilled: 0,
            rate: amount(FILL_RATE),
        }
    }
}

impl Pace {
    /// Whether a write may be made now.
    pub(super) fn allows(&mut self, now: u64) -> bool {
        let passed = amount(now.saturating_sub(self.refilled));
        if self.refilled != 0 {
            self.tokens = (self.tokens + passed * self.rate / 1_000.0).min(amount(BURST));
        }
        self.refilled = now.max(1);
        self.tokens >= 1.0
    }

    /// A write is made.
    pub(super) fn wrote(&mut self) {
        self.tokens -= 1.0;
    }

    /// A write took so long; for ever, if it failed.
    pub(super) fn answered(&mut self, took_ms: Option<u64>) {
        match took_ms {
            Some(took) if took <= SLOW_MS => {}
            Some(_) => self.rate = (self.rate / 2.0).max(amount(RATE)),
            None => self.caught_up(),
        }
    }

    /// Nothing is left to write: from here on the steady limit holds.
    pub(super) fn caught_up(&mut self) {
        self.rate = amount(RATE);
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "milliseconds of an uptime and small numbers fit"
)]
fn amount(number: u64) -> f64 {
    number as f64
}
