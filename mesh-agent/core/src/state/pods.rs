//! Every pod that is known: those that the source gives in full, and those of other nodes, which EndpointSlices name
//! and templates describe.

use super::addresses::{Claims, holder};
use super::dirty::Dirty;
use super::endpoints::reuse;
use super::ids::Numbers;
use super::mentions::Mentions;
use super::shared::Shared;
use super::tables::Tables;
use super::workloads::{self, Facts, Seen};
use crate::model::ObjectName;
use crate::model::snapshot::{MeshSettings, Snapshot};
use crate::model::workload::{Names, Workload};
use crate::translate::{EndpointSpec, Membership};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

/// What is known of one pod.
pub(super) struct Known {
    pub(super) pod: Knowledge,
    /// Whether the source gave the pod itself.
    pub(super) full: bool,
    /// Whether its addresses are its own: not those of its node, nor those that it no longer has.
    owns: bool,
}

/// See [`Known`].
pub(super) enum Knowledge {
    /// Who it is.
    Workload(Arc<Workload>),
    /// Nothing, and it may be in the mesh: nobody is sent to it.
    HeldOut(HeldOut),
    /// Nothing, and it is not in the mesh: an address like any other.
    Plain,
}

/// Why nobody is sent to an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeldOut {
    /// No WorkloadTemplate says whose pod it is, and its namespace is in the mesh.
    NoTemplate,
    /// Its namespace is not known yet.
    NoNamespace,
    /// It is said to be of this node, which does not have it (yet, or any more).
    NotHere,
}

impl HeldOut {
    /// One line for `heddle status`.
    #[must_use]
    pub const fn describe(self) -> &'static str {
        match self {
            Self::NoTemplate => "no WorkloadTemplate says who it is, and its namespace is in the mesh",
            Self::NoNamespace => "its namespace is not known yet",
            Self::NotHere => "it is said to be of this node, which does not have it",
        }
    }
}

impl Known {
    pub(super) fn workload(&self) -> Option<&Arc<Workload>> {
        match &self.pod {
            Knowledge::Workload(workload) => Some(workload),
            Knowledge::HeldOut(_) | Knowledge::Plain => None,
        }
    }

    fn owned(&self) -> &[IpAddr] {
        match &self.pod {
            Knowledge::Workload(workload) if self.owns => &workload.ips,
            _ => &[],
        }
    }

    fn same(&self, other: &Self) -> bool {
        let pod = match (&self.pod, &other.pod) {
            (Knowledge::Workload(a), Knowledge::Workload(b)) => Arc::ptr_eq(a, b),
            (Knowledge::HeldOut(a), Knowledge::HeldOut(b)) => a == b,
            (Knowledge::Plain, Knowledge::Plain) => true,
            _ => false,
        };
        pod && (self.full, self.owns) == (other.full, other.owns)
    }
}

/// What else a change of pods touches.
#[derive(Default)]
pub(super) struct Effects {
    /// Services that have such a pod as endpoint.
    pub(super) services: BTreeSet<ObjectName>,
    /// Namespaces in which a pod that a selector may find changed.
    pub(super) selectable: BTreeSet<Arc<str>>,
    /// Namespaces in which any pod changed.
    pub(super) namespaces: BTreeSet<Arc<str>>,
    /// Whether an address has another holder.
    pub(super) addresses: bool,
}

/// See the module's description.
#[derive(Default)]
pub(super) struct Pods {
    pub(super) known: BTreeMap<ObjectName, Known>,
    pub(super) held_out: BTreeMap<ObjectName, HeldOut>,
    mentions: Mentions,
    claims: Claims,
    /// Of workloads; each keeps its own while the pod lives.
    numbers: Numbers,
    names: Shared<Names>,
    /// The node whose pods the source gives in full; `None` if it gives all pods.
    node: Option<Arc<str>>,
}

impl Pods {
    pub(super) fn new(node: Option<Arc<str>>) -> Self {
        Self {
            node,
            ..Self::default()
        }
    }

    /// Whether endpoints come from slices alone, because most pods are not known to selectors.
    pub(super) fn of_one_node(&self) -> bool {
        self.node.is_some()
    }

    /// Follows a change.
    pub(super) fn rebuild(&mut self, tables: &Tables, dirty: &Dirty, next: &mut Snapshot) -> Effects {
        let mut effects = Effects::default();
        let mut ips = BTreeSet::new();
        let mut full = false;
        for pod in self.touched(tables, dirty) {
            let new = self.look_at(tables, &pod, &next.settings);
            let old = self.known.get(&pod);
            if match (old, &new) {
                (Some(old), Some(new)) => old.same(new),
                (None, None) => true,
                _ => false,
            } {
                continue;
            }
            let selectable = old.is_some_and(|k| k.full) || new.as_ref().is_some_and(|k| k.full);
            full |= selectable;
            effects.namespaces.insert(Arc::clone(&pod.namespace));
            if selectable {
                effects.selectable.insert(Arc::clone(&pod.namespace));
            }
            for slice in self.mentions.of(&pod) {
                let service = tables
                    .slice(&pod.namespace, slice)
                    .and_then(|s| s.service.clone());
                effects
                    .services
                    .extend(service.map(|s| ObjectName::new(Arc::clone(&pod.namespace), s)));
            }
            self.replace(pod, new, next, &mut ips);
        }
        if full {
            next.workloads = self
                .known
                .values()
                .filter(|k| k.full)
                .filter_map(|k| k.workload().cloned())
                .collect();
        }
        for ip in ips {
            effects.addresses |= self.settle(ip, next);
        }
        next.held_out = self.held_out.len();
        effects
    }

