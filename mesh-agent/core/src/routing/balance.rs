//! Which endpoint takes a request.
//!
//! A [`Balancer`] is what a list of endpoints and a policy come to for clients of one place. It is built once and shared;
//! what changes from request to request (draws, loads, ejections, ages) is an argument.

mod hash;
mod locality;
mod pick;
#[cfg(test)]
mod tests;

pub(super) use hash::cookie_value;
pub use hash::{Affinity, affinity};
pub use locality::Place;
pub use pick::{Choice, PickDraws, pick_endpoint};

use crate::model::service::{Distribution, Endpoint};
use crate::model::snapshot::Snapshot;
use crate::model::traffic::{Algorithm, HashTable, Simple, TrafficPolicy};
use hash::Table;
use locality::Level;
use std::sync::{Arc, OnceLock};

/// See the module's description.
pub struct Balancer {
    endpoints: Arc<[Arc<Endpoint>]>,
    policy: Arc<TrafficPolicy>,
    /// Best first; a level takes what those before cannot.
    levels: Vec<Level>,
    /// Whether an endpoint has another weight than others.
    weighted: bool,
}

/// A part of a level: endpoints that share a weight.
struct Group {
    /// Share among the groups of its level.
    weight: u32,
    /// Indexes into the endpoints.
    members: Vec<usize>,
    /// Made when a hash is first looked up.
    table: OnceLock<Table>,
}

impl Group {
    fn new(weight: u32, members: Vec<usize>) -> Self {
        Self {
            weight,
            members,
            table: OnceLock::new(),
        }
    }
}

impl Balancer {
    /// For clients at `place` that dial addresses of one family: those of the other count only where there is none of it.
    #[must_use]
    pub fn new(
        snapshot: &Snapshot,
        endpoints: &Arc<[Arc<Endpoint>]>,
        policy: &Arc<TrafficPolicy>,
        distribution: Distribution,
        place: &Place<'_>,
        prefer_v6: bool,
    ) -> Self {
        let mut members: Vec<usize> = (0..endpoints.len())
            .filter(|i| endpoints[*i].addr.is_ipv6() == prefer_v6)
            .collect();
        if members.is_empty() {
            members = (0..endpoints.len()).collect();
        }
        Self {
            levels: locality::levels(snapshot, endpoints, members, policy, distribution, place),
            weighted: endpoints.windows(2).any(|pair| pair[0].weight != pair[1].weight),
            endpoints: Arc::clone(endpoints),
            policy: Arc::clone(policy),
        }
    }

    /// The endpoints that indexes of [`Balancer::pick`] mean.
    #[must_use]
    pub const fn endpoints(&self) -> &Arc<[Arc<Endpoint>]> {
        &self.endpoints
    }

    /// The policy that it was built for.
    #[must_use]
    pub const fn policy(&self) -> &Arc<TrafficPolicy> {
        &self.policy
    }

    /// Whether a policy, or a service, asks for more than [`pick_endpoint`] does over the whole list.
    #[must_use]
    pub fn needed(policy: &TrafficPolicy, distribution: Distribution, weighted: bool) -> bool {
        let balancing = &policy.load_balancer;
        let plain = matches!(balancing.algorithm, Algorithm::Simple(Simple::LeastRequest))
            && balancing.warmup.is_none()
            && balancing
                .locality
                .as_ref()
                .is_none_or(|l| l.distribute.is_empty())
            && policy.outlier_detection.is_none();
        !plain || weighted || distribution != Distribution::Any
    }

    /// Picks an endpoint; `None` if every one of them is ejected (503 `UH`, T-36).
    #[must_use]
    pub fn pick(&self, choice: &Choice<'_>) -> Option<usize> {
        let healthy = |i: &usize| !(choice.ejected)(&self.endpoints[*i]);
        let all = self
            .levels
            .iter()
            .flat_map(|l| &l.groups)
            .map(|g| g.members.len())
            .sum::<usize>();
        let up = || self.members().filter(|i| healthy(i)).count();
        // With too few healthy endpoints, ejections do not count: better a slow answer than none.
        let panic = match &self.policy.outlier_detection {
            Some(o) if o.min_health_percent > 0 => up() * 100 < all * o.min_health_percent as usize,
            _ => false,
        };
        let healthy = |i: &usize| panic || healthy(i);
        let level = locality::choose_level(&self.levels, &healthy, choice.draws.locality)?;
        let group = level.choose_group(&healthy, choice.draws.locality)?;
        match (&self.policy.load_balancer.algorithm, choice.hash) {
            (Algorithm::Hash(hash), Some(key)) => {
                let table = group.table.get_or_init(|| match hash.table {
                    HashTable::Ring(size) => Table::ring(&self.endpoints, &group.members, size),
                    HashTable::Maglev(size) => Table::maglev(&self.endpoints, &group.members, size),
                });
                table.find(key, &healthy)
            }
            (algorithm, _) => pick::among(self, group, algorithm, choice, &healthy),
        }
    }

    fn members(&self) -> impl Iterator<Item = usize> {
        self.levels
            .iter()
            .flat_map(|l| &l.groups)
            .flat_map(|g| g.members.iter().copied())
    }
}
