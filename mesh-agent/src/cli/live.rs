//! The objects of a cluster that concern the mesh, listed once through its API server.

use anyhow::Context;
use kube::api::{DynamicObject, ListParams};
use kube::core::ApiResource;
use kube::discovery::{Discovery, verbs};
use kube::{Api, Client};
use mesh_core::translate::{Head, describe};
use serde_json::Value;

/// Groups of which every kind is listed.
const WHOLE: [&str; 5] = [
    "networking.istio.io",
    "security.istio.io",
    "telemetry.istio.io",
    "gateway.networking.k8s.io",
    "gateway.networking.x-k8s.io",
];
/// Kinds of other groups.
const KINDS: [(&str, &str); 7] = [
    ("", "Namespace"),
    ("", "Service"),
    ("", "Pod"),
    ("discovery.k8s.io", "EndpointSlice"),
    ("apps", "Deployment"),
    ("apps", "StatefulSet"),
    ("apps", "DaemonSet"),
];
/// Objects in one answer of the API server.
const PAGE: u32 = 500;

/// An object and what it is called in reports.
pub(super) struct LiveObject {
    pub(super) object: Value,
    pub(super) origin: String,
}

/// Everything that concerns the mesh, of the kubeconfig's cluster. A kind that may not be listed is named on standard error
/// and left out.
///
/// # Errors
/// There is no cluster, or it does not say what it has.
pub(super) async fn objects() -> anyhow::Result<Vec<LiveObject>> {
    let client = Client::try_default()
        .await
        .context("no cluster: set KUBECONFIG, or name files")?;
    let mut groups: Vec<&str> = WHOLE.to_vec();
    groups.extend(["", "discovery.k8s.io", "apps"]);
    let discovery = Discovery::new(client.clone())
        .filter(&groups)
        .run()
        .await
        .context("ask the API server for its kinds")?;
    let mut objects = Vec::new();
    for group in discovery.groups() {
        for (resource, capabilities) in group.recommended_resources() {
            let wanted = WHOLE.contains(&resource.group.as_str())
                || KINDS.contains(&(resource.group.as_str(), resource.kind.as_str()));
            if wanted && capabilities.supports_operation(verbs::LIST) {
                list(&client, &resource, &mut objects).await?;
            }
        }
    }
    Ok(objects)
}

async fn list(client: &Client, resource: &ApiResource, into: &mut Vec<LiveObject>) -> anyhow::Result<()> {
    let api: Api<DynamicObject> = Api::all_with(client.clone(), resource);
    let mut params = ListParams::default().limit(PAGE);
    loop {
        let page = match api.list(&params).await {
            Ok(page) => page,
            Err(kube::Error::Api(status)) if [403, 404, 405].contains(&status.code) => {
                eprintln!("{} are left out: {}", resource.plural, status.message);
                return Ok(());
            }
            Err(error) => return Err(error).with_context(|| format!("list {}", resource.plural)),
        };
        for item in page.items {
            let mut object = serde_json::to_value(item).context("an object that is no JSON")?;
            // Items of a list do not say what they are.
            object["apiVersion"] = resource.api_version.as_str().into();
            object["kind"] = resource.kind.as_str().into();
            let origin = match Head::read(&object) {
                Ok(head) => describe(&head.key),
                Err(rejected) => rejected.object,
            };
            into.push(LiveObject { object, origin });
        }
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(()),
        }
    }
}
