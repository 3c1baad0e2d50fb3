//! The data path's figures as metrics: read from the maps at a scrape, handed to the registry through a collector.

use super::control::World;
use crate::ca::CertificateState;
use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use std::fmt;
use std::sync::Arc;

/// One look at the data path.
#[derive(Debug, Default)]
struct Figures {
    decisions: Vec<(&'static str, u64)>,
    maps: Vec<(&'static str, i64, i64)>,
    certificates: Vec<(&'static str, i64)>,
    captured_pods: i64,
    config_problems: i64,
    held_out_pods: i64,
    snapshot_version: i64,
}

/// Registered once; refreshed before each scrape, because the maps belong to the control thread.
#[derive(Debug, Default)]
pub struct DatapathCollector {
    figures: Mutex<Figures>,
}

impl DatapathCollector {
    /// A collector without figures yet.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Reads the figures.
    pub fn refresh(&self, world: &World) {
        let node = &world.node;
        let snapshot = world.snapshots.load();
        let signed = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        let captured = snapshot
            .workloads
            .iter()
            .filter(|workload| node.captured(workload.id).is_some())
            .count();
        *self.figures.lock() = Figures {
            decisions: node
                .datapath()
                .decisions()
                .into_iter()
                .map(|(reason, n)| (reason.name(), n))
                .collect(),
            maps: node
                .datapath()
                .usage(node.plan())
                .into_iter()
                .map(|map| (map.name, signed(map.entries), i64::from(map.max)))
                .collect(),
            certificates: certificates(world.certificates.list().iter().map(|one| one.state)),
            captured_pods: signed(captured),
            config_problems: signed(world.problems.len()),
            held_out_pods: signed(snapshot.held_out),
            snapshot_version: i64::try_from(snapshot.version).unwrap_or(i64::MAX),
        };
    }
}

impl Collector for DatapathCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let figures = self.figures.lock();
        let decisions = figures
            .decisions
            .iter()
            .map(|(reason, n)| ([("reason", *reason)], ConstCounter::new(*n)));
        family(
            &mut encoder,
            "heddle_bpf_decisions",
            "Decisions of the kernel hooks by reason",
            decisions,
        )?;
        let entries = figures
            .maps
            .iter()
            .map(|(map, entries, _)| ([("map", *map)], ConstGauge::new(*entries)));
        family(
            &mut encoder,
            "heddle_bpf_map_entries",
            "Entries of a BPF map",
            entries,
        )?;
        let max = figures
            .maps
            .iter()
            .map(|(map, _, max)| ([("map", *map)], ConstGauge::new(*max)));
        family(
            &mut encoder,
            "heddle_bpf_map_max_entries",
            "Entries that a BPF map can hold",
            max,
        )?;
        let certificates = figures
            .certificates
            .iter()
            .map(|(state, count)| ([("state", *state)], ConstGauge::new(*count)));
        family(
            &mut encoder,
            "heddle_agent_certificates",
            "Certificates of this node's identities by stage of their life",
            certificates,
        )?;
        let mut gauge = |name, help, value| {
            let metric = ConstGauge::<i64>::new(value);
            metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)
        };
        gauge(
            "heddle_agent_captured_pods",
            "Pods of this node whose connections are captured",
            figures.captured_pods,
        )?;
        gauge(
            "heddle_agent_config_problems",
            "Objects that are not in force as written",
            figures.config_problems,
        )?;
        gauge(
            "heddle_agent_held_out_pods",
            "Pods of other nodes that nobody is sent to, because who they are is not known",
            figures.held_out_pods,
        )?;
        gauge(
            "heddle_agent_snapshot_version",
            "Version of the snapshot in force",
            figures.snapshot_version,
        )
    }
}

/// How many certificates are in each stage. Every stage is there, so that an alert on one has a series from the start.
fn certificates(states: impl Iterator<Item = CertificateState>) -> Vec<(&'static str, i64)> {
    let mut counts = [
        (CertificateState::Valid, "valid", 0),
        (CertificateState::RenewalDue, "renewal_due", 0),
        (CertificateState::RenewalOverdue, "renewal_overdue", 0),
        (CertificateState::Expired, "expired", 0),
        (CertificateState::Missing, "missing", 0),
    ];
    for state in states {
        for row in counts.iter_mut().filter(|row| row.0 == state) {
            row.2 += 1;
        }
    }
    counts.into_iter().map(|(_, name, count)| (name, count)).collect()
}

fn family<M: EncodeMetric>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    series: impl Iterator<Item = ([(&'static str, &'static str); 1], M)>,
) -> fmt::Result {
    let mut series = series.peekable();
    let Some((_, first)) = series.peek() else {
        return Ok(());
    };
    let mut family = encoder.encode_descriptor(name, help, None, first.metric_type())?;
    for (labels, metric) in series {
        metric.encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_are_counted_by_stage_and_every_stage_has_a_series() {
        let counts = certificates(
            [
                CertificateState::Valid,
                CertificateState::Expired,
                CertificateState::Valid,
            ]
            .into_iter(),
        );
        assert_eq!(
            counts,
            [
                ("valid", 2),
                ("renewal_due", 0),
                ("renewal_overdue", 0),
                ("expired", 1),
                ("missing", 0)
            ]
        );
    }
}
