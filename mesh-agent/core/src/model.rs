//! The mesh as the data path sees it. Everything is immutable behind `Arc`; a change makes new values.

pub mod attached;
pub mod connection;
pub mod gateway;
pub mod host;
pub mod identity;
pub mod peer;
pub mod registry;
pub mod route;
pub mod scope;
pub mod service;
pub mod snapshot;
pub mod status;
pub mod subset;
pub mod template;
pub mod visibility;
pub mod workload;

use std::fmt;
use std::sync::Arc;

/// Namespace and name of an API object.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectName {
    /// `metadata.namespace`.
    pub namespace: Arc<str>,
    /// `metadata.name`.
    pub name: Arc<str>,
}

impl ObjectName {
    /// Joins the two parts.
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}
