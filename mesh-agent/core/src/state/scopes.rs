//! Sidecars → what each client sees.

use super::tables::Tables;
use crate::model::ObjectName;
use crate::model::snapshot::{Scopes, Snapshot};
use crate::translate::SidecarSpec;
use std::sync::Arc;

/// Fills `scopes`: of a namespace those with a selector first, the oldest first.
pub(super) fn scopes(tables: &Tables, next: &mut Snapshot) {
    let mut by_age: Vec<(&ObjectName, &SidecarSpec)> = tables.sidecars.iter().collect();
    by_age.sort_by_key(|(name, spec)| (spec.selector.is_none(), &spec.created, *name));
    let mut scopes = Scopes::default();
    for (name, spec) in by_age {
        let of_namespace = scopes.entry(Arc::clone(&name.namespace)).or_default();
        of_namespace.push((spec.selector.clone(), Arc::clone(&spec.scope)));
    }
    next.scopes = Arc::new(scopes);
}
