//! What was found wrong with objects when they were last looked at.

use super::world::Warning;
use std::collections::BTreeMap;

/// Object → what is wrong with it.
pub(super) struct Findings<K>(BTreeMap<K, Vec<Warning>>);

impl<K> Default for Findings<K> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Ord + Clone> Findings<K> {
    /// What is wrong with it now, in place of what was.
    pub(super) fn put(&mut self, key: &K, warnings: Vec<Warning>) {
        if warnings.is_empty() {
            self.0.remove(key);
        } else {
            self.0.insert(key.clone(), warnings);
        }
    }

    /// All of them.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Warning> {
        self.0.values().flatten()
    }
}
