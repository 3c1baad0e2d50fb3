//! The metric families. Istio's names and labels, because users' dashboards depend on them; what is the proxy's own
//! is called `heddle_proxy_*`.

use super::labels::{HttpLabels, TcpLabels};
use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use std::collections::HashSet;
use std::hash::Hash;

/// Handles to the series of one kind of request.
#[derive(Clone, Debug)]
pub struct HttpSeries {
    /// `istio_requests_total`.
    pub requests: Counter,
    /// `istio_request_duration_milliseconds`.
    pub duration_ms: Histogram,
    /// `istio_request_bytes`.
    pub request_bytes: Histogram,
    /// `istio_response_bytes`.
    pub response_bytes: Histogram,
    /// gRPC messages from and to the client; gRPC only.
    pub messages: Option<(Counter, Counter)>,
}

/// Handles to the series of one kind of connection.
#[derive(Clone, Debug)]
pub struct TcpSeries {
    /// `istio_tcp_sent_bytes_total`: towards the client, as Istio counts.
    pub sent: Counter,
    /// `istio_tcp_received_bytes_total`: from the client.
    pub received: Counter,
    /// `istio_tcp_connections_opened_total`.
    pub opened: Counter,
    /// `istio_tcp_connections_closed_total`.
    pub closed: Counter,
}

/// All `istio_*` traffic families.
pub(super) struct TrafficFamilies {
    requests: Family<HttpLabels, Counter>,
    duration: Family<HttpLabels, Histogram, Buckets>,
    request_bytes: Family<HttpLabels, Histogram, Buckets>,
    response_bytes: Family<HttpLabels, Histogram, Buckets>,
    request_messages: Family<HttpLabels, Counter>,
    response_messages: Family<HttpLabels, Counter>,
    sent: Family<TcpLabels, Counter>,
    received: Family<TcpLabels, Counter>,
    opened: Family<TcpLabels, Counter>,
    closed: Family<TcpLabels, Counter>,
    http_known: Ceiling<HttpLabels>,
    tcp_known: Ceiling<TcpLabels>,
}

/// Metrics of the proxy itself.
#[derive(Clone, Debug, Default)]
pub struct ProxyMetrics {
    /// Connections that are being served.
    pub connections: Gauge,
    /// `accept` failed.
    pub accept_errors: Counter,
    /// A connection's task panicked.
    pub panics: Counter,
    /// A pod had reached its share of connections.
    pub refused_connections: Counter,
    /// Plaintext to a port that takes mutual TLS only.
    pub plaintext_refused: Counter,
    /// Outcomes of protocol detection.
    pub detections: Family<[(&'static str, &'static str); 1], Counter>,
    /// Mirrored requests that were not sent.
    pub mirrors_dropped: Counter,
    /// Accepted sockets without a record of what was dialled.
    pub missing_records: Counter,
    /// Tunnel connections from other nodes that brought no stream, e.g. for their certificate.
    pub tunnels_failed: Counter,
    /// Tries after the first.
    pub retries: Counter,
    /// Connections to a gateway's TLS ports that were refused before anything was carried.
    pub refused_handshakes: Family<[(&'static str, &'static str); 1], Counter>,
    /// Requests refused for their form.
    pub bad_requests: Family<[(&'static str, &'static str); 1], Counter>,
}

