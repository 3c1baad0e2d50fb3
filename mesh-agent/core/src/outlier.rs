//! Outlier detection: which endpoints are left out for a while, because they failed.
//!
//! Counters, ejection times and their return are those of Envoy's detector. Two things are decided here. What all pods
//! of a node see counts together, per service port and subset: one bad endpoint is known sooner than to each pod alone
//! (T-39). And `maxEjectionPercent` is rounded down, but not to nobody: of two endpoints or more, one may always go,
//! unless the percentage is zero (T-36). An only endpoint goes only if 100 percent may.

use crate::model::traffic::OutlierDetection;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

/// How a try of a request, or a connection, came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A response.
    Status(u16),
    /// No connection, or it ended without a response.
    Failed,
    /// No response in time.
    TimedOut,
    /// A connection, of which no more is known.
    Connected,
}

/// An endpoint is out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ejection {
    /// Which.
    pub addr: SocketAddr,
    /// The field whose limit was reached.
    pub reason: &'static str,
    /// For how long.
    pub time: Duration,
}

/// What is known of the endpoints of one service port and subset. Times are since any fixed moment.
#[derive(Debug, Default)]
pub struct Detector {
    hosts: HashMap<SocketAddr, Host>,
    /// When it is next looked whether ejections are over.
    next: Option<Duration>,
}

#[derive(Debug, Default)]
struct Host {
    server: u32,
    gateway: u32,
    local: u32,
    /// Ejections so far; one is forgotten in each interval without.
    ejections: u32,
    /// When it was ejected, while it is.
    out_since: Option<Duration>,
}

impl Detector {
    /// Takes a result. `endpoints` are all that there are now: so many of them may be out at once.
    pub fn observe<'a>(
        &mut self,
        settings: &OutlierDetection,
        addr: SocketAddr,
        outcome: Outcome,
        now: Duration,
        endpoints: impl Iterator<Item = &'a SocketAddr> + Clone,
    ) -> Option<Ejection> {
        self.next.get_or_insert(now + settings.interval);
        let fine = matches!(outcome, Outcome::Connected) || is_fine(settings, outcome);
        if fine && !self.hosts.contains_key(&addr) {
            return None;
        }
        let host = self.hosts.entry(addr).or_default();
        let reason = host.count(settings, outcome)?;
        if host.out_since.is_some() || !self.may_eject(settings, endpoints) {
            return None;
        }
        let host = self.hosts.get_mut(&addr)?;
        host.ejections += 1;
        host.out_since = Some(now);
        Some(Ejection {
            addr,
            reason,
            time: ejection_time(settings, host.ejections),
        })
    }

    /// Lets endpoints back whose time is over; whether there were any.
    pub fn advance(&mut self, settings: &OutlierDetection, now: Duration) -> bool {
        let Some(due) = self.next.filter(|next| now >= *next) else {
            return false;
        };
        let missed = (now - due).as_nanos() / settings.interval.as_nanos().max(1);
        let missed = u32::try_from(missed).unwrap_or(u32::MAX);
        let look = due + settings.interval.saturating_mul(missed);
        self.next = Some(look + settings.interval);
        let mut back = false;
        for host in self.hosts.values_mut() {
            match host.out_since {
                None => host.ejections = host.ejections.saturating_sub(missed.saturating_add(1)),
                Some(since) if look.saturating_sub(since) >= ejection_time(settings, host.ejections) => {
                    *host = Host {
                        ejections: host.ejections,
                        ..Host::default()
                    };
                    back = true;
                }
                Some(_) => {}
            }
        }
        self.hosts.retain(|_, host| !host.is_blank());
        back
    }

    /// The endpoints that are out.
    pub fn ejected(&self) -> impl Iterator<Item = SocketAddr> {
        let out = self.hosts.iter().filter(|(_, host)| host.out_since.is_some());
        out.map(|(addr, _)| *addr)
    }

    /// Whether nothing is remembered.
    #[must_use]
    pub fn is_blank(&self) -> bool {
        self.hosts.is_empty()
    }

    fn may_eject<'a>(
        &self,
        settings: &OutlierDetection,
        endpoints: impl Iterator<Item = &'a SocketAddr> + Clone,
    ) -> bool {
        let all = endpoints.clone().count();
        let is_out = |addr: &&SocketAddr| self.hosts.get(addr).is_some_and(|h| h.out_since.is_some());
        let out = endpoints.filter(is_out).count();
        let percent = settings.max_ejection_percent as usize;
        let allowed = (all * percent / 100).max(usize::from(percent > 0 && all > 1));
        out < allowed
    }
}

