//! Services with their endpoints, in the snapshot's tables.

use super::endpoints::{Finder, Selectable, reuse};
use super::ids::Ids;
use super::pods::{Effects, Pods};
use super::tables::Tables;
use super::world::Warning;
use crate::model::ObjectName;
use crate::model::service::{Endpoint, Protocol, Service, ServicePort};
use crate::model::snapshot::Snapshot;
use crate::state::ObjectKey;
use crate::translate::{EntryPort, PortSpec, ServiceSpec};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

/// How services were numbered, and what of them concerns each other.
pub(super) struct Services {
    port_ids: Ids<(ObjectName, u16)>,
    /// Virtual addresses and who claims them; the first by name has each.
    claims: BTreeSet<(IpAddr, ObjectName)>,
    /// Virtual addresses that several services claim.
    contested: BTreeSet<IpAddr>,
    /// Services with endpoints whose pods were found by address.
    by_address: BTreeSet<ObjectName>,
    /// Sorts before every name.
    least: ObjectName,
}

impl Default for Services {
    fn default() -> Self {
        Self {
            port_ids: Ids::default(),
            claims: BTreeSet::new(),
            contested: BTreeSet::new(),
            by_address: BTreeSet::new(),
            least: ObjectName::new("", ""),
        }
    }
}

impl Services {
    /// Builds `dirty` anew, and what `effects` adds to it.
    pub(super) fn rebuild(
        &mut self,
        tables: &Tables,
        pods: &Pods,
        mut dirty: BTreeSet<ObjectName>,
        effects: Effects,
        next: &mut Snapshot,
    ) {
        dirty.extend(effects.services);
        if effects.addresses {
            dirty.extend(self.by_address.iter().cloned());
        }
        if !pods.of_one_node() {
            for namespace in &effects.selectable {
                let services = tables.services.get(namespace).into_iter().flatten();
                let names = services
                    .filter(|(_, spec)| spec.selector.is_some())
                    .map(|(name, _)| ObjectName::new(Arc::clone(namespace), Arc::clone(name)));
                dirty.extend(names.filter(|name| tables.slices_of(name).is_none()));
            }
        }
        let mut selectable: BTreeMap<Arc<str>, Selectable<'_>> = BTreeMap::new();
        let mut vips = BTreeSet::new();
        for name in dirty {
            let new = tables.service(&name).map(|spec| {
                let selected = tables.slices_of(&name).is_none() && !pods.of_one_node();
                if selected && spec.selector.is_some() {
                    selectable
                        .entry(Arc::clone(&name.namespace))
                        .or_insert_with(|| Selectable::new(&name.namespace, tables, pods));
                }
                let of_namespace = selectable.get(&name.namespace).filter(|_| selected);
                self.service(tables, pods, of_namespace, &name, spec, next)
            });
            self.replace(&name, new, next, &mut vips);
        }
        for vip in vips {
            self.settle(vip, next);
        }
    }

    fn service(
        &mut self,
        tables: &Tables,
        pods: &Pods,
        selectable: Option<&Selectable<'_>>,
        name: &ObjectName,
        spec: &ServiceSpec,
        next: &Snapshot,
    ) -> Service {
        let old = place(next, name).ok().and_then(|at| next.services.get(at));
        let mut finder = match (tables.slices_of(name), selectable, &spec.selector) {
            (Some(slices), ..) => Finder::Slices {
                slices: slices.map(|s| &**s).collect(),
                pods,
                snapshot: next,
                namespace: &name.namespace,
                by_address: false,
            },
            (None, Some(selectable), Some(selector)) => Finder::Selector(selectable, selector),
            (None, ..) => Finder::Nowhere,
        };
        let l4_only = next.l4_only.contains(&name.namespace);
        let ports = spec
            .ports
            .iter()
            .map(|port| {
                let old = old.and_then(|s| s.port(port.number));
                self.port(name, spec, port, old, l4_only, &mut finder)
            })
            .collect();
        if matches!(finder, Finder::Slices { by_address: true, .. }) {
            self.by_address.insert(name.clone());
        } else {
            self.by_address.remove(name);
        }
        Service {
            name: name.clone(),
            host: old.map_or_else(|| next.settings.host_of(name), |old| Arc::clone(&old.host)),
            vips: spec.vips.clone(),
            ports,
            distribution: spec.distribution,
            external: None,
        }
    }

    fn port(
        &mut self,
        name: &ObjectName,
        spec: &ServiceSpec,
        port: &PortSpec,
        old: Option<&Arc<ServicePort>>,
        l4_only: bool,
        finder: &mut Finder<'_>,
    ) -> Arc<ServicePort> {
        let endpoints = finder.endpoints(spec, port);
        let endpoints = match old {
            Some(old) if *old.endpoints == *endpoints => Arc::clone(&old.endpoints),
            _ => endpoints.into(),
        };
        let protocol = if l4_only && port.protocol != Protocol::Tls {
            Protocol::Tcp
        } else {
            port.protocol
        };
        let new = ServicePort {
            id: self.port_ids.of((name.clone(), port.number)),
            number: port.number,
            name: Arc::clone(&port.name),
            protocol,
            endpoints,
        };
        reuse(old, new)
    }