impl ProxyMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let m = Self::default();
        let r = registry.sub_registry_with_prefix("heddle_proxy");
        r.register("connections", "Connections being served", m.connections.clone());
        r.register("accept_errors", "Failed accepts", m.accept_errors.clone());
        r.register("panics", "Connection tasks that panicked", m.panics.clone());
        r.register(
            "refused_connections",
            "Connections above a pod's share",
            m.refused_connections.clone(),
        );
        r.register(
            "plaintext_refused",
            "Plaintext connections to ports that take mutual TLS only (PeerAuthentication)",
            m.plaintext_refused.clone(),
        );
        r.register(
            "detections",
            "Outcomes of protocol detection",
            m.detections.clone(),
        );
        r.register(
            "mirrors_dropped",
            "Mirrored requests that were not sent",
            m.mirrors_dropped.clone(),
        );
        r.register(
            "missing_records",
            "Captured sockets without a record",
            m.missing_records.clone(),
        );
        r.register(
            "tunnels_failed",
            "Tunnel connections refused before a stream",
            m.tunnels_failed.clone(),
        );
        r.register("retries", "Tries of requests after the first", m.retries.clone());
        r.register(
            "refused_handshakes",
            "Connections to TLS ports of a gateway that were refused",
            m.refused_handshakes.clone(),
        );
        r.register(
            "bad_requests",
            "Requests refused for their form",
            m.bad_requests.clone(),
        );
        m
    }
}

impl TrafficFamilies {
    pub(super) fn register(registry: &mut Registry, ceiling: usize) -> Self {
        let f = Self {
            requests: Family::default(),
            duration: Family::new_with_constructor(Buckets),
            request_bytes: Family::new_with_constructor(Buckets),
            response_bytes: Family::new_with_constructor(Buckets),
            request_messages: Family::default(),
            response_messages: Family::default(),
            sent: Family::default(),
            received: Family::default(),
            opened: Family::default(),
            closed: Family::default(),
            http_known: Ceiling::new(ceiling),
            tcp_known: Ceiling::new(ceiling),
        };
        let r = registry;
        r.register("istio_requests", "Requests", f.requests.clone());
        r.register(
            "istio_request_duration_milliseconds",
            "Duration of requests",
            f.duration.clone(),
        );
        r.register(
            "istio_request_bytes",
            "Size of request bodies",
            f.request_bytes.clone(),
        );
        r.register(
            "istio_response_bytes",
            "Size of response bodies",
            f.response_bytes.clone(),
        );
        r.register(
            "istio_request_messages",
            "gRPC messages from clients",
            f.request_messages.clone(),
        );
        r.register(
            "istio_response_messages",
            "gRPC messages from servers",
            f.response_messages.clone(),
        );
        r.register("istio_tcp_sent_bytes", "Bytes sent to clients", f.sent.clone());
        r.register(
            "istio_tcp_received_bytes",
            "Bytes received from clients",
            f.received.clone(),
        );
        r.register(
            "istio_tcp_connections_opened",
            "Connections opened",
            f.opened.clone(),
        );
        r.register(
            "istio_tcp_connections_closed",
            "Connections closed",
            f.closed.clone(),
        );
        f
    }

    pub(super) fn http(&self, labels: &HttpLabels) -> HttpSeries {
        let overflow;
        let labels = if self.http_known.admits(labels) {
            labels
        } else {
            overflow = HttpLabels {
                pair: labels.pair.overflow(),
                code: labels.code,
                grpc: labels.grpc,
            };
            &overflow
        };
        let grpc = labels.grpc.is_some();
        HttpSeries {
            requests: self.requests.get_or_create_owned(labels),
            duration_ms: self.duration.get_or_create_owned(labels),
            request_bytes: self.request_bytes.get_or_create_owned(labels),
            response_bytes: self.response_bytes.get_or_create_owned(labels),
            messages: grpc.then(|| {
                (
                    self.request_messages.get_or_create_owned(labels),
                    self.response_messages.get_or_create_owned(labels),
                )
            }),
        }
    }

    pub(super) fn tcp(&self, labels: &TcpLabels) -> TcpSeries {
        let overflow;
        let labels = if self.tcp_known.admits(labels) {
            labels
        } else {
            overflow = labels.overflow();
            &overflow
        };
        TcpSeries {
            sent: self.sent.get_or_create_owned(labels),
            received: self.received.get_or_create_owned(labels),
            opened: self.opened.get_or_create_owned(labels),
            closed: self.closed.get_or_create_owned(labels),
        }
    }
}