impl Host {
    /// Counts, and names the limit that is reached.
    fn count(&mut self, settings: &OutlierDetection, outcome: Outcome) -> Option<&'static str> {
        let local = matches!(outcome, Outcome::Failed | Outcome::TimedOut);
        if local && settings.split {
            self.local += 1;
            return reached(self.local, settings.local_failures).then_some("consecutiveLocalOriginFailures");
        }
        self.local = 0;
        if matches!(outcome, Outcome::Connected) {
            if !settings.split {
                (self.server, self.gateway) = (0, 0);
            }
            return None;
        }
        if is_fine(settings, outcome) {
            (self.server, self.gateway) = (0, 0);
            return None;
        }
        self.server += 1;
        self.gateway = if local || matches!(outcome, Outcome::Status(502..=504)) {
            self.gateway + 1
        } else {
            0
        };
        if reached(self.gateway, settings.gateway_errors) {
            Some("consecutiveGatewayErrors")
        } else {
            reached(self.server, settings.server_errors).then_some("consecutive5xxErrors")
        }
    }

    const fn is_blank(&self) -> bool {
        self.out_since.is_none()
            && self.ejections == 0
            && self.server == 0
            && self.gateway == 0
            && self.local == 0
    }
}

/// Whether a result is none of the errors that are counted.
fn is_fine(settings: &OutlierDetection, outcome: Outcome) -> bool {
    match outcome {
        Outcome::Status(status) if settings.codes.is_empty() => status < 500,
        Outcome::Status(status) => !settings.codes.contains(&status),
        Outcome::Connected => true,
        Outcome::Failed | Outcome::TimedOut => false,
    }
}

/// A limit of zero is never reached (T-37).
const fn reached(count: u32, limit: u32) -> bool {
    limit > 0 && count >= limit
}

/// `baseEjectionTime` times the number of ejections, at most five minutes or the base if that is longer (Envoy,
/// `max_ejection_time`).
fn ejection_time(settings: &OutlierDetection, ejections: u32) -> Duration {
    let most = MAX_EJECTION.max(settings.base_ejection);
    settings.base_ejection.saturating_mul(ejections.max(1)).min(most)
}

const MAX_EJECTION: Duration = Duration::from_secs(300);

#[cfg(test)]
mod tests {
    use super::*;

    fn addrs(n: u8) -> Vec<SocketAddr> {
        (1..=n).map(|i| SocketAddr::from(([10, 0, 0, i], 80))).collect()
    }

    fn settings() -> OutlierDetection {
        OutlierDetection {
            server_errors: 3,
            interval: Duration::from_secs(1),
            base_ejection: Duration::from_secs(10),
            max_ejection_percent: 100,
            ..OutlierDetection::default()
        }
    }

