//! Keeps the pods and the WorkloadTemplates of the cluster in step: two watches in, and, on the leader, writes out.

use super::metrics::Metrics;
use super::pods::{Group, PodIndex, PodObject, PodRecord};
use super::templates::{Ledger, TemplateKey, Write, wanted};
use super::watching::events;
use crate::errors::chain;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{ApiResource, DeleteParams, Patch, PatchParams};
use kube::core::{GroupVersionKind, NotUsed, Object};
use kube::runtime::watcher::{Config, Event};
use mesh_core::model::template::{GROUP, VERSION, WORKLOAD_TEMPLATE, WorkloadTemplate};
use parking_lot::RwLock;
use std::collections::HashSet;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

/// Name under which the controller owns fields.
pub const FIELD_MANAGER: &str = "heddle-controller";
/// How often due writes are looked for.
const TICK: Duration = Duration::from_millis(50);
/// Writes that are under way at once.
const PARALLEL: usize = 4;
/// A write takes no longer than this.
const DEADLINE: Duration = Duration::from_secs(10);

type TemplateObject = Object<WorkloadTemplate, NotUsed>;

/// The kind as the API names it.
#[must_use]
pub fn resource() -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk(GROUP, VERSION, WORKLOAD_TEMPLATE))
}

/// Publishes until the task is dropped.
pub async fn run(
    client: kube::Client,
    pods: Arc<RwLock<PodIndex>>,
    leader: watch::Receiver<bool>,
    metrics: Arc<Metrics>,
) {
    let pod_api = Api::<PodObject>::all_with(client.clone(), &ApiResource::erase::<Pod>(&()));
    let template_api = Api::<TemplateObject>::all_with(client.clone(), &resource());
    let mut pod_events = pin!(events(pod_api, Config::default(), "Pod", Arc::clone(&metrics)));
    let mut template_events = pin!(events(
        template_api,
        Config::default(),
        WORKLOAD_TEMPLATE,
        Arc::clone(&metrics)
    ));
    let started = Instant::now();
    let mut publisher = Publisher {
        pods,
        dirty: HashSet::new(),
        ledger: Ledger::default(),
    };
    let mut writing = FuturesUnordered::new();
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            Some((write, took)) = writing.next() => {
                publisher.ledger.answered(took);
                publisher.ledger.done(&write, took.is_some());
            }
            Some(event) = pod_events.next() => publisher.pod(event),
            Some(event) = template_events.next() => publisher.template(event, millis(started)),
            _ = ticks.tick() => {
                publisher.describe(millis(started));
                let leads = *leader.borrow();
                while leads && writing.len() < PARALLEL {
                    let Some(write) = publisher.ledger.next(millis(started)) else { break };
                    writing.push(make(client.clone(), write, Arc::clone(&metrics)));
                }
                metrics.templates.set(count(publisher.ledger.len()));
                let pending = if leads { publisher.ledger.pending() } else { 0 };
                metrics.templates_pending.set(count(pending));
            }
        }
    }
}

struct Publisher {
    pods: Arc<RwLock<PodIndex>>,
    /// Groups whose pods have changed since they were last described: a group of thousands is not counted anew for each.
    dirty: HashSet<Group>,
    ledger: Ledger,
}

impl Publisher {
    fn pod(&mut self, event: Event<PodObject>) {
        let mut pods = self.pods.write();
        let changed = match event {
            Event::Init => {
                pods.begin();
                return;
            }
            Event::InitApply(pod) | Event::Apply(pod) => {
                PodRecord::read(&pod).map(|pod| pods.put(pod)).unwrap_or_default()
            }
            Event::Delete(pod) => PodRecord::read(&pod)
                .and_then(|pod| pods.remove(&pod.key))
                .into_iter()
                .collect(),
            Event::InitDone => pods.end(),
        };
        self.dirty.extend(changed);
    }

    /// Once every pod is known: before, the majority of a group is anyone's guess.
    fn describe(&mut self, now: u64) {
        let pods = self.pods.read();
        if !pods.complete() {
            return;
        }
        for group in self.dirty.drain() {
            let specs = wanted(&group, pods.members(&group));
            self.ledger.want(group, specs, now);
        }
        self.ledger.pods_listed(now);
    }

    fn template(&mut self, event: Event<TemplateObject>, now: u64) {
        match event {
            Event::Init => self.ledger.begin(),
            Event::InitDone => self.ledger.end(now),
            Event::InitApply(object) | Event::Apply(object) => {
                if let Some(key) = key(&object) {
                    self.ledger.observe(key, Some(object.spec), now);
                }
            }
            Event::Delete(object) => {
                if let Some(key) = key(&object) {
                    self.ledger.observe(key, None, now);
                }
            }
        }
    }
}

fn key(object: &TemplateObject) -> Option<TemplateKey> {
    let meta = &object.metadata;
    Some((meta.namespace.as_deref()?.into(), meta.name.as_deref()?.into()))
}

/// Gives back how long it took, milliseconds; `None` if it failed.
async fn make(client: kube::Client, write: Write, metrics: Arc<Metrics>) -> (Write, Option<u64>) {
    let started = Instant::now();
    let made = tokio::time::timeout(DEADLINE, attempt(client, &write)).await;
    let reason = match made {
        Ok(Ok(())) => {
            metrics.wrote(match write {
                Write::Apply(..) => "applied",
                Write::Delete(_) => "deleted",
            });
            return (write, Some(millis(started)));
        }
        Ok(Err(error)) => chain(&error),
        Err(_) => "no answer from the API server".to_owned(),
    };
    metrics.wrote("error");
    let (Write::Apply(key, _) | Write::Delete(key)) = &write;
    tracing::warn!(namespace = %key.0, name = %key.1, reason, "WorkloadTemplate not written");
    (write, None)
}

async fn attempt(client: kube::Client, write: &Write) -> Result<(), kube::Error> {
    let (Write::Apply((namespace, name), _) | Write::Delete((namespace, name))) = write;
    let api = Api::<TemplateObject>::namespaced_with(client, namespace, &resource());
    match write {
        Write::Apply(_, spec) => {
            let object = serde_json::json!({
                "apiVersion": format!("{GROUP}/{VERSION}"),
                "kind": WORKLOAD_TEMPLATE,
                "metadata": {"name": name, "namespace": namespace},
                "spec": **spec,
            });
            let params = PatchParams::apply(FIELD_MANAGER).force();
            match api.patch(name, &params, &Patch::Apply(&object)).await {
                // The namespace is going: its objects go with it.
                Err(kube::Error::Api(status)) if status.code == 403 && terminating(&status) => Ok(()),
                other => other.map(drop),
            }
        }
        Write::Delete(_) => match api.delete(name, &DeleteParams::default()).await {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            other => other.map(drop),
        },
    }
}

fn terminating(status: &kube::core::Status) -> bool {
    status.message.contains("because it is being terminated")
}

fn millis(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis())
        .unwrap_or(u64::MAX)
        .max(1)
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
