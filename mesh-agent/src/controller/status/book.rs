//! What the API server has of objects with a status, and which of them are to be written. Pure.

use mesh_core::model::ObjectName;
use mesh_core::model::status::{
    Ancestor, AncestorStatus, Running, ancestors, conditions, parents, supported_features,
};
use mesh_core::state::{ObjectKey, State};
use mesh_core::translate::RouteKind;
use mesh_core::translate::gateway_api::{
    BACKEND_TRAFFIC, EXPERIMENTAL_GROUP, GROUP, ParentRef, gateway_of_set, parents_of, services_of_policy,
};
use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};

/// A write that failed, or that was never seen to arrive, is made again after this time, milliseconds.
const AGAIN_MS: u64 = 5_000;

/// One write: a merge patch of an object's status that is refused if the object has changed since.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Write {
    /// The object.
    pub(super) key: ObjectKey,
    /// Its `apiVersion`.
    pub(super) api_version: String,
    /// The patch.
    pub(super) patch: Value,
}

/// The objects that are there.
#[derive(Debug, Default)]
pub(super) struct Book {
    objects: BTreeMap<ObjectKey, Known>,
    queue: VecDeque<ObjectKey>,
    /// What there is of Gateways; nothing where none is deployed, or before it is known.
    pub(super) running: Option<BTreeMap<ObjectName, Running>>,
}

/// One object, as far as its status is concerned.
#[derive(Debug)]
struct Known {
    subject: Subject,
    api_version: String,
    uid: String,
    resource_version: String,
    generation: i64,
    /// `status`.
    said: Value,
    /// The resource version of the last try to write, and when it was.
    tried: Option<(String, u64)>,
}

/// What it is.
#[derive(Debug)]
enum Subject {
    Route(RouteKind, Vec<(Value, ParentRef)>),
    /// With its class.
    Gateway(String),
    /// With the Gateway that it names.
    ListenerSet(ObjectName),
    /// With the Services that it names.
    BackendTraffic(Vec<ObjectName>),
    Class,
    BackendTls,
}

impl Book {
    /// An object is like this now; others than those of Gateway API have no status of ours.
    pub(super) fn put(&mut self, object: &Value) {
        let text = |pointer: &str| {
            let found = object.pointer(pointer).and_then(Value::as_str);
            found.unwrap_or_default().to_owned()
        };
        let (api_version, kind) = (text("/apiVersion"), text("/kind"));
        let group = api_version.split('/').next().unwrap_or_default();
        let subject = match (group, kind.as_str()) {
            (GROUP, "Gateway") => Some(Subject::Gateway(text("/spec/gatewayClassName"))),
            (GROUP, "GatewayClass") => Some(Subject::Class),
            (GROUP, "ListenerSet") => gateway_of_set(object).map(Subject::ListenerSet),
            (GROUP, "BackendTLSPolicy") => Some(Subject::BackendTls),
            (GROUP, kind) => RouteKind::named(kind).map(|kind| Subject::Route(kind, parents_of(object))),
            (EXPERIMENTAL_GROUP, BACKEND_TRAFFIC) => {
                Some(Subject::BackendTraffic(services_of_policy(object)))
            }
            _ => return,
        };
        let key = ObjectKey {
            group: group.to_owned(),
            kind,
            namespace: text("/metadata/namespace"),
            name: text("/metadata/name"),
        };
        let Some(subject) = subject else {
            self.objects.remove(&key);
            return;
        };
        let tried = self.objects.get_mut(&key).and_then(|old| old.tried.take());
        let generation = object.pointer("/metadata/generation").and_then(Value::as_i64);
        let known = Known {
            subject,
            api_version,
            uid: text("/metadata/uid"),
            resource_version: text("/metadata/resourceVersion"),
            generation: generation.unwrap_or_default(),
            said: object.get("status").cloned().unwrap_or_default(),
            tried,
        };
        self.objects.insert(key, known);
    }

    /// An object is gone.
    pub(super) fn remove(&mut self, key: &ObjectKey) {
        self.objects.remove(key);
    }

    /// UID of a Gateway.
    pub(super) fn uid(&self, gateway: &ObjectName) -> Option<String> {
        let key = ObjectKey::of(GROUP, "Gateway", gateway);
        let uid = &self.objects.get(&key)?.uid;
        (!uid.is_empty()).then(|| uid.clone())
    }

    /// Looks at every object anew: anything may depend on anything.
    pub(super) fn review(&mut self) {
        self.queue = self.objects.keys().cloned().collect();
    }

    /// How many are still to be looked at.
    #[must_use]
    pub(super) fn pending(&self) -> usize {
        self.queue.len()
    }

