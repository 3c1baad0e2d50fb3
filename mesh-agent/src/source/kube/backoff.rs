//! How long to wait after an error.

use std::time::Duration;

/// The pause after the `attempt`th error in a row (from 0): doubled each time up to `most`, then half of it to all of it,
/// as `draw` (uniform over `u32`) says, so that the agents of a cluster do not come back at once.
pub(super) fn pause(first: Duration, most: Duration, attempt: u32, draw: u32) -> Duration {
    let whole = first.saturating_mul(1 << attempt.min(16)).min(most);
    let share = f64::from(draw) / f64::from(u32::MAX);
    whole.mul_f64(0.5 + share / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_limit_and_are_spread() {
        let ms = Duration::from_millis;
        let pause = |attempt, draw| pause(ms(500), ms(30_000), attempt, draw);
        assert_eq!((pause(0, 0), pause(0, u32::MAX)), (ms(250), ms(500)));
        assert_eq!(pause(3, u32::MAX), ms(4_000));
        assert_eq!(pause(1_000, u32::MAX), ms(30_000));
    }
}