    const fn at(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    /// What each row's results, all of one endpoint of two, come to.
    #[test]
    fn consecutive_errors_of_a_kind_eject() {
        use Outcome::{Connected, Failed, Status, TimedOut};
        let split = OutlierDetection {
            split: true,
            local_failures: 2,
            ..settings()
        };
        let gateway = OutlierDetection {
            server_errors: 0,
            gateway_errors: 2,
            ..settings()
        };
        let codes = OutlierDetection {
            codes: vec![429],
            ..settings()
        };
        type Row<'a> = (&'a str, &'a OutlierDetection, &'a [Outcome], Option<&'a str>);
        let plain = settings();
        let rows: &[Row<'_>] = &[
            (
                "consecutive5xxErrors",
                &plain,
                &[Status(500), Status(503), Status(599)],
                Some("consecutive5xxErrors"),
            ),
            (
                "a success in between",
                &plain,
                &[Status(500), Status(500), Status(200), Status(500)],
                None,
            ),
            (
                "4xx is no error",
                &plain,
                &[Status(404), Status(429), Status(499)],
                None,
            ),
            (
                "connections that fail count as 503",
                &plain,
                &[Failed, Failed, TimedOut],
                Some("consecutive5xxErrors"),
            ),
            (
                "a TCP connection is a success",
                &plain,
                &[Failed, Failed, Connected, Failed],
                None,
            ),
            (
                "T-37: gateway errors alone",
                &gateway,
                &[Status(500), Status(500), Status(500)],
                None,
            ),
            (
                "T-37: 502, 503, 504",
                &gateway,
                &[Status(502), Status(504)],
                Some("consecutiveGatewayErrors"),
            ),
            (
                "a 500 between ends a row of gateway errors",
                &gateway,
                &[Status(502), Status(500), Status(502)],
                None,
            ),
            (
                "split: local failures have a counter of their own",
                &split,
                &[Failed, TimedOut],
                Some("consecutiveLocalOriginFailures"),
            ),
            (
                "split: which a response ends",
                &split,
                &[Failed, Status(200), Failed],
                None,
            ),
            (
                "split: and do not count as 5xx",
                &split,
                &[Status(500), Failed, Status(500)],
                None,
            ),
            (
                "only the codes that are listed",
                &codes,
                &[Status(429), Status(429), Status(429)],
                Some("consecutive5xxErrors"),
            ),
            (
                "and no others",
                &codes,
                &[Status(500), Status(500), Status(500)],
                None,
            ),
        ];
        for (what, settings, results, want) in rows {
            let all = addrs(2);
            let mut detector = Detector::default();
            let last = results.iter().fold(None, |_, result| {
                detector.observe(settings, all[0], *result, at(0), all.iter())
            });
            assert_eq!(last.map(|e| e.reason), *want, "{what}");
        }
    }

    fn fail(
        detector: &mut Detector,
        settings: &OutlierDetection,
        addr: SocketAddr,
        all: &[SocketAddr],
        now: u64,
    ) -> bool {
        (0..settings.server_errors).any(|_| {
            detector
                .observe(settings, addr, Outcome::Status(500), at(now), all.iter())
                .is_some()
        })
    }

    #[test]
    fn max_ejection_percent_is_rounded_down_but_not_to_nobody() {
        for (endpoints, percent, most) in [
            (10, 10, 1),
            (2, 10, 1),
            (1, 10, 0),
            (1, 100, 1),
            (3, 50, 1),
            (4, 50, 2),
            (4, 0, 0),
            (4, 100, 4),
        ] {
            let settings = OutlierDetection {
                max_ejection_percent: percent,
                ..settings()
            };
            let all = addrs(endpoints);
            let mut detector = Detector::default();
            let out = all
                .iter()
                .filter(|addr| fail(&mut detector, &settings, **addr, &all, 0))
                .count();
            assert_eq!(out, most, "{endpoints} endpoints, {percent} percent");
        }
    }

    #[test]
    fn each_ejection_of_an_endpoint_is_longer_until_it_behaves() {
        let settings = settings();
        let all = addrs(2);
        let mut detector = Detector::default();
        assert!(fail(&mut detector, &settings, all[0], &all, 0));
        assert!(!detector.advance(&settings, at(9)));
        assert_eq!(detector.ejected().collect::<Vec<_>>(), [all[0]]);
        assert!(detector.advance(&settings, at(10)));
        assert_eq!(detector.ejected().count(), 0);
        assert!(fail(&mut detector, &settings, all[0], &all, 10));
        assert!(!detector.advance(&settings, at(29)), "twenty seconds this time");
        assert!(detector.advance(&settings, at(30)));
        detector.advance(&settings, at(40));
        assert!(detector.is_blank(), "two quiet intervals and more");
        assert!(fail(&mut detector, &settings, all[0], &all, 41));
        assert!(detector.advance(&settings, at(51)), "ten seconds again");
    }

    #[test]
    fn an_endpoint_that_is_gone_takes_nobodys_place() {
        let settings = OutlierDetection {
            max_ejection_percent: 50,
            ..settings()
        };
        let all = addrs(3);
        let mut detector = Detector::default();
        assert!(fail(&mut detector, &settings, all[0], &all[..2], 0));
        assert!(!fail(&mut detector, &settings, all[1], &all[..2], 0));
        assert!(
            fail(&mut detector, &settings, all[1], &all[1..], 0),
            "the first has left"
        );
    }
}
