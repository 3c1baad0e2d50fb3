//! How long a request may take: the rule's timeout, and what a gRPC client asks for (T-41).

use std::time::Duration;

/// The timeout of a request. For gRPC the client's `grpc-timeout` counts, and the rule's is its upper bound; any other
/// request has the rule's.
#[must_use]
pub fn timeout(rule: Option<Duration>, grpc: bool, grpc_timeout: Option<&str>) -> Option<Duration> {
    let asked = grpc_timeout.filter(|_| grpc).and_then(parse_grpc);
    match (rule, asked) {
        (Some(rule), Some(asked)) => Some(rule.min(asked)),
        (rule, asked) => asked.or(rule),
    }
}

/// `1S`, `250m`: at most eight digits and a unit (gRPC over HTTP/2). `None` for anything else.
fn parse_grpc(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|c| c.is_ascii_digit()) {
        return None;
    }
    let n: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(n * 3_600),
        "M" => Duration::from_secs(n * 60),
        "S" => Duration::from_secs(n),
        "m" => Duration::from_millis(n),
        "u" => Duration::from_micros(n),
        "n" => Duration::from_nanos(n),
        _ => return None,
    })
}

/// A duration as `grpc-timeout` writes it, in whole milliseconds, or in larger units where eight digits do not hold them.
#[must_use]
pub fn grpc_timeout(time: Duration) -> String {
    let units = [(time.as_millis(), 'm'), (u128::from(time.as_secs()), 'S')];
    match units.into_iter().find(|(n, _)| *n <= 99_999_999) {
        Some((n, unit)) => format!("{n}{unit}"),
        None => format!("{}H", (time.as_secs() / 3_600).min(99_999_999)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grpc_client_may_ask_for_less_than_the_rule_allows_and_never_for_more() {
        let secs = Duration::from_secs;
        for (rule, grpc, asked, wanted) in [
            (None, false, None, None),
            (Some(secs(5)), false, Some("1S"), Some(secs(5))),
            (None, true, Some("1S"), Some(secs(1))),
            (Some(secs(5)), true, None, Some(secs(5))),
            (Some(secs(5)), true, Some("1S"), Some(secs(1))),
            (Some(secs(5)), true, Some("2M"), Some(secs(5))),
            (None, true, Some("100m"), Some(Duration::from_millis(100))),
            (None, true, Some("99999999H"), Some(secs(99_999_999 * 3_600))),
            (None, true, Some("123456789S"), None),
            (None, true, Some("S"), None),
            (None, true, Some("1"), None),
            (None, true, Some("1ü"), None),
            (None, true, Some(""), None),
        ] {
            assert_eq!(timeout(rule, grpc, asked), wanted, "{rule:?} {asked:?}");
        }
    }

    #[test]
    fn what_is_written_can_be_read() {
        for time in [
            Duration::from_millis(1),
            Duration::from_secs(3_600),
            Duration::from_secs(360_000_000),
        ] {
            assert_eq!(parse_grpc(&grpc_timeout(time)), Some(time));
        }
    }
}
