//! The known world: objects in, snapshots out.

mod addresses;
mod aged;
mod attached;
mod authorities;
mod backend_tls;
mod backends;
mod change;
mod compact;
mod delegates;
mod dirty;
mod endpoints;
mod entries;
mod findings;
mod gateway_tls;
mod gateways;
mod hosts;
mod ids;
mod listener_sets;
mod listeners;
mod mentions;
mod parents;
mod peers;
mod pods;
mod references;
mod routes;
mod scopes;
mod services;
mod shared;
mod status;
mod steering;
mod subsets;
mod tables;
mod templates;
mod versions;
mod vips;
mod workloads;
mod world;

use crate::model::ObjectName;
use crate::model::gateway::GatewayRole;
use crate::model::snapshot::{MeshSettings, Snapshot};
use crate::translate::{Head, Rejected, Translated, describe, in_place_of, translate};
use compact::Common;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use tables::Tables;
use world::{Warning, World};

pub use change::{Change, ObjectKey, Sandbox};
pub use gateways::{GatewayNeeds, GatewayPort, Material, Place};
pub use pods::HeldOut;
pub use versions::{ObjectVersion, Proof, Versions, is_rule, kind_of, proofs};

/// A problem with one object, kept until the object is right or gone.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Problem {
    /// Where it was read.
    pub origin: String,
    /// What is wrong.
    pub rejected: Rejected,
    /// Whether an earlier good version is still in force.
    pub last_good_in_force: bool,
}

/// The state machine behind the agent's configuration.
///
/// One bad object keeps its last good version in force, or stays out if there never was one; it is reported, and all
/// others go on.
pub struct State {
    tables: Tables,
    common: Common,
    /// Of files every object. Of an API server those that have a problem: there are tens of thousands, which the tables
    /// know, and their place is their name.
    records: HashMap<ObjectKey, Record>,
    /// Those of `records` that have a problem.
    troubled: BTreeSet<ObjectKey>,
    /// Problems of what has no readable name, and of second versions: by origin and text.
    loose: BTreeMap<(String, String), Problem>,
    listing: Option<Listing>,
    versions: Versions,
    world: World,
}

/// What is known of an object besides its contents.
#[derive(Clone, Debug)]
struct Record {
    origin: String,
    /// Whether some version of it is in the tables.
    in_force: bool,
    problem: Option<Rejected>,
}

/// A listing between `Init` and `InitDone`.
#[derive(Default)]
struct Listing {
    seen: HashMap<ObjectKey, String>,
    unreadable: HashSet<String>,
    loose: BTreeMap<(String, String), Problem>,
}

impl State {
    /// Nothing known yet; the source will give every pod.
    #[must_use]
    pub fn new(settings: MeshSettings) -> Self {
        Self::with(settings, None)
    }

    /// Nothing known yet; the source will give the pods of `node`. Others are known by EndpointSlices and
    /// WorkloadTemplates, services have the endpoints of their slices and no others, and a pod's network namespace is what
    /// [`Change::Sandbox`] says, not what its annotation does. There is one listing, the first: later every object that
    /// goes is said to be gone.
    #[must_use]
    pub fn for_node(settings: MeshSettings, node: impl Into<Arc<str>>) -> Self {
        Self::with(settings, Some(node.into()))
    }

    /// From now on the snapshots also say what a gateway process in this role serves ([`Snapshot::edge`]).
    #[must_use]
    pub fn serving(mut self, role: GatewayRole) -> Self {
        self.world.serve(role);
        self
    }

    /// Nothing known yet, and no pod ever: what a controller needs to say what becomes of objects. It is given no
    /// Secrets, and says of certificates that it cannot check them.
    #[must_use]
    pub fn for_controller(settings: MeshSettings) -> Self {
        // No node is called so.
        let mut state = Self::with(settings, Some("".into()));
        state.tables.blind = true;
        state
    }

    /// The source gives Secrets, too.
    #[must_use]
    pub fn reading_secrets(mut self) -> Self {
        self.tables.blind = false;
        self.world.judge();
        self
    }

    fn with(settings: MeshSettings, node: Option<Arc<str>>) -> Self {
        Self {
            tables: Tables::default(),
            common: Common::default(),
            records: HashMap::new(),
            troubled: BTreeSet::new(),
            loose: BTreeMap::new(),
            listing: None,
            versions: Versions::default(),
            world: World::new(settings, node),
        }
    }

