//! Rules that apply to one service → its subsets and policies.

use super::Named;
use crate::model::ObjectName;
use crate::model::route::{HostSubsets, Subset};
use crate::model::service::{Endpoint, Service};
use crate::model::traffic::{ClientTls, PolicySpec, TrafficPolicy};
use std::sync::Arc;

/// Rules of one namespace that the same clients see are one: of a subset that is there twice the older stays, and the
/// oldest policy that says anything is the policy of all (T-29).
pub(super) fn merged(
    service: &Service,
    rules: &[Named<'_>],
    old: &[HostSubsets],
    tls: &[Option<ClientTls>],
) -> Vec<HostSubsets> {
    let mut groups: Vec<Vec<Named<'_>>> = Vec::new();
    for (name, rule) in rules {
        let same = |group: &Vec<Named<'_>>| {
            group.first().is_some_and(|(n, r)| {
                n.namespace == name.namespace && r.export_to == rule.export_to && r.selector == rule.selector
            })
        };
        match groups.iter_mut().find(|group| same(group)) {
            Some(group) => group.push((name, rule)),
            None => groups.push(vec![(name, rule)]),
        }
    }
    groups
        .iter()
        .filter_map(|group| host(service, group, old, tls))
        .collect()
}

fn host(
    service: &Service,
    group: &[Named<'_>],
    old: &[HostSubsets],
    tls: &[Option<ClientTls>],
) -> Option<HostSubsets> {
    let (first_name, first) = group.first()?;
    let before = old.iter().find(|o| {
        o.namespace == first_name.namespace && o.export_to == first.export_to && o.selector == first.selector
    });
    let whole = group.iter().find(|(_, rule)| !rule.policy.is_empty());
    let mut subsets: Vec<Subset> = Vec::new();
    for (name, rule) in group {
        for spec in &rule.subsets {
            if subsets.iter().any(|s| s.name == spec.name) {
                continue;
            }
            let known = before.and_then(|b| b.subset(&spec.name));
            let of_subset = (!spec.policy.is_empty()).then_some((*name, &spec.policy));
            subsets.push(Subset {
                name: Arc::clone(&spec.name),
                labels: Arc::clone(&spec.labels),
                object: (*name).clone(),
                endpoints: endpoints(service, spec.labels.as_ref(), known),
                policies: policies(
                    service,
                    whole
                        .map(|(name, rule)| (*name, &rule.policy))
                        .into_iter()
                        .chain(of_subset),
                    known.map_or(&[][..], |k| &k.policies),
                    tls,
                ),
            });
        }
    }
    Some(HostSubsets {
        namespace: Arc::clone(&first_name.namespace),
        export_to: first.export_to.clone(),
        selector: first.selector.clone(),
        subsets,
        policies: policies(
            service,
            whole.map(|(name, rule)| (*name, &rule.policy)).into_iter(),
            before.map_or(&[][..], |b| &b.policies),
            tls,
        ),
    })
}

/// The policy of each port, `tls` being what BackendTLSPolicies say of it. What is the same as before keeps its allocation:
/// what is built from a policy is kept by it.
pub(super) fn policies<'a>(
    service: &Service,
    levels: impl Iterator<Item = (&'a ObjectName, &'a PolicySpec)>,
    old: &[Arc<TrafficPolicy>],
    tls: &[Option<ClientTls>],
) -> Vec<Arc<TrafficPolicy>> {
    let (names, levels): (Vec<_>, Vec<_>) = levels.unzip();
    let mut names: Vec<ObjectName> = names.into_iter().cloned().collect();
    names.dedup();
    let mut policies: Vec<Arc<TrafficPolicy>> = Vec::with_capacity(service.ports.len());
    for (place, port) in service.ports.iter().enumerate() {
        let asked = tls.get(place).and_then(Option::as_ref);
        if levels.is_empty() && asked.is_none() {
            policies.push(TrafficPolicy::mesh_default());
            continue;
        }
        let mut new = TrafficPolicy::merged(&levels, port.number, names.clone());
        if let (Some(tls), Some(external)) = (&mut new.tls, &service.external)
            && tls.subject_alt_names.is_empty()
        {
            tls.subject_alt_names.clone_from(&external.subject_alt_names);
        }
        if asked.is_some() {
            new.tls = asked.cloned();
        }
        let kept = old.iter().chain(&policies).find(|known| ***known == new);
        let policy = kept.map_or_else(|| Arc::new(new), Arc::clone);
        policies.push(policy);
    }
    policies
}

/// The endpoints that have the labels, of each port. A list that is the same as before keeps its allocation.
fn endpoints(
    service: &Service,
    labels: &std::collections::BTreeMap<Arc<str>, Arc<str>>,
    known: Option<&Subset>,
) -> Vec<Arc<[Arc<Endpoint>]>> {
    let matching = |e: &Arc<Endpoint>| {
        e.workload
            .as_ref()
            .is_some_and(|w| labels.iter().all(|(k, v)| w.labels.get(k) == Some(v)))
    };
    let of_port = |(place, all): (usize, &Arc<[Arc<Endpoint>]>)| {
        if labels.is_empty() {
            return Arc::clone(all);
        }
        let found: Vec<_> = all.iter().filter(|e| matching(e)).cloned().collect();
        match known.and_then(|k| k.endpoints.get(place)) {
            Some(old) if **old == *found => Arc::clone(old),
            _ => found.into(),
        }
    };
    let lists = service.ports.iter().map(|p| &p.endpoints);
    lists.enumerate().map(of_port).collect()
}
