//! Small numbers for things that live for a while.

use std::borrow::Borrow;
use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;

/// Numbers that are given out and come back: never 0, the smallest that is free.
#[derive(Default)]
pub(super) struct Numbers {
    free: BTreeSet<u32>,
    highest: u32,
}

impl Numbers {
    pub(super) fn take(&mut self) -> u32 {
        self.free.pop_first().unwrap_or_else(|| {
            self.highest += 1;
            self.highest
        })
    }

    /// Only for a number that was taken.
    pub(super) fn give_back(&mut self, number: u32) {
        self.free.insert(number);
    }
}

/// Gives each key a number that it keeps until it is removed.
pub(super) struct Ids<K> {
    by_key: HashMap<K, u32>,
    numbers: Numbers,
}

impl<K> Default for Ids<K> {
    fn default() -> Self {
        Self {
            by_key: HashMap::new(),
            numbers: Numbers::default(),
        }
    }
}

impl<K: Hash + Eq> Ids<K> {
    /// The key's number.
    pub(super) fn of(&mut self, key: K) -> u32 {
        *self.by_key.entry(key).or_insert_with(|| self.numbers.take())
    }

    /// Gives a number back.
    pub(super) fn release<Q: Hash + Eq + ?Sized>(&mut self, key: &Q)
    where
        K: Borrow<Q>,
    {
        if let Some(id) = self.by_key.remove(key) {
            self.numbers.give_back(id);
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
