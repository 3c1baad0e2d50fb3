//! ConfigMaps with the CAs by which clients in the mesh verify servers: those of namespaces whose BackendTLSPolicies name
//! some, and of no other. They join what the agent watches on its way to the state.

use crate::source::kube::material::{Followed, News, follow};
use crate::source::kube::{SourceFigures, WatchSettings};
use mesh_core::model::ObjectName;
use mesh_core::model::snapshot::MeshSettings;
use mesh_core::state::{Change, Material, ObjectKey, Place};
use mesh_core::translate::{Head, Translated, translate};
use std::collections::{BTreeMap, BTreeSet};
use tokio::sync::mpsc;

/// The kind that names them.
const POLICY: &str = "BackendTLSPolicy";

/// Hands `changes` on, until either end is gone. The first listing ends when the CAs that its policies name are known as well:
/// without them the services behind these policies would be refused for a moment.
pub(super) async fn join(
    client: kube::Client,
    settings: WatchSettings,
    figures: SourceFigures,
    mut changes: mpsc::Receiver<Vec<Change>>,
    state: mpsc::Sender<Vec<Change>>,
) {
    let (told, mut news) = mpsc::channel(8);
    let mut followed = Followed::default();
    let following = follow(client, settings, figures, followed.wanted(), told);
    let mut following = std::pin::pin!(following);
    let mut policies = Policies::default();
    // What waits for the CAs.
    let mut held = Vec::new();
    loop {
        tokio::select! {
            () = &mut following => return,
            Some(batch) = changes.recv(), if held.is_empty() => {
                batch.iter().for_each(|change| policies.see(change));
                followed.want(policies.places());
                held = batch;
            }
            Some(told) = news.recv() => {
                if !hand_on(&state, &mut followed, told).await {
                    return;
                }
            }
            else => return,
        }
        let listed = held.iter().any(|change| matches!(change, Change::InitDone));
        if held.is_empty() || (listed && !followed.complete()) {
            continue;
        }
        if state.send(std::mem::take(&mut held)).await.is_err() {
            return;
        }
    }
}

/// Whether the state still listens.
async fn hand_on(state: &mpsc::Sender<Vec<Change>>, followed: &mut Followed, told: News) -> bool {
    let changes = followed.take(told);
    changes.is_empty() || state.send(changes).await.is_ok()
}

/// The policies that name ConfigMaps. One that is refused stays what it was, as it does in the state.
#[derive(Default)]
struct Policies(BTreeMap<ObjectName, bool>);

impl Policies {
    fn see(&mut self, change: &Change) {
        match change {
            Change::Apply { object, .. } => {
                let kind = object.get("kind").and_then(|kind| kind.as_str());
                if kind != Some(POLICY) {
                    return;
                }
                let Ok(head) = Head::read(object) else { return };
                if let Ok(Translated::BackendTls(spec)) = translate(&head, object, &MeshSettings::default()) {
                    self.0.insert(head.name(), spec.reads_config_maps());
                }
            }
            Change::Delete(ObjectKey {
                kind,
                namespace,
                name,
                ..
            }) if kind == POLICY => {
                self.0.remove(&ObjectName::new(namespace.as_str(), name.as_str()));
            }
            _ => {}
        }
    }

    fn places(&self) -> BTreeSet<Place> {
        let naming = self.0.iter().filter(|(_, reads)| **reads);
        let place = |name: &ObjectName| Place::new(Material::ConfigMap, &name.namespace);
        naming.map(|(name, _)| place(name)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn policy(name: &str, validation: Value) -> Change {
        let object = json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": POLICY,
            "metadata": {"name": name, "namespace": "shop"},
            "spec": {"targetRefs": [{"group": "", "kind": "Service", "name": "a"}], "validation": validation}});
        let origin = String::new();
        Change::Apply { object, origin }
    }

    #[test]
    fn config_maps_are_followed_where_a_policy_names_one_and_only_as_long_as_it_does() {
        let named = json!({"hostname": "a.example.com",
            "caCertificateRefs": [{"group": "", "kind": "ConfigMap", "name": "ca"}]});
        let system = json!({"hostname": "a.example.com", "wellKnownCACertificates": "System"});
        let shop = [Place::new(Material::ConfigMap, &"shop".into())].into();
        let mut policies = Policies::default();
        policies.see(&policy("one", system.clone()));
        assert!(policies.places().is_empty());
        policies.see(&policy("one", named.clone()));
        policies.see(&policy("two", named));
        assert_eq!(policies.places(), shop);
        policies.see(&policy("one", json!({"hostname": "*"})));
        policies.see(&policy("two", system));
        assert_eq!(policies.places(), shop, "a refused version changes nothing");
        let key = ObjectKey {
            kind: POLICY.into(),
            group: "gateway.networking.k8s.io".into(),
            namespace: "shop".into(),
            name: "one".into(),
        };
        policies.see(&Change::Delete(key));
        assert!(policies.places().is_empty());
    }
}
