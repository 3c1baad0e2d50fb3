//! Says on Gateways and routes of Gateway API what becomes of them: the state that agents build, asked by the leader.

mod book;

use super::bucket::Bucket;
use super::gateways::Plan;
use super::metrics::Metrics;
use super::publish::FIELD_MANAGER;
use crate::errors::chain;
use crate::source::kube::material::{self, Followed};
use crate::source::kube::{self as source, Reader, WatchSettings};
use book::{Book, Write};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams};
use kube::core::GroupVersionKind;
use mesh_core::model::ObjectName;
use mesh_core::model::snapshot::MeshSettings;
use mesh_core::model::status::Running;
use mesh_core::state::{Change, State};
use mesh_core::translate::RouteKind;
use mesh_core::translate::gateway_api::BACKEND_TRAFFIC;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;

/// How often due writes are looked for.
const TICK: Duration = Duration::from_millis(50);
/// Everything is looked at again this often: a write may have been lost.
const REVIEW: Duration = Duration::from_secs(10);
/// Writes that are under way at once.
const PARALLEL: usize = 4;
/// Writes a second, all objects together, and how many at once after a quiet time: each costs every agent an event.
const RATE: f64 = 20.0;
const BURST: f64 = 100.0;
/// A write takes no longer than this.
const DEADLINE: Duration = Duration::from_secs(10);

/// The way to the task that makes what Gateways are made of.
pub struct Gateways {
    /// What is wanted.
    pub plans: watch::Sender<Option<Arc<Plan>>>,
    /// What there is.
    pub made: watch::Receiver<Option<BTreeMap<ObjectName, Running>>>,
}

/// Follows the API and writes, on the leader, until the task is dropped. Without `gateways` none is deployed, and no
/// Secret or ConfigMap is read.
pub async fn run(
    client: kube::Client,
    settings: MeshSettings,
    gateways: Option<Gateways>,
    leader: watch::Receiver<bool>,
    metrics: Arc<Metrics>,
) {
    let (sender, mut changes) = mpsc::channel(8);
    let watching = source::watch(
        client.clone(),
        Reader::Controller,
        WatchSettings::default(),
        metrics.source.clone(),
        sender,
    );
    let mut watching = std::pin::pin!(watching);
    let mut scribe = Scribe::new(settings, gateways.is_some());
    let (told, mut material_news) = mpsc::channel(8);
    let (plans, mut made) = match gateways {
        None => (watch::Sender::default(), watch::channel(None).1),
        Some(gateways) => {
            let watched = WatchSettings::default();
            let figures = metrics.source.clone();
            let places = scribe.followed.wanted();
            tokio::spawn(material::follow(client.clone(), watched, figures, places, told));
            (gateways.plans, gateways.made)
        }
    };
    let mut writing = FuturesUnordered::new();
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = &mut watching => return,
            Some(batch) = changes.recv() => scribe.take(batch),
            Some(news) = material_news.recv() => scribe.take_material(news),
            Ok(()) = made.changed() => scribe.take_made(made.borrow_and_update().clone()),
            Some(()) = writing.next() => {}
            _ = ticks.tick() => {
                if let Some(plan) = scribe.plan() {
                    plans.send_replace(Some(plan));
                }
                while *leader.borrow() && writing.len() < PARALLEL {
                    let Some(write) = scribe.next() else { break };
                    writing.push(make(client.clone(), write, Arc::clone(&metrics)));
                }
            }
        }
    }
}

/// Kinds of which depends what Gateways are made of, and what they may read.
const PLANNED: [&str; 6] = [
    "BackendTLSPolicy",
    "Gateway",
    "GatewayClass",
    "ListenerSet",
    "Namespace",
    "ReferenceGrant",
];

/// What is known and what may be written.
struct Scribe {
    state: State,
    book: Book,
    /// Whether Gateways are deployed.
    deploys: bool,
    /// Whether the plan may be another since it was last made.
    plan_due: bool,
    plan: Option<Arc<Plan>>,
    /// Secrets and ConfigMaps that Gateways and policies name.
    followed: Followed,
    started: Instant,
    reviewed: Instant,
    bucket: Bucket,
}

impl Scribe {
    fn new(settings: MeshSettings, deploys: bool) -> Self {
        let now = Instant::now();
        let state = State::for_controller(settings);
        Self {
            state: if deploys { state.reading_secrets() } else { state },
            book: Book::default(),
            deploys,
            plan_due: true,
            plan: None,
            followed: Followed::default(),
            started: now,
            reviewed: now,
            bucket: Bucket::new(RATE, BURST),
        }
    }

