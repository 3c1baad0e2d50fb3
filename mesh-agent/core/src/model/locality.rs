//! Where pods run.

use std::collections::BTreeMap;
use std::sync::Arc;

/// Region, zone and subzone; empty where not known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Locality {
    /// `topology.kubernetes.io/region` of the node.
    pub region: Arc<str>,
    /// `topology.kubernetes.io/zone` of the node.
    pub zone: Arc<str>,
    /// `topology.istio.io/subzone` of the node.
    pub subzone: Arc<str>,
}

/// Label of a node: its region.
pub const REGION: &str = "topology.kubernetes.io/region";
/// Label of a node: its zone.
pub const ZONE: &str = "topology.kubernetes.io/zone";
/// Label of a node: its subzone.
pub const SUBZONE: &str = "topology.istio.io/subzone";
/// Label of a workload that says where it is, whatever its node says: `region.zone.subzone`, or with slashes, where a
/// name may have dots (pilot `GetLocalityLabel`).
pub const OF_WORKLOAD: &str = "istio-locality";
/// Label of a node: its name.
pub const HOSTNAME: &str = "kubernetes.io/hostname";

impl Locality {
    /// What a node's labels say, the old names of the labels included.
    #[must_use]
    pub fn of_node(labels: &BTreeMap<Arc<str>, Arc<str>>) -> Self {
        let label = |names: [&str; 2]| {
            let found = names.iter().find_map(|name| labels.get(*name));
            found.cloned().unwrap_or_default()
        };
        Self {
            region: label([REGION, "failure-domain.beta.kubernetes.io/region"]),
            zone: label([ZONE, "failure-domain.beta.kubernetes.io/zone"]),
            subzone: label([SUBZONE, SUBZONE]),
        }
    }

    /// What a workload's own label says, if it has one.
    #[must_use]
    pub fn of_workload(labels: &BTreeMap<Arc<str>, Arc<str>>) -> Option<Self> {
        let label = labels.get(OF_WORKLOAD)?;
        let separator = if label.contains('/') { '/' } else { '.' };
        let mut parts = label.splitn(3, separator).map(Arc::<str>::from);
        let mut next = || parts.next().unwrap_or_default();
        Some(Self {
            region: next(),
            zone: next(),
            subzone: next(),
        })
    }

    /// The three parts.
    #[must_use]
    pub fn parts(&self) -> [&str; 3] {
        [&self.region, &self.zone, &self.subzone]
    }

    /// How far away something else is: 0 = the same subzone, 1 = the same zone, 2 = the same region, 3 = farther
    /// (pilot `LbPriority`).
    #[must_use]
    pub fn distance(&self, other: &Self) -> u32 {
        if self.region != other.region {
            3
        } else if self.zone != other.zone {
            2
        } else if self.subzone != other.subzone {
            1
        } else {
            0
        }
    }
}