/// `istio_build`, as Istio's own dashboards read it.
pub(super) fn register_build(registry: &mut Registry) {
    let build = Family::<Vec<(&'static str, &'static str)>, Gauge>::default();
    build
        .get_or_create(&vec![("component", "heddle"), ("tag", env!("CARGO_PKG_VERSION"))])
        .set(1);
    registry.register("istio_build", "Version of the component", build);
}

/// The registry as Prometheus' text format. Its counters carry `_total` in `# TYPE` as well, which OpenMetrics
/// writes without.
pub(crate) fn encode(registry: &Registry) -> String {
    let mut open = String::new();
    if let Err(error) = text::encode(&mut open, registry) {
        tracing::error!(%error, "cannot encode metrics");
        return String::new();
    }
    let mut out = String::with_capacity(open.len());
    let mut help: Option<(&str, &str)> = None;
    for line in open.lines() {
        if line == "# EOF" || line.starts_with("# UNIT") {
            continue;
        }
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ');
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|r| r.split_once(' ')) {
            let suffix = if kind == "counter" { "_total" } else { "" };
            if let Some((_, words)) = help.take() {
                push(&mut out, &["# HELP ", name, suffix, " ", words]);
            }
            push(&mut out, &["# TYPE ", name, suffix, " ", kind]);
        } else {
            push(&mut out, &[line]);
        }
    }
    out
}

fn push(out: &mut String, parts: &[&str]) {
    parts.iter().for_each(|part| out.push_str(part));
    out.push('\n');
}

/// Label sets already in use, up to a number.
struct Ceiling<L> {
    known: Mutex<HashSet<L>>,
    limit: usize,
}

impl<L: Clone + Eq + Hash + EncodeLabelSet> Ceiling<L> {
    fn new(limit: usize) -> Self {
        Self {
            known: Mutex::default(),
            limit,
        }
    }

    fn admits(&self, labels: &L) -> bool {
        let mut known = self.known.lock();
        if known.contains(labels) {
            return true;
        }
        known.len() < self.limit && known.insert(labels.clone())
    }
}

/// Bucket bounds of Envoy, which dashboards of Istio expect, for milliseconds and for bytes alike.
#[derive(Clone, Copy)]
struct Buckets;

impl MetricConstructor<Histogram> for Buckets {
    fn new_metric(&self) -> Histogram {
        Histogram::new([
            0.5,
            1.0,
            5.0,
            10.0,
            25.0,
            50.0,
            100.0,
            250.0,
            500.0,
            1_000.0,
            2_500.0,
            5_000.0,
            10_000.0,
            30_000.0,
            60_000.0,
            300_000.0,
            600_000.0,
            1_800_000.0,
            3_600_000.0,
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::labels::{PairLabels, Party, Reporter, RequestProtocol, Security, ServiceNames};
    use std::sync::Arc;

    fn labels(workload: &str) -> HttpLabels {
        let party = |name: &str| {
            Arc::new(Party {
                workload: name.into(),
                ..Party::unknown()
            })
        };
        HttpLabels {
            pair: PairLabels {
                reporter: Reporter::Source,
                source: party(workload),
                destination: party("web"),
                service: Arc::new(ServiceNames::named("web")),
                protocol: RequestProtocol::Http,
                security: Security::None,
                flags: "-",
            },
            code: 200,
            grpc: None,
        }
    }

    #[test]
    fn series_above_the_ceiling_go_to_one_that_says_so() {
        let mut registry = Registry::default();
        let families = TrafficFamilies::register(&mut registry, 3);
        for i in 0..100 {
            families.http(&labels(&format!("w{i}"))).requests.inc();
            families.http(&labels("w0")).requests.inc();
        }
        let text = encode(&registry);
        let series: Vec<_> = text
            .lines()
            .filter(|l| l.starts_with("istio_requests_total{"))
            .collect();
        assert_eq!(series.len(), 4, "{series:#?}");
        let overflow = series
            .iter()
            .find(|l| l.contains("source_workload=\"overflow\""))
            .unwrap();
        assert!(overflow.ends_with(" 97"), "{overflow}");
    }
}
