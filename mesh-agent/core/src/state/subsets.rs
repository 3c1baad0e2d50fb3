//! DestinationRules → subsets and policies of each service.

use super::backend_tls::{Claims, Shown};
use super::routes::warning;
use super::tables::Tables;
use super::world::Warning;
use crate::model::ObjectName;
use crate::model::route::{HostSubsets, Subset};
use crate::model::service::{Endpoint, Service};
use crate::model::snapshot::Snapshot;
use crate::model::traffic::{ClientTls, PolicySpec, TrafficPolicy};
use crate::translate::DestinationRuleSpec;
use std::collections::HashMap;
use std::sync::Arc;

type Named<'a> = (&'a ObjectName, &'a DestinationRuleSpec);

/// Fills `subsets`, `vouched` and `steered`: for each service the DestinationRules that name it, exactly or by the longest
/// wildcard (T-31), with what BackendTLSPolicies say of it.
pub(super) fn subsets(
    tables: &Tables,
    claims: &Claims,
    shown: Option<&Shown>,
    next: &mut Snapshot,
    warnings: &mut Vec<Warning>,
) {
    let mut by_age: Vec<Named<'_>> = tables.destination_rules.iter().collect();
    by_age.sort_by_key(|(name, spec)| (&spec.created, *name));
    let mut exact: HashMap<&str, Vec<Named<'_>>> = HashMap::new();
    let mut wildcards = Vec::new();
    for (name, rule) in by_age {
        match rule.host.strip_prefix('*') {
            Some(suffix) => wildcards.push((suffix, name, rule)),
            None => {
                exact.entry(&rule.host).or_default().push((name, rule));
                if next.service_by_host(&rule.host, Some(&name.namespace)).is_none() {
                    let reason = format!("host {} is no service", rule.host);
                    warnings.push(warning("DestinationRule", name, "spec.host".into(), reason));
                }
            }
        }
    }
    wildcards.sort_by_key(|(suffix, ..)| std::cmp::Reverse(suffix.len()));
    let mut filled = HashMap::new();
    let mut steered = imbl::HashSet::new();
    // Without wildcards only the services that rules name: not a walk through tens of thousands at every change of a pod.
    let concerned: Vec<&Arc<Service>> = if wildcards.is_empty() {
        let named = |host: &&str| match next.services_by_host.get(*host) {
            Some(service) => vec![service],
            None => next.registry.of_host(host).collect(),
        };
        exact.keys().flat_map(named).collect()
    } else {
        next.services.iter().collect()
    };
    for service in concerned {
        let mut rules = exact.get(&*service.host).cloned().unwrap_or_default();
        for (suffix, name, rule) in wildcards
            .iter()
            .filter(|(suffix, ..)| service.host.ends_with(suffix))
        {
            let answered = |(n, r): &Named<'_>| {
                n.namespace == name.namespace && r.host.strip_prefix('*') != Some(*suffix)
            };
            if !rules.iter().any(answered) {
                rules.push((name, rule));
            }
        }
        if rules.is_empty() {
            continue;
        }
        let old = next.subsets.get(&service.host).map_or(&[][..], Vec::as_slice);
        let tls = claims.tls(tables, service, shown);
        let merged = merged(service, &rules, old, &tls);
        steer(service, merged.iter().map(|m| &m.policies), &mut steered);
        // Of services that share a host, Kubernetes' own, else the one that everybody sees.
        if service.external.is_none() {
            filled.insert(Arc::clone(&service.host), merged);
        } else {
            filled.entry(Arc::clone(&service.host)).or_insert(merged);
        }
    }
    next.subsets = filled;
    next.vouched = vouched(tables, claims, shown, next, &mut steered);
    next.steered = steered;
}

/// Policies of services for clients that see no DestinationRule of them.
fn vouched(
    tables: &Tables,
    claims: &Claims,
    shown: Option<&Shown>,
    next: &Snapshot,
    steered: &mut imbl::HashSet<u32>,
) -> HashMap<Arc<str>, Vec<Arc<TrafficPolicy>>> {
    let services = claims.services().filter_map(|name| next.service(name));
    services
        .map(|service| {
            let tls = claims.tls(tables, service, shown);
            let old = next.vouched.get(&service.host).map_or(&[][..], Vec::as_slice);
            let policies = policies(service, std::iter::empty(), old, &tls);
            steer(service, std::iter::once(&policies), steered);
            (Arc::clone(&service.host), policies)
        })
        .collect()
}

/// Notes the ports that some client must not be sent to by the kernel alone.
fn steer<'a>(
    service: &Service,
    of_clients: impl Iterator<Item = &'a Vec<Arc<TrafficPolicy>>>,
    steered: &mut imbl::HashSet<u32>,
) {
    for policies in of_clients {
        for (port, policy) in service.ports.iter().zip(policies) {
            if !policy.kernel_can() {
                steered.insert(port.id);
            }
        }
    }
}

/// Rules of one namespace that the same clients see are one: of a subset that is there twice the older stays, and the
/// oldest policy that says anything is the policy of all (T-29).
fn merged(
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

/// The policy of each port, `tls` being what BackendTLSPolicies say of it. What is the same as before keeps its allocation: what is built from a policy is kept by it.
fn policies<'a>(
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
