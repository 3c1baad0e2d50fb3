//! Where requests go by where endpoints are: levels for failover, weights for distribution.
//!
//! Levels and weights are those of pilot's `loadbalancer` package. How much of a level's share goes on to the next one
//! while some of it is ejected is Envoy's rule with its overprovisioning factor of 1.4.

use super::Group;
use crate::model::locality::{HOSTNAME, Locality, REGION, SUBZONE, ZONE};
use crate::model::service::{Distribution, Endpoint};
use crate::model::snapshot::Snapshot;
use crate::model::traffic::{Distribute, Failover, FailoverLabel, LocalitySetting, TrafficPolicy};
use crate::model::workload::Workload;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Where a client is.
pub struct Place<'a> {
    /// Its node, and what it says.
    pub locality: Arc<Locality>,
    /// The client.
    pub client: Option<&'a Workload>,
}

/// Endpoints of one priority.
pub(super) struct Level {
    pub(super) groups: Vec<Group>,
}

/// Sorts endpoints by what the policy, or the service, asks for.
pub(super) fn levels(
    snapshot: &Snapshot,
    endpoints: &[Arc<Endpoint>],
    members: Vec<usize>,
    policy: &TrafficPolicy,
    distribution: Distribution,
    place: &Place<'_>,
) -> Vec<Level> {
    let setting = policy.load_balancer.locality.as_ref();
    let all = |members| {
        vec![Level {
            groups: vec![Group::new(1, members)],
        }]
    };
    let of = |i: &usize| match &endpoints[*i].workload {
        Some(workload) => snapshot.locality(workload),
        None => Arc::default(),
    };
    if let Some(setting) = setting {
        if setting.disabled {
            return all(members);
        }
        let from = |d: &&Distribute| d.from.covers(place.locality.parts());
        if let Some(rule) = setting.distribute.iter().find(from) {
            return distributed(rule, &members, &of);
        }
        if !setting.distribute.is_empty() {
            return all(members);
        }
    }
    let by_labels = |labels: &[FailoverLabel]| {
        let own = labels_of(place.client, &place.locality);
        by_rank(members.clone(), |i| {
            let locality = of(i);
            let theirs = labels_of(endpoints[*i].workload.as_deref(), &locality);
            rank(labels, &own, &theirs)
        })
    };
    match setting {
        // A service's own wish counts where no rule says anything, whether or not outliers are detected.
        None if distribution != Distribution::Any => by_labels(&preferred(distribution)),
        // T-35: nothing fails over where nothing is ejected.
        _ if policy.outlier_detection.is_none() => all(members),
        Some(setting) if !setting.priority.is_empty() => by_labels(&setting.priority),
        _ if place.locality.region.is_empty() => all(members),
        setting => by_rank(members, |i| failover_rank(setting, &place.locality, &of(i))),
    }
}

fn by_rank(members: Vec<usize>, rank: impl Fn(&usize) -> u32) -> Vec<Level> {
    let mut ranked: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    for member in members {
        ranked.entry(rank(&member)).or_default().push(member);
    }
    let level = |members| Level {
        groups: vec![Group::new(1, members)],
    };
    ranked.into_values().map(level).collect()
}

/// 0 to 4: the same subzone, zone, region, the region to fail over to, the rest.
fn failover_rank(setting: Option<&LocalitySetting>, own: &Locality, theirs: &Locality) -> u32 {
    let distance = own.distance(theirs);
    if distance < 3 {
        return distance;
    }
    let failovers = setting.map_or(&[][..], |s| &s.failover);
    let to = |f: &&Failover| f.from == own.region;
    match failovers.iter().find(to) {
        Some(failover) if failover.to != theirs.region => 4,
        _ => 3,
    }
}

/// The fewer labels from the front are the same, the later (pilot `applyFailoverPriorities`).
fn rank(labels: &[FailoverLabel], own: &BTreeMap<&str, &str>, theirs: &BTreeMap<&str, &str>) -> u32 {
    let value = |of: &BTreeMap<&str, &str>, name: &str| of.get(name).copied().unwrap_or_default().to_owned();
    let same = labels.iter().take_while(|label| {
        let wanted = match &label.value {
            Some(value) => value.to_string(),
            None => value(own, &label.name),
        };
        wanted == value(theirs, &label.name)
    });
    u32::try_from(labels.len() - same.count()).unwrap_or(u32::MAX)
}

