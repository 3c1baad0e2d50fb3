//! The validating webhook: an object that no agent would honour is refused before it is stored, in the words of the
//! same translation that agents use.
//!
//! It may be away: `failurePolicy: Ignore`, and agents keep the last good version of whatever gets through.

use super::authority::Authority;
use super::metrics::Metrics;
use super::publish::FIELD_MANAGER;
use crate::errors::chain;
use arc_swap::ArcSwapOption;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use kube::Api;
use kube::api::{Patch, PatchParams};
use mesh_core::model::snapshot::MeshSettings;
use mesh_core::translate::{Head, Rejected, translate};
use serde_json::{Value, json};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Name of the ValidatingWebhookConfiguration.
pub const REGISTRATION: &str = "heddle-validator";
/// An old and a new version of the largest object that the API server stores, and room around them.
const MAX_BODY_BYTES: usize = 8 * 1024 * 1024;
/// The registration is looked at this often.
const TICK: Duration = Duration::from_secs(15);

/// Answers an `AdmissionReview` (admission.k8s.io/v1): allowed, or the field that is wrong.
///
/// # Errors
/// `body` is no AdmissionReview with a request.
pub fn review(body: &[u8], settings: &MeshSettings) -> Result<(Value, Option<Rejected>), String> {
    let review: Value = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    let request = review.get("request").ok_or("request is missing")?;
    let uid = request
        .get("uid")
        .and_then(Value::as_str)
        .ok_or("request.uid is missing")?;
    let rejected = match request.get("object") {
        None | Some(Value::Null) => None,
        Some(object) => verdict(named(object.clone(), request), settings).err(),
    };
    let mut response = json!({"uid": uid, "allowed": rejected.is_none()});
    if let Some(rejected) = &rejected {
        response["status"] = json!({"code": 422, "reason": "Invalid", "message": rejected.to_string()});
    }
    let version = review
        .get("apiVersion")
        .and_then(Value::as_str)
        .unwrap_or("admission.k8s.io/v1");
    let answer = json!({"apiVersion": version, "kind": "AdmissionReview", "response": response});
    Ok((answer, rejected))
}

/// Whether agents honour the object.
///
/// # Errors
/// The first field that is wrong.
pub fn verdict(object: Value, settings: &MeshSettings) -> Result<(), Rejected> {
    let head = Head::read(&object)?;
    translate(&head, &object, settings).map(drop)
}

/// An object that is being created may have neither its namespace nor its name yet.
fn named(mut object: Value, request: &Value) -> Value {
    let namespace = request
        .get("namespace")
        .and_then(Value::as_str)
        .map(str::to_owned);
    let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else {
        return object;
    };
    if let Some(namespace) = namespace {
        metadata.entry("namespace").or_insert_with(|| namespace.into());
    }
    let prefix = metadata
        .get("generateName")
        .and_then(Value::as_str)
        .map(str::to_owned);
    if let Some(prefix) = prefix {
        metadata
            .entry("name")
            .or_insert_with(|| format!("{prefix}x").into());
    }
    object
}

/// What the endpoint needs.
pub struct Webhook {
    /// The settings of the mesh.
    pub settings: MeshSettings,
    /// Counts decisions.
    pub metrics: Arc<Metrics>,
}

impl Webhook {
    /// Answers one request.
    ///
    /// # Errors
    /// None: what cannot be answered is an HTTP status, and the API server goes on without.
    pub async fn handle<B>(self: Arc<Self>, request: Request<B>) -> Result<Response<Full<Bytes>>, Infallible>
    where
        B: http_body::Body + Send,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        if request.method() != Method::POST {
            return Ok(plain(StatusCode::METHOD_NOT_ALLOWED, "expected POST"));
        }
        let body = match Limited::new(request.into_body(), MAX_BODY_BYTES).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) => return Ok(self.failed(&error.to_string())),
        };
        Ok(match review(&body, &self.settings) {
            Ok((answer, rejected)) => {
                if let Some(rejected) = &rejected {
                    tracing::info!(
                        object = rejected.object,
                        field = rejected.field,
                        reason = rejected.reason,
                        "denied"
                    );
                }
                self.metrics
                    .reviewed(if rejected.is_some() { "denied" } else { "allowed" });
                let mut response = Response::new(Full::new(Bytes::from(answer.to_string())));
                let kind = header::HeaderValue::from_static("application/json");
                response.headers_mut().insert(header::CONTENT_TYPE, kind);
                response
            }
            Err(reason) => self.failed(&reason),
        })
    }

    fn failed(&self, reason: &str) -> Response<Full<Bytes>> {
        tracing::error!(reason, "admission review cannot be answered");
        self.metrics.reviewed("error");
        plain(StatusCode::BAD_REQUEST, reason)
    }
}