    /// Takes one step of a source's stream. Returns whether [`State::snapshot`] or [`State::problems`] may differ.
    pub fn apply(&mut self, change: Change) -> bool {
        match change {
            Change::Init => {
                self.listing = Some(Listing::default());
                false
            }
            Change::Apply { object, origin } => self.apply_any(&object, &origin),
            Change::Delete(key) => self.remove(&key),
            Change::Sandbox { uid, sandbox } => self.tables.sandbox(&uid, sandbox, self.world.dirty_mut()),
            Change::Resolved { name, ips } => self.tables.resolve(name, ips, self.world.dirty_mut()),
            Change::Unreadable { origin, reason } => {
                let object = String::new();
                self.unreadable(
                    origin,
                    Rejected {
                        object,
                        field: String::new(),
                        reason,
                    },
                    false,
                )
            }
            Change::InitDone => self.finish_listing(),
        }
    }

    /// Whether a listing is open: what is known is not the whole.
    #[must_use]
    pub fn listing(&self) -> bool {
        self.listing.is_some()
    }

    /// The current view; built anew only if something changed.
    pub fn snapshot(&mut self) -> Arc<Snapshot> {
        self.world.rebuild(&self.tables)
    }

    /// Everything that is wrong now, sorted by origin and object.
    pub fn problems(&mut self) -> Vec<Problem> {
        self.world.rebuild(&self.tables);
        let of_record = |r: &Record| {
            let rejected = r.problem.clone()?;
            Some(Problem {
                origin: r.origin.clone(),
                rejected,
                last_good_in_force: r.in_force,
            })
        };
        fn key(p: &Problem) -> [&str; 4] {
            let Rejected {
                object,
                field,
                reason,
            } = &p.rejected;
            [&p.origin, object, field, reason]
        }
        let of_world = |w: &Warning| Problem {
            origin: self
                .records
                .get(&w.key)
                .map_or_else(|| describe(&w.key), |r| r.origin.clone()),
            rejected: w.rejected(),
            last_good_in_force: false,
        };
        let mut problems: Vec<Problem> = self.loose.values().cloned().collect();
        let troubled = self.troubled.iter().filter_map(|key| self.records.get(key));
        problems.extend(troubled.filter_map(of_record));
        problems.extend(self.world.warnings().map(of_world));
        problems.sort_by(|a, b| key(a).cmp(&key(b)));
        problems
    }

    /// The versions that the next snapshot, and nothing newer, is made of.
    #[must_use]
    pub fn versions(&self) -> &Versions {
        &self.versions
    }

    /// Pods that endpoints name and that nobody is sent to, with the reason, sorted.
    pub fn held_out(&self) -> impl Iterator<Item = (&ObjectName, HeldOut)> {
        self.world.held_out().iter().map(|(pod, why)| (pod, *why))
    }

    /// An object, or a `List` of objects.
    fn apply_any(&mut self, object: &Value, origin: &str) -> bool {
        let kind = object.get("kind").and_then(Value::as_str).unwrap_or_default();
        match object.get("items").and_then(Value::as_array) {
            Some(items) if kind.ends_with("List") => {
                let mut changed = false;
                for item in items {
                    changed |= self.apply_object(item, origin);
                }
                changed
            }
            _ => self.apply_object(object, origin),
        }
    }

    fn apply_object(&mut self, object: &Value, origin: &str) -> bool {
        let head = match Head::read(object) {
            Ok(head) => head,
            // Nobody knows which object this was meant to be: as if it could not be read at all.
            Err(rejected) => {
                let before = self.tables.has(&Head::guess(object));
                return self.unreadable(origin.to_owned(), rejected, before);
            }
        };
        // An API server has one version of an object, and a later one is a change.
        let files = !self.world.of_one_node();
        if let Some(listing) = self.listing.as_mut().filter(|_| files) {
            if let Some(first) = listing.seen.get(&head.key) {
                let reason = format!("is already defined at {first}; this second version is ignored");
                let rejected = Rejected {
                    object: describe(&head.key),
                    field: String::new(),
                    reason,
                };
                let problem = Problem {
                    origin: origin.to_owned(),
                    rejected,
                    last_good_in_force: true,
                };
                listing
                    .loose
                    .insert((origin.to_owned(), problem.rejected.to_string()), problem);
                return true;
            }
            listing.seen.insert(head.key.clone(), origin.to_owned());
        }
        let cleared = self.listing.is_none() && self.clear_loose(origin);
        self.apply_named(&head, object, origin) | cleared
    }

