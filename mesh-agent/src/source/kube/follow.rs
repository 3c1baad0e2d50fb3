//! Follows one kind: lists it, watches it, and says what changed.

use super::WatchSettings;
use super::backoff::pause;
use super::batch::Step;
use super::crds::Crds;
use super::discovery;
use super::figures::KindFigures;
use super::item::Item;
use super::kinds::Kind;
use super::known::{Known, Name, Verdict};
use futures_util::StreamExt as _;
use kube::core::{ApiResource, Resource as _};
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client};
use mesh_core::state::{Change, ObjectKey};
use std::pin::pin;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// Where objects come from, in reports.
const ORIGIN: &str = "kubernetes";
/// A kind whose definition is there but not served yet, or cannot be known, is looked for this often at least.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// One kind's follower.
pub(super) struct Follower {
    pub(super) kind: &'static Kind,
    pub(super) number: usize,
    pub(super) client: Client,
    pub(super) selector: Option<String>,
    pub(super) namespace: Option<String>,
    pub(super) streaming: bool,
    pub(super) settings: WatchSettings,
    pub(super) figures: KindFigures,
    pub(super) steps: mpsc::Sender<Step>,
}

/// Nobody listens any more.
struct Closed;

/// Why a watch was left.
enum Left {
    /// To list anew.
    Relist,
    /// The server does not know the kind (any more).
    NoSuchKind,
}

impl Follower {
    /// Follows the kind until nobody listens any more.
    pub(super) async fn run(mut self, mut crds: watch::Receiver<Crds>) {
        let mut known = Known::default();
        while let Ok(resource) = self.resolve(&mut crds, &mut known).await {
            let mut attempt = 0;
            loop {
                match self.follow(&resource, &mut known, &mut attempt).await {
                    Ok(Left::Relist) => {}
                    Ok(Left::NoSuchKind) => break,
                    Err(Closed) => return,
                }
            }
        }
    }

    /// Waits until the server has the kind.
    async fn resolve(
        &mut self,
        crds: &mut watch::Receiver<Crds>,
        known: &mut Known,
    ) -> Result<ApiResource, Closed> {
        if !self.kind.optional {
            let version = self.kind.versions.first().copied().unwrap_or_default();
            return Ok(self.kind.resource(version));
        }
        let mut attempt = 0;
        loop {
            let there = crds.borrow_and_update().has(self.kind);
            let mut again = LOOK_AGAIN;
            match there {
                None => {}
                Some(false) => self.absent(known).await?,
                Some(true) => match discovery::served(&self.client, self.kind).await {
                    Ok(Some(resource)) => return Ok(resource),
                    // The definition is served a moment after it is there.
                    Ok(None) => {
                        self.absent(known).await?;
                        again = self.pause(&mut attempt);
                    }
                    Err(error) => {
                        self.report(&error);
                        again = self.pause(&mut attempt);
                    }
                },
            }
            tokio::select! {
                changed = crds.changed() => changed.map_err(|_| Closed)?,
                () = tokio::time::sleep(again), if there == Some(true) => {}
                () = self.steps.closed() => return Err(Closed),
            }
        }
    }

    /// The server does not have the kind: there is no object of it.
    async fn absent(&self, known: &mut Known) -> Result<(), Closed> {
        self.delete(known.clear()).await?;
        self.figures.objects(0);
        self.send(Step::Listed(self.number)).await
    }

    async fn follow(
        &mut self,
        resource: &ApiResource,
        known: &mut Known,
        attempt: &mut u32,
    ) -> Result<Left, Closed> {
        let client = self.client.clone();
        let api: Api<Item> = match &self.namespace {
            None => Api::all_with(client, resource),
            Some(namespace) => Api::namespaced_with(client, namespace, resource),
        };
        let config = watch_config(&self.settings, self.streaming, self.selector.as_deref());
        let mut events = pin!(watcher::watcher(api, config));
        while let Some(event) = events.next().await {
            let error = match event {
                Ok(event) => {
                    if !matches!(event, Event::Init) {
                        *attempt = 0;
                    }
                    match self.take(resource, known, event).await? {
                        Some(left) => return Ok(left),
                        None => continue,
                    }
                }
                Err(error) => error,
            };
            known.failed();
            self.report(&error);
            if status(&error) == Some(403) {
                self.figures.refused(crate::errors::chain(&error));
            }
            if self.streaming && no_streaming(&error) {
                self.streaming = false;
                return Ok(Left::Relist);
            }
            if self.kind.optional && status(&error) == Some(404) {
                return Ok(Left::NoSuchKind);
            }
            tokio::time::sleep(self.pause(attempt)).await;
            if must_relist(&error) {
                return Ok(Left::Relist);
            }
        }
        Ok(Left::Relist)
    }

