//! `trafficPolicy`, its outlier detection, PROXY protocol and retry budget.

use super::{balancer, pool, raw, tls};
use crate::model::traffic::{Blocks, OutlierDetection, PolicySpec, ProxyProtocol, RetryBudget};
use crate::translate::value::{FieldError, timeout};
use std::time::Duration;

/// What of the rule matters to its policies.
#[derive(Clone, Copy)]
pub(super) struct Scope {
    /// Whether the rule has a workload selector.
    pub(super) selected: bool,
}

pub(super) fn policy(
    at: &str,
    raw: Option<raw::TrafficPolicy>,
    scope: Scope,
) -> Result<PolicySpec, FieldError> {
    let Some(raw) = raw else {
        return Ok(PolicySpec::default());
    };
    let mut ports: Vec<(u16, Blocks)> = Vec::new();
    for (i, port) in raw.port_level_settings.into_iter().flatten().enumerate() {
        let at = format!("{at}.portLevelSettings[{i}]");
        let number = port.port.and_then(|p| p.number).filter(|number| *number != 0);
        let Some(number) = number else {
            return Err(FieldError::new(
                format!("{at}.port.number"),
                "expected 1 to 65535",
            ));
        };
        let of_port = Written {
            load_balancer: port.load_balancer,
            connection_pool: port.connection_pool,
            outlier_detection: port.outlier_detection,
            tls: port.tls,
        };
        // Of a port that is there twice, the first counts (pilot).
        let blocks = of_port.blocks(&at, scope)?;
        if ports.iter().all(|(known, _)| *known != number) {
            ports.push((number, blocks));
        }
    }
    let whole = Written {
        load_balancer: raw.load_balancer,
        connection_pool: raw.connection_pool,
        outlier_detection: raw.outlier_detection,
        tls: raw.tls,
    };
    Ok(PolicySpec {
        blocks: whole.blocks(at, scope)?,
        ports,
        proxy_protocol: raw
            .proxy_protocol
            .map(|p| proxy_protocol(&format!("{at}.proxyProtocol"), p))
            .transpose()?,
        retry_budget: raw
            .retry_budget
            .map(|b| retry_budget(&format!("{at}.retryBudget"), b))
            .transpose()?,
    })
}

/// The blocks that hosts, subsets and ports have in common.
struct Written {
    load_balancer: Option<raw::LoadBalancer>,
    connection_pool: Option<raw::ConnectionPool>,
    outlier_detection: Option<raw::OutlierDetection>,
    tls: Option<raw::Tls>,
}

impl Written {
    fn blocks(self, at: &str, scope: Scope) -> Result<Blocks, FieldError> {
        Ok(Blocks {
            load_balancer: self
                .load_balancer
                .map(|b| balancer::load_balancer(&format!("{at}.loadBalancer"), b))
                .transpose()?,
            connection_pool: self
                .connection_pool
                .map(|p| pool::connection_pool(&format!("{at}.connectionPool"), p))
                .transpose()?,
            outlier_detection: self
                .outlier_detection
                .map(|o| outlier_detection(&format!("{at}.outlierDetection"), o))
                .transpose()?,
            tls: self
                .tls
                .map(|t| tls::client(&format!("{at}.tls"), t, scope))
                .transpose()?,
        })
    }
}

fn proxy_protocol(at: &str, raw: raw::ProxyProtocol) -> Result<ProxyProtocol, FieldError> {
    match raw.version.as_deref() {
        None | Some("V1") => Ok(ProxyProtocol::V1),
        Some("V2") => Ok(ProxyProtocol::V2),
        Some(other) => Err(FieldError::new(
            format!("{at}.version"),
            format!("{other:?} is no version: expected V1 or V2"),
        )),
    }
}

fn retry_budget(at: &str, raw: raw::RetryBudget) -> Result<RetryBudget, FieldError> {
    let percent = raw.percent.unwrap_or(20.0);
    if !(0.0..=100.0).contains(&percent) {
        return Err(FieldError::new(format!("{at}.percent"), "expected 0 to 100"));
    }
    Ok(RetryBudget {
        percent_thousandths: thousandths(percent),
        minimum: raw.min_retry_concurrency.unwrap_or(3),
        interval: time(at, "budgetInterval", raw.budget_interval)?.unwrap_or(Duration::ZERO),
    })
}

fn outlier_detection(at: &str, raw: raw::OutlierDetection) -> Result<OutlierDetection, FieldError> {
    let default = OutlierDetection::default();
    let percent = |field: &str, value: Option<i32>, default: u32| match value {
        None => Ok(default),
        Some(value) => u32::try_from(value)
            .ok()
            .filter(|p| *p <= 100)
            .ok_or_else(|| FieldError::new(format!("{at}.{field}"), "expected 0 to 100")),
    };
    let positive = |field: &str, value: Option<String>, default: Duration| match time(at, field, value)? {
        None => Ok(default),
        Some(time) if time.is_zero() => Err(FieldError::new(
            format!("{at}.{field}"),
            "duration must be greater than 1ms",
        )),
        Some(time) => Ok(time),
    };
    let mut codes = Vec::new();
    for (i, code) in raw
        .outlier_detection_http_error_codes
        .into_iter()
        .flatten()
        .enumerate()
    {
        let code = u16::try_from(code).ok().filter(|c| (100..600).contains(c));
        codes.push(code.ok_or_else(|| {
            FieldError::new(
                format!("{at}.outlierDetectionHttpErrorCodes[{i}]"),
                "expected a status, 100 to 599",
            )
        })?);
    }
    let mut outliers = OutlierDetection {
        server_errors: raw.consecutive_5xx_errors.unwrap_or(default.server_errors),
        gateway_errors: raw.consecutive_gateway_errors.unwrap_or(default.gateway_errors),
        local_failures: raw
            .consecutive_local_origin_failures
            .unwrap_or(default.local_failures),
        split: raw.split_external_local_origin_errors.unwrap_or(false),
        interval: positive("interval", raw.interval, default.interval)?,
        base_ejection: positive("baseEjectionTime", raw.base_ejection_time, default.base_ejection)?,
        max_ejection_percent: percent("maxEjectionPercent", raw.max_ejection_percent, 10)?,
        min_health_percent: percent("minHealthPercent", raw.min_health_percent, 0)?,
        codes,
    };
    // The old field counted gateway errors, and nothing else while it was there (pilot, until it left the API).
    let legacy = raw
        .consecutive_errors
        .and_then(|n| u32::try_from(n).ok())
        .filter(|n| *n > 0);
    if let Some(errors) = legacy.filter(|_| raw.consecutive_5xx_errors.is_none()) {
        outliers.server_errors = 0;
        outliers.gateway_errors = errors;
    }
    Ok(outliers)
}

/// A duration of a field, zero included.
pub(super) fn time(at: &str, field: &str, text: Option<String>) -> Result<Option<Duration>, FieldError> {
    text.map(|text| timeout(&text).map_err(|reason| FieldError::new(format!("{at}.{field}"), reason)))
        .transpose()
}

/// A number of at most a few thousand, in thousandths.
pub(super) fn thousandths(number: f64) -> u32 {
    // In range, and not negative: checked by the callers.
    (number * 1e3).round() as u32
}
