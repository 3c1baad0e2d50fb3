//! Says on the objects themselves, by Events, which of them agents refuse, and why. The words are the translation's.

use super::metrics::Metrics;
use super::watching::events;
use super::webhook::verdict;
use crate::errors::chain;
use futures_util::StreamExt;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::api::{ApiResource, DynamicObject, TypeMeta};
use kube::runtime::events::{Event as Note, EventType, Recorder, Reporter};
use kube::runtime::watcher::{Config, Event};
use kube::{Api, Resource};
use mesh_core::model::snapshot::MeshSettings;
use mesh_core::translate::Rejected;
use parking_lot::Mutex;
use std::collections::{BTreeMap, VecDeque};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// The kinds that are looked at, with their group.
pub const KINDS: [(&str, &str); 7] = [
    ("networking.istio.io", "VirtualService"),
    ("networking.istio.io", "DestinationRule"),
    ("networking.istio.io", "ServiceEntry"),
    ("networking.istio.io", "WorkloadEntry"),
    ("networking.istio.io", "Sidecar"),
    ("networking.istio.io", "Gateway"),
    ("security.istio.io", "PeerAuthentication"),
];
/// How long an absent kind is waited for before it is looked for again.
const ABSENT: Duration = Duration::from_secs(30);
/// One Event in this time: the API server has more to do.
const PACE: Duration = Duration::from_secs(1);
/// Events that may wait; more are forgotten, the metric still counts the objects.
const MAX_WAITING: usize = 1_000;
/// Longest text of an Event (events.k8s.io/v1).
const MAX_NOTE: usize = 1_024;

/// What is refused now, and which of it is still to be said.
#[derive(Default)]
pub struct Board {
    refused: BTreeMap<String, (ObjectReference, Rejected)>,
    waiting: VecDeque<String>,
}

impl Board {
    /// Takes the word on an object. Whether it is said again is decided by what is new about it.
    pub fn take(&mut self, key: String, reference: ObjectReference, verdict: Result<(), Rejected>) {
        match verdict {
            Ok(()) => _ = self.refused.remove(&key),
            Err(rejected) => {
                let known = self.refused.get(&key).is_some_and(|(_, old)| *old == rejected);
                self.refused.insert(key.clone(), (reference, rejected));
                if !known && self.waiting.len() < MAX_WAITING && !self.waiting.contains(&key) {
                    self.waiting.push_back(key);
                }
            }
        }
    }

    /// The object is gone.
    pub fn forget(&mut self, key: &str) {
        self.refused.remove(key);
    }

    /// Objects of `kind` that `seen` does not mention are gone.
    pub fn keep(&mut self, kind: &str, seen: &[String]) {
        let prefix = format!("{kind}/");
        self.refused
            .retain(|key, _| !key.starts_with(&prefix) || seen.contains(key));
    }

    /// The next that is to be said and still holds.
    pub fn say(&mut self) -> Option<(ObjectReference, Rejected)> {
        while let Some(key) = self.waiting.pop_front() {
            if let Some(found) = self.refused.get(&key) {
                return Some(found.clone());
            }
        }
        None
    }

    /// How many objects are refused.
    #[must_use]
    pub fn len(&self) -> usize {
        self.refused.len()
    }

    /// Whether none is refused.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.refused.is_empty()
    }
}

/// Follows one kind until the task is dropped; waits for it where the cluster does not know it.
pub async fn follow(
    client: kube::Client,
    (group, kind): (&'static str, &'static str),
    settings: MeshSettings,
    board: Arc<Mutex<Board>>,
    metrics: Arc<Metrics>,
) {
    let resource = loop {
        match find(&client, group, kind).await {
            Some(resource) => break resource,
            None => tokio::time::sleep(ABSENT).await,
        }
    };
    let api = Api::<DynamicObject>::all_with(client, &resource);
    let mut stream = pin!(events(api, Config::default(), kind, Arc::clone(&metrics)));
    let mut seen = Vec::new();
    while let Some(event) = stream.next().await {
        let mut board = board.lock();
        match event {
            Event::Init => seen.clear(),
            Event::InitDone => board.keep(kind, &seen),
            Event::Delete(object) => board.forget(&key(kind, &object)),
            Event::InitApply(object) => {
                seen.push(key(kind, &object));
                judge(&mut board, kind, object, &resource, &settings);
            }
            Event::Apply(object) => judge(&mut board, kind, object, &resource, &settings),
        }
        metrics
            .refused_objects
            .set(i64::try_from(board.len()).unwrap_or(i64::MAX));
    }
}