    /// Puts a service of a ServiceEntry in its place, or takes it out.
    pub(super) fn put(&mut self, name: &ObjectName, service: Option<Service>, next: &mut Snapshot) {
        let mut vips = BTreeSet::new();
        self.replace(name, service, next, &mut vips);
        for vip in vips {
            self.settle(vip, next);
        }
    }

    /// A port of a ServiceEntry under a number of its own.
    pub(super) fn numbered(
        &mut self,
        name: &ObjectName,
        port: &EntryPort,
        endpoints: Vec<Arc<Endpoint>>,
        old: Option<&Arc<ServicePort>>,
    ) -> Arc<ServicePort> {
        let endpoints = match old {
            Some(old) if *old.endpoints == *endpoints => Arc::clone(&old.endpoints),
            _ => endpoints.into(),
        };
        let new = ServicePort {
            id: self.port_ids.of((name.clone(), port.number)),
            number: port.number,
            name: Arc::clone(&port.name),
            protocol: port.protocol,
            endpoints,
        };
        reuse(old, new)
    }

    fn replace(
        &mut self,
        name: &ObjectName,
        new: Option<Service>,
        next: &mut Snapshot,
        vips: &mut BTreeSet<IpAddr>,
    ) {
        let place = place(next, name);
        let old = place.ok().and_then(|at| next.services.get(at)).map(Arc::clone);
        if old.as_deref() == new.as_ref() {
            return;
        }
        let still = |number: u16| new.as_ref().is_some_and(|s| s.port(number).is_some());
        let old_ports = old.iter().flat_map(|s| &s.ports);
        for port in old_ports.filter(|p| !still(p.number)) {
            self.port_ids.release(&(name.clone(), port.number));
        }
        for vip in old.iter().flat_map(|s| &s.vips) {
            self.claims.remove(&(*vip, name.clone()));
            vips.insert(*vip);
        }
        for vip in new.iter().flat_map(|s| &s.vips) {
            self.claims.insert((*vip, name.clone()));
            vips.insert(*vip);
        }
        match (new.map(Arc::new), place, old) {
            (Some(new), place, _) => {
                // Hosts of ServiceEntries are in the registry.
                if new.external.is_none() {
                    next.services_by_host
                        .insert(Arc::clone(&new.host), Arc::clone(&new));
                }
                match place {
                    Ok(at) => next.services[at] = new,
                    Err(at) => next.services.insert(at, new),
                }
            }
            (None, Ok(at), Some(old)) => {
                next.services.remove(at);
                if old.external.is_none() {
                    next.services_by_host.remove(&old.host);
                }
                self.by_address.remove(name);
            }
            (None, ..) => {}
        }
    }

    /// Decides who has a virtual address.
    fn settle(&mut self, vip: IpAddr, next: &mut Snapshot) {
        let mut claims = self.of(vip);
        let (first, second) = (claims.next(), claims.next());
        let contested = second.is_some();
        let holder = first.and_then(|name| next.services.get(place(next, name).ok()?).cloned());
        drop(claims);
        match holder {
            Some(holder) => _ = next.services_by_vip.insert(vip, holder),
            None => _ = next.services_by_vip.remove(&vip),
        }
        if contested {
            self.contested.insert(vip);
        } else {
            self.contested.remove(&vip);
        }
    }

    fn of(&self, vip: IpAddr) -> impl Iterator<Item = &ObjectName> {
        self.claims
            .range((vip, self.least.clone())..)
            .take_while(move |(claimed, _)| *claimed == vip)
            .map(|(_, name)| name)
    }

    /// Virtual addresses that two services claim; the first by name has them.
    pub(super) fn duplicate_addresses(&self, snapshot: &Snapshot, warnings: &mut Vec<Warning>) {
        for vip in &self.contested {
            let mut claims = self.of(*vip);
            let Some(holder) = claims.next() else { continue };
            for name in claims {
                let service = place(snapshot, name)
                    .ok()
                    .and_then(|at| snapshot.services.get(at));
                let index = service.and_then(|s| s.vips.iter().position(|ip| ip == vip));
                let entry = service.and_then(|s| s.external.as_ref());
                let (kind, group, list) = match entry {
                    Some(_) => ("ServiceEntry", "networking.istio.io", "spec.addresses"),
                    None => ("Service", "", "spec.clusterIPs"),
                };
                let object = entry.map_or(name, |e| &e.object);
                warnings.push(Warning {
                    key: ObjectKey::of(group, kind, object),
                    field: format!("{list}[{}]", index.unwrap_or_default()),
                    reason: format!("{vip} already belongs to service {holder}"),
                });
            }
        }
    }
}

/// Where a service is in the sorted list, or would be.
fn place(snapshot: &Snapshot, name: &ObjectName) -> Result<usize, usize> {
    snapshot.services.binary_search_by(|s| s.name.cmp(name))
}