    async fn take(
        &self,
        resource: &ApiResource,
        known: &mut Known,
        event: Event<Item>,
    ) -> Result<Option<Left>, Closed> {
        match event {
            Event::Init => {
                self.figures.relisted();
                known.begin();
            }
            Event::InitApply(item) => self.put(resource, known, item).await?,
            Event::Apply(item) => {
                self.figures.event();
                self.put(resource, known, item).await?;
            }
            Event::Delete(item) => {
                self.figures.event();
                if let Some(name) = name(&item).filter(|name| known.remove(name)) {
                    self.delete(vec![name]).await?;
                }
            }
            Event::InitDone => {
                self.figures.heard();
                match known.end() {
                    Verdict::Gone(gone) => {
                        self.delete(gone).await?;
                        self.send(Step::Listed(self.number)).await?;
                    }
                    Verdict::Doubtful => {
                        tracing::warn!(
                            kind = self.kind.kind,
                            known = known.len(),
                            "an empty list after an error is read again before it is believed"
                        );
                        tokio::time::sleep(self.pause(&mut 0)).await;
                        return Ok(Some(Left::Relist));
                    }
                }
            }
        }
        self.figures.objects(known.len());
        Ok(None)
    }

    async fn put(&self, resource: &ApiResource, known: &mut Known, item: Item) -> Result<(), Closed> {
        let Some(name) = name(&item) else {
            self.figures.malformed();
            let reason = "the API server sent an object without a name".to_owned();
            let origin = format!("{ORIGIN}/{}", self.kind.plural);
            return self
                .send(Step::Change(Change::Unreadable { origin, reason }))
                .await;
        };
        let version = item.meta().resource_version.clone().unwrap_or_default();
        let origin = format!("{ORIGIN}/{}/{}/{}", self.kind.plural, name.0, name.1);
        if !known.put(name, &version) {
            return Ok(());
        }
        self.figures.handed_over(&version);
        let mut object = item.value;
        // The items of a list do not say what they are.
        if let Some(fields) = object.as_object_mut() {
            fields.insert("apiVersion".into(), resource.api_version.as_str().into());
            fields.insert("kind".into(), self.kind.kind.into());
        }
        self.send(Step::Change(Change::Apply { object, origin })).await
    }

    async fn delete(&self, names: Vec<Name>) -> Result<(), Closed> {
        for (namespace, name) in names {
            let key = ObjectKey {
                kind: self.kind.kind.into(),
                group: self.kind.group.into(),
                namespace: namespace.into(),
                name: name.into(),
            };
            self.send(Step::Change(Change::Delete(key))).await?;
        }
        Ok(())
    }

    async fn send(&self, step: Step) -> Result<(), Closed> {
        self.steps.send(step).await.map_err(|_| Closed)
    }

    fn pause(&self, attempt: &mut u32) -> Duration {
        let settings = &self.settings;
        let pause = pause(
            settings.backoff,
            settings.backoff_at_most,
            *attempt,
            fastrand::u32(..),
        );
        *attempt = attempt.saturating_add(1);
        pause
    }

    fn report(&self, error: &dyn std::error::Error) {
        self.figures.failed();
        tracing::warn!(kind = self.kind.kind, error = %crate::errors::chain(error), "watch");
    }
}

/// Namespace and name, if the object has a name.
fn name(item: &Item) -> Option<Name> {
    let meta = item.meta();
    let namespace = meta.namespace.as_deref().unwrap_or_default();
    Some((namespace.into(), meta.name.as_deref()?.into()))
}

/// How a kind is watched. The servers' time limits are spread, so that watches do not end at once.
pub(super) fn watch_config(
    settings: &WatchSettings,
    streaming: bool,
    selector: Option<&str>,
) -> watcher::Config {
    let limit = settings.watch_timeout_s;
    let mut config = watcher::Config::default().timeout(limit - fastrand::u32(0..=limit / 4));
    if streaming {
        config = config.streaming_lists();
    }
    if let Some(selector) = selector {
        config = config.fields(selector);
    }
    config
}

/// The HTTP status that an error carries.
pub(super) fn status(error: &watcher::Error) -> Option<u16> {
    use watcher::Error::{InitialListFailed, WatchError, WatchFailed, WatchStartFailed};
    match error {
        InitialListFailed(kube::Error::Api(status))
        | WatchStartFailed(kube::Error::Api(status))
        | WatchFailed(kube::Error::Api(status)) => Some(status.code),
        WatchError(status) => Some(status.code),
        _ => None,
    }
}

/// Whether the server refuses `sendInitialEvents` (feature WatchList switched off).
pub(super) fn no_streaming(error: &watcher::Error) -> bool {
    matches!(error, watcher::Error::WatchStartFailed(_)) && matches!(status(error), Some(400 | 422))
}

/// Whether what was watched from cannot be relied on any more: it is too old, newer than anything that the server has
/// (another etcd than before), or an event was lost.
fn must_relist(error: &watcher::Error) -> bool {
    let lost = matches!(error, watcher::Error::WatchFailed(kube::Error::SerdeError(_)));
    let unknown_start = matches!(
        error,
        watcher::Error::WatchStartFailed(_) | watcher::Error::WatchError(_)
    ) && matches!(status(error), Some(400 | 410 | 422 | 504));
    lost || unknown_start
}