    fn apply_named(&mut self, head: &Head, object: &Value, origin: &str) -> bool {
        if !self.world.reads_material() && only_gateways_read(&head.key) {
            return false;
        }
        let translated = translate(head, object, self.world.settings());
        if translated == Ok(Translated::Nothing) {
            // It may have meant something before: an Ingress that has another class now.
            let meant = self.records.contains_key(&head.key) || self.tables.has(&head.key);
            let changed = meant && self.remove(&head.key);
            // That it means nothing is in force as well. Files say nothing of what leaves them.
            if self.world.of_one_node() {
                self.versions.put(head);
            }
            return changed;
        }
        self.versions.read(head);
        match translated {
            Ok(translated) => {
                self.versions.put(head);
                let had_problem = self.in_force(head, origin);
                let name = ObjectName {
                    namespace: self.common.text(&head.key.namespace),
                    name: self.common.name(&head.key),
                };
                let translated = self.common.compact(translated, !self.world.of_one_node());
                self.tables.put(name, translated, self.world.dirty_mut()) | had_problem
            }
            Err(rejected) => {
                let in_force = self.tables.has(&head.key);
                let record = self.records.entry(head.key.clone()).or_insert_with(|| Record {
                    origin: String::new(),
                    in_force,
                    problem: None,
                });
                origin.clone_into(&mut record.origin);
                let changed = record.problem.as_ref() != Some(&rejected);
                record.problem = Some(rejected);
                self.troubled.insert(head.key.clone());
                let guard = in_place_of(head, object).filter(|_| !record.in_force);
                guard.is_some_and(|guard| self.tables.put(head.name(), guard, self.world.dirty_mut()))
                    | changed
            }
        }
    }

    /// A good version of an object is there. Returns whether it had a problem before.
    fn in_force(&mut self, head: &Head, origin: &str) -> bool {
        if self.world.of_one_node() {
            let had_problem = !self.troubled.is_empty() && self.troubled.remove(&head.key);
            if had_problem {
                self.records.remove(&head.key);
            }
            return had_problem;
        }
        let record = self.records.entry(head.key.clone()).or_insert_with(|| Record {
            origin: String::new(),
            in_force: true,
            problem: None,
        });
        origin.clone_into(&mut record.origin);
        record.in_force = true;
        let had_problem = record.problem.take().is_some();
        if had_problem {
            self.troubled.remove(&head.key);
        }
        had_problem
    }

    /// `before`: whether an object that this seems to be is in force.
    fn unreadable(&mut self, origin: String, rejected: Rejected, before: bool) -> bool {
        let kept = before
            || self
                .records
                .values()
                .any(|r| r.in_force && file_of(&r.origin) == file_of(&origin));
        let key = (origin.clone(), rejected.to_string());
        let problem = Problem {
            origin: origin.clone(),
            rejected,
            last_good_in_force: kept,
        };
        match &mut self.listing {
            Some(listing) => {
                listing.unreadable.insert(file_of(&origin).to_owned());
                listing.loose.insert(key, problem);
            }
            None => _ = self.loose.insert(key, problem),
        }
        true
    }

    fn clear_loose(&mut self, origin: &str) -> bool {
        let before = self.loose.len();
        self.loose.retain(|(at, _), _| at != origin);
        before != self.loose.len()
    }

    fn remove(&mut self, key: &ObjectKey) -> bool {
        self.versions.remove(key);
        let before = self.loose.len();
        if before > 0 {
            let object = describe(key);
            self.loose.retain(|_, problem| problem.rejected.object != object);
        }
        let cleared = self.loose.len() != before;
        let recorded = self.records.remove(key).is_some();
        self.troubled.remove(key);
        let in_force = self.tables.has(key);
        self.tables.remove(key, self.world.dirty_mut());
        cleared || recorded || in_force
    }

    /// What the listing did not mention is gone, unless it may stand in a file that could not be read.
    fn finish_listing(&mut self) -> bool {
        let Some(listing) = self.listing.take() else {
            return false;
        };
        if self.world.of_one_node() {
            let changed = self.loose != listing.loose;
            self.loose = listing.loose;
            return changed;
        }
        let gone: Vec<ObjectKey> = self
            .records
            .iter()
            .filter(|(key, record)| {
                !listing.seen.contains_key(key) && !listing.unreadable.contains(file_of(&record.origin))
            })
            .map(|(key, _)| key.clone())
            .collect();
        let mut changed = self.loose != listing.loose;
        self.loose = listing.loose;
        for key in &gone {
            changed |= self.remove(key);
        }
        changed
    }
}

/// Whether only gateways read objects of this kind: keys are nowhere else.
fn only_gateways_read(key: &ObjectKey) -> bool {
    matches!(
        (key.group.as_str(), key.kind.as_str()),
        ("", "Secret") | ("networking.k8s.io", "Ingress")
    )
}

/// An origin without its line and column: when part of a file cannot be read, nobody knows what moved inside of it.
fn file_of(origin: &str) -> &str {
    let mut file = origin;
    while let Some((rest, number)) = file.rsplit_once(':') {
        if rest.is_empty() || number.is_empty() || !number.bytes().all(|c| c.is_ascii_digit()) {
            break;
        }
        file = rest;
    }
    file
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod scale;
