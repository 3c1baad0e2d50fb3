//! DestinationRules → subsets and policies of each service. Only hosts that a change touches are looked at.

mod merge;

use super::aged::Aged;
use super::backend_tls::{Claims, Shown};
use super::findings::Findings;
use super::hosts::Hosts;
use super::routes::warning;
use super::tables::Tables;
use super::world::Warning;
use crate::model::ObjectName;
use crate::model::snapshot::Snapshot;
use crate::translate::DestinationRuleSpec;
use merge::{merged, policies};
use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::sync::Arc;

type Named<'a> = (&'a ObjectName, &'a DestinationRuleSpec);

/// Which DestinationRule names which hosts.
#[derive(Default)]
pub(super) struct Subsets {
    by_host: Aged<Arc<str>>,
    /// Wildcards, by what follows the `*`.
    by_suffix: Aged<Arc<str>>,
    /// Rules for hosts that are no service.
    nowhere: Findings<ObjectName>,
}

impl Subsets {
    /// Follows changes of DestinationRules; `hosts` gets those that they are for, before and now.
    pub(super) fn follow(
        &mut self,
        tables: &Tables,
        changed: &BTreeSet<ObjectName>,
        services: &Hosts,
        hosts: &mut BTreeSet<Arc<str>>,
    ) {
        for name in changed {
            self.nowhere.put(name, Vec::new());
            let rule = tables.destination_rules.get(name);
            let suffix =
                rule.and_then(|rule| Some((&rule.created, vec![rule.host.strip_prefix('*')?.into()])));
            let host = rule.filter(|_| suffix.is_none());
            hosts.extend(self.by_host.follow(
                name,
                host.map(|rule| (&rule.created, vec![Arc::clone(&rule.host)])),
            ));
            for suffix in self.by_suffix.follow(name, suffix) {
                hosts.extend(services.ending_with(&suffix).cloned());
            }
        }
    }

    /// Brings `subsets` and `vouched` of these hosts up to date: for each service the DestinationRules that name it, exactly
    /// or by the longest wildcard (T-31), with what BackendTLSPolicies say of it.
    pub(super) fn rebuild(
        &self,
        tables: &Tables,
        claims: &Claims,
        shown: Option<&Shown>,
        services: &Hosts,
        hosts: &BTreeSet<Arc<str>>,
        next: &mut Snapshot,
    ) {
        for host in hosts {
            let Some(service) = services.service(next, host) else {
                next.subsets.remove(host);
                next.vouched.remove(host);
                continue;
            };
            let tls = claims.tls(tables, &service, shown);
            let rules = self.rules(tables, host);
            if rules.is_empty() {
                next.subsets.remove(host);
            } else {
                let old = next.subsets.get(host).map_or(&[][..], |old| old);
                let new = merged(&service, &rules, old, &tls);
                if *old != *new {
                    next.subsets.insert(Arc::clone(host), new.into());
                }
            }
            if tls.is_empty() {
                next.vouched.remove(host);
            } else {
                let old = next.vouched.get(host).map_or(&[][..], |old| old);
                let new = policies(&service, std::iter::empty(), old, &tls);
                next.vouched.insert(Arc::clone(host), new.into());
            }
        }
    }

    /// Looks whether there is a service for the rules of these hosts; of all where `any` may have come or gone.
    pub(super) fn look(&mut self, tables: &Tables, hosts: &BTreeSet<Arc<str>>, any: bool, next: &Snapshot) {
        let all = self.by_host.keys().filter(|_| any);
        let hosts: BTreeSet<&Arc<str>> = hosts.iter().chain(all).collect();
        for (name, rule) in hosts
            .into_iter()
            .flat_map(|host| named(tables, self.by_host.of(host)))
        {
            let missing = next.service_by_host(&rule.host, Some(&name.namespace)).is_none();
            let reason = || format!("host {} is no service", rule.host);
            let found = missing.then(|| warning("DestinationRule", name, "spec.host".into(), reason()));
            self.nowhere.put(name, found.into_iter().collect());
        }
    }

    /// What is wrong with DestinationRules.
    pub(super) fn warnings(&self) -> impl Iterator<Item = &Warning> {
        self.nowhere.iter()
    }

    /// The rules for a host: those that name it, then those of wildcards, the longest first, unless a more specific one of
    /// the same namespace is there.
    fn rules<'a>(&'a self, tables: &'a Tables, host: &str) -> Vec<Named<'a>> {
        let mut rules: Vec<Named<'a>> = named(tables, self.by_host.of(host)).collect();
        let mut suffixes: Vec<_> = self
            .by_suffix
            .keys()
            .filter(|suffix| host.ends_with(&***suffix))
            .collect();
        suffixes.sort_by_key(|suffix| Reverse(suffix.len()));
        for suffix in suffixes {
            let specific = rules.len();
            for (name, rule) in named(tables, self.by_suffix.of(suffix)) {
                let more_specific = rules.iter().take(specific);
                if more_specific.clone().all(|(n, _)| n.namespace != name.namespace) {
                    rules.push((name, rule));
                }
            }
        }
        rules
    }
}

fn named<'a>(
    tables: &'a Tables,
    names: impl Iterator<Item = &'a ObjectName>,
) -> impl Iterator<Item = Named<'a>> {
    names.filter_map(|name| Some((name, tables.destination_rules.get(name)?)))
}
