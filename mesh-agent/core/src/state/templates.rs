//! Which template speaks for a pod.

use super::dirty::Dirty;
use crate::model::ObjectName;
use crate::translate::{PodMatch, TemplateSpec};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The templates in force.
#[derive(Default)]
pub(super) struct Templates {
    objects: BTreeMap<ObjectName, Arc<TemplateSpec>>,
    /// Namespace → which pods → the objects that speak for them; more than one only by mistake.
    by_match: BTreeMap<Arc<str>, BTreeMap<PodMatch, Claims>>,
}

/// The objects that speak for the same pods, by name.
type Claims = BTreeMap<Arc<str>, Arc<TemplateSpec>>;

impl Templates {
    pub(super) fn has(&self, name: &ObjectName) -> bool {
        self.objects.contains_key(name)
    }

    pub(super) fn put(&mut self, name: ObjectName, spec: TemplateSpec, dirty: &mut Dirty) -> bool {
        if self.objects.get(&name).is_some_and(|old| **old == spec) {
            return false;
        }
        self.remove(&name, dirty);
        let spec = Arc::new(spec);
        self.by_match
            .entry(Arc::clone(&name.namespace))
            .or_default()
            .entry(spec.pods.clone())
            .or_default()
            .insert(Arc::clone(&name.name), Arc::clone(&spec));
        dirty
            .templates
            .insert((Arc::clone(&name.namespace), spec.pods.clone()));
        self.objects.insert(name, spec);
        true
    }

    pub(super) fn remove(&mut self, name: &ObjectName, dirty: &mut Dirty) {
        let Some(old) = self.objects.remove(name) else {
            return;
        };
        if let Some(of_namespace) = self.by_match.get_mut(&name.namespace) {
            if let Some(objects) = of_namespace.get_mut(&old.pods) {
                objects.remove(&name.name);
                if objects.is_empty() {
                    of_namespace.remove(&old.pods);
                }
            }
            if of_namespace.is_empty() {
                self.by_match.remove(&name.namespace);
            }
        }
        dirty
            .templates
            .insert((Arc::clone(&name.namespace), old.pods.clone()));
    }

    /// The template of a pod: by its name, else by the longest prefix. `None` as well where two objects say different
    /// things of the same pods: neither is to be trusted then.
    pub(super) fn of(&self, pod: &ObjectName) -> Option<&Arc<TemplateSpec>> {
        let templates = self.by_match.get(&pod.namespace)?;
        if let Some(objects) = templates.get(&PodMatch::Name(Arc::clone(&pod.name))) {
            return unanimous(objects);
        }
        let mut head = &*pod.name;
        while !head.is_empty() {
            // Of all prefixes of a text that are in a sorted set, the longest is the greatest entry not above it; an entry
            // that is none shares with all of them at most what it shares with the text.
            let upto = PodMatch::Prefix(head.into());
            let (found, objects) = templates.range(..=upto).next_back()?;
            let PodMatch::Prefix(prefix) = found else {
                return None;
            };
            if let Some(rest) = pod.name.strip_prefix(&**prefix) {
                return unanimous(objects).filter(|_| !rest.is_empty() && !rest.contains('-'));
            }
            head = common(head, prefix);
        }
        None
    }
}

fn unanimous(objects: &Claims) -> Option<&Arc<TemplateSpec>> {
    let mut specs = objects.values();
    let first = specs.next()?;
    specs.all(|other| other == first).then_some(first)
}

fn common<'a>(a: &'a str, b: &str) -> &'a str {
    let shared = a.bytes().zip(b.bytes()).take_while(|(a, b)| a == b).count();
    // Names of pods are ASCII (RFC 1123).
    a.get(..shared).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn with(prefixes: &[&str]) -> Templates {
        let mut templates = Templates::default();
        for (i, prefix) in prefixes.iter().enumerate() {
            let spec = spec(PodMatch::Prefix((*prefix).into()), prefix);
            templates.put(ObjectName::new("n", format!("t{i}")), spec, &mut Dirty::default());
        }
        templates
    }

    fn spec(pods: PodMatch, account: &str) -> TemplateSpec {
        TemplateSpec {
            pods,
            service_account: account.into(),
            labels: Arc::default(),
            owner: None,
            membership: None,
            host_network: false,
            sandboxed: false,
        }
    }

    fn account(templates: &Templates, pod: &str) -> Option<String> {
        let found = templates.of(&ObjectName::new("n", pod))?;
        Some(found.service_account.to_string())
    }

    #[test]
    fn a_name_is_stronger_than_a_prefix_and_a_longer_prefix_than_a_shorter_one() {
        let mut templates = with(&["web-", "web-7d9-", "web-aaaa-"]);
        let named = spec(PodMatch::Name("web-7d9-x2x2x".into()), "named");
        templates.put(ObjectName::new("n", "named"), named, &mut Dirty::default());
        assert_eq!(account(&templates, "web-0").as_deref(), Some("web-"));
        assert_eq!(account(&templates, "web-7d9-abcde").as_deref(), Some("web-7d9-"));
        assert_eq!(account(&templates, "web-7d9-x2x2x").as_deref(), Some("named"));
        assert_eq!(account(&templates, "other-0"), None);
    }

    #[test]
    fn a_pod_of_a_longer_prefix_that_is_not_known_yet_is_not_given_to_the_shorter_one() {
        let templates = with(&["web-"]);
        assert_eq!(account(&templates, "web-7d9-abcde"), None);
        assert_eq!(account(&templates, "web-"), None);
    }

    #[test]
    fn two_objects_that_contradict_each_other_are_both_not_believed() {
        let mut templates = with(&["web-", "web-"]);
        assert_eq!(account(&templates, "web-0").as_deref(), Some("web-"));
        let other = spec(PodMatch::Prefix("web-".into()), "intruder");
        templates.put(ObjectName::new("n", "t1"), other, &mut Dirty::default());
        assert_eq!(account(&templates, "web-0"), None);
        templates.remove(&ObjectName::new("n", "t1"), &mut Dirty::default());
        assert_eq!(account(&templates, "web-0").as_deref(), Some("web-"));
    }

    proptest! {
        #[test]
        fn the_longest_prefix_is_found_in_any_set(prefixes in prop::collection::btree_set("[ab-]{1,5}", 0..12), pod in "[ab-]{1,8}") {
            let list: Vec<&str> = prefixes.iter().map(String::as_str).collect();
            let templates = with(&list);
            let longest = list.iter().filter(|p| pod.starts_with(**p)).max_by_key(|p| p.len());
            let expected = longest.filter(|p| pod.len() > p.len() && !pod[p.len()..].contains('-'));
            prop_assert_eq!(account(&templates, &pod), expected.map(|p| (*p).to_owned()));
        }
    }
}
