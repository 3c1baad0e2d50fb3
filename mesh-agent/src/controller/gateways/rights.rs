//! What the accounts of Gateways may read, and the controller for them. Pure.

use super::names::{ROLE, SECRETS_ROLE, labels_of_all, object_name, owned_by_chart};
use mesh_core::model::ObjectName;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The controller's own account.
#[derive(Clone, Debug)]
pub(super) struct Account {
    pub(super) namespace: String,
    pub(super) name: String,
}

/// The bindings: of all Gateways' accounts to what gateways watch, and in each namespace with certificates, of those that
/// name it (and the controller, which says whether they are there) to its Secrets.
///
/// `owner` is the ClusterRole of Secrets, with which the latter go at an uninstall.
pub(super) fn bindings<'a>(
    gateways: impl Iterator<Item = &'a ObjectName>,
    secrets: &BTreeMap<Arc<str>, BTreeSet<ObjectName>>,
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
    for (namespace, gateways) in secrets {
        let mut subjects = vec![account(&controller.namespace, &controller.name)];
        subjects.extend(gateways.iter().map(subject));
        bindings.push(json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
            "metadata": {
                "name": SECRETS_ROLE, "namespace": &**namespace,
                "labels": labels_of_all(),
                "ownerReferences": owned_by_chart(owner_uid),
            },
            "roleRef": role_ref(SECRETS_ROLE),
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
