//! API objects (as JSON values) → model. Every refusal names the object and the field.

use std::fmt;

/// An object or a field that cannot be honoured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// `Kind namespace/name`, or as much of it as could be read.
    pub object: String,
    /// Path inside the object, e.g. `spec.http[0].match[1].uri.regex`; empty for the object as a whole.
    pub field: String,
    /// What is wrong with it and what would be right.
    pub reason: String,
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.field.is_empty() {
            write!(f, "{}: {}", self.object, self.reason)
        } else {
            write!(f, "{}: {}: {}", self.object, self.field, self.reason)
        }
    }
}

impl std::error::Error for Rejected {}
