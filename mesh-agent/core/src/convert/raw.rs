//! The fields of `config.istio.io/v1alpha2` as they are written (istio/api at 0.7, `routing/v1alpha1`). A field that is
//! not here was never in the API.

use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// A service and perhaps a version of it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct IstioService {
    pub(super) name: Option<String>,
    pub(super) namespace: Option<String>,
    pub(super) domain: Option<String>,
    pub(super) service: Option<String>,
    pub(super) labels: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RouteRule {
    pub(super) destination: IstioService,
    pub(super) precedence: Option<i32>,
    pub(super) r#match: Option<Match>,
    pub(super) route: Option<Vec<Weighted>>,
    pub(super) redirect: Option<Redirect>,
    pub(super) rewrite: Option<Redirect>,
    #[serde(alias = "websocket_upgrade")]
    pub(super) websocket_upgrade: Option<bool>,
    #[serde(alias = "http_req_timeout")]
    pub(super) http_req_timeout: Option<Timeout>,
    #[serde(alias = "http_req_retries")]
    pub(super) http_req_retries: Option<Retries>,
    #[serde(alias = "http_fault")]
    pub(super) http_fault: Option<Fault>,
    #[serde(alias = "l4_fault")]
    pub(super) l4_fault: Option<Value>,
    pub(super) mirror: Option<IstioService>,
    #[serde(alias = "cors_policy")]
    pub(super) cors_policy: Option<Map<String, Value>>,
    #[serde(alias = "append_headers")]
    pub(super) append_headers: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Match {
    pub(super) source: Option<IstioService>,
    pub(super) request: Option<MatchRequest>,
    pub(super) tcp: Option<Value>,
    pub(super) udp: Option<Value>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MatchRequest {
    pub(super) headers: Option<BTreeMap<String, StringMatch>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StringMatch {
    pub(super) exact: Option<String>,
    pub(super) prefix: Option<String>,
    pub(super) regex: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Weighted {
    pub(super) destination: Option<IstioService>,
    pub(super) labels: Option<BTreeMap<String, String>>,
    pub(super) weight: Option<i32>,
}

/// `redirect` and `rewrite` have the same two fields.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Redirect {
    pub(super) uri: Option<String>,
    pub(super) authority: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Timeout {
    #[serde(alias = "simple_timeout")]
    pub(super) simple_timeout: Option<SimpleTimeout>,
    pub(super) custom: Option<Value>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct SimpleTimeout {
    pub(super) timeout: Option<String>,
    #[serde(alias = "override_header_name")]
    pub(super) override_header_name: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Retries {
    #[serde(alias = "simple_retry")]
    pub(super) simple_retry: Option<SimpleRetry>,
    pub(super) custom: Option<Value>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct SimpleRetry {
    pub(super) attempts: Option<i32>,
    #[serde(alias = "per_try_timeout")]
    pub(super) per_try_timeout: Option<String>,
    #[serde(alias = "override_header_name")]
    pub(super) override_header_name: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Fault {
    pub(super) delay: Option<Delay>,
    pub(super) abort: Option<Abort>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Delay {
    pub(super) percent: Option<f64>,
    #[serde(alias = "fixed_delay")]
    pub(super) fixed_delay: Option<String>,
    #[serde(alias = "exponential_delay")]
    pub(super) exponential_delay: Option<Value>,
    #[serde(alias = "override_header_name")]
    pub(super) override_header_name: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Abort {
    pub(super) percent: Option<f64>,
    #[serde(alias = "http_status")]
    pub(super) http_status: Option<i32>,
    #[serde(alias = "grpc_status")]
    pub(super) grpc_status: Option<String>,
    #[serde(alias = "http2_error")]
    pub(super) http2_error: Option<Value>,
    #[serde(alias = "override_header_name")]
    pub(super) override_header_name: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct DestinationPolicy {
    pub(super) destination: IstioService,
    pub(super) source: Option<IstioService>,
    #[serde(alias = "load_balancing")]
    pub(super) load_balancing: Option<LoadBalancing>,
    #[serde(alias = "circuit_breaker")]
    pub(super) circuit_breaker: Option<CircuitBreaker>,
    pub(super) custom: Option<Value>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LoadBalancing {
    pub(super) name: Option<String>,
    pub(super) custom: Option<Value>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct CircuitBreaker {
    #[serde(alias = "simple_cb")]
    pub(super) simple_cb: Option<SimpleCb>,
    pub(super) custom: Option<Value>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct SimpleCb {
    #[serde(alias = "max_connections")]
    pub(super) max_connections: Option<i32>,
    #[serde(alias = "http_max_pending_requests")]
    pub(super) http_max_pending_requests: Option<i32>,
    #[serde(alias = "http_max_requests")]
    pub(super) http_max_requests: Option<i32>,
    #[serde(alias = "sleep_window")]
    pub(super) sleep_window: Option<String>,
    #[serde(alias = "http_consecutive_errors")]
    pub(super) http_consecutive_errors: Option<i32>,
    #[serde(alias = "http_detection_interval")]
    pub(super) http_detection_interval: Option<String>,
    #[serde(alias = "http_max_requests_per_connection")]
    pub(super) http_max_requests_per_connection: Option<i32>,
    #[serde(alias = "http_max_ejection_percent")]
    pub(super) http_max_ejection_percent: Option<i32>,
    #[serde(alias = "http_max_retries")]
    pub(super) http_max_retries: Option<i32>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct EgressRule {
    pub(super) destination: IstioService,
    pub(super) ports: Vec<EgressPort>,
    #[serde(alias = "use_egress_proxy")]
    pub(super) use_egress_proxy: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EgressPort {
    pub(super) port: u16,
    pub(super) protocol: String,
}