fn labels_of<'a>(workload: Option<&'a Workload>, locality: &'a Locality) -> BTreeMap<&'a str, &'a str> {
    let mut labels: BTreeMap<&str, &str> = BTreeMap::new();
    if let Some(workload) = workload {
        labels.extend(workload.labels.iter().map(|(k, v)| (&**k, &**v)));
        labels.insert(HOSTNAME, &workload.node);
    }
    labels.insert(REGION, &locality.region);
    labels.insert(ZONE, &locality.zone);
    labels.insert(SUBZONE, &locality.subzone);
    labels
}

/// What `trafficDistribution` comes to as labels.
fn preferred(distribution: Distribution) -> Vec<FailoverLabel> {
    let names: &[&str] = match distribution {
        Distribution::Any => &[],
        Distribution::SameZone => &[REGION, ZONE],
        Distribution::SameNode => &[REGION, ZONE, HOSTNAME],
    };
    let label = |name: &&str| FailoverLabel {
        name: (*name).into(),
        value: None,
    };
    names.iter().map(label).collect()
}

/// One level; each place gets its weight, however many endpoints are there. What is not named gets nothing.
fn distributed(rule: &Distribute, members: &[usize], of: &dyn Fn(&usize) -> Arc<Locality>) -> Vec<Level> {
    let groups = rule.to.iter().map(|(pattern, weight)| {
        // The first pattern that covers a place has it.
        let first = |i: &&usize| {
            let locality = of(i);
            let covering = rule.to.iter().find(|(p, _)| p.covers(locality.parts()));
            covering.is_some_and(|(p, _)| p == pattern)
        };
        Group::new(*weight, members.iter().filter(first).copied().collect())
    });
    vec![Level {
        groups: groups.filter(|g| !g.members.is_empty()).collect(),
    }]
}

/// Hundredths of its load that a set can take with these of its members up.
fn capacity(members: &[usize], healthy: &dyn Fn(&usize) -> bool) -> u64 {
    let up = members.iter().filter(|i| healthy(i)).count();
    let share = (up * OVERPROVISIONING).checked_div(members.len()).unwrap_or(0);
    share.min(100) as u64
}

/// The level that takes a request.
pub(super) fn choose_level<'a>(
    levels: &'a [Level],
    healthy: &dyn Fn(&usize) -> bool,
    random: u32,
) -> Option<&'a Level> {
    if let [only] = levels {
        return Some(only);
    }
    let mut left = 100;
    let mut shares = Vec::with_capacity(levels.len());
    for level in levels {
        let all: Vec<usize> = level
            .groups
            .iter()
            .flat_map(|g| g.members.iter().copied())
            .collect();
        let share = capacity(&all, healthy).min(left);
        left -= share;
        shares.push(share);
    }
    drawn(levels, &shares, random)
}

impl Level {
    /// The group that takes a request.
    pub(super) fn choose_group(&self, healthy: &dyn Fn(&usize) -> bool, random: u32) -> Option<&Group> {
        if let [only] = self.groups.as_slice() {
            return Some(only);
        }
        let share = |g: &Group| u64::from(g.weight) * capacity(&g.members, healthy);
        let shares: Vec<u64> = self.groups.iter().map(share).collect();
        drawn(&self.groups, &shares, random.rotate_left(16))
    }
}

/// The item that a draw (uniform over all of `u32`) falls on; `None` if all shares are 0.
pub(super) fn drawn<'a, T>(items: &'a [T], shares: &[u64], random: u32) -> Option<&'a T> {
    let total: u128 = shares.iter().copied().map(u128::from).sum();
    let mut left = (u128::from(random) * total) >> u32::BITS;
    let falls = |(_, share): &(&T, &u64)| {
        let share = u128::from(**share);
        let falls = left < share;
        left = left.saturating_sub(share);
        falls
    };
    items.iter().zip(shares).find(falls).map(|(item, _)| item)
}

const OVERPROVISIONING: usize = 140;
