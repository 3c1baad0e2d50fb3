//! Secrets of the namespaces that Gateways name, and of no other: which they are changes with the Gateways.

use super::batch::Step;
use super::figures::SourceFigures;
use super::follow::Follower;
use super::kinds::{Kind, NO_RELEASES};
use super::{WatchSettings, crds, discovery};
use kube::Client;
use mesh_core::state::{Change, ObjectKey};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

/// A namespace whose Secrets could not be read for this long is taken for one without any.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is told.
#[derive(Debug)]
pub enum News {
    /// Secrets changed.
    Changes(Vec<Change>),
    /// Every Secret of the namespace has been told, or nothing could be learnt of it in time.
    Known(Arc<str>),
    /// The namespace is followed no more.
    Left(Arc<str>),
}

impl News {
    /// Notes in `known` which namespaces are known, and gives the changes.
    pub fn noted(self, known: &mut BTreeSet<Arc<str>>) -> Vec<Change> {
        match self {
            Self::Changes(changes) => return changes,
            Self::Known(namespace) => known.insert(namespace),
            Self::Left(namespace) => known.remove(&namespace),
        };
        Vec::new()
    }
}

/// Follows the namespaces of `wanted` until nobody listens any more.
pub async fn follow(
    client: Client,
    settings: WatchSettings,
    figures: SourceFigures,
    mut wanted: watch::Receiver<BTreeSet<Arc<str>>>,
    news: mpsc::Sender<News>,
) {
    let streaming = discovery::streams_lists(&client).await;
    let mut followed: BTreeMap<Arc<str>, (watch::Sender<()>, JoinHandle<()>)> = BTreeMap::new();
    loop {
        let now = wanted.borrow_and_update().clone();
        let left: Vec<_> = followed
            .extract_if(.., |namespace, _| !now.contains(namespace))
            .collect();
        for (_, (until, follower)) in left {
            drop(until);
            // Had it not ended, it would forget what its successor finds. It cannot panic.
            let _ended = follower.await;
        }
        for namespace in now {
            followed.entry(Arc::clone(&namespace)).or_insert_with(|| {
                let (until, ended) = watch::channel(());
                let (steps, changes) = mpsc::channel(64);
                let follower = Follower {
                    kind: &Kind::SECRETS,
                    number: 0,
                    client: client.clone(),
                    selector: Some(NO_RELEASES.into()),
                    namespace: Some(namespace.to_string()),
                    streaming,
                    settings: settings.clone(),
                    figures: figures.of(&Kind::SECRETS),
                    steps,
                };
                let follower = one(follower, namespace, changes, ended, news.clone());
                (until, tokio::spawn(follower))
            });
        }
        tokio::select! {
            changed = wanted.changed() => if changed.is_err() { return },
            () = news.closed() => return,
        }
    }
}

/// One namespace. At the end its Secrets are forgotten.
async fn one(
    follower: Follower,
    namespace: Arc<str>,
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
                News::Known(Arc::clone(&namespace))
            }
            step = steps.recv() => match step {
                None => break,
                Some(Step::Listed(_)) => {
                    known = true;
                    News::Known(Arc::clone(&namespace))
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
            kind: "Secret".into(),
            group: String::new(),
            namespace: namespace.to_string(),
            name,
        })
    });
    // Nobody listens any more: then nothing is to be forgotten either.
    let _told = news.send(News::Changes(gone.collect())).await;
    let _told = news.send(News::Left(namespace)).await;
}