fn plain(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text.to_owned())));
    *response.status_mut() = status;
    response
}

/// Tells the API server, and keeps it told, by which roots to verify the webhook. Runs until the task is dropped.
pub async fn register(
    client: kube::Client,
    authority: Arc<ArcSwapOption<Authority>>,
    leader: watch::Receiver<bool>,
    metrics: Arc<Metrics>,
) {
    let api = Api::<ValidatingWebhookConfiguration>::all(client);
    let mut leader = leader;
    let mut ticks = tokio::time::interval(TICK);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            Ok(()) = leader.changed() => {}
        }
        let leads = *leader.borrow();
        let Some(authority) = authority.load_full().filter(|_| leads) else {
            ticks.reset_after(Duration::from_secs(2));
            continue;
        };
        let result = trust(&api, authority.roots()).await;
        metrics.webhook_unregistered.set(i64::from(result.is_err()));
        if let Err(error) = result {
            tracing::error!(
                error = chain(&error),
                name = REGISTRATION,
                "webhook cannot be registered"
            );
        }
    }
}

async fn trust(api: &Api<ValidatingWebhookConfiguration>, roots: &str) -> Result<(), kube::Error> {
    let Some(registration) = api.get_opt(REGISTRATION).await? else {
        return Ok(());
    };
    let bundle = ByteString(roots.as_bytes().to_vec());
    let stale = registration
        .webhooks
        .iter()
        .flatten()
        .filter(|webhook| webhook.client_config.ca_bundle.as_ref() != Some(&bundle));
    let patches: Vec<Value> = stale
        .map(|webhook| json!({"name": webhook.name, "clientConfig": {"caBundle": bundle}}))
        .collect();
    if patches.is_empty() {
        return Ok(());
    }
    // Merged by name: whatever else the chart wrote stays.
    let patch = Patch::Strategic(json!({"webhooks": patches}));
    let params = PatchParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PatchParams::default()
    };
    api.patch(REGISTRATION, &params, &patch).await?;
    tracing::info!(name = REGISTRATION, "API server told whom to trust");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(object: &Value) -> Value {
        let review = json!({
            "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
            "request": {"uid": "u1", "operation": "CREATE", "namespace": "weather", "object": object},
        });
        let (answer, _) = review_of(&review).unwrap();
        assert_eq!(answer["response"]["uid"], "u1");
        answer["response"].clone()
    }

    fn review_of(review: &Value) -> Result<(Value, Option<Rejected>), String> {
        super::review(review.to_string().as_bytes(), &MeshSettings::default())
    }

    fn route(metadata: &Value, timeout: &str) -> Value {
        json!({
            "apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": metadata,
            "spec": {"hosts": ["forecast"], "http": [
                {"timeout": timeout, "route": [{"destination": {"host": "forecast"}}]}]},
        })
    }

    #[test]
    fn what_agents_honour_is_allowed_and_what_they_refuse_is_named() {
        let name = json!({"name": "forecast", "namespace": "weather"});
        assert_eq!(ask(&route(&name, "3s"))["allowed"], true);
        let refused = ask(&route(&name, "soon"));
        assert_eq!(refused["allowed"], false);
        let message = refused["status"]["message"].as_str().unwrap();
        assert!(
            message.starts_with("VirtualService weather/forecast: spec.http[0].timeout: "),
            "{message}"
        );
        // As the API server sends it before it has made the name.
        assert_eq!(
            ask(&route(&json!({"generateName": "canary-"}), "3s"))["allowed"],
            true
        );
        let refused = ask(&route(&json!({"generateName": "canary-"}), "soon"));
        assert!(
            refused["status"]["message"]
                .as_str()
                .unwrap()
                .contains("weather/canary-x")
        );
    }

    #[test]
    fn a_subset_that_is_there_twice_is_refused() {
        let rule = json!({
            "apiVersion": "networking.istio.io/v1beta1", "kind": "DestinationRule",
            "metadata": {"name": "forecast"},
            "spec": {"host": "forecast", "subsets": [{"name": "v1"}, {"name": "v1"}]},
        });
        let message = ask(&rule)["status"]["message"].as_str().unwrap().to_owned();
        assert!(message.contains("spec.subsets[1].name"), "{message}");
    }

    #[test]
    fn a_deletion_is_allowed_and_garbage_is_no_answer() {
        assert_eq!(ask(&Value::Null)["allowed"], true);
        assert!(review(b"{", &MeshSettings::default()).is_err());
        assert!(review(b"{}", &MeshSettings::default()).is_err());
        assert!(review_of(&json!({"request": {}})).is_err());
        assert_eq!(ask(&json!("text"))["allowed"], false);
    }
}