    /// The pods that a change concerns.
    fn touched(&mut self, tables: &Tables, dirty: &Dirty) -> BTreeSet<ObjectName> {
        let mut touched = dirty.pods.clone();
        for (slice, old) in &dirty.slices {
            let new = tables.slice(&slice.namespace, &slice.name);
            self.mentions
                .update(slice, old.as_deref(), new.map(|s| &**s), &mut touched);
        }
        for namespace in &dirty.namespaces {
            touched.extend(self.mentions.in_namespace(namespace).cloned());
            let full = tables.pods.get(namespace).into_iter().flatten();
            touched.extend(full.map(|(name, _)| ObjectName::new(Arc::clone(namespace), Arc::clone(name))));
        }
        for (namespace, pods) in &dirty.templates {
            touched.extend(self.mentions.matching(namespace, pods));
        }
        touched
    }

    /// What the tables say of a pod; `None` if nothing names it.
    fn look_at(&mut self, tables: &Tables, pod: &ObjectName, settings: &MeshSettings) -> Option<Known> {
        let old = self.known.get(pod).and_then(Known::workload).cloned();
        let namespace = tables.namespaces.get(&pod.namespace).cloned();
        if let Some(spec) = tables.pod(pod) {
            let uid = workloads::uid(pod, spec.uid.as_ref());
            let facts = self.node.is_some().then(|| Facts {
                sandbox: spec.uid.as_ref().and_then(|uid| tables.sandboxes.get(uid)),
            });
            let id = self.number(old.as_ref(), &uid);
            let namespace = namespace.unwrap_or_default();
            let names = self
                .names
                .of(workloads::names(pod, spec.owner.as_ref(), &spec.labels));
            let built = workloads::full(id, pod, names, spec, facts.as_ref(), &namespace, settings);
            return Some(Known {
                pod: Knowledge::Workload(reuse(old.as_ref(), built)),
                full: true,
                owns: !spec.host_network && !spec.ended,
            });
        }
        let slices = self.mentions.of(pod);
        let endpoints: Vec<&EndpointSpec> = slices
            .iter()
            .filter_map(|name| tables.slice(&pod.namespace, name))
            .flat_map(|slice| &slice.endpoints)
            .filter(|e| e.pod.as_ref().is_some_and(|p| p.name == pod.name))
            .collect();
        if endpoints.is_empty() {
            return None;
        }
        let seen = Seen::of(&endpoints);
        let unknown = |pod| {
            Some(Known {
                pod,
                full: false,
                owns: false,
            })
        };
        if self.node.as_ref().is_some_and(|node| *node == seen.node) {
            return unknown(Knowledge::HeldOut(HeldOut::NotHere));
        }
        if self.node.is_some() && namespace.is_none() {
            return unknown(Knowledge::HeldOut(HeldOut::NoNamespace));
        }
        let namespace = namespace.unwrap_or_default();
        let Some(template) = tables.templates.of(pod) else {
            return unknown(if namespace.membership == Some(Membership::In) {
                Knowledge::HeldOut(HeldOut::NoTemplate)
            } else {
                Knowledge::Plain
            });
        };
        let id = self.number(old.as_ref(), &seen.uid(pod));
        let names = self
            .names
            .of(workloads::names(pod, template.owner.as_ref(), &template.labels));
        let built = workloads::remote(id, pod, names, &seen, template, &namespace, settings);
        Some(Known {
            pod: Knowledge::Workload(reuse(old.as_ref(), built)),
            full: false,
            owns: !template.host_network,
        })
    }

    /// The number that a pod has, or one for a new pod.
    fn number(&mut self, old: Option<&Arc<Workload>>, uid: &Arc<str>) -> u32 {
        match old.filter(|old| old.uid == *uid) {
            Some(old) => old.id,
            None => self.numbers.take(),
        }
    }

    /// Puts a pod's new self in the place of its old one. `ips` gets the addresses that either claims.
    fn replace(
        &mut self,
        pod: ObjectName,
        new: Option<Known>,
        next: &mut Snapshot,
        ips: &mut BTreeSet<IpAddr>,
    ) {
        let old = self.known.remove(&pod);
        for ip in old.iter().flat_map(Known::owned) {
            self.claims.remove(*ip, &pod);
            ips.insert(*ip);
        }
        for ip in new.iter().flat_map(Known::owned) {
            self.claims.add(*ip, &pod);
            ips.insert(*ip);
        }
        let id = |k: &Option<Known>| k.as_ref().and_then(Known::workload).map(|w| w.id);
        if let Some(gone) = id(&old).filter(|gone| id(&new) != Some(*gone)) {
            self.numbers.give_back(gone);
        }
        self.held_out.remove(&pod);
        next.remotes.remove(&pod);
        let Some(new) = new else { return };
        match &new.pod {
            Knowledge::Workload(workload) if !new.full => {
                next.remotes.insert(pod.clone(), Arc::clone(workload));
            }
            Knowledge::HeldOut(why) => _ = self.held_out.insert(pod.clone(), *why),
            Knowledge::Workload(_) | Knowledge::Plain => {}
        }
        self.known.insert(pod, new);
    }

    /// Decides who has an address; whether that is news.
    fn settle(&self, ip: IpAddr, next: &mut Snapshot) -> bool {
        let new = holder(&self.claims, &self.known, ip);
        let old = next.workloads_by_ip.get(&ip);
        match (old, new) {
            (Some(old), Some(new)) if Arc::ptr_eq(old, new) => false,
            (None, None) => false,
            (_, Some(new)) => {
                next.workloads_by_ip.insert(ip, Arc::clone(new));
                true
            }
            (Some(_), None) => {
                next.workloads_by_ip.remove(&ip);
                true
            }
        }
    }
}
