//! Makes what Gateways of class `heddle` are made of, and the class itself.
//!
//! What is wanted is compared with what is there, both as the API server has it: what another hand changes is put back.

mod ledger;
mod names;
mod objects;
mod plan;
mod rights;
mod write;

pub use objects::Template;
pub use plan::Plan;

use super::bucket::Bucket;
use super::metrics::Metrics;
use super::watching::events;
use futures_util::StreamExt;
use futures_util::stream::{BoxStream, FuturesUnordered, SelectAll};
use kube::Api;
use kube::api::DynamicObject;
use kube::runtime::watcher::{Config, Event};
use ledger::{Key, Kind, Ledger};
use mesh_core::model::ObjectName;
use mesh_core::model::status::Running;
use names::{MANAGED_BY, MANAGER, ROLE};
use rights::Account;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

/// How often due writes are looked for.
const TICK: Duration = Duration::from_millis(50);
/// Writes that are under way at once.
const PARALLEL: usize = 4;
/// Writes a second, all objects together, and how many at once after a quiet time.
const RATE: f64 = 20.0;
const BURST: f64 = 60.0;

/// What the controller is told, and tells.
pub struct Wiring {
    /// What every Gateway's objects have in common.
    pub template: Template,
    /// Namespace of the controller.
    pub namespace: String,
    /// The Gateways; none before all of them are known.
    pub plans: watch::Receiver<Option<Arc<Plan>>>,
    /// What there is of each; nothing before everything was listed.
    pub running: watch::Sender<Option<BTreeMap<ObjectName, Running>>>,
    /// Whether this replica writes.
    pub leader: watch::Receiver<bool>,
    /// Counts writes.
    pub metrics: Arc<Metrics>,
}

/// Works until the task is dropped.
pub async fn run(client: kube::Client, wiring: Wiring) {
    let Wiring {
        template,
        namespace,
        mut plans,
        running,
        leader,
        metrics,
    } = wiring;
    let controller = Account {
        namespace,
        name: MANAGER.to_owned(),
    };
    let owner = write::secrets_role(&client).await;
    let mut seen = watches(&client, &metrics);
    let mut definition = write::class_definition(&client, &metrics).boxed();
    let mut class_can_be = false;
    let mut class_tried = None::<Instant>;
    let mut ledger = Ledger::default();
    let mut plan: Option<Arc<Plan>> = None;
    let mut writing = FuturesUnordered::new();
    let mut bucket = Bucket::new(RATE, BURST);
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let started = Instant::now();
    let now = || u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    loop {
        tokio::select! {
            Some((kind, event)) = seen.next() => take(&mut ledger, kind, event),
            Some(there) = definition.next() => class_can_be = there,
            Some((done, outcome)) = writing.next() => ledger.done(done, outcome, now()),
            Ok(()) = plans.changed() => {
                plan.clone_from(&plans.borrow_and_update());
                if let Some(plan) = &plan {
                    ledger.want(plan.objects(&template, &controller, &owner), plan.leaving());
                }
            }
            _ = ticks.tick() => {
                let Some(plan) = plan.as_ref().filter(|_| *leader.borrow()) else { continue };
                let due = class_tried.is_none_or(|at| at.elapsed() > Duration::from_secs(2));
                if class_can_be && !plan.has_class && due {
                    class_tried = Some(Instant::now());
                    write::class(&client, &owner).await;
                }
                while writing.len() < PARALLEL && bucket.allows(now()) {
                    let Some(write) = ledger.next(now()) else { break };
                    bucket.wrote();
                    writing.push(write::make(client.clone(), write, Arc::clone(&metrics)));
                }
                continue;
            }
        }
        if let Some(plan) = plan.as_ref().filter(|_| ledger.complete()) {
            let all = Some(plan.running(&ledger));
            running.send_if_modified(|before| {
                let changed = *before != all;
                *before = all;
                changed
            });
        }
    }
}

type Seen = SelectAll<BoxStream<'static, (Kind, Event<DynamicObject>)>>;

/// What there is of what the controller made.
fn watches(client: &kube::Client, metrics: &Arc<Metrics>) -> Seen {
    let mut all = SelectAll::new();
    for kind in Kind::ALL {
        let api: Api<DynamicObject> = Api::all_with(client.clone(), &write::resource(kind));
        let config = match kind {
            Kind::ClusterRoleBinding => Config::default().fields(&format!("metadata.name={ROLE}")),
            _ => Config::default().labels(&format!("{MANAGED_BY}={MANAGER}")),
        };
        let stream = events(api, config, kind.name(), Arc::clone(metrics));
        all.push(stream.map(move |event| (kind, event)).boxed());
    }
    all
}

fn take(ledger: &mut Ledger, kind: Kind, event: Event<DynamicObject>) {
    match event {
        Event::Init => ledger.begin(kind),
        Event::InitDone => ledger.end(kind),
        Event::InitApply(object) | Event::Apply(object) => ledger.see(value(kind, object)),
        Event::Delete(object) => {
            if let Some(key) = Key::of(&value(kind, object)) {
                ledger.lose(&key);
            }
        }
    }
}

/// With its kind: items of a list do not say it.
fn value(kind: Kind, object: DynamicObject) -> Value {
    let mut value = serde_json::to_value(object).unwrap_or_default();
    if let Some(fields) = value.as_object_mut() {
        fields.insert("kind".to_owned(), kind.name().into());
    }
    value
}

#[cfg(test)]
mod tests;
