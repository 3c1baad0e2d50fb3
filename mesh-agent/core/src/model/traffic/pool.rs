//! `connectionPool` and `retryBudget`.
//!
//! A sidecar counts for its own pod. So limits count per client pod and destination (service port and subset), whatever
//! node and thread serves it (T-38).

use std::time::Duration;

/// `connectionPool`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectionPool {
    /// `tcp`.
    pub tcp: TcpSettings,
    /// `http`.
    pub http: HttpSettings,
}

/// `connectionPool.tcp`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TcpSettings {
    /// `maxConnections`: connections in use.
    pub max_connections: Option<u32>,
    /// `connectTimeout`; `None` = ten seconds.
    pub connect_timeout: Option<Duration>,
    /// `tcpKeepalive`.
    pub keepalive: Option<Keepalive>,
    /// `maxConnectionDuration`.
    pub max_duration: Option<Duration>,
    /// `idleTimeout`; zero = none, `None` = an hour.
    pub idle_timeout: Option<Duration>,
}

/// `tcpKeepalive`; what is `None` is the operating system's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keepalive {
    /// `probes`.
    pub probes: Option<u32>,
    /// `time`.
    pub time: Option<Duration>,
    /// `interval`.
    pub interval: Option<Duration>,
}

/// `connectionPool.http`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpSettings {
    /// `http1MaxPendingRequests`: requests that wait for one of `maxConnections`.
    pub max_pending: Option<u32>,
    /// `http2MaxRequests`: requests at once, of HTTP/1.1 too.
    pub max_requests: Option<u32>,
    /// `maxRequestsPerConnection`.
    pub max_requests_per_connection: Option<u32>,
    /// `maxRetries`: retries at once.
    pub max_retries: Option<u32>,
    /// `idleTimeout`; zero = none, `None` = that of `tcp`.
    pub idle_timeout: Option<Duration>,
    /// `h2UpgradePolicy: UPGRADE`: HTTP/1.1 requests go on as HTTP/2.
    pub upgrade: bool,
    /// `useClientProtocol`.
    pub use_client_protocol: bool,
    /// `maxConcurrentStreams` on one HTTP/2 connection.
    pub max_concurrent_streams: Option<u32>,
    /// `http2KeepAlive`: interval and timeout of PING frames.
    pub ping: Option<(Duration, Duration)>,
}

/// `retryBudget`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryBudget {
    /// `percent` in thousandths of a percent: 20 % = 20,000.
    pub percent_thousandths: u32,
    /// `minRetryConcurrency`.
    pub minimum: u32,
    /// `budgetInterval`; zero = only the requests at this moment count.
    pub interval: Duration,
}

impl RetryBudget {
    /// Retries that may be under way at once while `requests` are.
    #[must_use]
    pub fn retries(&self, requests: u32) -> u32 {
        let share = u64::from(requests) * u64::from(self.percent_thousandths) / 100_000;
        u32::try_from(share).unwrap_or(u32::MAX).max(self.minimum)
    }
}

impl ConnectionPool {
    /// Whether requests or connections are counted.
    #[must_use]
    pub const fn limited(&self) -> bool {
        self.tcp.max_connections.is_some()
            || self.http.max_pending.is_some()
            || self.http.max_requests.is_some()
            || self.http.max_retries.is_some()
    }

    /// How long an unused HTTP connection is kept; `Some(None)` = for ever, `None` = the proxy's default.
    #[must_use]
    pub fn http_idle(&self) -> Option<Option<Duration>> {
        let written = self.http.idle_timeout.or(self.tcp.idle_timeout)?;
        Some(Some(written).filter(|t| !t.is_zero()))
    }

    pub(super) fn describe(&self) -> String {
        let limits = [
            ("maxConnections", self.tcp.max_connections),
            ("http1MaxPendingRequests", self.http.max_pending),
            ("http2MaxRequests", self.http.max_requests),
            ("maxRequestsPerConnection", self.http.max_requests_per_connection),
            ("maxRetries", self.http.max_retries),
        ];
        let limits = limits
            .iter()
            .filter_map(|(name, limit)| Some(format!("{name} {}", (*limit)?)));
        limits.collect::<Vec<_>>().join(", ")
    }
}
