//! When a certificate is renewed, warned about and no longer served. Times are seconds since the Unix epoch.

/// What to do about a certificate now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rotation {
    /// Nothing until this moment.
    WaitUntil(u64),
    /// Ask for a new one, go on serving this one.
    Renew,
    /// As `Renew`; less than a quarter of its life is left.
    RenewUrgently,
    /// Expired: no handshake may use it, and nothing falls back to plaintext.
    Expired,
}

/// Decides for a certificate valid over `not_before..not_after`. `jitter` of 0…255 moves the renewal by up to 10 %
/// of the life around its half, so that a node's certificates do not renew at once.
#[must_use]
pub fn rotation(not_before: u64, not_after: u64, now: u64, jitter: u8) -> Rotation {
    if now >= not_after {
        return Rotation::Expired;
    }
    let life = not_after.saturating_sub(not_before);
    let spread = life / 10;
    let renew_at = not_before + life / 2 - spread / 2 + spread * u64::from(jitter) / 255;
    if now < renew_at {
        Rotation::WaitUntil(renew_at)
    } else if not_after - now < life / 4 {
        Rotation::RenewUrgently
    } else {
        Rotation::Renew
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_renews_around_half_of_its_life_and_expires_at_its_end() {
        assert_eq!(rotation(0, 1000, 100, 0), Rotation::WaitUntil(450));
        assert_eq!(rotation(0, 1000, 100, 255), Rotation::WaitUntil(550));
        assert_eq!(rotation(0, 1000, 550, 255), Rotation::Renew);
        assert_eq!(rotation(0, 1000, 751, 0), Rotation::RenewUrgently);
        assert_eq!(rotation(0, 1000, 1000, 0), Rotation::Expired);
    }
}
