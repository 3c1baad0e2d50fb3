//! One allocation for what many objects say alike: names of namespaces, nodes, accounts, labels.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::Arc;

/// Values that are in use somewhere, each once.
pub(super) struct Shared<T: ?Sized> {
    known: HashSet<Arc<T>>,
}

impl<T: ?Sized> Default for Shared<T> {
    fn default() -> Self {
        Self {
            known: HashSet::new(),
        }
    }
}

impl<T: ?Sized + Hash + Eq> Shared<T> {
    /// The allocation that everybody has of this value.
    pub(super) fn of(&mut self, value: Arc<T>) -> Arc<T> {
        if let Some(known) = self.known.get(&value) {
            return Arc::clone(known);
        }
        if self.known.len() == self.known.capacity() {
            self.known.retain(|value| Arc::strong_count(value) > 1);
        }
        self.known.insert(Arc::clone(&value));
        value
    }

    /// Has `value` be that allocation.
    pub(super) fn share(&mut self, value: &mut Arc<T>) {
        *value = self.of(Arc::clone(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_share_an_allocation_and_what_nobody_uses_is_forgotten() {
        let mut shared: Shared<str> = Shared::default();
        let first = shared.of("node-1".into());
        assert!(Arc::ptr_eq(&first, &shared.of("node-1".into())));
        for i in 0..1_000 {
            shared.of(format!("passing-{i}").into());
        }
        assert!(shared.known.len() < 100, "{}", shared.known.len());
        assert!(Arc::ptr_eq(&first, &shared.of("node-1".into())));
    }
}