/// Says, on the leader, what there is to say. Runs until the task is dropped.
pub async fn report(
    client: kube::Client,
    instance: String,
    board: Arc<Mutex<Board>>,
    leader: watch::Receiver<bool>,
) {
    let reporter = Reporter {
        controller: "heddle-controller".to_owned(),
        instance: Some(instance),
    };
    let recorder = Recorder::new(client, reporter);
    let mut ticks = tokio::time::interval(PACE);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if !*leader.borrow() {
            continue;
        }
        let next = board.lock().say();
        let Some((reference, rejected)) = next else {
            continue;
        };
        let note = Note {
            type_: EventType::Warning,
            reason: "Refused".to_owned(),
            note: Some(text(&rejected)),
            action: "Translate".to_owned(),
            secondary: None,
        };
        if let Err(error) = recorder.publish(&note, &reference).await {
            tracing::warn!(error = chain(&error), object = rejected.object, "event");
        }
    }
}

async fn find(client: &kube::Client, group: &str, kind: &str) -> Option<ApiResource> {
    let group = kube::discovery::group(client, group).await.ok()?;
    group.recommended_kind(kind).map(|(resource, _)| resource)
}

fn judge(
    board: &mut Board,
    kind: &str,
    mut object: DynamicObject,
    resource: &ApiResource,
    settings: &MeshSettings,
) {
    let (key, reference) = (key(kind, &object), object.object_ref(resource));
    object.metadata.managed_fields = None;
    object.types.get_or_insert_with(|| TypeMeta {
        api_version: resource.api_version.clone(),
        kind: resource.kind.clone(),
    });
    match serde_json::to_value(&object) {
        Ok(value) => board.take(key, reference, verdict(value, settings)),
        Err(error) => tracing::warn!(key, %error, "object cannot be read"),
    }
}

fn key(kind: &str, object: &DynamicObject) -> String {
    let meta = &object.metadata;
    let part = |text: &Option<String>| text.clone().unwrap_or_default();
    format!("{kind}/{}/{}", part(&meta.namespace), part(&meta.name))
}

fn text(rejected: &Rejected) -> String {
    let full = match rejected.field.as_str() {
        "" => rejected.reason.clone(),
        field => format!("{field}: {}", rejected.reason),
    };
    full.chars().take(MAX_NOTE / 4).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(reason: &str) -> Result<(), Rejected> {
        Err(Rejected {
            object: "VirtualService weather/a".to_owned(),
            field: "spec.http[0].timeout".to_owned(),
            reason: reason.to_owned(),
        })
    }

    #[test]
    fn a_refusal_is_said_once_and_again_only_when_it_changes() {
        let mut board = Board::default();
        let take = |board: &mut Board, verdict| {
            board.take(
                "VirtualService/weather/a".to_owned(),
                ObjectReference::default(),
                verdict,
            );
        };
        take(&mut board, refused("no duration"));
        assert!(board.say().is_some());
        take(&mut board, refused("no duration"));
        assert!(board.say().is_none());
        take(&mut board, refused("too long"));
        take(&mut board, Ok(()));
        assert!(
            board.say().is_none() && board.is_empty(),
            "right again before it was said"
        );
        take(&mut board, refused("no duration"));
        board.keep("DestinationRule", &[]);
        assert_eq!(board.len(), 1);
        board.keep("VirtualService", &[]);
        assert!(board.is_empty());
    }
}
