//! The controller's own metrics.

use crate::source::kube::SourceFigures;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// One label; its values are a bounded set.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Code {
    code: &'static str,
}

/// One label; its values are a bounded set.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Kind {
    kind: &'static str,
}

/// One label; its values are a bounded set.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Outcome {
    result: &'static str,
}

/// Every family, registered once.
pub struct Metrics {
    registry: Registry,
    /// 1 while this replica is the leader.
    pub leader: Gauge,
    certificates: Family<Code, Counter>,
    /// `notAfter` of the signing certificate, seconds since the Unix epoch; 0 without one.
    pub ca_not_after: Gauge,
    /// WorkloadTemplates in the cluster.
    pub templates: Gauge,
    /// WorkloadTemplates that wait to be written.
    pub templates_pending: Gauge,
    writes: Family<Outcome, Counter>,
    status_writes: Family<Outcome, Counter>,
    gateway_writes: Family<Outcome, Counter>,
    /// What the watches behind statuses tell of themselves.
    pub source: SourceFigures,
    watches: Family<Kind, Gauge>,
    watch_errors: Family<Kind, Counter>,
    webhook: Family<Outcome, Counter>,
    /// Objects that are refused now.
    pub refused_objects: Gauge,
    /// 1 if the API server could not be told to trust the webhook.
    pub webhook_unregistered: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::default();
        let leader = Gauge::default();
        let certificates = Family::default();
        let ca_not_after = Gauge::default();
        let templates = Gauge::default();
        let templates_pending = Gauge::default();
        let writes = Family::default();
        let status_writes = Family::default();
        let gateway_writes = Family::default();
        let watches = Family::default();
        let watch_errors = Family::default();
        let webhook = Family::default();
        let refused_objects = Gauge::default();
        let webhook_unregistered = Gauge::default();
        let mut gauge =
            |name: &str, help: &str, metric: &Gauge| registry.register(name, help, metric.clone());
        gauge(
            "heddle_controller_leader",
            "Whether this replica is the leader",
            &leader,
        );
        gauge(
            "heddle_ca_not_after_seconds",
            "End of the signing certificate, seconds since the Unix epoch",
            &ca_not_after,
        );
        gauge(
            "heddle_controller_templates",
            "WorkloadTemplates in the cluster",
            &templates,
        );
        gauge(
            "heddle_controller_templates_pending",
            "WorkloadTemplates that wait to be written",
            &templates_pending,
        );
        gauge(
            "heddle_controller_refused_objects",
            "Objects of the mesh that are refused",
            &refused_objects,
        );
        gauge(
            "heddle_webhook_unregistered",
            "Whether the API server could not be told to trust the validating webhook",
            &webhook_unregistered,
        );
        registry.register(
            "heddle_ca_certificates",
            "Answers of the certificate service by gRPC code",
            Family::clone(&certificates),
        );
        registry.register(
            "heddle_controller_template_writes",
            "Writes of WorkloadTemplates by result",
            Family::clone(&writes),
        );
        registry.register(
            "heddle_controller_status_writes",
            "Writes of statuses by result",
            Family::clone(&status_writes),
        );
        registry.register(
            "heddle_controller_gateway_writes",
            "Writes of objects that Gateways are made of by result",
            Family::clone(&gateway_writes),
        );
        registry.register(
            "heddle_controller_watch_up",
            "Whether the watch of a kind is established",
            Family::clone(&watches),
        );
        registry.register(
            "heddle_controller_watch_errors",
            "Errors of the watch of a kind",
            Family::clone(&watch_errors),
        );
        registry.register(
            "heddle_webhook_decisions",
            "Decisions of the validating webhook",
            Family::clone(&webhook),
        );
        let source = SourceFigures::register(&mut registry);
        Self {
            registry,
            leader,
            certificates,
            ca_not_after,
            templates,
            templates_pending,
            writes,
            status_writes,
            gateway_writes,
            source,
            watches,
            watch_errors,
            webhook,
            refused_objects,
            webhook_unregistered,
        }
    }
}

impl Metrics {
    /// One answer of the certificate service.
    pub fn answered(&self, code: &'static str) {
        self.certificates.get_or_create(&Code { code }).inc();
    }

    /// One write of a template: `applied`, `deleted`, `error`.
    pub fn wrote(&self, result: &'static str) {
        self.writes.get_or_create(&Outcome { result }).inc();
    }

    /// One write of a status: `written`, `superseded`, `error`.
    pub fn status_written(&self, result: &'static str) {
        self.status_writes.get_or_create(&Outcome { result }).inc();
    }

    /// One write of an object that a Gateway is made of: `written` or `error`.
    pub fn gateway_written(&self, well: bool) {
        let result = if well { "written" } else { "error" };
        self.gateway_writes.get_or_create(&Outcome { result }).inc();
    }

    /// One decision of the webhook: `allowed`, `denied`, `error`.
    pub fn reviewed(&self, result: &'static str) {
        self.webhook.get_or_create(&Outcome { result }).inc();
    }

    /// State of a watch.
    pub fn watch(&self, kind: &'static str, up: bool) {
        self.watches.get_or_create(&Kind { kind }).set(i64::from(up));
        if !up {
            self.watch_errors.get_or_create(&Kind { kind }).inc();
        }
    }

    /// The text exposition, format 0.0.4 of Prometheus.
    #[must_use]
    pub fn encode(&self) -> String {
        crate::telemetry::metrics::encode(&self.registry)
    }
}
