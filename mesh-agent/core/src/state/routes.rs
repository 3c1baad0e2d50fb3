//! VirtualServices → what applies to each host, and what is wrong between objects. Only hosts that a change touches are
//! looked at.

use super::ObjectKey;
use super::aged::Aged;
use super::delegates;
use super::findings::Findings;
use super::tables::Tables;
use super::world::Warning;
use crate::model::ObjectName;
use crate::model::connection::ConnectionRoute;
use crate::model::route::{RouteTable, Visibility};
use crate::model::snapshot::Snapshot;
use crate::translate::VirtualServiceSpec;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// Which VirtualService names which hosts and delegates.
#[derive(Default)]
pub(super) struct Routes {
    /// `*.example.com` is kept as `.example.com`.
    by_host: Aged<Arc<str>>,
    by_delegate: Aged<ObjectName>,
    /// Of those with delegates, their rules and the delegates' in one.
    joined: HashMap<ObjectName, Arc<RouteTable>>,
    /// What is wrong with each, and with what it delegates to.
    own: Findings<ObjectName>,
    /// Which of those for one host give way to older ones.
    contested: Findings<Arc<str>>,
}

impl Routes {
    /// Follows changes of VirtualServices in `routes`, `scoped_routes` and `connections`. Returns the hosts of which they
    /// said something before or say something now, as these tables spell them.
    pub(super) fn rebuild(
        &mut self,
        tables: &Tables,
        changed: &BTreeSet<ObjectName>,
        next: &mut Snapshot,
    ) -> BTreeSet<Arc<str>> {
        let mut hosts = BTreeSet::new();
        for name in self.concerned(tables, changed) {
            let spec = tables.virtual_services.get(&name);
            let keys = spec.filter(|spec| spec.mesh);
            let keys = keys.map(|spec| (&spec.created, spec.hosts.iter().map(key).collect()));
            hosts.extend(self.by_host.follow(&name, keys));
            let warnings = spec.map(|spec| self.look(tables, &name, spec));
            self.own.put(&name, warnings.unwrap_or_default());
            if spec.is_none_or(|spec| spec.delegations.is_empty()) {
                self.joined.remove(&name);
            }
        }
        for host in &hosts {
            self.requests(tables, host, next);
            self.connections(tables, host, next);
        }
        hosts
    }

    /// What is wrong with VirtualServices among each other.
    pub(super) fn warnings(&self) -> impl Iterator<Item = &Warning> {
        self.own.iter().chain(self.contested.iter())
    }

    /// Those that changed, those that delegate to them, and those that they delegate to or did.
    fn concerned(&mut self, tables: &Tables, changed: &BTreeSet<ObjectName>) -> BTreeSet<ObjectName> {
        let mut concerned = changed.clone();
        for name in changed {
            let spec = tables.virtual_services.get(name);
            let to = spec.map(|spec| {
                (
                    &spec.created,
                    spec.delegations.iter().map(|d| d.to.clone()).collect(),
                )
            });
            concerned.extend(self.by_delegate.follow(name, to));
            concerned.extend(self.by_delegate.of(name).cloned());
        }
        concerned
    }

    /// What is wrong with one, its delegates being joined to it.
    fn look(&mut self, tables: &Tables, name: &ObjectName, spec: &VirtualServiceSpec) -> Vec<Warning> {
        let note = |(field, reason): &(String, String)| {
            warning("VirtualService", name, field.clone(), reason.clone())
        };
        let mut warnings: Vec<Warning> = spec.notes.iter().map(note).collect();
        if spec.hosts.is_empty() && self.by_delegate.of(name).next().is_none() {
            warnings.push(delegates::unused(name));
        }
        // Of an object that is for gateways only, too: what is wrong with its delegates is told.
        if spec.routes_http() && !spec.hosts.is_empty() && !spec.delegations.is_empty() {
            let joined = delegates::table(tables, name, spec, &mut warnings);
            self.joined.insert(name.clone(), joined);
        }
        warnings
    }

