//! What is different between two sorted lists of shared things.

use std::cmp::Ordering;
use std::sync::Arc;

/// Something before and after.
pub(crate) type Difference<'a, T> = (Option<&'a Arc<T>>, Option<&'a Arc<T>>);

/// What is different between two lists sorted by `key`; the same allocation is the same.
pub(crate) fn changes<'a, T, K: Ord + ?Sized>(
    old: &'a [Arc<T>],
    new: &'a [Arc<T>],
    key: impl Fn(&T) -> &K,
) -> Vec<Difference<'a, T>> {
    let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
    let mut changed = Vec::new();
    loop {
        let order = match (old.peek(), new.peek()) {
            (None, None) => return changed,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(a), Some(b)) if Arc::ptr_eq(a, b) => {
                (_, _) = (old.next(), new.next());
                continue;
            }
            (Some(a), Some(b)) => key(a).cmp(key(b)),
        };
        let before = if order.is_le() { old.next() } else { None };
        let after = if order.is_ge() { new.next() } else { None };
        changed.push((before, after));
    }
}
