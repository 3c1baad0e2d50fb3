//! Which EndpointSlices name a pod.

use crate::model::ObjectName;
use crate::translate::{EndpointSpec, PodMatch, SliceSpec};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

/// Pod → names of the slices (of its namespace) that have an endpoint of it.
#[derive(Default)]
pub(super) struct Mentions {
    slices: BTreeMap<ObjectName, Box<[Arc<str>]>>,
}

impl Mentions {
    /// Follows a slice's change; `touched` gets the pods of which it says something else now.
    pub(super) fn update(
        &mut self,
        slice: &ObjectName,
        old: Option<&SliceSpec>,
        new: Option<&SliceSpec>,
        touched: &mut BTreeSet<ObjectName>,
    ) {
        let (old, new) = (by_pod(old), by_pod(new));
        let pod = |name: &Arc<str>| ObjectName::new(Arc::clone(&slice.namespace), Arc::clone(name));
        for (name, said) in &new {
            if old.get(name) == Some(said) {
                continue;
            }
            let pod = pod(name);
            if !old.contains_key(name) {
                let slices = self.slices.entry(pod.clone()).or_default();
                let mut more = slices.to_vec();
                more.push(Arc::clone(&slice.name));
                more.sort();
                *slices = more.into();
            }
            touched.insert(pod);
        }
        for name in old.keys().filter(|name| !new.contains_key(*name)) {
            let pod = pod(name);
            if let Some(slices) = self.slices.get_mut(&pod) {
                *slices = slices.iter().filter(|s| **s != slice.name).cloned().collect();
                if slices.is_empty() {
                    self.slices.remove(&pod);
                }
            }
            touched.insert(pod);
        }
    }

    /// The slices that name this pod.
    pub(super) fn of(&self, pod: &ObjectName) -> &[Arc<str>] {
        self.slices.get(pod).map_or(&[], |slices| slices)
    }

    /// The pods of a namespace that are named anywhere.
    pub(super) fn in_namespace(&self, namespace: &Arc<str>) -> impl Iterator<Item = &ObjectName> {
        self.starting_with(namespace, "".into())
    }

    /// The pods of which a template may speak.
    pub(super) fn matching(&self, namespace: &Arc<str>, pods: &PodMatch) -> Vec<ObjectName> {
        match pods {
            PodMatch::Name(name) => {
                let pod = ObjectName::new(Arc::clone(namespace), Arc::clone(name));
                let known = self.slices.contains_key(&pod);
                known.then_some(pod).into_iter().collect()
            }
            PodMatch::Prefix(prefix) => self
                .starting_with(namespace, Arc::clone(prefix))
                .cloned()
                .collect(),
        }
    }

    fn starting_with(&self, namespace: &Arc<str>, prefix: Arc<str>) -> impl Iterator<Item = &ObjectName> {
        let first = ObjectName::new(Arc::clone(namespace), Arc::clone(&prefix));
        let namespace = Arc::clone(namespace);
        self.slices
            .range((Bound::Included(first), Bound::Unbounded))
            .map(|(pod, _)| pod)
            .take_while(move |pod| pod.namespace == namespace && pod.name.starts_with(&*prefix))
    }
}

fn by_pod(slice: Option<&SliceSpec>) -> BTreeMap<&Arc<str>, Vec<&EndpointSpec>> {
    let mut pods: BTreeMap<&Arc<str>, Vec<&EndpointSpec>> = BTreeMap::new();
    for endpoint in slice.into_iter().flat_map(|s| &s.endpoints) {
        if let Some(pod) = &endpoint.pod {
            pods.entry(&pod.name).or_default().push(endpoint);
        }
    }
    pods
}
