//! What the accounts of Gateways may read, and the controller for them. Pure.

use super::names::{
    CARRIERS, CONFIG_MAPS_ROLE, ROLE, SECRETS_ROLE, labels_of_all, object_name, owned_by_chart,
};
use mesh_core::model::ObjectName;
use mesh_core::state::{Material, Place};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// The controller's own account.
#[derive(Clone, Debug)]
pub(super) struct Account {
    pub(super) namespace: String,
    pub(super) name: String,
}

/// Whose objects are read where.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Reading {
    /// What Gateways name, with those that do.
    pub(super) by_gateways: BTreeMap<Place, BTreeSet<ObjectName>>,
    /// What policies name that hold for all clients in the mesh.
    pub(super) by_all: BTreeSet<Place>,
}

impl Reading {
    /// All of it, for the controller, which says whether it is there.
    pub(super) fn places(&self) -> BTreeSet<Place> {
        self.by_gateways.keys().chain(&self.by_all).cloned().collect()
    }
}

/// The bindings: of all Gateways' accounts to what gateways watch, and in each namespace with certificates or CAs, of those
/// that need them (and the controller, which says whether they are there) to its Secrets or its ConfigMaps.
///
/// `owner` is the ClusterRole of Secrets, with which the latter go at an uninstall.
pub(super) fn bindings<'a>(
    gateways: impl Iterator<Item = &'a ObjectName>,
    reading: &Reading,
    controller: &Account,
    owner_uid: &str,
) -> Vec<Value> {
    let accounts: BTreeSet<&ObjectName> = gateways.collect();
    let mut bindings = vec![json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": {"name": ROLE},
        "roleRef": role_ref(ROLE),
        "subjects": accounts.iter().map(|name| subject(name)).collect::<Vec<_>>(),
    })];
    for place in reading.places() {
        let own = |name: &str| account(&controller.namespace, name);
        let mut subjects = vec![own(&controller.name)];
        if reading.by_all.contains(&place) {
            subjects.extend(CARRIERS.map(own));
        }
        subjects.extend(reading.by_gateways.get(&place).into_iter().flatten().map(subject));
        let role = match place.kind {
            Material::Secret => SECRETS_ROLE,
            Material::ConfigMap => CONFIG_MAPS_ROLE,
        };
        bindings.push(json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
            "metadata": {
                "name": role, "namespace": &*place.namespace,
                "labels": labels_of_all(),
                "ownerReferences": owned_by_chart(owner_uid),
            },
            "roleRef": role_ref(role),
            "subjects": subjects,
        }));
    }
    bindings
}

fn role_ref(name: &str) -> Value {
    json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name})
}

fn subject(gateway: &ObjectName) -> Value {
    account(&gateway.namespace, &object_name(gateway))
}

fn account(namespace: &str, name: &str) -> Value {
    json!({"kind": "ServiceAccount", "namespace": namespace, "name": name})
}
