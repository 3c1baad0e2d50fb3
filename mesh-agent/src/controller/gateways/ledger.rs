//! What is wanted, what is there, and the next write. Pure: times are milliseconds of some clock.

use super::names::{GATEWAY_NAME, MANAGED_BY, MANAGER};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

/// Two writes to one object are at least this far apart.
const APART_MS: u64 = 1_000;
/// The longest pause after errors.
const LONGEST_MS: u64 = 60_000;

/// Kind, namespace, name. Accounts and rights come before what needs them, by the order of their kinds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Key {
    pub(super) kind: Kind,
    pub(super) namespace: String,
    pub(super) name: String,
}

/// The kinds that are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Kind {
    ServiceAccount,
    ClusterRoleBinding,
    RoleBinding,
    Service,
    Deployment,
}

impl Kind {
    pub(super) const ALL: [Self; 5] = [
        Self::ServiceAccount,
        Self::ClusterRoleBinding,
        Self::RoleBinding,
        Self::Service,
        Self::Deployment,
    ];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::ServiceAccount => "ServiceAccount",
            Self::ClusterRoleBinding => "ClusterRoleBinding",
            Self::RoleBinding => "RoleBinding",
            Self::Service => "Service",
            Self::Deployment => "Deployment",
        }
    }

    /// Group and version.
    pub(super) const fn group(self) -> (&'static str, &'static str) {
        match self {
            Self::ServiceAccount | Self::Service => ("", "v1"),
            Self::ClusterRoleBinding | Self::RoleBinding => ("rbac.authorization.k8s.io", "v1"),
            Self::Deployment => ("apps", "v1"),
        }
    }
}

impl Key {
    /// Of an object of one of the kinds.
    pub(super) fn of(object: &Value) -> Option<Self> {
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str);
        let kind = text("/kind")?;
        Some(Self {
            kind: Kind::ALL.into_iter().find(|k| k.name() == kind)?,
            namespace: text("/metadata/namespace").unwrap_or_default().to_owned(),
            name: text("/metadata/name")?.to_owned(),
        })
    }
}

/// One write.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Write {
    /// Server-side apply. Of an object that was never seen it must be made sure first that it is nobody else's.
    Apply { key: Key, object: Value, known: bool },
    /// Delete, if it is still the object with this UID.
    Delete { key: Key, uid: String },
}

impl Write {
    pub(super) const fn key(&self) -> &Key {
        match self {
            Self::Apply { key, .. } | Self::Delete { key, .. } => key,
        }
    }
}

/// The objects.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    entries: BTreeMap<Key, Entry>,
    /// Kinds that have been listed.
    listed: BTreeSet<Kind>,
    /// (Namespace, label value) of Gateways whose objects may go.
    leaving: BTreeSet<(String, String)>,
}

#[derive(Debug, Default)]
struct Entry {
    wanted: Option<(u64, Value)>,
    seen: Option<Value>,
    /// Fingerprints of what was wanted and of what came of it.
    settled: Option<(u64, u64)>,
    /// Seen in the listing that goes on.
    marked: bool,
    under_way: bool,
    not_before: u64,
    errors: u32,
    problem: Option<String>,
}

impl Ledger {
    /// These objects are to be there. `leaving`: (namespace, label) of Gateways whose objects are to go; of those that are
    /// gone themselves the API server collects them.
    pub(super) fn want(&mut self, objects: Vec<Value>, leaving: BTreeSet<(String, String)>) {
        for entry in self.entries.values_mut() {
            entry.wanted = None;
        }
        for object in objects {
            if let Some(key) = Key::of(&object) {
                let entry = self.entries.entry(key).or_default();
                entry.wanted = Some((fingerprint(&object), object));
            }
        }
        self.leaving = leaving;
        self.sweep();
    }

    /// A listing of a kind begins.
    pub(super) fn begin(&mut self, kind: Kind) {
        self.of(kind).for_each(|entry| entry.marked = false);
    }

    /// It ends: what was not in it is gone.
    pub(super) fn end(&mut self, kind: Kind) {
        self.of(kind)
            .filter(|entry| !entry.marked)
            .for_each(|entry| entry.seen = None);
        self.listed.insert(kind);
        self.sweep();
    }

    /// The object is like this.
    pub(super) fn see(&mut self, object: Value) {
        if let Some(key) = Key::of(&object) {
            let entry = self.entries.entry(key).or_default();
            entry.seen = Some(object);
            entry.marked = true;
        }
    }

