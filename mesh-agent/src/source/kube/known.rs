//! What has been handed over of one kind. Decides what a listing that was read again means.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

/// Namespace and name.
pub(super) type Name = (Box<str>, Box<str>);

/// What becomes of a complete listing.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// These were known and are not in it: they are gone.
    Gone(Vec<Name>),
    /// It is empty, comes after an error, and so much was known: it is to be read once more before it is believed.
    Doubtful,
}

/// Names handed over, with a fingerprint of the resource version of each.
#[derive(Default)]
pub(super) struct Known {
    versions: HashMap<Name, u64>,
    /// The names in the listing that is being read.
    seen: Option<HashSet<Name>>,
    after_error: bool,
    doubted: bool,
}

impl Known {
    /// A listing begins; one that was not finished never was.
    pub(super) fn begin(&mut self) {
        self.seen = Some(HashSet::new());
    }

    /// Something failed since the last complete listing.
    pub(super) fn failed(&mut self) {
        self.after_error = true;
    }

    /// An object is there. Returns whether this version of it has to be handed over.
    pub(super) fn put(&mut self, name: Name, resource_version: &str) -> bool {
        let version = fingerprint(resource_version);
        if let Some(seen) = &mut self.seen {
            seen.insert(name.clone());
        }
        let before = self.versions.insert(name, version);
        before != Some(version) || resource_version.is_empty()
    }

    /// The API server says that an object is gone. Returns whether it was there.
    pub(super) fn remove(&mut self, name: &Name) -> bool {
        if let Some(seen) = &mut self.seen {
            seen.remove(name);
        }
        self.versions.remove(name).is_some()
    }

    /// The listing is complete.
    pub(super) fn end(&mut self) -> Verdict {
        let seen = self.seen.take().unwrap_or_default();
        if seen.is_empty() && !self.versions.is_empty() && self.after_error && !self.doubted {
            self.doubted = true;
            return Verdict::Doubtful;
        }
        self.after_error = false;
        self.doubted = false;
        let mut gone: Vec<Name> = self
            .versions
            .keys()
            .filter(|name| !seen.contains(*name))
            .cloned()
            .collect();
        gone.sort();
        gone.iter().for_each(|name| _ = self.versions.remove(name));
        Verdict::Gone(gone)
    }

    /// Everything is gone: the kind itself is.
    pub(super) fn clear(&mut self) -> Vec<Name> {
        self.begin();
        self.after_error = false;
        match self.end() {
            Verdict::Gone(gone) => gone,
            Verdict::Doubtful => Vec::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.versions.len()
    }
}

fn fingerprint(resource_version: &str) -> u64 {
    resource_version.parse().unwrap_or_else(|_| {
        let mut hasher = DefaultHasher::new();
        resource_version.hash(&mut hasher);
        hasher.finish()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> Name {
        ("n".into(), name.into())
    }

    fn known(names: &[&str]) -> Known {
        let mut known = Known::default();
        known.begin();
        names.iter().for_each(|n| assert!(known.put(name(n), "1")));
        assert_eq!(known.end(), Verdict::Gone(vec![]));
        known
    }

    #[test]
    fn a_listing_deletes_only_what_it_is_really_without_and_repeats_nothing_that_is_the_same() {
        let mut known = known(&["a", "b", "c"]);
        known.begin();
        assert!(!known.put(name("a"), "1"));
        assert!(known.put(name("b"), "2"));
        assert_eq!(known.end(), Verdict::Gone(vec![name("c")]));
        assert_eq!(known.len(), 2);
    }

    #[test]
    fn a_listing_that_was_not_finished_deletes_nothing() {
        let mut known = known(&["a", "b"]);
        known.begin();
        known.put(name("a"), "1");
        known.failed();
        known.begin();
        known.put(name("a"), "1");
        known.put(name("b"), "1");
        assert_eq!(known.end(), Verdict::Gone(vec![]));
    }

    #[test]
    fn an_empty_listing_after_an_error_is_believed_only_the_second_time() {
        let mut known = known(&["a"]);
        known.failed();
        known.begin();
        assert_eq!(known.end(), Verdict::Doubtful);
        assert_eq!(known.len(), 1);
        known.begin();
        assert_eq!(known.end(), Verdict::Gone(vec![name("a")]));
    }

    #[test]
    fn an_empty_listing_without_an_error_is_believed() {
        let mut known = known(&["a"]);
        known.begin();
        assert_eq!(known.end(), Verdict::Gone(vec![name("a")]));
    }
}
