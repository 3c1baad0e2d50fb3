//! What the controller keeps of every pod: enough to know who may be asked for on which node, and what pods of one
//! template have in common. Pure: fed by a watch elsewhere.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use mesh_core::model::template::TemplateOwner;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

/// `spec` of a Pod, less what nobody here reads.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodSpecPart {
    node_name: Option<Arc<str>>,
    service_account_name: Option<Arc<str>>,
    host_network: bool,
    runtime_class_name: Option<Arc<str>>,
}

/// `status` of a Pod, less what nobody here reads.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct PodStatusPart {
    phase: Option<String>,
}

/// A Pod as it is decoded.
pub type PodObject = kube::core::Object<PodSpecPart, PodStatusPart>;

/// Namespace and name.
pub type PodKey = (Arc<str>, Arc<str>);

/// What a template says of its pods.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PodFacts {
    /// `spec.serviceAccountName`.
    pub service_account: Arc<str>,
    /// `metadata.labels`, less the volatile ones.
    pub labels: Arc<BTreeMap<Arc<str>, Arc<str>>>,
    /// Kind in lower case and name of what made the pod.
    pub owner: Option<(Arc<str>, Arc<str>)>,
    /// `spec.hostNetwork`.
    pub host_network: bool,
    /// `spec.runtimeClassName`.
    pub runtime_class: Option<Arc<str>>,
}

impl PodFacts {
    /// `owner` in the form of a template.
    #[must_use]
    pub fn template_owner(&self) -> Option<TemplateOwner> {
        let (kind, name) = self.owner.clone()?;
        Some(TemplateOwner { kind, name })
    }
}

/// A pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodRecord {
    /// Namespace and name.
    pub key: PodKey,
    /// `metadata.uid`.
    pub uid: Arc<str>,
    /// `metadata.generateName`, if the pod was made by it.
    pub prefix: Option<Arc<str>>,
    /// `spec.nodeName`, empty before it is scheduled.
    pub node: Arc<str>,
    /// Phase `Succeeded` or `Failed`.
    pub ended: bool,
    /// What its template says of it.
    pub facts: PodFacts,
}

/// Pods of one (namespace, generateName); pods without a generateName are groups of their own by name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Group {
    /// Namespace and `metadata.generateName`.
    Prefix(Arc<str>, Arc<str>),
    /// One pod.
    Pod(Arc<str>, Arc<str>),
}

impl PodRecord {
    /// Keeps what is needed; none for an object without a name.
    #[must_use]
    pub fn read(pod: &PodObject) -> Option<Self> {
        let meta = &pod.metadata;
        let name: Arc<str> = meta.name.as_deref()?.into();
        let spec = &pod.spec;
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        let account = spec.service_account_name.clone().filter(|name| !name.is_empty());
        // A generateName that is not the name's beginning describes nothing.
        let prefix = meta
            .generate_name
            .as_deref()
            .filter(|prefix| !prefix.is_empty() && name.len() > prefix.len() && name.starts_with(prefix));
        Some(Self {
            key: (meta.namespace.as_deref()?.into(), Arc::clone(&name)),
            uid: meta.uid.as_deref().unwrap_or_default().into(),
            prefix: prefix.map(Into::into),
            node: spec.node_name.clone().unwrap_or_else(|| "".into()),
            ended: matches!(phase, Some("Succeeded" | "Failed")),
            facts: PodFacts {
                service_account: account.unwrap_or_else(|| "default".into()),
                labels: Arc::new(labels(meta)),
                owner: owner(meta),
                host_network: spec.host_network,
                runtime_class: spec.runtime_class_name.clone(),
            },
        })
    }

    /// To which group it belongs.
    #[must_use]
    pub fn group(&self) -> Group {
        let (namespace, name) = &self.key;
        match &self.prefix {
            Some(prefix) => Group::Prefix(Arc::clone(namespace), Arc::clone(prefix)),
            None => Group::Pod(Arc::clone(namespace), Arc::clone(name)),
        }
    }
}

/// Labels that differ from pod to pod or from rollout to rollout and by which no subset chooses.
const VOLATILE: &[&str] = &[
    "pod-template-hash",
    "pod-template-generation",
    "controller-revision-hash",
    "controller-uid",
    "batch.kubernetes.io/controller-uid",
    "batch.kubernetes.io/job-completion-index",
    "apps.kubernetes.io/pod-index",
    "statefulset.kubernetes.io/pod-name",
];

/// Membership may be given as label or as annotation; templates have labels only.
const MEMBERSHIP: &str = "heddle.io/mesh";

fn labels(meta: &ObjectMeta) -> BTreeMap<Arc<str>, Arc<str>> {
    let given = meta.labels.iter().flatten();
    let mut labels: BTreeMap<Arc<str>, Arc<str>> = given
        .filter(|(key, _)| !VOLATILE.contains(&key.as_str()))
        .map(|(key, value)| (key.as_str().into(), value.as_str().into()))
        .collect();
    let annotations = meta.annotations.as_ref();
    if let Some(value) = annotations.and_then(|all| all.get(MEMBERSHIP)) {
        labels
            .entry(MEMBERSHIP.into())
            .or_insert_with(|| value.as_str().into());
    }
    labels
}