    fn take(&mut self, batch: Vec<Change>) {
        for change in batch {
            let kind = match &change {
                Change::Apply { object, .. } => {
                    self.book.put(object);
                    object.get("kind").and_then(Value::as_str)
                }
                Change::Delete(key) => {
                    self.book.remove(key);
                    Some(key.kind.as_str())
                }
                _ => None,
            };
            // By their routes Gateways come to the Services that policies name.
            let of_policies =
                |kind: &str| !self.state.backend_material().is_empty() && RouteKind::named(kind).is_some();
            self.plan_due |= kind.is_none_or(|kind| PLANNED.contains(&kind) || of_policies(kind));
            self.state.apply(change);
        }
        self.review();
    }

    fn take_material(&mut self, news: material::News) {
        for change in self.followed.take(news) {
            self.state.apply(change);
        }
        self.review();
    }

    fn take_made(&mut self, made: Option<BTreeMap<ObjectName, Running>>) {
        self.book.running = made;
        self.review();
    }

    /// What is wanted for the Gateways, if it is another than it was.
    fn plan(&mut self) -> Option<Arc<Plan>> {
        if !self.deploys || !std::mem::take(&mut self.plan_due) {
            return None;
        }
        if self.state.listing() {
            self.plan_due = true;
            return None;
        }
        // Which routes lead where is known once the snapshot is.
        self.state.snapshot();
        let plan = Plan::of(&self.state, |name| self.book.uid(name));
        if self.plan.as_deref() == Some(&plan) {
            return None;
        }
        let plan = Arc::new(plan);
        self.followed.want(plan.places());
        self.plan = Some(Arc::clone(&plan));
        Some(plan)
    }

    /// Whether what Gateways refer to, and what there is of them, is known: what is not there might only not be known.
    fn knows_gateways(&self) -> bool {
        match self.plan {
            None => !self.deploys,
            Some(_) => self.followed.complete() && self.book.running.is_some(),
        }
    }

    fn review(&mut self) {
        self.book.review();
        self.reviewed = Instant::now();
    }

    /// The next write that is due. None before everything was listed: what is not there might only not be known.
    fn next(&mut self) -> Option<Write> {
        if self.state.listing() {
            return None;
        }
        if self.reviewed.elapsed() > REVIEW {
            self.review();
        }
        let since_start = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        if !self.bucket.allows(since_start) || self.book.pending() == 0 {
            return None;
        }
        let time = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let gateways = self.knows_gateways();
        let write = self.book.next(&mut self.state, gateways, &time, since_start)?;
        self.bucket.wrote();
        Some(write)
    }
}

/// Writes. Whatever becomes of it is seen by the watch; what is lost is tried again.
async fn make(client: kube::Client, write: Write, metrics: Arc<Metrics>) {
    let key = &write.key;
    let (group, version) = write.api_version.split_once('/').unwrap_or_default();
    let plural = match key.kind.as_str() {
        "GatewayClass" => "gatewayclasses".to_owned(),
        "BackendTLSPolicy" => "backendtlspolicies".to_owned(),
        BACKEND_TRAFFIC => "xbackendtrafficpolicies".to_owned(),
        kind => format!("{}s", kind.to_ascii_lowercase()),
    };
    let gvk = GroupVersionKind::gvk(group, version, &key.kind);
    let resource = ApiResource::from_gvk_with_plural(&gvk, &plural);
    let api: Api<DynamicObject> = match key.namespace.as_str() {
        "" => Api::all_with(client, &resource),
        namespace => Api::namespaced_with(client, namespace, &resource),
    };
    let params = PatchParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PatchParams::default()
    };
    let patch = Patch::Merge(&write.patch);
    let made = tokio::time::timeout(DEADLINE, api.patch_status(&key.name, &params, &patch)).await;
    let reason = match made {
        Ok(Ok(_)) => return metrics.status_written("written"),
        // Changed or gone meanwhile: the watch tells.
        Ok(Err(kube::Error::Api(status))) if matches!(status.code, 404 | 409) => {
            return metrics.status_written("superseded");
        }
        Ok(Err(error)) => chain(&error),
        Err(_) => "no answer from the API server".to_owned(),
    };
    metrics.status_written("error");
    tracing::warn!(
        kind = key.kind,
        namespace = key.namespace,
        name = key.name,
        reason,
        "status not written"
    );
}
