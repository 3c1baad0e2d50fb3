//! Which connections pods take: mutual TLS only, or plaintext too (PeerAuthentication).

use super::ObjectName;
use super::workload::{Labels, Workload};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// `PeerAuthentication.MutualTLS.Mode`, without `UNSET`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum PeerMode {
    /// Both; what holds where nothing is said.
    #[default]
    Permissive,
    /// Mutual TLS, and nothing else.
    Strict,
    /// As `Permissive`, as in Istio's ambient mode: plaintext is taken, and a tunnel that comes is not refused.
    Disable,
}

impl PeerMode {
    /// As users write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Permissive => "PERMISSIVE",
            Self::Strict => "STRICT",
            Self::Disable => "DISABLE",
        }
    }
}

/// One PeerAuthentication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerPolicy {
    /// The object.
    pub object: ObjectName,
    /// `selector.matchLabels`; empty = every pod of its namespace, in the root namespace of the mesh.
    pub selector: Labels,
    /// `mtls.mode`; `None` = `UNSET`, inherited.
    pub mode: Option<PeerMode>,
    /// `portLevelMtls`, by the pods' ports; `None` = as the other ports.
    pub ports: BTreeMap<u16, Option<PeerMode>>,
}

/// What holds for a port of a pod, and by whose word.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerRule {
    /// What is taken.
    pub mode: PeerMode,
    /// The object and its field; `None` where nobody said anything.
    pub by: Option<(ObjectName, String)>,
}

/// All of them, by namespace, the oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerPolicies {
    by_namespace: HashMap<Arc<str>, Vec<Arc<PeerPolicy>>>,
}

impl PeerPolicies {
    /// Takes them, the oldest first.
    pub fn new(policies: impl IntoIterator<Item = Arc<PeerPolicy>>) -> Self {
        let mut by_namespace: HashMap<_, Vec<_>> = HashMap::new();
        for policy in policies {
            let namespace = Arc::clone(&policy.object.namespace);
            by_namespace.entry(namespace).or_default().push(policy);
        }
        Self { by_namespace }
    }

    /// What holds for `port` of a pod (T-70): of the narrowest that says something, port before selector before
    /// namespace before the root namespace; of two alike the older. A selector in the root namespace speaks of pods of
    /// all namespaces.
    #[must_use]
    pub fn rule(&self, root_namespace: &str, workload: &Workload, port: u16) -> PeerRule {
        let own = &*workload.pod.namespace;
        let selecting = |namespace| self.first(namespace, |p| !p.selector.is_empty() && selects(p, workload));
        let wide = |namespace| self.first(namespace, |p| p.selector.is_empty());
        let selected = selecting(own).or_else(|| selecting(root_namespace));
        if let Some(policy) = selected
            && let Some(Some(mode)) = policy.ports.get(&port)
        {
            return said(policy, *mode, format!("spec.portLevelMtls.{port}.mode"));
        }
        let layers = [selected, wide(own), wide(root_namespace)];
        for policy in layers.into_iter().flatten() {
            if let Some(mode) = policy.mode {
                return said(policy, mode, "spec.mtls.mode".to_owned());
            }
        }
        PeerRule::default()
    }

    fn first(&self, namespace: &str, holds: impl Fn(&PeerPolicy) -> bool) -> Option<&PeerPolicy> {
        let policies = self.by_namespace.get(namespace)?;
        policies
            .iter()
            .map(|policy| &**policy)
            .find(|policy| holds(policy))
    }
}

fn selects(policy: &PeerPolicy, workload: &Workload) -> bool {
    let has = |(key, value): (&Arc<str>, &Arc<str>)| workload.labels.get(key) == Some(value);
    policy.selector.iter().all(has)
}

fn said(policy: &PeerPolicy, mode: PeerMode, field: String) -> PeerRule {
    PeerRule {
        mode,
        by: Some((policy.object.clone(), field)),
    }
}
