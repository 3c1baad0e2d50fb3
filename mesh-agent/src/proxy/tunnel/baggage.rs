//! The `baggage` header of HBONE: names of the workload at the other end, for telemetry only, never for policy.
//!
//! Comma-joined `key=value` without spaces, escapes or properties, empty values omitted, in ztunnel's order.

use mesh_core::model::workload::Workload;
use std::sync::Arc;

/// Longest value that is kept; Kubernetes names have at most 253 bytes.
const MAX_VALUE: usize = 253;

/// Names of one end of a tunnel. Empty strings are absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Baggage {
    /// `k8s.cluster.name`.
    pub cluster: Arc<str>,
    /// `k8s.namespace.name`.
    pub namespace: Arc<str>,
    /// Kind of the owner, `deployment`, `cronjob`, `pod` or `job`: the middle of `k8s.deployment.name`.
    pub workload_kind: Arc<str>,
    /// Name of the owner.
    pub workload: Arc<str>,
    /// `service.name`: canonical service.
    pub service: Arc<str>,
    /// `service.version`: canonical revision.
    pub revision: Arc<str>,
    /// `cloud.region`.
    pub region: Arc<str>,
    /// `cloud.availability_zone`.
    pub zone: Arc<str>,
}

impl Baggage {
    /// Baggage of a pod in `cluster`. Kinds that the format has no key for (e.g. `statefulset`) go as
    /// `deployment`, as Istio's workload types do.
    #[must_use]
    pub fn of(workload: &Workload, cluster: &Arc<str>) -> Self {
        let kind = match &*workload.names.kind {
            "cronjob" | "pod" | "job" => Arc::clone(&workload.names.kind),
            _ => Arc::from("deployment"),
        };
        Self {
            cluster: Arc::clone(cluster),
            namespace: Arc::clone(&workload.pod.namespace),
            workload_kind: kind,
            workload: Arc::clone(&workload.names.workload),
            service: Arc::clone(&workload.names.canonical_service),
            revision: Arc::clone(&workload.names.canonical_revision),
            region: Arc::default(),
            zone: Arc::default(),
        }
    }

    /// The header's value. A value that the format cannot carry is left out.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut out = String::with_capacity(192);
        let mut put = |key: &[&str], value: &str| {
            if value.is_empty() || value.len() > MAX_VALUE || !value.bytes().all(carried) {
                return;
            }
            if !out.is_empty() {
                out.push(',');
            }
            key.iter().for_each(|part| out.push_str(part));
            out.push('=');
            out.push_str(value);
        };
        put(&["k8s.cluster.name"], &self.cluster);
        put(&["k8s.namespace.name"], &self.namespace);
        if !self.workload_kind.is_empty() {
            put(&["k8s.", &self.workload_kind, ".name"], &self.workload);
        }
        put(&["service.name"], &self.service);
        put(&["service.version"], &self.revision);
        put(&["cloud.region"], &self.region);
        put(&["cloud.availability_zone"], &self.zone);
        out
    }

    /// Reads a header's value. Unknown keys are ignored and nothing is trimmed, as ztunnel; over-long values and
    /// those with characters that no name has are dropped, because they end up in metrics and logs.
    #[must_use]
    pub fn parse(value: &str) -> Self {
        let mut baggage = Self::default();
        for (key, value) in value.split(',').filter_map(|pair| pair.split_once('=')) {
            if value.is_empty() || value.len() > MAX_VALUE || !value.bytes().all(carried) {
                continue;
            }
            let slot = match key {
                "k8s.cluster.name" => &mut baggage.cluster,
                "k8s.namespace.name" => &mut baggage.namespace,
                "service.name" => &mut baggage.service,
                "service.version" => &mut baggage.revision,
                "cloud.region" => &mut baggage.region,
                "cloud.availability_zone" => &mut baggage.zone,
                "k8s.deployment.name" | "k8s.cronjob.name" | "k8s.pod.name" | "k8s.job.name" => {
                    baggage.workload_kind = Arc::from(&key[4..key.len() - 5]);
                    &mut baggage.workload
                }
                _ => continue,
            };
            *slot = Arc::from(value);
        }
        baggage
    }
}

/// Printable ASCII without the format's own separators.
fn carried(byte: u8) -> bool {
    byte.is_ascii_graphic() && !b",;=\"\\".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = "k8s.cluster.name=Kubernetes,k8s.namespace.name=weather,k8s.deployment.name=forecast-v1,\
                          service.name=forecast,service.version=v1,cloud.region=eu,cloud.availability_zone=eu-a";

    #[test]
    fn baggage_survives_a_round_trip_in_ztunnels_order() {
        assert_eq!(Baggage::parse(SAMPLE).encode(), SAMPLE);
        let job = "k8s.namespace.name=a,k8s.cronjob.name=nightly";
        assert_eq!(Baggage::parse(job).encode(), job);
        assert_eq!(&*Baggage::parse(job).workload_kind, "cronjob");
        assert_eq!(Baggage::default().encode(), "");
    }

    #[test]
    fn baggage_ignores_what_it_does_not_know_and_drops_what_no_name_has() {
        let parsed =
            Baggage::parse("x=y,service.name=,service.version=a b,k8s.namespace.name=ok,=,,k8s.pod.name");
        assert_eq!(
            parsed,
            Baggage {
                namespace: "ok".into(),
                ..Baggage::default()
            }
        );
        let long = format!("service.name={}", "x".repeat(254));
        assert_eq!(Baggage::parse(&long), Baggage::default());
    }

    #[test]
    fn baggage_never_sends_a_value_that_would_break_the_header() {
        let bad = Baggage {
            service: "a,b=c".into(),
            revision: "a\r\nb".into(),
            ..Baggage::default()
        };
        assert_eq!(bad.encode(), "");
    }
}
