//! Secrets and ConfigMaps of the namespaces that Gateways and policies name, and of no other: which they are changes with
//! those.

use super::batch::Step;
use super::figures::SourceFigures;
use super::follow::Follower;
use super::kinds::{Kind, NO_RELEASES};
use super::{WatchSettings, crds, discovery};
use kube::Client;
use mesh_core::state::{Change, Material, ObjectKey, Place};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

/// A place that could not be read for this long is taken for one without anything.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is told.
#[derive(Debug)]
pub enum News {
    /// Objects changed.
    Changes(Vec<Change>),
    /// All that is there has been told, or nothing could be learnt of it in time.
    Known(Place),
    /// The place is followed no more.
    Left(Place),
}

/// The places that are wanted, and those that are known.
#[derive(Default)]
pub struct Followed {
    wanted: watch::Sender<BTreeSet<Place>>,
    known: BTreeSet<Place>,
}

impl Followed {
    /// The places that are to be followed.
    #[must_use]
    pub fn wanted(&self) -> watch::Receiver<BTreeSet<Place>> {
        self.wanted.subscribe()
    }

    /// Has these followed, and no others.
    pub fn want(&self, places: BTreeSet<Place>) {
        self.wanted.send_if_modified(|before| {
            let changed = *before != places;
            *before = places;
            changed
        });
    }

    /// What is told, as changes.
    pub fn take(&mut self, news: News) -> Vec<Change> {
        match news {
            News::Changes(changes) => return changes,
            News::Known(place) => self.known.insert(place),
            News::Left(place) => self.known.remove(&place),
        };
        Vec::new()
    }

    /// Whether all that is wanted is known, if it is there.
    #[must_use]
    pub fn complete(&self) -> bool {
        self.wanted.borrow().is_subset(&self.known)
    }
}

/// How a kind is followed.
const fn kind(material: Material) -> (&'static Kind, Option<&'static str>) {
    match material {
        Material::Secret => (&Kind::SECRETS, Some(NO_RELEASES)),
        Material::ConfigMap => (&Kind::CONFIG_MAPS, None),
    }
}

/// Follows the places of `wanted` until nobody listens any more.
pub async fn follow(
    client: Client,
    settings: WatchSettings,
    figures: SourceFigures,
    mut wanted: watch::Receiver<BTreeSet<Place>>,
    news: mpsc::Sender<News>,
) {
    let streaming = discovery::streams_lists(&client).await;
    let mut followed: BTreeMap<Place, (watch::Sender<()>, JoinHandle<()>)> = BTreeMap::new();
    loop {
        let now = wanted.borrow_and_update().clone();
        let left: Vec<_> = followed.extract_if(.., |place, _| !now.contains(place)).collect();
        for (_, (until, follower)) in left {
            drop(until);
            // Had it not ended, it would forget what its successor finds. It cannot panic.
            let _ended = follower.await;
        }
        for place in now {
            followed.entry(place.clone()).or_insert_with(|| {
                let (until, ended) = watch::channel(());
                let (steps, changes) = mpsc::channel(64);
                let (kind, selector) = kind(place.kind);
                let follower = Follower {
                    kind,
                    number: 0,
                    client: client.clone(),
                    selector: selector.map(Into::into),
                    namespace: Some(place.namespace.to_string()),
                    streaming,
                    settings: settings.clone(),
                    figures: figures.of(kind),
                    steps,
                };
                let follower = one(follower, place, changes, ended, news.clone());
                (until, tokio::spawn(follower))
            });
        }
        tokio::select! {
            changed = wanted.changed() => if changed.is_err() { return },
            () = news.closed() => return,
        }
    }
}

/// One place. At the end its objects are forgotten.
async fn one(
    follower: Follower,
    place: Place,
    mut steps: mpsc::Receiver<Step>,
    mut ended: watch::Receiver<()>,
    news: mpsc::Sender<News>,
) {
    let mut there: BTreeSet<String> = BTreeSet::new();
    let (_present, crds) = crds::channel();
    let mut following = std::pin::pin!(follower.run(crds));
    let mut patience = std::pin::pin!(tokio::time::sleep(PATIENCE));
    let mut known = false;
    loop {
        let told = tokio::select! {
            () = &mut following => break,
            _ = ended.changed() => break,
            () = &mut patience, if !known => {
                known = true;
                News::Known(place.clone())
            }
            step = steps.recv() => match step {
                None => break,
                Some(Step::Listed(_)) => {
                    known = true;
                    News::Known(place.clone())
                }
                Some(Step::Change(change)) => {
                    match &change {
                        Change::Apply { object, .. } => {
                            let name = object.pointer("/metadata/name").and_then(|n| n.as_str());
                            there.extend(name.map(str::to_owned));
                        }
                        Change::Delete(key) => {
                            there.remove(&key.name);
                        }
                        _ => {}
                    }
                    News::Changes(vec![change])
                }
            },
        };
        if news.send(told).await.is_err() {
            return;
        }
    }
    let gone = there.into_iter().map(|name| {
        Change::Delete(ObjectKey {
            kind: place.kind.name().into(),
            group: String::new(),
            namespace: place.namespace.to_string(),
            name,
        })
    });
    // Nobody listens any more: then nothing is to be forgotten either.
    let _told = news.send(News::Changes(gone.collect())).await;
    let _told = news.send(News::Left(place)).await;
}
