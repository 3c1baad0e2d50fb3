//! Sessions: which endpoint a request was served by before, and what tells the client so (GEP-1619).
//!
//! A token names an endpoint by a hash of its address, so that no address of a pod is told to anybody; one that was made
//! up names no endpoint of the destination, and means nothing.

use super::HeaderView;
use crate::model::service::Endpoint;
use crate::model::traffic::{Carrier, Persistence};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use twox_hash::XxHash64;

/// What a client shows of its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    endpoint: u64,
}

/// The session of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    persistence: Arc<Persistence>,
    held: Option<Held>,
    now: u64,
}

impl Held {
    /// Whether it is this endpoint.
    #[must_use]
    pub fn is(self, endpoint: SocketAddr) -> bool {
        self.endpoint == name_of(endpoint)
    }

    /// Its place among endpoints.
    #[must_use]
    pub fn among(self, endpoints: &[Arc<Endpoint>]) -> Option<usize> {
        endpoints.iter().position(|e| self.is(e.addr))
    }
}

/// What a request shows, at `now` (seconds since 1970); nothing once the session is too old.
#[must_use]
pub fn held(persistence: &Persistence, headers: &dyn HeaderView, now: u64) -> Option<Held> {
    let sent = match persistence.carrier {
        Carrier::Cookie => headers.joined("cookie"),
        Carrier::Header => headers.joined(&persistence.name),
    };
    let sent = sent?;
    let token = match persistence.carrier {
        Carrier::Cookie => super::balance::cookie_value(&sent, &persistence.name)?,
        Carrier::Header => sent.trim(),
    };
    let (endpoint, began) = token.split_once('-').unwrap_or((token, ""));
    let endpoint = u64::from_str_radix(endpoint, 16).ok()?;
    if let Some(absolute) = persistence.absolute {
        let age = now.saturating_sub(u64::from_str_radix(began, 16).ok()?);
        if age >= seconds(absolute) {
            return None;
        }
    }
    Some(Held { endpoint })
}

impl Session {
    /// Of a request.
    #[must_use]
    pub fn of(persistence: &Arc<Persistence>, headers: &dyn HeaderView, now: u64) -> Self {
        Self {
            held: held(persistence, headers, now),
            persistence: Arc::clone(persistence),
            now,
        }
    }

    /// The endpoint that it asks for.
    #[must_use]
    pub const fn held(&self) -> Option<Held> {
        self.held
    }

    /// The header field, as name and value, by which a response of this endpoint begins a session; none where the request
    /// has that session already.
    #[must_use]
    pub fn begins(&self, endpoint: SocketAddr) -> Option<(&str, String)> {
        if self.held.is_some_and(|held| held.is(endpoint)) {
            return None;
        }
        let persistence = &self.persistence;
        let mut token = format!("{:016x}", name_of(endpoint));
        if persistence.absolute.is_some() {
            token = format!("{token}-{:x}", self.now);
        }
        match persistence.carrier {
            Carrier::Header => Some((&persistence.name, token)),
            Carrier::Cookie => {
                let lifetime = persistence.absolute.filter(|_| persistence.permanent);
                let lifetime = lifetime.map(|time| format!("; Max-Age={}", seconds(time)));
                let cookie = format!(
                    "{}={token}; Path=/{}; HttpOnly; SameSite=Lax",
                    persistence.name,
                    lifetime.unwrap_or_default()
                );
                Some(("set-cookie", cookie))
            }
        }
    }
}

fn seconds(time: Duration) -> u64 {
    time.as_secs().max(1)
}

fn name_of(endpoint: SocketAddr) -> u64 {
    let mut bytes = [0; 18];
    let ip = match endpoint.ip().to_canonical() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    bytes[..16].copy_from_slice(&ip.octets());
    bytes[16..].copy_from_slice(&endpoint.port().to_be_bytes());
    XxHash64::oneshot(SEED, &bytes)
}

/// Another than that of consistent hashing: one does not tell of the other.
const SEED: u64 = 0x6865_6464_6c65;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Fields;

    fn persistence(carrier: Carrier, absolute: Option<u64>, permanent: bool) -> Arc<Persistence> {
        Arc::new(Persistence {
            carrier,
            name: "s".into(),
            absolute: absolute.map(Duration::from_secs),
            permanent,
        })
    }

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    /// The request that a client makes after this response.
    fn next(field: &str, value: &str) -> (String, String) {
        match field {
            "set-cookie" => {
                let pair = value.split(';').next().unwrap();
                ("cookie".into(), format!("other=1; {pair}"))
            }
            field => (field.to_owned(), value.to_owned()),
        }
    }

    #[test]
    fn a_client_that_shows_what_it_was_given_stays_with_its_endpoint() {
        for carrier in [Carrier::Cookie, Carrier::Header] {
            let persistence = persistence(carrier, None, false);
            let first = Session::of(&persistence, &Fields(&[]), 100);
            assert_eq!(first.held(), None);
            for endpoint in ["10.1.0.1:80", "[fd00::1]:80"] {
                let (field, value) = first.begins(at(endpoint)).unwrap();
                let (field, value) = next(field, &value);
                let again = Session::of(&persistence, &Fields(&[(&field, &value)]), 1_000_000);
                let held = again.held().unwrap();
                assert!(held.is(at(endpoint)));
                assert!(!held.is(at("10.1.0.1:81")) && !held.is(at("10.1.0.2:80")));
                assert_eq!(again.begins(at(endpoint)), None, "nothing new to be told");
                assert!(
                    again.begins(at("10.1.0.2:80")).is_some(),
                    "served by another one: a new session"
                );
            }
        }
    }

    #[test]
    fn a_session_ends_at_its_absolute_timeout_and_a_permanent_cookie_says_so() {
        let persistence = persistence(Carrier::Cookie, Some(60), true);
        let (_, cookie) = Session::of(&persistence, &Fields(&[]), 100)
            .begins(at("10.1.0.1:80"))
            .unwrap();
        assert!(cookie.contains("; Max-Age=60"), "{cookie}");
        let (field, value) = next("set-cookie", &cookie);
        for (now, holds) in [(100, true), (159, true), (160, false), (90, true)] {
            let session = Session::of(&persistence, &Fields(&[(&field, &value)]), now);
            assert_eq!(session.held().is_some(), holds, "{now}");
        }
    }

    #[test]
    fn what_was_made_up_means_nothing() {
        let timed = persistence(Carrier::Header, Some(60), false);
        let plain = persistence(Carrier::Header, None, false);
        for token in ["", "-", "x", "zz-1", "12345678901234567890123", "é"] {
            let fields = [("s", token)];
            assert_eq!(held(&timed, &Fields(&fields), 1), None, "{token}");
            assert_eq!(held(&plain, &Fields(&fields), 1), None, "{token}");
        }
        assert_eq!(
            held(&timed, &Fields(&[("s", "1f")]), 1),
            None,
            "it does not say when it began"
        );
    }
}
