//! Pods → the WorkloadTemplates that describe them, and the order in which they are written. Pure.
//!
//! Most pods of one generateName are alike: one object says it for all. A pod that differs gets an object of its own.

mod pace;

use super::pods::{Group, PodFacts, PodRecord};
use mesh_core::model::template::WorkloadTemplate;
use pace::Pace;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

/// Longest name of an object.
const MAX_NAME: usize = 253;
/// One object is written no more often than this, milliseconds.
pub const PER_OBJECT_MS: u64 = 1_000;
/// An object whose last pod is gone stays this long, milliseconds: rollouts scale to zero and back.
pub const GRACE_MS: u64 = 10_000;

/// Namespace and name of a WorkloadTemplate.
pub type TemplateKey = (Arc<str>, Arc<str>);

/// What `members`, the living pods of `group`, are to be described by.
pub fn wanted<'a>(
    group: &Group,
    members: impl Iterator<Item = &'a PodRecord>,
) -> Vec<(TemplateKey, WorkloadTemplate)> {
    let members: Vec<&PodRecord> = members.collect();
    let Group::Prefix(namespace, prefix) = group else {
        return members.into_iter().map(exact).collect();
    };
    let mut counts: BTreeMap<&PodFacts, usize> = BTreeMap::new();
    for pod in &members {
        *counts.entry(&pod.facts).or_default() += 1;
    }
    // Of equally many the smallest: both replicas decide alike, whatever came first.
    let majority = counts
        .iter()
        .max_by(|a, b| a.1.cmp(b.1).then_with(|| b.0.cmp(a.0)))
        .map(|(facts, _)| (*facts).clone());
    let Some(majority) = majority else {
        return Vec::new();
    };
    let name = fit(prefix.trim_end_matches('-'), prefix);
    let shared = WorkloadTemplate {
        pod_prefix: Some(Arc::clone(prefix)),
        ..template(&majority)
    };
    let mut all = vec![((Arc::clone(namespace), name), shared)];
    all.extend(members.into_iter().filter(|pod| pod.facts != majority).map(exact));
    all
}

fn exact(pod: &PodRecord) -> (TemplateKey, WorkloadTemplate) {
    let (namespace, name) = &pod.key;
    // Not the bare name: a StatefulSet `web` and a pod `web` may stand side by side.
    let key = (Arc::clone(namespace), fit(&format!("pod.{name}"), name));
    let spec = WorkloadTemplate {
        pod_name: Some(Arc::clone(name)),
        ..template(&pod.facts)
    };
    (key, spec)
}

fn template(facts: &PodFacts) -> WorkloadTemplate {
    WorkloadTemplate {
        pod_prefix: None,
        pod_name: None,
        service_account_name: Arc::clone(&facts.service_account),
        labels: (*facts.labels).clone(),
        owner: facts.template_owner(),
        host_network: facts.host_network,
        runtime_class_name: facts.runtime_class.clone(),
    }
}

/// A name that an object may have: cut and made distinct where `name` is none.
fn fit(name: &str, origin: &str) -> Arc<str> {
    let valid = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    let clean = name.trim_end_matches(['-', '.']);
    if clean == name && name.len() <= MAX_NAME && !name.is_empty() && name.chars().all(valid) {
        return name.into();
    }
    let hash = format!("{:016x}", fnv1a(origin));
    let kept: String = clean
        .chars()
        .filter(|c| valid(*c))
        .take(MAX_NAME - hash.len() - 1)
        .collect();
    match kept.trim_matches(['-', '.']) {
        "" => hash.into(),
        kept => format!("{kept}-{hash}").into(),
    }
}

/// FNV-1a: the same in every version of this program.
fn fnv1a(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// What to write next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Make the object like this.
    Apply(TemplateKey, Arc<WorkloadTemplate>),
    /// Remove it.
    Delete(TemplateKey),
}

/// What is wanted, what is there, and what may be written when. Times are milliseconds of any clock that only rises.
#[derive(Debug, Default)]
pub struct Ledger {
    wanted: HashMap<TemplateKey, Arc<WorkloadTemplate>>,
    of_group: HashMap<Group, BTreeSet<TemplateKey>>,
    there: HashMap<TemplateKey, Arc<WorkloadTemplate>>,
    listed: bool,
    pods_listed: bool,
    listing: Option<BTreeSet<TemplateKey>>,
    queue: VecDeque<TemplateKey>,
    queued: BTreeSet<TemplateKey>,
    written: HashMap<TemplateKey, u64>,
    gone: HashMap<TemplateKey, u64>,
    pace: Pace,
}