    /// The object is gone.
    pub(super) fn lose(&mut self, key: &Key) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.seen = None;
            // What another hand took away is put back at once.
            entry.settled = None;
        }
        self.sweep();
    }

    /// Whether every kind has been listed.
    pub(super) fn complete(&self) -> bool {
        self.listed.len() == Kind::ALL.len()
    }

    /// What is there of an object that is wanted.
    pub(super) fn seen(&self, key: &Key) -> Option<&Value> {
        self.entries.get(key)?.seen.as_ref()
    }

    /// Why an object is not what it should be.
    pub(super) fn problem(&self, key: &Key) -> Option<&str> {
        self.entries.get(key)?.problem.as_deref()
    }

    /// The next write that is due; none before everything was listed.
    pub(super) fn next(&mut self, now: u64) -> Option<Write> {
        if !self.complete() {
            return None;
        }
        let leaving = &self.leaving;
        for (key, entry) in &mut self.entries {
            if entry.under_way || now < entry.not_before {
                continue;
            }
            let write = match (&entry.wanted, &entry.seen) {
                (Some((hash, _)), Some(seen)) if entry.settled == Some((*hash, fingerprint(seen))) => {
                    continue;
                }
                (Some((_, object)), seen) => Write::Apply {
                    key: key.clone(),
                    object: object.clone(),
                    known: seen.as_ref().is_some_and(is_ours),
                },
                (None, Some(seen)) if is_ours(seen) && superfluous(key, seen, leaving) => Write::Delete {
                    key: key.clone(),
                    uid: text(seen, "/metadata/uid"),
                },
                _ => continue,
            };
            entry.under_way = true;
            return Some(write);
        }
        None
    }

    /// What came of a write: the object as it was then, nothing if it is gone, or why nothing came of it. What is there now is
    /// for the watch to say, which may have told of more already.
    pub(super) fn done(&mut self, write: Write, outcome: Result<Option<Value>, String>, now: u64) {
        let Some(entry) = self.entries.get_mut(write.key()) else {
            return;
        };
        entry.under_way = false;
        match outcome {
            Ok(found) => {
                entry.errors = 0;
                entry.problem = None;
                entry.not_before = now + APART_MS;
                let object = match &write {
                    Write::Apply { object, .. } => fingerprint(object),
                    Write::Delete { .. } => 0,
                };
                entry.settled = found.map(|found| (object, fingerprint(&found)));
            }
            Err(problem) => {
                let pause = APART_MS << entry.errors.min(6);
                entry.errors += 1;
                entry.not_before = now + pause.min(LONGEST_MS);
                entry.problem = Some(problem);
            }
        }
        self.sweep();
    }

    fn of(&mut self, kind: Kind) -> impl Iterator<Item = &mut Entry> {
        let entries = self.entries.iter_mut();
        entries
            .filter(move |(key, _)| key.kind == kind)
            .map(|(_, entry)| entry)
    }

    fn sweep(&mut self) {
        self.entries
            .retain(|_, entry| entry.wanted.is_some() || entry.seen.is_some() || entry.under_way);
    }
}

/// The one ClusterRoleBinding is the chart's and is never anybody else's.
fn is_ours(object: &Value) -> bool {
    let label = object.pointer("/metadata/labels").and_then(|l| l.get(MANAGED_BY));
    let kind = object.get("kind").and_then(Value::as_str);
    label.and_then(Value::as_str) == Some(MANAGER) || kind == Some("ClusterRoleBinding")
}

fn superfluous(key: &Key, seen: &Value, leaving: &BTreeSet<(String, String)>) -> bool {
    match key.kind {
        Kind::RoleBinding => true,
        Kind::ClusterRoleBinding => false,
        Kind::ServiceAccount | Kind::Service | Kind::Deployment => {
            let labels = seen.pointer("/metadata/labels");
            let gateway = labels.and_then(|l| l.get(GATEWAY_NAME)?.as_str());
            let gateway = gateway.unwrap_or_default().to_owned();
            leaving.contains(&(key.namespace.clone(), gateway))
        }
    }
}

fn text(object: &Value, pointer: &str) -> String {
    let found = object.pointer(pointer).and_then(Value::as_str);
    found.unwrap_or_default().to_owned()
}

/// Of everything that an object is to be; what it reports of itself and the API server's books on it do not count.
fn fingerprint(object: &Value) -> u64 {
    let mut hasher = DefaultHasher::new();
    for (field, value) in object.as_object().into_iter().flatten() {
        match (field.as_str(), value) {
            ("status" | "apiVersion" | "kind", _) => {}
            ("metadata", Value::Object(metadata)) => {
                for (field, value) in metadata {
                    if !["managedFields", "resourceVersion", "generation"].contains(&field.as_str()) {
                        (field, value.to_string()).hash(&mut hasher);
                    }
                }
            }
            _ => (field, value.to_string()).hash(&mut hasher),
        }
    }
    hasher.finish()
}
