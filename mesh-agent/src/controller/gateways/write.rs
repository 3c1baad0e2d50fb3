//! Writes to the API server.

use super::ledger::{Kind, Write};
use super::names::{CLASS, MANAGED_BY, MANAGER, SECRETS_ROLE, labels_of_all, owned_by_chart};
use crate::controller::metrics::Metrics;
use crate::controller::publish::FIELD_MANAGER;
use crate::controller::watching::events;
use crate::errors::chain;
use futures_util::{Stream, StreamExt};
use kube::api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams, Preconditions};
use kube::core::{GroupVersionKind, PartialObjectMeta};
use kube::runtime::watcher::{Config, Event};
use kube::{Api, Client};
use mesh_core::model::status::GATEWAY_CONTROLLER;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// A write takes no longer than this.
const DEADLINE: Duration = Duration::from_secs(10);

pub(super) fn resource(kind: Kind) -> ApiResource {
    let (group, version) = kind.group();
    ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind.name()))
}

fn class_resource() -> ApiResource {
    let gvk = GroupVersionKind::gvk("gateway.networking.k8s.io", "v1", "GatewayClass");
    ApiResource::from_gvk_with_plural(&gvk, "gatewayclasses")
}

fn cluster_role() -> ApiResource {
    let gvk = GroupVersionKind::gvk("rbac.authorization.k8s.io", "v1", "ClusterRole");
    ApiResource::from_gvk(&gvk)
}

/// UID of the chart's ClusterRole; it is asked for until it is there.
pub(super) async fn secrets_role(client: &Client) -> String {
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &cluster_role());
    loop {
        let reason = match tokio::time::timeout(DEADLINE, api.get_metadata(SECRETS_ROLE)).await {
            Ok(Ok(role)) => match role.metadata.uid {
                Some(uid) => return uid,
                None => "it has no UID".to_owned(),
            },
            Ok(Err(error)) => chain(&error),
            Err(_) => "no answer from the API server".to_owned(),
        };
        tracing::warn!(role = SECRETS_ROLE, reason, "no Gateway is deployed yet");
        tokio::time::sleep(DEADLINE).await;
    }
}

/// Whether the API server has GatewayClasses, as often as that changes.
pub(super) fn class_definition(
    client: &Client,
    metrics: &Arc<Metrics>,
) -> impl Stream<Item = bool> + Send + 'static {
    let gvk = GroupVersionKind::gvk("apiextensions.k8s.io", "v1", "CustomResourceDefinition");
    let resource = ApiResource::from_gvk_with_plural(&gvk, "customresourcedefinitions");
    let api: Api<PartialObjectMeta<DynamicObject>> = Api::all_with(client.clone(), &resource);
    let config = Config::default().fields("metadata.name=gatewayclasses.gateway.networking.k8s.io");
    let events = events(api, config, "CustomResourceDefinition", Arc::clone(metrics));
    events.filter_map(|event| {
        std::future::ready(match event {
            Event::Init | Event::InitDone => None,
            Event::InitApply(_) | Event::Apply(_) => Some(true),
            Event::Delete(_) => Some(false),
        })
    })
}

/// Makes the GatewayClass; it goes with the ClusterRole of this UID, and so with the chart. One that is there, whoever's it
/// is, stays.
pub(super) async fn class(client: &Client, owner: &str) {
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &class_resource());
    let object = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "GatewayClass",
        "metadata": {
            "name": CLASS,
            "labels": labels_of_all(),
            "ownerReferences": owned_by_chart(owner),
        },
        "spec": {
            "controllerName": GATEWAY_CONTROLLER,
            "description": "served by Heddle: Deployment and Service <gateway>-heddle",
        },
    });
    let Ok(object) = serde_json::from_value(object) else {
        return;
    };
    let params = PostParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PostParams::default()
    };
    let reason = match tokio::time::timeout(DEADLINE, api.create(&params, &object)).await {
        Ok(Ok(_)) => return tracing::info!(class = CLASS, "GatewayClass made"),
        // There already, or its definition is not served yet.
        Ok(Err(kube::Error::Api(status))) if matches!(status.code, 404 | 409) => return,
        Ok(Err(error)) => chain(&error),
        Err(_) => "no answer from the API server".to_owned(),
    };
    tracing::warn!(class = CLASS, reason, "GatewayClass not made");
}

/// Writes, and gives back what came of it.
pub(super) async fn make(
    client: Client,
    write: Write,
    metrics: Arc<Metrics>,
) -> (Write, Result<Option<Value>, String>) {
    let made = tokio::time::timeout(DEADLINE, attempt(client, &write)).await;
    let outcome = made.unwrap_or_else(|_| Err("no answer from the API server".to_owned()));
    let key = write.key();
    let (kind, namespace, name) = (key.kind.name(), &key.namespace, &key.name);
    match &outcome {
        Ok(_) => metrics.gateway_written(true),
        Err(reason) => {
            metrics.gateway_written(false);
            tracing::warn!(kind, namespace, name, reason, "object of a Gateway not written");
        }
    }
    let outcome = outcome.map_err(|reason| format!("{kind} {namespace}/{name}: {reason}"));
    (write, outcome)
}

async fn attempt(client: Client, write: &Write) -> Result<Option<Value>, String> {
    let key = write.key();
    let resource = resource(key.kind);
    let api: Api<DynamicObject> = match key.namespace.as_str() {
        "" => Api::all_with(client, &resource),
        namespace => Api::namespaced_with(client, namespace, &resource),
    };
    match write {
        Write::Apply { object, known, .. } => {
            if !known {
                nobody_elses(&api, &key.name).await?;
            }
            let params = PatchParams::apply(FIELD_MANAGER).force();
            let made = api.patch(&key.name, &params, &Patch::Apply(object)).await;
            let made = made.map_err(|error| chain(&error))?;
            Ok(Some(super::value(key.kind, made)))
        }
        Write::Delete { uid, .. } => {
            let params = DeleteParams::default().preconditions(Preconditions {
                uid: Some(uid.clone()),
                resource_version: None,
            });
            match api.delete(&key.name, &params).await {
                Ok(_) => Ok(None),
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(None),
                Err(error) => Err(chain(&error)),
            }
        }
    }
}

/// An object that is there without the controller's label is a user's, and is not touched.
async fn nobody_elses(api: &Api<DynamicObject>, name: &str) -> Result<(), String> {
    let found = api.get_metadata_opt(name).await.map_err(|error| chain(&error))?;
    let Some(found) = found else { return Ok(()) };
    let labels = found.metadata.labels.unwrap_or_default();
    match labels.get(MANAGED_BY).map(String::as_str) {
        Some(MANAGER) => Ok(()),
        _ => Err("it is there already, and not of the controller's making".to_owned()),
    }
}
