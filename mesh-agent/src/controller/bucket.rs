//! How fast the controller writes. Each write costs every agent an event.

/// A bucket of writes, full at first. Times are milliseconds of any clock that only rises.
#[derive(Debug)]
pub(super) struct Bucket {
    tokens: f64,
    refilled: u64,
    rate: f64,
    burst: f64,
}

impl Bucket {
    /// `rate` writes a second, `burst` at once after a quiet time.
    pub(super) const fn new(rate: f64, burst: f64) -> Self {
        Self {
            tokens: burst,
            refilled: 0,
            rate,
            burst,
        }
    }

    /// Whether a write may be made now.
    pub(super) fn allows(&mut self, now: u64) -> bool {
        let passed = amount(now.saturating_sub(self.refilled));
        self.tokens = (self.tokens + passed * self.rate / 1_000.0).min(self.burst);
        self.refilled = now;
        self.tokens >= 1.0
    }

    /// A write is made.
    pub(super) fn wrote(&mut self) {
        self.tokens -= 1.0;
    }

    /// Writes a second.
    pub(super) const fn rate(&self) -> f64 {
        self.rate
    }

    /// From here on it is so many.
    pub(super) const fn set_rate(&mut self, rate: f64) {
        self.rate = rate;
    }
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds of an uptime fit")]
fn amount(number: u64) -> f64 {
    number as f64
}
