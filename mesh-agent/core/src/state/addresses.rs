//! Who has an address, where several claim it.

use super::pods::Known;
use crate::model::ObjectName;
use crate::model::workload::Workload;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

/// Claims on addresses, sorted.
pub(super) struct Claims {
    claims: BTreeSet<(IpAddr, ObjectName)>,
    /// Sorts before every name.
    least: ObjectName,
}

impl Default for Claims {
    fn default() -> Self {
        Self {
            claims: BTreeSet::new(),
            least: ObjectName::new("", ""),
        }
    }
}

impl Claims {
    pub(super) fn add(&mut self, ip: IpAddr, who: &ObjectName) {
        self.claims.insert((ip, who.clone()));
    }

    pub(super) fn remove(&mut self, ip: IpAddr, who: &ObjectName) {
        self.claims.remove(&(ip, who.clone()));
    }

    /// Who claims an address, by name.
    pub(super) fn of(&self, ip: IpAddr) -> impl Iterator<Item = &ObjectName> {
        self.claims
            .range((ip, self.least.clone())..)
            .take_while(move |(claimed, _)| *claimed == ip)
            .map(|(_, who)| who)
    }
}

/// Which pod has an address: one whose own object says so rather than one that an EndpointSlice names, one that runs
/// rather than one that has stopped being ready, the first by name.
pub(super) fn holder<'a>(
    claims: &'a Claims,
    known: &'a BTreeMap<ObjectName, Known>,
    ip: IpAddr,
) -> Option<&'a Arc<Workload>> {
    let mut best: Option<&Known> = None;
    for claim in claims.of(ip).filter_map(|who| known.get(who)) {
        let rank = |k: &Known| (k.full, k.workload().is_some_and(|w| w.ready));
        if best.is_none_or(|best| rank(claim) > rank(best)) {
            best = Some(claim);
        }
    }
    best?.workload()
}
