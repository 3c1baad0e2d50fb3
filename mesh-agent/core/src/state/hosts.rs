//! Which services have a host.

use super::world::Changed;
use crate::model::ObjectName;
use crate::model::service::Service;
use crate::model::snapshot::Snapshot;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Host → services: at most one of Kubernetes, and any number that ServiceEntries made.
#[derive(Default)]
pub(super) struct Hosts(BTreeMap<Arc<str>, Vec<ObjectName>>);

impl Hosts {
    /// Follows the services; `touched` gets the hosts of those that are different.
    pub(super) fn follow(&mut self, changed: &[Changed<Service>], touched: &mut BTreeSet<Arc<str>>) {
        for (old, new) in changed {
            if let Some(old) = old {
                if let Some(services) = self.0.get_mut(&old.host) {
                    services.retain(|name| *name != old.name);
                    if services.is_empty() {
                        self.0.remove(&old.host);
                    }
                }
                touched.insert(Arc::clone(&old.host));
            }
            if let Some(new) = new {
                // Mostly one: there are tens of thousands of these.
                let services = self.0.entry(Arc::clone(&new.host));
                let services = services.or_insert_with(|| Vec::with_capacity(1));
                if let Err(place) = services.binary_search(&new.name) {
                    services.insert(place, new.name.clone());
                }
                touched.insert(Arc::clone(&new.host));
            }
        }
    }

    /// The services of a host.
    pub(super) fn services<'a>(
        &'a self,
        next: &'a Snapshot,
        host: &str,
    ) -> impl Iterator<Item = &'a Arc<Service>> + use<'a> {
        let names = self.0.get(host).into_iter().flatten();
        names.filter_map(|name| next.service(name))
    }

    /// The one that speaks for a host: Kubernetes' own, else the one that everybody sees.
    pub(super) fn service(&self, next: &Snapshot, host: &str) -> Option<Arc<Service>> {
        let registered = host.strip_prefix('*').unwrap_or(host);
        let own = next.services_by_host.get(host);
        own.or_else(|| next.registry.of_host(registered).next())
            .or_else(|| self.services(next, host).next())
            .cloned()
    }

    /// Hosts that end with this, which follows a `*`.
    pub(super) fn ending_with<'a>(&'a self, suffix: &'a str) -> impl Iterator<Item = &'a Arc<str>> {
        self.0.keys().filter(move |host| host.ends_with(suffix))
    }

    /// Hosts that a key of a routing table is for: `.example.com` stands for `*.example.com`.
    pub(super) fn matching<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a Arc<str>> {
        let wildcard = key.is_empty() || key.starts_with('.');
        let exact = self
            .0
            .get_key_value(key)
            .filter(|_| !wildcard)
            .map(|(host, _)| host);
        let wide = self.ending_with(key).filter(move |_| wildcard);
        exact.into_iter().chain(wide)
    }
}
