//! Host patterns and what they lead to.

use std::collections::HashMap;
use std::sync::Arc;

/// Host patterns (`a.example.com`, `*.example.com`, `*`) → values. Hosts are looked up in canonical form; an exact
/// pattern comes before a wildcard, a longer wildcard before a shorter one.
#[derive(Clone, Debug, PartialEq)]
pub struct HostMap<T> {
    /// `*.example.com` is kept as `.example.com`, `*` as the empty text.
    entries: HashMap<Arc<str>, T>,
}

impl<T> Default for HostMap<T> {
    fn default() -> Self {
        Self {
            entries: HashMap::new(),
        }
    }
}

impl<T> HostMap<T> {
    /// The value of the most specific pattern that covers `host`.
    #[must_use]
    pub fn get(&self, host: &str) -> Option<&T> {
        if !host.is_empty()
            && !host.starts_with('.')
            && let Some(found) = self.entries.get(host)
        {
            return Some(found);
        }
        host.char_indices()
            .filter(|(at, c)| *c == '.' && *at > 0)
            .find_map(|(dot, _)| self.entries.get(&host[dot..]))
            .or_else(|| self.entries.get(""))
    }

    /// The value of exactly this pattern.
    #[must_use]
    pub fn of_pattern(&self, pattern: &str) -> Option<&T> {
        self.entries.get(key(pattern))
    }

    /// The value of exactly this pattern, to be changed or filled in.
    pub fn entry(&mut self, pattern: &str) -> std::collections::hash_map::Entry<'_, Arc<str>, T> {
        self.entries.entry(key(pattern).into())
    }

    /// Patterns and values, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (String, &T)> {
        self.entries.iter().map(|(key, value)| {
            let wildcard = key.is_empty() || key.starts_with('.');
            (format!("{}{key}", if wildcard { "*" } else { "" }), value)
        })
    }

    /// How many patterns there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

fn key(pattern: &str) -> &str {
    pattern.strip_prefix('*').unwrap_or(pattern)
}

/// Whether every host of `narrow` is one of `wide`. Both are patterns; `*.a.b` does not cover `a.b`.
#[must_use]
pub fn pattern_covers(wide: &str, narrow: &str) -> bool {
    match wide.strip_prefix('*') {
        Some("") => true,
        Some(suffix) => match narrow.strip_prefix('*') {
            Some(narrow) => narrow.ends_with(suffix),
            None => narrow.len() > suffix.len() && narrow.ends_with(suffix),
        },
        None => wide == narrow,
    }
}

/// The hosts that two patterns share: the narrower one, if there is any.
#[must_use]
pub fn pattern_intersection<'a>(a: &'a str, b: &'a str) -> Option<&'a str> {
    if pattern_covers(a, b) {
        Some(b)
    } else if pattern_covers(b, a) {
        Some(a)
    } else {
        None
    }
}