impl Ledger {
    /// Objects that are there.
    #[must_use]
    pub fn len(&self) -> usize {
        self.there.len()
    }

    /// Whether none is there.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.there.is_empty()
    }

    /// Objects that wait.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.queue.len()
    }

    /// A group is to be described like this from now on.
    pub fn want(&mut self, group: Group, specs: Vec<(TemplateKey, WorkloadTemplate)>, now: u64) {
        let before = self.of_group.remove(&group).unwrap_or_default();
        let after: BTreeSet<TemplateKey> = specs.iter().map(|(key, _)| key.clone()).collect();
        for key in before.difference(&after) {
            self.wanted.remove(key);
            self.gone.insert(key.clone(), now);
            self.enqueue(key.clone());
        }
        for (key, spec) in specs {
            self.gone.remove(&key);
            if self.wanted.get(&key).is_none_or(|old| **old != spec) {
                self.wanted.insert(key.clone(), Arc::new(spec));
                self.enqueue(key);
            }
        }
        if !after.is_empty() {
            self.of_group.insert(group, after);
        }
    }

    /// A full listing of what is there begins.
    pub fn begin(&mut self) {
        self.listing = Some(BTreeSet::new());
    }

    /// The listing is complete.
    pub fn end(&mut self, now: u64) {
        if let Some(seen) = self.listing.take() {
            let lost: Vec<_> = self
                .there
                .keys()
                .filter(|key| !seen.contains(*key))
                .cloned()
                .collect();
            for key in lost {
                self.observe(key, None, now);
            }
        }
        self.listed = true;
    }

    /// Every pod has been seen: from here on what nobody wants is superfluous.
    pub fn pods_listed(&mut self, now: u64) {
        if !self.pods_listed {
            self.pods_listed = true;
            self.gone.values_mut().for_each(|since| *since = now);
        }
    }

    /// The object is like this in the cluster, whoever made it so.
    pub fn observe(&mut self, key: TemplateKey, spec: Option<WorkloadTemplate>, now: u64) {
        match spec {
            Some(spec) => {
                if let Some(seen) = &mut self.listing {
                    seen.insert(key.clone());
                }
                self.there.insert(key.clone(), Arc::new(spec));
            }
            None => _ = self.there.remove(&key),
        }
        if self.wanted.get(&key) != self.there.get(&key) {
            if !self.wanted.contains_key(&key) {
                self.gone.entry(key.clone()).or_insert(now);
            }
            self.enqueue(key);
        }
    }

    /// The next write that is due, if there is one; the caller makes it and reports by [`Ledger::done`].
    pub fn next(&mut self, now: u64) -> Option<Write> {
        if !self.listed || !self.pods_listed || !self.pace.allows(now) {
            return None;
        }
        for _ in 0..self.queue.len() {
            let key = self.queue.pop_front()?;
            let wanted = self.wanted.get(&key);
            if wanted == self.there.get(&key) {
                self.queued.remove(&key);
                self.gone.remove(&key);
                continue;
            }
            let rested = self.written.get(&key).is_none_or(|at| at + PER_OBJECT_MS <= now);
            let over = self.gone.get(&key).is_none_or(|at| at + GRACE_MS <= now);
            if !rested || (wanted.is_none() && !over) {
                self.queue.push_back(key);
                continue;
            }
            self.queued.remove(&key);
            self.written.insert(key.clone(), now);
            self.pace.wrote();
            return Some(match wanted {
                Some(spec) => Write::Apply(key, Arc::clone(spec)),
                None => Write::Delete(key),
            });
        }
        self.pace.caught_up();
        None
    }

    /// How long the API server took for a write, milliseconds; `None` if it failed.
    pub fn answered(&mut self, took_ms: Option<u64>) {
        self.pace.answered(took_ms);
    }

    /// A write was made, or was not: then it is tried again.
    pub fn done(&mut self, write: &Write, succeeded: bool) {
        match (write, succeeded) {
            (Write::Apply(key, spec), true) => {
                self.there.insert(key.clone(), Arc::clone(spec));
                if self.wanted.get(key) != Some(spec) {
                    self.enqueue(key.clone());
                }
            }
            (Write::Delete(key), true) => {
                self.there.remove(key);
                self.gone.remove(key);
                self.written.remove(key);
                if self.wanted.contains_key(key) {
                    self.enqueue(key.clone());
                }
            }
            (Write::Apply(key, _) | Write::Delete(key), false) => self.enqueue(key.clone()),
        }
    }

    fn enqueue(&mut self, key: TemplateKey) {
        if self.queued.insert(key.clone()) {
            self.queue.push_back(key);
        }
    }
}

#[cfg(test)]
mod tests;
