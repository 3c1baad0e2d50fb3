//! What XBackendTrafficPolicies say of a service, and `sessionPersistence` of routes (GEP-1619, GEP-3388).

use crate::model::ObjectName;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// What the XBackendTrafficPolicy of a service asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendPolicy {
    /// The object.
    pub object: ObjectName,
    /// `sessionPersistence`; a route's own comes before it.
    pub session: Option<Arc<Persistence>>,
    /// `retryConstraint`.
    pub retries: Option<RetryConstraint>,
}

/// `sessionPersistence`: who was served by an endpoint stays with it while it is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Persistence {
    /// `type`.
    pub carrier: Carrier,
    /// `sessionName`: the cookie, or the header in lower case.
    pub name: Arc<str>,
    /// `absoluteTimeout`: no session is older.
    pub absolute: Option<Duration>,
    /// `cookieConfig.lifetimeType: Permanent`: the cookie says how long it holds, instead of ending with the client.
    pub permanent: bool,
}

/// What a session is told by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// A cookie.
    Cookie,
    /// A header of responses, which clients send back.
    Header,
}

/// `retryConstraint`, counted for each client pod and destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryConstraint {
    /// `budget.percent`: of the requests within the interval so many may be retries.
    pub percent: u32,
    /// `budget.interval`.
    pub interval: Duration,
    /// `minRetryRate.count`: so many retries are let through in any case …
    pub least: u32,
    /// … in each `minRetryRate.interval`.
    pub least_in: Duration,
}

impl RetryConstraint {
    /// Whether one more retry is let through after so many `requests` and `retries` of them within the interval, and so
    /// many `recent` retries within that of the least rate.
    #[must_use]
    pub fn admits(&self, requests: u32, retries: u32, recent: u32) -> bool {
        let share = u64::from(requests) * u64::from(self.percent) / 100;
        u64::from(retries) < share || recent < self.least
    }
}

impl fmt::Display for Persistence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let carrier = match self.carrier {
            Carrier::Cookie => "cookie",
            Carrier::Header => "header",
        };
        write!(f, "sessions by {carrier} {}", self.name)
    }
}

impl fmt::Display for BackendPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "XBackendTrafficPolicy {}", self.object)?;
        let mut separator = ": ";
        if let Some(session) = &self.session {
            write!(f, "{separator}{session}")?;
            separator = ", ";
        }
        if let Some(retries) = &self.retries {
            write!(f, "{separator}at most {} % retries", retries.percent)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// GEP-3388: 20 % of 1,000 requests are 200; the least rate holds where there is little traffic.
    #[test]
    fn a_retry_is_let_through_within_the_share_or_the_least_rate() {
        let constraint = RetryConstraint {
            percent: 20,
            interval: Duration::from_secs(10),
            least: 2,
            least_in: Duration::from_secs(1),
        };
        for (requests, retries, recent, admitted) in [
            (1_000, 199, 50, true),
            (1_000, 200, 50, false),
            (1_000, 200, 1, true),
            (1, 0, 0, true),
            (1, 5, 2, false),
            (0, 0, 2, false),
            (u32::MAX, u32::MAX / 5 - 1, 9, true),
        ] {
            let found = constraint.admits(requests, retries, recent);
            assert_eq!(found, admitted, "{requests} {retries} {recent}");
        }
    }
}
