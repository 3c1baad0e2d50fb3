//! Who sees a rule.

use std::sync::Arc;

/// The namespaces whose clients see a rule (`exportTo`).
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Visibility {
    /// `*`, the default.
    #[default]
    All,
    /// These only; `.` has become the rule's own namespace, `~` nothing.
    Namespaces(Vec<Arc<str>>),
}

impl Visibility {
    /// Whether a client of this namespace sees the rule; a client that is not known sees what all see.
    #[must_use]
    pub fn admits(&self, client_namespace: Option<&str>) -> bool {
        match self {
            Self::All => true,
            Self::Namespaces(names) => client_namespace.is_some_and(|ns| names.iter().any(|n| &**n == ns)),
        }
    }
}
