//! What the agent tells of the traffic it carries: metrics under Istio's names, and one access line per request or
//! connection. A leaf: it knows the model, not the proxy.
//!
//! Label values come from API objects and bounded enums only, never from what a peer sends: a client cannot make
//! series.

pub mod access_log;
pub mod labels;
pub mod meter;
pub mod metrics;

use access_log::AccessLog;
use labels::{HttpLabels, TcpLabels};
use metrics::{HttpSeries, ProxyMetrics, TcpSeries, TrafficFamilies};
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use std::sync::Arc;

/// Settings of [`Telemetry`].
#[derive(Clone, Debug)]
pub struct TelemetryConfig {
    /// `source_cluster` and `destination_cluster`.
    pub cluster: Arc<str>,
    /// Series of traffic metrics per family before the overflow series takes the rest.
    pub series_ceiling: usize,
}

impl Default for TelemetryConfig {
    fn default() -> Self {
        Self {
            cluster: "Kubernetes".into(),
            series_ceiling: 20_000,
        }
    }
}

/// The agent's metrics and access log, shared by all workers.
pub struct Telemetry {
    registry: Mutex<Registry>,
    traffic: TrafficFamilies,
    /// Metrics of the proxy itself.
    pub proxy: ProxyMetrics,
    /// Switch and sampling of the access log.
    pub access: AccessLog,
    cluster: Arc<str>,
}

impl Telemetry {
    /// Registers every family.
    #[must_use]
    pub fn new(config: &TelemetryConfig) -> Arc<Self> {
        let mut registry = Registry::default();
        let traffic = TrafficFamilies::register(&mut registry, config.series_ceiling);
        let proxy = ProxyMetrics::register(&mut registry);
        metrics::register_build(&mut registry);
        Arc::new(Self {
            registry: Mutex::new(registry),
            traffic,
            proxy,
            access: AccessLog::default(),
            cluster: Arc::clone(&config.cluster),
        })
    }

    /// Adds another component's metrics to the same exposition.
    pub fn register<T>(&self, add: impl FnOnce(&mut Registry) -> T) -> T {
        add(&mut self.registry.lock())
    }

    /// The text exposition, format 0.0.4 of Prometheus.
    #[must_use]
    pub fn encode(&self) -> String {
        metrics::encode(&self.registry.lock())
    }

    /// The name that metrics give to this cluster.
    #[must_use]
    pub fn cluster(&self) -> &Arc<str> {
        &self.cluster
    }

    /// The series of one kind of request; made if it is new.
    #[must_use]
    pub fn http(&self, labels: &HttpLabels) -> HttpSeries {
        self.traffic.http(labels)
    }

    /// The series of one kind of connection; made if it is new.
    #[must_use]
    pub fn tcp(&self, labels: &TcpLabels) -> TcpSeries {
        self.traffic.tcp(labels)
    }
}
