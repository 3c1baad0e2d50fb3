//! Says on routes of Gateway API what becomes of them: the state that agents build, asked by the leader.

mod book;

use super::metrics::Metrics;
use super::publish::FIELD_MANAGER;
use crate::errors::chain;
use crate::source::kube::{self as source, Reader, WatchSettings};
use book::{Book, Write};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams};
use kube::core::GroupVersionKind;
use mesh_core::model::snapshot::MeshSettings;
use mesh_core::state::{Change, State};
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

/// Follows the API and writes, on the leader, until the task is dropped.
pub async fn run(
    client: kube::Client,
    settings: MeshSettings,
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
    let mut scribe = Scribe::new(settings);
    let mut writing = FuturesUnordered::new();
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = &mut watching => return,
            Some(batch) = changes.recv() => scribe.take(batch),
            Some(()) = writing.next() => {}
            _ = ticks.tick() => {
                while *leader.borrow() && writing.len() < PARALLEL {
                    let Some(write) = scribe.next() else { break };
                    writing.push(make(client.clone(), write, Arc::clone(&metrics)));
                }
            }
        }
    }
}

/// What is known and what may be written.
struct Scribe {
    state: State,
    book: Book,
    started: Instant,
    reviewed: Instant,
    tokens: f64,
    refilled: Instant,
}

impl Scribe {
    fn new(settings: MeshSettings) -> Self {
        let now = Instant::now();
        Self {
            state: State::for_controller(settings),
            book: Book::default(),
            started: now,
            reviewed: now,
            tokens: BURST,
            refilled: now,
        }
    }

    fn take(&mut self, batch: Vec<Change>) {
        for change in batch {
            match &change {
                Change::Apply { object, .. } => self.book.put(object),
                Change::Delete(key) => self.book.remove(key),
                _ => {}
            }
            self.state.apply(change);
        }
        self.review();
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
        let now = Instant::now();
        let gained = (now - self.refilled).as_secs_f64() * RATE;
        self.tokens = (self.tokens + gained).min(BURST);
        self.refilled = now;
        if self.tokens < 1.0 || self.book.pending() == 0 {
            return None;
        }
        let since_start = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let time = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let write = self.book.next(&mut self.state, &time, since_start)?;
        self.tokens -= 1.0;
        Some(write)
    }
}

/// Writes. Whatever becomes of it is seen by the watch; what is lost is tried again.
async fn make(client: kube::Client, write: Write, metrics: Arc<Metrics>) {
    let key = &write.key;
    let (group, version) = write.api_version.split_once('/').unwrap_or_default();
    let plural = match key.kind.as_str() {
        "GatewayClass" => "gatewayclasses".to_owned(),
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