    /// The oldest VirtualService that a client sees has the host (T-33).
    fn requests(&mut self, tables: &Tables, host: &Arc<str>, next: &mut Snapshot) {
        let mut holders = Holders::default();
        let mut warnings = Vec::new();
        for (name, spec) in named(tables, self.by_host.of(host)) {
            if !spec.routes_http() {
                continue;
            }
            let table = self.joined.get(name).unwrap_or(&spec.table);
            let Some(winner) = holders.claim(&spec.export_to, table) else {
                continue;
            };
            for (i, given) in spec
                .hosts
                .iter()
                .enumerate()
                .filter(|(_, given)| key(given) == *host)
            {
                let reason = format!("host {given} is already routed by the older VirtualService {winner}");
                let field = format!("spec.hosts[{i}]");
                warnings.push(warning("VirtualService", name, field, reason));
            }
        }
        self.contested.put(host, warnings);
        holders.put(host, next);
    }

    /// Rules for connections: everything that is written for a host, oldest object first. Unlike rules for requests those of
    /// several objects are one list.
    fn connections(&self, tables: &Tables, host: &Arc<str>, next: &mut Snapshot) {
        let route = |spec: &VirtualServiceSpec| {
            Some(ConnectionRoute {
                seen_by: spec.export_to.clone(),
                table: Arc::clone(spec.connections.as_ref()?),
            })
        };
        let specs = named(tables, self.by_host.of(host)).map(|(_, spec)| spec);
        next.connections.put(host, specs.filter_map(route).collect());
    }
}

/// Who has one host.
#[derive(Default)]
struct Holders {
    all: Option<Arc<RouteTable>>,
    /// For clients of one namespace.
    scoped: BTreeMap<Arc<str>, Arc<RouteTable>>,
}

impl Holders {
    /// Gives the host to a table for the clients that see it, or returns who has it for some of them.
    fn claim(&mut self, seen_by: &Visibility, table: &Arc<RouteTable>) -> Option<ObjectName> {
        let Visibility::Namespaces(names) = seen_by else {
            return match &self.all {
                Some(holder) => Some(holder.object.clone()),
                None => {
                    self.all = Some(Arc::clone(table));
                    None
                }
            };
        };
        let mut winner = None;
        for namespace in names {
            // What all see and is older comes first for these as well.
            let older = self.all.as_ref().or_else(|| self.scoped.get(namespace));
            match older {
                Some(older) => winner = Some(older.object.clone()),
                None => _ = self.scoped.insert(Arc::clone(namespace), Arc::clone(table)),
            }
        }
        winner
    }

    fn put(self, host: &Arc<str>, next: &mut Snapshot) {
        match self.all {
            Some(table) => _ = next.routes.insert(Arc::clone(host), table),
            None => _ = next.routes.remove(host),
        }
        let held =
            |(_, routes): &(&Arc<str>, &imbl::HashMap<Arc<str>, Arc<RouteTable>>)| routes.contains_key(host);
        let before: Vec<Arc<str>> = next
            .scoped_routes
            .iter()
            .filter(held)
            .map(|(namespace, _)| Arc::clone(namespace))
            .collect();
        for namespace in before
            .iter()
            .filter(|namespace| !self.scoped.contains_key(*namespace))
        {
            if let Some(routes) = next.scoped_routes.get_mut(namespace) {
                routes.remove(host);
                if routes.is_empty() {
                    next.scoped_routes.remove(namespace);
                }
            }
        }
        for (namespace, table) in self.scoped {
            let routes = next.scoped_routes.entry(namespace).or_default();
            routes.insert(Arc::clone(host), table);
        }
    }
}

fn named<'a>(
    tables: &'a Tables,
    names: impl Iterator<Item = &'a ObjectName>,
) -> impl Iterator<Item = (&'a ObjectName, &'a VirtualServiceSpec)> {
    names.filter_map(|name| Some((name, tables.virtual_services.get(name)?)))
}

/// How the tables spell a host.
fn key(host: &Arc<str>) -> Arc<str> {
    host.strip_prefix('*')
        .map_or_else(|| Arc::clone(host), Into::into)
}

pub(super) fn warning(kind: &str, name: &ObjectName, field: String, reason: String) -> Warning {
    let key = ObjectKey::of("networking.istio.io", kind, name);
    Warning { key, field, reason }
}
