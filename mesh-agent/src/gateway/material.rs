//! Which namespaces' Secrets and ConfigMaps a gateway follows.

use crate::source::kube::material::Followed;
use mesh_core::model::ObjectName;
use mesh_core::state::{Place, State};
use std::collections::BTreeSet;
use std::sync::Arc;

/// What the gateway is.
pub(super) enum Scope {
    /// It reads files, and everything comes with them; the one Gateway that it serves, if it is only one.
    Files(Option<ObjectName>),
    /// It serves all Gateways that select it, and reads its own namespace (this one) by itself.
    Selected(Arc<str>),
    /// It serves one Gateway.
    Only(ObjectName),
}

impl Scope {
    /// The one Gateway that is served, if it is only one.
    pub(super) const fn gateway(&self) -> Option<&ObjectName> {
        match self {
            Self::Files(gateway) => gateway.as_ref(),
            Self::Selected(_) => None,
            Self::Only(gateway) => Some(gateway),
        }
    }

    /// What it is to follow beside all that it watches.
    fn places(&self, state: &State) -> BTreeSet<Place> {
        match self {
            Self::Files(_) => BTreeSet::new(),
            Self::Selected(own) => {
                let mut places = state.backend_material();
                places.retain(|place| place.namespace != *own);
                places
            }
            Self::Only(gateway) => state.gateway_material(Some(gateway)).into_keys().collect(),
        }
    }

    /// Looks anew at what Gateways and policies name.
    pub(super) fn want(&self, followed: &Followed, state: &State) {
        followed.want(self.places(state));
    }
}
