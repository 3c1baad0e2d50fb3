//! Small numbers for things that live for a while.

use std::borrow::Borrow;
use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;

/// Gives each key a number that it keeps until it is removed: never 0, the smallest that is free.
pub(super) struct Ids<K> {
    by_key: HashMap<K, u32>,
    free: BTreeSet<u32>,
    highest: u32,
}

impl<K> Default for Ids<K> {
    fn default() -> Self {
        Self {
            by_key: HashMap::new(),
            free: BTreeSet::new(),
            highest: 0,
        }
    }
}

impl<K: Hash + Eq> Ids<K> {
    /// The key's number.
    pub(super) fn of(&mut self, key: K) -> u32 {
        *self.by_key.entry(key).or_insert_with(|| {
            self.free.pop_first().unwrap_or_else(|| {
                self.highest += 1;
                self.highest
            })
        })
    }

    /// Gives a number back.
    pub(super) fn release<Q: Hash + Eq + ?Sized>(&mut self, key: &Q)
    where
        K: Borrow<Q>,
    {
        if let Some(id) = self.by_key.remove(key) {
            self.free.insert(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_kept_while_its_owner_lives_and_the_smallest_free_one_is_reused() {
        let mut ids = Ids::default();
        assert_eq!((ids.of("a"), ids.of("b"), ids.of("c")), (1, 2, 3));
        ids.release("a");
        ids.release("b");
        ids.release("unknown");
        assert_eq!((ids.of("c"), ids.of("d"), ids.of("e"), ids.of("f")), (3, 1, 2, 4));
    }
}
