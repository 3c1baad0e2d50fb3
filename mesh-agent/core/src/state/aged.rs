//! Objects by what they speak of, the oldest first.

use crate::model::ObjectName;
use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

/// Which objects speak of each `K`: hosts, services. Of one age the first by name comes first.
pub(super) struct Aged<K> {
    /// Sorted. Mostly one: a tree would take ten times the memory.
    holders: HashMap<K, Vec<Holder>>,
    known: HashMap<ObjectName, (Arc<str>, Box<[K]>)>,
}

/// `metadata.creationTimestamp` and name.
type Holder = (Arc<str>, ObjectName);

impl<K> Default for Aged<K> {
    fn default() -> Self {
        Self {
            holders: HashMap::new(),
            known: HashMap::new(),
        }
    }
}

impl<K: Clone + Eq + Hash> Aged<K> {
    /// Follows an object: when it was created and what it speaks of now; `None` if it is gone. Gives what it spoke of before
    /// and what it speaks of now.
    pub(super) fn follow(&mut self, name: &ObjectName, now: Option<(&Arc<str>, Vec<K>)>) -> Vec<K> {
        let mut touched = Vec::new();
        if let Some((created, keys)) = self.known.remove(name) {
            let holder = (created, name.clone());
            for key in keys {
                if let Some(holders) = self.holders.get_mut(&key) {
                    holders.retain(|other| *other != holder);
                    if holders.is_empty() {
                        self.holders.remove(&key);
                    }
                }
                touched.push(key);
            }
        }
        if let Some((created, keys)) = now.filter(|(_, keys)| !keys.is_empty()) {
            let holder = (Arc::clone(created), name.clone());
            for key in &keys {
                let holders = self.holders.entry(key.clone());
                let holders = holders.or_insert_with(|| Vec::with_capacity(1));
                if let Err(place) = holders.binary_search(&holder) {
                    holders.insert(place, holder.clone());
                }
            }
            touched.extend(keys.iter().cloned());
            self.known.insert(name.clone(), (holder.0, keys.into()));
        }
        touched
    }

    /// The objects that speak of it, the oldest first.
    pub(super) fn of<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> impl Iterator<Item = &ObjectName>
    where
        K: Borrow<Q>,
    {
        self.holders.get(key).into_iter().flatten().map(|(_, name)| name)
    }

    /// Everything that any object speaks of.
    pub(super) fn keys(&self) -> impl Iterator<Item = &K> {
        self.holders.keys()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(aged: &Aged<&'static str>, key: &str) -> Vec<String> {
        aged.of(key).map(|name| name.name.to_string()).collect()
    }

    #[test]
    fn the_oldest_comes_first_and_an_object_speaks_only_of_what_it_spoke_of_last() {
        let mut aged = Aged::default();
        let (a, b, c) = (
            ObjectName::new("n", "a"),
            ObjectName::new("n", "b"),
            ObjectName::new("n", "c"),
        );
        assert_eq!(aged.follow(&b, Some((&"2".into(), vec!["x"]))), ["x"]);
        aged.follow(&a, Some((&"2".into(), vec!["x", "y"])));
        aged.follow(&c, Some((&"1".into(), vec!["x"])));
        assert_eq!(of(&aged, "x"), ["c", "a", "b"]);
        assert_eq!(aged.follow(&a, Some((&"0".into(), vec!["x"]))), ["x", "y", "x"]);
        assert_eq!(of(&aged, "x"), ["a", "c", "b"]);
        assert_eq!(aged.follow(&c, None), ["x"]);
        assert_eq!(of(&aged, "x"), ["a", "b"]);
        assert_eq!(aged.keys().collect::<Vec<_>>(), [&"x"]);
    }
}
