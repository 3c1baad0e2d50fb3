//! When a request is tried again.

use std::sync::Arc;
use std::time::Duration;

/// `retries`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Tries after the first; 0 = off.
    pub attempts: u32,
    /// `perTryTimeout`.
    pub per_try_timeout: Option<Duration>,
    /// `retryOn`, parsed.
    pub on: RetryOn,
    /// `backoff`: base of the exponential delay (default 25 ms, at most ten times as much).
    pub backoff: Duration,
    /// `retryIgnorePreviousHosts: false`: another try may go where one failed.
    pub previous_hosts: bool,
    /// `retryRemoteLocalities`: another try may leave the locality of the one before.
    pub remote_localities: bool,
}

/// Conditions of `retryOn`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RetryOn {
    /// `connect-failure`.
    pub connect_failure: bool,
    /// `refused-stream`.
    pub refused_stream: bool,
    /// `reset`, `reset-before-request`.
    pub reset: bool,
    /// Every try that took longer than its own timeout (HTTPRoute `retry`); in `retryOn` that is part of `5xx`.
    pub try_timeout: bool,
    /// `5xx`.
    pub server_error: bool,
    /// `gateway-error`: 502, 503, 504.
    pub gateway_error: bool,
    /// `retriable-4xx`: 409.
    pub retriable_4xx: bool,
    /// `envoy-ratelimited`: a response with `x-envoy-ratelimited`.
    pub rate_limited: bool,
    /// Numbers in the list.
    pub statuses: Vec<u16>,
    /// gRPC codes: `cancelled` 1, `deadline-exceeded` 4, `resource-exhausted` 8, `internal` 13, `unavailable` 14.
    pub grpc: Vec<u8>,
}

impl RetryPolicy {
    /// What Istio does where a rule says nothing (`defaultHttpRetryPolicy`, T-40): two more tries, on failures that
    /// cannot have had an effect, and on gRPC `unavailable` and `cancelled`.
    #[must_use]
    pub fn mesh_default() -> &'static Self {
        Self::default_cell()
    }

    /// [`RetryPolicy::mesh_default`], one for all rules.
    #[must_use]
    pub fn shared_default() -> Arc<Self> {
        Arc::clone(Self::default_cell())
    }

    fn default_cell() -> &'static Arc<Self> {
        static DEFAULT: std::sync::OnceLock<Arc<RetryPolicy>> = std::sync::OnceLock::new();
        DEFAULT.get_or_init(|| {
            Arc::new(Self {
                attempts: 2,
                per_try_timeout: None,
                on: RetryOn {
                    connect_failure: true,
                    refused_stream: true,
                    grpc: vec![1, 14],
                    ..RetryOn::default()
                },
                backoff: Duration::from_millis(25),
                previous_hosts: false,
                remote_localities: false,
            })
        })
    }
}
