//! Which CustomResourceDefinitions there are, by name: kinds that the API server does not have are waited for.

use super::WatchSettings;
use super::backoff::pause;
use super::figures::KindFigures;
use super::follow::watch_config;
use super::kinds::Kind;
use futures_util::StreamExt as _;
use kube::core::{DynamicObject, PartialObjectMeta};
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client};
use std::collections::BTreeSet;
use std::pin::pin;
use tokio::sync::watch;

/// What is known of the definitions that matter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Crds {
    /// Nothing yet.
    #[default]
    Unread,
    /// They cannot be read.
    Hidden,
    /// Names.
    Names(BTreeSet<String>),
}

impl Crds {
    /// Whether the kind may be served; `None` if that is not known yet.
    pub(super) fn has(&self, kind: &Kind) -> Option<bool> {
        match self {
            Self::Unread => None,
            Self::Hidden => Some(true),
            Self::Names(names) => Some(names.contains(&kind.crd())),
        }
    }
}

pub(super) fn channel() -> (watch::Sender<Crds>, watch::Receiver<Crds>) {
    watch::channel(Crds::default())
}

/// Follows the definitions for ever.
pub(super) async fn watch(
    client: Client,
    streaming: bool,
    settings: &WatchSettings,
    figures: KindFigures,
    kinds: &[&'static Kind],
    present: watch::Sender<Crds>,
) {
    let wanted: BTreeSet<String> = kinds.iter().filter(|k| k.optional).map(|k| k.crd()).collect();
    let mut streaming = streaming;
    let mut attempt = 0;
    loop {
        let api: Api<PartialObjectMeta<DynamicObject>> =
            Api::all_with(client.clone(), &Kind::CRDS.resource("v1"));
        let mut events = pin!(watcher::watcher(api, watch_config(settings, streaming, None)));
        let mut listing = BTreeSet::new();
        while let Some(event) = events.next().await {
            let name = |o: &PartialObjectMeta<DynamicObject>| o.metadata.name.clone().unwrap_or_default();
            match event {
                Ok(Event::Init) => {
                    figures.relisted();
                    listing = BTreeSet::new();
                }
                Ok(Event::InitApply(o)) => _ = listing.insert(name(&o)),
                Ok(Event::InitDone) => {
                    attempt = 0;
                    let names = listing.intersection(&wanted).cloned().collect();
                    set(&present, Crds::Names(names));
                }
                Ok(Event::Apply(o)) => {
                    figures.event();
                    if wanted.contains(&name(&o)) {
                        change(&present, |names| _ = names.insert(name(&o)));
                    }
                }
                Ok(Event::Delete(o)) => {
                    figures.event();
                    change(&present, |names| _ = names.remove(&name(&o)));
                }
                Err(error) => {
                    figures.failed();
                    if super::follow::status(&error) == Some(403) {
                        figures.refused(crate::errors::chain(&error));
                    }
                    tracing::warn!(kind = Kind::CRDS.kind, %error, "watch");
                    if *present.borrow() == Crds::Unread {
                        set(&present, Crds::Hidden);
                    }
                    tokio::time::sleep(pause(
                        settings.backoff,
                        settings.backoff_at_most,
                        attempt,
                        fastrand::u32(..),
                    ))
                    .await;
                    attempt += 1;
                    if streaming && super::follow::no_streaming(&error) {
                        streaming = false;
                    }
                    break;
                }
            }
        }
    }
}

fn set(present: &watch::Sender<Crds>, new: Crds) {
    present.send_if_modified(|now| {
        let changed = *now != new;
        *now = new;
        changed
    });
}

fn change(present: &watch::Sender<Crds>, f: impl FnOnce(&mut BTreeSet<String>)) {
    present.send_if_modified(|now| {
        let Crds::Names(names) = now else { return false };
        let before = names.len();
        f(names);
        names.len() != before
    });
}