/// A ReplicaSet that a Deployment made is called `<deployment>-<pod-template-hash>`.
fn owner(meta: &ObjectMeta) -> Option<(Arc<str>, Arc<str>)> {
    let mut owners = meta.owner_references.iter().flatten();
    let owner = owners.find(|owner| owner.controller.unwrap_or(true))?;
    let hash = meta.labels.as_ref().and_then(|all| all.get("pod-template-hash"));
    let deployment = hash
        .filter(|_| owner.kind == "ReplicaSet")
        .and_then(|hash| owner.name.strip_suffix(hash.as_str())?.strip_suffix('-'))
        .filter(|name| !name.is_empty());
    Some(match deployment {
        Some(name) => ("deployment".into(), name.into()),
        None => (owner.kind.to_ascii_lowercase().into(), owner.name.as_str().into()),
    })
}

/// Node, namespace, service account.
type Account = (Arc<str>, Arc<str>, Arc<str>);

/// Every pod.
#[derive(Debug, Default)]
pub struct PodIndex {
    pods: HashMap<PodKey, PodRecord>,
    groups: HashMap<Group, BTreeSet<PodKey>>,
    accounts: HashMap<Account, usize>,
    listing: Option<HashSet<PodKey>>,
    complete: bool,
}

impl PodIndex {
    /// Whether a whole listing was seen: before it nobody can say that a pod is not there.
    #[must_use]
    pub fn complete(&self) -> bool {
        self.complete
    }

    /// How many pods there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.pods.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pods.is_empty()
    }

    /// Node of a pod, if it is the one with this UID (empty = any).
    #[must_use]
    pub fn node_of(&self, namespace: &str, name: &str, uid: &str) -> Option<Arc<str>> {
        let pod = self.pods.get(&(namespace.into(), name.into()))?;
        let same = uid.is_empty() || *pod.uid == *uid;
        (same && !pod.node.is_empty()).then(|| Arc::clone(&pod.node))
    }

    /// Whether a pod with this account is on this node and has not ended.
    #[must_use]
    pub fn runs(&self, node: &str, namespace: &str, service_account: &str) -> bool {
        let key = (node.into(), namespace.into(), service_account.into());
        self.accounts.contains_key(&key)
    }

    /// A full listing begins.
    pub fn begin(&mut self) {
        self.listing = Some(HashSet::new());
    }

    /// The listing is complete; what it did not mention is gone. Returns the groups that changed.
    pub fn end(&mut self) -> Vec<Group> {
        self.complete = true;
        let Some(seen) = self.listing.take() else {
            return Vec::new();
        };
        let gone: Vec<PodKey> = self
            .pods
            .keys()
            .filter(|key| !seen.contains(*key))
            .cloned()
            .collect();
        gone.iter().filter_map(|key| self.remove(key)).collect()
    }

    /// The pod is like this now. Returns the groups that changed.
    pub fn put(&mut self, mut pod: PodRecord) -> Vec<Group> {
        if let Some(seen) = &mut self.listing {
            seen.insert(pod.key.clone());
        }
        if self.pods.get(&pod.key) == Some(&pod) {
            return Vec::new();
        }
        let mut changed: Vec<Group> = self.remove(&pod.key).into_iter().collect();
        let group = pod.group();
        let siblings = self.groups.entry(group.clone()).or_default();
        // One copy of what siblings share.
        if let Some(sibling) = siblings.first().and_then(|key| self.pods.get(key))
            && sibling.facts == pod.facts
        {
            pod.facts = sibling.facts.clone();
        }
        siblings.insert(pod.key.clone());
        if let Some(account) = account(&pod) {
            *self.accounts.entry(account).or_default() += 1;
        }
        self.pods.insert(pod.key.clone(), pod);
        if !changed.contains(&group) {
            changed.push(group);
        }
        changed
    }

    /// The pod is gone. Returns its group if it was known.
    pub fn remove(&mut self, key: &PodKey) -> Option<Group> {
        let pod = self.pods.remove(key)?;
        let group = pod.group();
        if let Some(members) = self.groups.get_mut(&group) {
            members.remove(key);
            if members.is_empty() {
                self.groups.remove(&group);
            }
        }
        if let Some(account) = account(&pod)
            && let Some(count) = self.accounts.get_mut(&account)
        {
            *count -= 1;
            if *count == 0 {
                self.accounts.remove(&account);
            }
        }
        Some(group)
    }

    /// Pods of a group that have not ended, by name.
    pub fn members(&self, group: &Group) -> impl Iterator<Item = &PodRecord> {
        let members = self.groups.get(group).into_iter().flatten();
        members
            .filter_map(|key| self.pods.get(key))
            .filter(|pod| !pod.ended)
    }

    /// Every group.
    pub fn groups(&self) -> impl Iterator<Item = &Group> {
        self.groups.keys()
    }
}

fn account(pod: &PodRecord) -> Option<Account> {
    let runs = !pod.ended && !pod.node.is_empty();
    runs.then(|| {
        (
            Arc::clone(&pod.node),
            Arc::clone(&pod.key.0),
            Arc::clone(&pod.facts.service_account),
        )
    })
}