    /// The next write, `now` being both the time to write and a clock in milliseconds. Gateways wait until what they
    /// refer to is known (`gateways`).
    pub(super) fn next(
        &mut self,
        state: &mut State,
        gateways: bool,
        now: &str,
        now_ms: u64,
    ) -> Option<Write> {
        while let Some(key) = self.queue.pop_front() {
            let Some(known) = self.objects.get_mut(&key) else {
                continue;
            };
            let waits = matches!(
                known.subject,
                Subject::Gateway(_) | Subject::ListenerSet(_) | Subject::BackendTls
            );
            if !gateways && waits {
                continue;
            }
            let Some(wanted) = known.wanted(&key, state, self.running.as_ref(), now) else {
                continue;
            };
            if known.says(&wanted) || known.waits(now_ms) {
                continue;
            }
            known.tried = Some((known.resource_version.clone(), now_ms));
            let patch = json!({
                "metadata": {"resourceVersion": known.resource_version},
                "status": wanted,
            });
            return Some(Write {
                key,
                api_version: known.api_version.clone(),
                patch,
            });
        }
        None
    }
}

impl Known {
    /// The fields of `status` that are ours, as they should be.
    fn wanted(
        &self,
        key: &ObjectKey,
        state: &mut State,
        running: Option<&BTreeMap<ObjectName, Running>>,
        now: &str,
    ) -> Option<Value> {
        let list = |field: &str| {
            let found = self.said.get(field).and_then(Value::as_array);
            found.map_or(&[] as &[Value], Vec::as_slice)
        };
        let name = ObjectName::new(key.namespace.as_str(), key.name.as_str());
        match &self.subject {
            Subject::Route(kind, given) => {
                let (written, read): (Vec<Value>, Vec<ParentRef>) = given.iter().cloned().unzip();
                let said = state.route_status(*kind, key, &read);
                let wanted = parents(&written, &said, self.generation, list("parents"), now);
                // Nothing of ours, before or now.
                (!wanted.is_empty() || !list("parents").is_empty()).then(|| json!({"parents": wanted}))
            }
            Subject::Gateway(class) => {
                let running = there_is(running, &name);
                let status = state.gateway_status(&name, &running);
                let status = status.or_else(|| state.unread_gateway_status(&name, class))?;
                Some(status.to_json(&running, self.generation, &self.said, now))
            }
            Subject::ListenerSet(gateway) => {
                let status = state.listener_set_status(&name, gateway, &there_is(running, gateway))?;
                Some(status.to_json(self.generation, &self.said, now))
            }
            Subject::BackendTls => self.told(&state.backend_tls_status(&name), now),
            Subject::BackendTraffic(services) => {
                let said = state.backend_traffic_status(key, services);
                let said = services.iter().zip(said).map(|(service, said)| AncestorStatus {
                    ancestor: Ancestor::Service(service.clone()),
                    conditions: vec![said],
                });
                self.told(&said.collect::<Vec<_>>(), now)
            }
            Subject::Class => {
                let said = state.class_status(&key.name)?;
                let features = supported_features().map(|name| json!({"name": name}));
                Some(json!({
                    "conditions": conditions(&said, self.generation, list("conditions"), now),
                    "supportedFeatures": features.collect::<Vec<_>>(),
                }))
            }
        }
    }

    /// `status` of a policy.
    fn told(&self, said: &[AncestorStatus], now: &str) -> Option<Value> {
        let before = self.said.get("ancestors").and_then(Value::as_array);
        let before = before.map_or(&[] as &[Value], Vec::as_slice);
        let wanted = ancestors(said, self.generation, before, now);
        (!wanted.is_empty() || !before.is_empty()).then(|| json!({"ancestors": wanted}))
    }

    /// Whether that is what is there. CRDs of before 1.4 have no `supportedFeatures`, those of before 1.5 no
    /// `attachedListenerSets`: what is dropped is not written again.
    fn says(&self, wanted: &Value) -> bool {
        let fields = wanted.as_object().into_iter().flatten();
        fields.into_iter().all(|(field, value)| {
            let said = self.said.get(field);
            let newer = match field.as_str() {
                "supportedFeatures" => true,
                "attachedListenerSets" => *value == json!(0),
                _ => false,
            };
            said == Some(value) || (said.is_none() && newer && self.said.is_object())
        })
    }

    /// Whether this version of the object has been written to already: what came of it will be seen.
    fn waits(&self, now_ms: u64) -> bool {
        let tried = self.tried.as_ref();
        tried.is_some_and(|(version, at)| {
            *version == self.resource_version && now_ms.saturating_sub(*at) < AGAIN_MS
        })
    }
}

/// What there is of a Gateway. Where nobody makes pods and Services for Gateways none is ever programmed.
fn there_is(running: Option<&BTreeMap<ObjectName, Running>>, gateway: &ObjectName) -> Running {
    running
        .and_then(|all| all.get(gateway))
        .cloned()
        .unwrap_or_default()
}

#[cfg(test)]
mod tests;
