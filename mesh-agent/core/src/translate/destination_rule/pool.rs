//! `connectionPool`.

use super::policy::time;
use super::raw;
use crate::model::traffic::{ConnectionPool, HttpSettings, Keepalive, TcpSettings};
use crate::translate::value::FieldError;
use std::time::Duration;

pub(super) fn connection_pool(at: &str, raw: raw::ConnectionPool) -> Result<ConnectionPool, FieldError> {
    Ok(ConnectionPool {
        tcp: raw
            .tcp
            .map(|t| tcp(&format!("{at}.tcp"), t))
            .transpose()?
            .unwrap_or_default(),
        http: raw
            .http
            .map(|h| http(&format!("{at}.http"), h))
            .transpose()?
            .unwrap_or_default(),
    })
}

fn tcp(at: &str, raw: raw::Tcp) -> Result<TcpSettings, FieldError> {
    let keepalive = match raw.tcp_keepalive {
        None => None,
        Some(raw) => {
            let at = format!("{at}.tcpKeepalive");
            Some(Keepalive {
                probes: raw.probes.filter(|n| *n > 0),
                time: seconds(&at, "time", raw.time)?,
                interval: seconds(&at, "interval", raw.interval)?,
            })
        }
    };
    Ok(TcpSettings {
        max_connections: limit(at, "maxConnections", raw.max_connections)?,
        connect_timeout: nonzero(at, "connectTimeout", raw.connect_timeout)?,
        keepalive,
        max_duration: nonzero(at, "maxConnectionDuration", raw.max_connection_duration)?,
        idle_timeout: time(at, "idleTimeout", raw.idle_timeout)?,
    })
}

fn http(at: &str, raw: raw::Http) -> Result<HttpSettings, FieldError> {
    let upgrade = match raw.h2_upgrade_policy.as_deref() {
        None | Some("DEFAULT" | "DO_NOT_UPGRADE") => false,
        Some("UPGRADE") => true,
        Some(other) => {
            return Err(FieldError::new(
                format!("{at}.h2UpgradePolicy"),
                format!("{other:?} is no policy: expected DEFAULT, DO_NOT_UPGRADE or UPGRADE"),
            ));
        }
    };
    let use_client_protocol = raw.use_client_protocol.unwrap_or(false);
    if upgrade && use_client_protocol {
        return Err(FieldError::new(
            format!("{at}.useClientProtocol"),
            "use client protocol must not be true when H2UpgradePolicy is UPGRADE",
        ));
    }
    let ping = match raw.http2_keep_alive {
        None => None,
        Some(raw) => {
            let at = format!("{at}.http2KeepAlive");
            let required = |field: &str, text: Option<String>| {
                nonzero(&at, field, text)?
                    .ok_or_else(|| FieldError::new(format!("{at}.{field}"), "is missing"))
            };
            Some((
                required("interval", raw.interval)?,
                required("timeout", raw.timeout)?,
            ))
        }
    };
    Ok(HttpSettings {
        max_pending: limit(at, "http1MaxPendingRequests", raw.http1_max_pending_requests)?,
        max_requests: limit(at, "http2MaxRequests", raw.http2_max_requests)?,
        max_requests_per_connection: limit(at, "maxRequestsPerConnection", raw.max_requests_per_connection)?,
        max_retries: limit(at, "maxRetries", raw.max_retries)?,
        idle_timeout: time(at, "idleTimeout", raw.idle_timeout)?,
        upgrade,
        use_client_protocol,
        max_concurrent_streams: limit(at, "maxConcurrentStreams", raw.max_concurrent_streams)?,
        ping,
    })
}

/// A limit; zero is what an absent number is in protobuf.
fn limit(at: &str, field: &str, value: Option<i32>) -> Result<Option<u32>, FieldError> {
    let Some(value) = value else { return Ok(None) };
    u32::try_from(value)
        .map(|n| Some(n).filter(|n| *n > 0))
        .map_err(|_| FieldError::new(format!("{at}.{field}"), "must be non-negative"))
}

/// A duration that zero turns off.
fn nonzero(at: &str, field: &str, text: Option<String>) -> Result<Option<Duration>, FieldError> {
    Ok(time(at, field, text)?.filter(|t| !t.is_zero()))
}

/// A duration that the kernel takes in whole seconds.
fn seconds(at: &str, field: &str, text: Option<String>) -> Result<Option<Duration>, FieldError> {
    let Some(time) = nonzero(at, field, text)? else {
        return Ok(None);
    };
    let rounded = time.as_secs() + u64::from(time.subsec_nanos() > 0);
    // What setsockopt(2) takes (MAX_TCP_KEEPIDLE, MAX_TCP_KEEPINTVL).
    if rounded > 32_767 {
        return Err(FieldError::new(
            format!("{at}.{field}"),
            "is more than 32767 seconds, the most that the kernel takes",
        ));
    }
    Ok(Some(Duration::from_secs(rounded)))
}
