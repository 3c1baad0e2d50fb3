//! The fields of a DestinationRule as they are written. A field that is not here is unknown; one of type
//! [`Unsupported`] is known and refused.

use crate::translate::value::Unsupported;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::Arc;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Spec {
    pub(super) host: String,
    pub(super) subsets: Option<Vec<Subset>>,
    #[serde(alias = "export_to")]
    pub(super) export_to: Option<Vec<String>>,
    #[serde(alias = "traffic_policy")]
    pub(super) traffic_policy: Option<TrafficPolicy>,
    #[serde(alias = "workload_selector")]
    pub(super) workload_selector: Option<WorkloadSelector>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct WorkloadSelector {
    #[serde(alias = "match_labels")]
    pub(super) match_labels: Option<BTreeMap<Arc<str>, Option<Arc<str>>>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Subset {
    pub(super) name: String,
    pub(super) labels: Option<BTreeMap<Arc<str>, Option<Arc<str>>>>,
    #[serde(alias = "traffic_policy")]
    pub(super) traffic_policy: Option<TrafficPolicy>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct TrafficPolicy {
    #[serde(alias = "load_balancer")]
    pub(super) load_balancer: Option<LoadBalancer>,
    #[serde(alias = "connection_pool")]
    pub(super) connection_pool: Option<ConnectionPool>,
    #[serde(alias = "outlier_detection")]
    pub(super) outlier_detection: Option<OutlierDetection>,
    pub(super) tls: Option<Tls>,
    #[serde(alias = "port_level_settings")]
    pub(super) port_level_settings: Option<Vec<PortPolicy>>,
    #[serde(rename = "tunnel")]
    _tunnel: Option<Unsupported>,
    #[serde(alias = "proxy_protocol")]
    pub(super) proxy_protocol: Option<ProxyProtocol>,
    #[serde(alias = "retry_budget")]
    pub(super) retry_budget: Option<RetryBudget>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct PortPolicy {
    pub(super) port: Option<Port>,
    #[serde(alias = "load_balancer")]
    pub(super) load_balancer: Option<LoadBalancer>,
    #[serde(alias = "connection_pool")]
    pub(super) connection_pool: Option<ConnectionPool>,
    #[serde(alias = "outlier_detection")]
    pub(super) outlier_detection: Option<OutlierDetection>,
    pub(super) tls: Option<Tls>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Port {
    pub(super) number: Option<u16>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ProxyProtocol {
    pub(super) version: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RetryBudget {
    pub(super) percent: Option<f64>,
    #[serde(alias = "min_retry_concurrency")]
    pub(super) min_retry_concurrency: Option<u32>,
    #[serde(alias = "budget_interval")]
    pub(super) budget_interval: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct LoadBalancer {
    pub(super) simple: Option<String>,
    #[serde(alias = "consistent_hash")]
    pub(super) consistent_hash: Option<ConsistentHash>,
    #[serde(alias = "locality_lb_setting")]
    pub(super) locality_lb_setting: Option<LocalityLbSetting>,
    #[serde(rename = "zoneAwareLbSetting", alias = "zone_aware_lb_setting")]
    _zone_aware_lb_setting: Option<Unsupported>,
    #[serde(alias = "warmup_duration_secs")]
    pub(super) warmup_duration_secs: Option<String>,
    pub(super) warmup: Option<Warmup>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ConsistentHash {
    #[serde(alias = "http_header_name")]
    pub(super) http_header_name: Option<String>,
    #[serde(alias = "http_cookie")]
    pub(super) http_cookie: Option<Cookie>,
    #[serde(alias = "use_source_ip")]
    pub(super) use_source_ip: Option<bool>,
    #[serde(alias = "http_query_parameter_name")]
    pub(super) http_query_parameter_name: Option<String>,
    #[serde(alias = "ring_hash")]
    pub(super) ring_hash: Option<RingHash>,
    pub(super) maglev: Option<Maglev>,
    #[serde(alias = "minimum_ring_size")]
    pub(super) minimum_ring_size: Option<u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RingHash {
    #[serde(alias = "minimum_ring_size")]
    pub(super) minimum_ring_size: Option<u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Maglev {
    #[serde(alias = "table_size")]
    pub(super) table_size: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Cookie {
    pub(super) name: String,
    pub(super) path: Option<String>,
    pub(super) ttl: Option<String>,
    pub(super) attributes: Option<Vec<CookieAttribute>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CookieAttribute {
    pub(super) name: String,
    pub(super) value: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Warmup {
    pub(super) duration: String,
    #[serde(alias = "minimum_percent")]
    pub(super) minimum_percent: Option<f64>,
    pub(super) aggression: Option<f64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct LocalityLbSetting {
    pub(super) distribute: Option<Vec<Distribute>>,
    pub(super) failover: Option<Vec<Failover>>,
    #[serde(alias = "failover_priority")]
    pub(super) failover_priority: Option<Vec<String>>,
    pub(super) enabled: Option<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Distribute {
    pub(super) from: String,
    pub(super) to: BTreeMap<String, u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Failover {
    pub(super) from: String,
    pub(super) to: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ConnectionPool {
    pub(super) tcp: Option<Tcp>,
    pub(super) http: Option<Http>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Tcp {
    #[serde(alias = "max_connections")]
    pub(super) max_connections: Option<i32>,
    #[serde(alias = "connect_timeout")]
    pub(super) connect_timeout: Option<String>,
    #[serde(alias = "tcp_keepalive")]
    pub(super) tcp_keepalive: Option<Keepalive>,
    #[serde(alias = "max_connection_duration")]
    pub(super) max_connection_duration: Option<String>,
    #[serde(alias = "idle_timeout")]
    pub(super) idle_timeout: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Keepalive {
    pub(super) probes: Option<u32>,
    pub(super) time: Option<String>,
    pub(super) interval: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Http {
    #[serde(alias = "http1_max_pending_requests")]
    pub(super) http1_max_pending_requests: Option<i32>,
    #[serde(alias = "http2_max_requests")]
    pub(super) http2_max_requests: Option<i32>,
    #[serde(alias = "max_requests_per_connection")]
    pub(super) max_requests_per_connection: Option<i32>,
    #[serde(alias = "max_retries")]
    pub(super) max_retries: Option<i32>,
    #[serde(alias = "idle_timeout")]
    pub(super) idle_timeout: Option<String>,
    #[serde(alias = "h2_upgrade_policy")]
    pub(super) h2_upgrade_policy: Option<String>,
    #[serde(alias = "use_client_protocol")]
    pub(super) use_client_protocol: Option<bool>,
    #[serde(alias = "max_concurrent_streams")]
    pub(super) max_concurrent_streams: Option<i32>,
    #[serde(alias = "http2_keep_alive")]
    pub(super) http2_keep_alive: Option<Http2KeepAlive>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Http2KeepAlive {
    pub(super) interval: Option<String>,
    pub(super) timeout: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct OutlierDetection {
    #[serde(alias = "consecutive_errors")]
    pub(super) consecutive_errors: Option<i32>,
    #[serde(alias = "split_external_local_origin_errors")]
    pub(super) split_external_local_origin_errors: Option<bool>,
    #[serde(alias = "consecutive_local_origin_failures")]
    pub(super) consecutive_local_origin_failures: Option<u32>,
    #[serde(alias = "consecutive_gateway_errors")]
    pub(super) consecutive_gateway_errors: Option<u32>,
    #[serde(rename = "consecutive5xxErrors", alias = "consecutive_5xx_errors")]
    pub(super) consecutive_5xx_errors: Option<u32>,
    pub(super) interval: Option<String>,
    #[serde(alias = "base_ejection_time")]
    pub(super) base_ejection_time: Option<String>,
    #[serde(alias = "max_ejection_percent")]
    pub(super) max_ejection_percent: Option<i32>,
    #[serde(alias = "min_health_percent")]
    pub(super) min_health_percent: Option<i32>,
    #[serde(alias = "outlier_detection_http_error_codes")]
    pub(super) outlier_detection_http_error_codes: Option<Vec<u32>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Tls {
    pub(super) mode: Option<String>,
    #[serde(alias = "client_certificate")]
    pub(super) client_certificate: Option<String>,
    #[serde(alias = "private_key")]
    pub(super) private_key: Option<String>,
    #[serde(alias = "ca_certificates")]
    pub(super) ca_certificates: Option<String>,
    #[serde(alias = "credential_name")]
    pub(super) credential_name: Option<String>,
    #[serde(alias = "subject_alt_names")]
    pub(super) subject_alt_names: Option<Vec<String>>,
    pub(super) sni: Option<String>,
    #[serde(alias = "insecure_skip_verify")]
    pub(super) insecure_skip_verify: Option<bool>,
    #[serde(alias = "ca_crl")]
    pub(super) ca_crl: Option<String>,
}
