//! Which routes of Gateway API name which Service, Gateway or ListenerSet as parent.

use super::dirty::Dirty;
use super::tables::RouteKey;
use crate::model::ObjectName;
use crate::translate::gateway_api::{ApiRouteSpec, ParentRef};
use std::collections::{BTreeSet, HashMap};

/// Object → the routes that name it as parent.
#[derive(Default)]
pub(super) struct Parents(HashMap<Parent, BTreeSet<RouteKey>>);

/// A parent that can be ours.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Parent {
    Service(ObjectName),
    Gateway(ObjectName),
    ListenerSet(ObjectName),
}

impl Parent {
    pub(super) fn of(reference: &ParentRef) -> Option<Self> {
        let name = &reference.name;
        if reference.is_service() {
            Some(Self::Service(name.clone()))
        } else if reference.is_gateway(name) {
            Some(Self::Gateway(name.clone()))
        } else if reference.is_listener_set(name) {
            Some(Self::ListenerSet(name.clone()))
        } else {
            None
        }
    }
}

impl Parents {
    /// A route is there.
    pub(super) fn put(&mut self, key: &RouteKey, spec: &ApiRouteSpec, dirty: &mut Dirty) {
        for parent in spec.parents.iter().filter_map(Parent::of) {
            touch(&parent, dirty);
            self.0.entry(parent).or_default().insert(key.clone());
        }
    }

    /// A route is gone.
    pub(super) fn remove(&mut self, key: &RouteKey, spec: &ApiRouteSpec, dirty: &mut Dirty) {
        for parent in spec.parents.iter().filter_map(Parent::of) {
            touch(&parent, dirty);
            if let Some(routes) = self.0.get_mut(&parent) {
                routes.remove(key);
                if routes.is_empty() {
                    self.0.remove(&parent);
                }
            }
        }
    }

    /// The routes that name it, in the order of their keys.
    pub(super) fn routes<'a>(&'a self, parent: &Parent) -> impl Iterator<Item = &'a RouteKey> + use<'a> {
        self.0.get(parent).into_iter().flatten()
    }
}

fn touch(parent: &Parent, dirty: &mut Dirty) {
    if let Parent::Service(name) = parent {
        dirty.attached.insert(name.clone());
    }
}
