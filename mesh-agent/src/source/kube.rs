//! The Kubernetes API, watched for what one node needs: Services, EndpointSlices, Namespaces, the node's own Pods, rules,
//! and the controller's WorkloadTemplates; or for what the controller needs: routes and what they refer to.
//!
//! The stream is one listing (`Init … InitDone`, when every kind has been listed), then single changes. An object is
//! deleted when the API server says so, or when a complete listing does not have it; never because something failed.

mod backoff;
mod batch;
mod crds;
mod discovery;
mod figures;
mod follow;
mod item;
mod kinds;
mod known;
pub mod material;
mod wire;

pub use figures::SourceFigures;
pub use kinds::{Reader, rules_read};

use batch::Step;
use follow::Follower;
use futures_util::future::join_all;
use kinds::Kind;
use kube::Client;
use kube::client::ClientBuilder;
use mesh_core::state::Change;
use std::time::Duration;
use tokio::sync::mpsc;
use wire::Counting;

/// How the API is watched.
#[derive(Clone, Debug)]
pub struct WatchSettings {
    /// Changes are handed over in batches at least this far apart.
    pub gather: Duration,
    /// As `gather`, while many come.
    pub gather_at_most: Duration,
    /// The server ends each watch after this many seconds, and a watch that has been silent for longer is given up.
    pub watch_timeout_s: u32,
    /// The pause after a first error; it doubles up to `backoff_at_most`.
    pub backoff: Duration,
    /// See `backoff`.
    pub backoff_at_most: Duration,
    /// The first lists are asked for within this time: agents that start together do not all ask at once.
    pub spread: Duration,
}

impl Default for WatchSettings {
    fn default() -> Self {
        Self {
            gather: Duration::from_millis(50),
            gather_at_most: Duration::from_millis(100),
            watch_timeout_s: 180,
            backoff: Duration::from_millis(500),
            backoff_at_most: Duration::from_secs(30),
            spread: Duration::from_millis(200),
        }
    }
}

/// Why there is no connection to an API server.
#[derive(Debug, thiserror::Error)]
pub enum KubeError {
    /// Neither a service account nor a kubeconfig.
    #[error("no Kubernetes API server is configured (service account or KUBECONFIG)")]
    Config(#[source] kube::config::InferConfigError),
    /// The configuration cannot be used.
    #[error("cannot set up the Kubernetes client")]
    Client(#[source] kube::Error),
}

/// A client of the cluster that this process runs in, or that `KUBECONFIG` names, for [`watch`]. `figures` count what it
/// costs.
///
/// # Errors
/// See [`KubeError`].
pub async fn client(settings: &WatchSettings, figures: &SourceFigures) -> Result<Client, KubeError> {
    let mut config = kube::Config::infer().await.map_err(KubeError::Config)?;
    // A connection that died without a word is noticed even while it owes the first byte of an answer.
    config.read_timeout = Some(Duration::from_secs(u64::from(settings.watch_timeout_s) + 30));
    config.reset_reader_on_write = true;
    let builder = ClientBuilder::try_from(config).map_err(KubeError::Client)?;
    Ok(builder.with_layer(&Counting(figures.wire())).build())
}

/// Watches until the receiver is gone.
pub async fn watch(
    client: Client,
    reader: Reader,
    settings: WatchSettings,
    figures: SourceFigures,
    changes: mpsc::Sender<Vec<Change>>,
) {
    tokio::time::sleep(settings.spread.mul_f32(fastrand::f32())).await;
    // Small: what waits here are whole objects.
    let (steps, gathered) = mpsc::channel::<Step>(64);
    let (present, crds) = crds::channel();
    let streaming = discovery::streams_lists(&client).await;
    let kinds = reader.kinds();
    let followers = kinds.iter().copied().enumerate().map(|(number, kind)| {
        let follower = Follower {
            kind,
            number,
            client: client.clone(),
            selector: kind.selector(&reader),
            namespace: kind.namespace(&reader),
            streaming,
            settings: settings.clone(),
            figures: figures.of(kind),
            steps: steps.clone(),
        };
        follower.run(crds.clone())
    });
    let followers = join_all(followers);
    let crds = crds::watch(
        client.clone(),
        streaming,
        &settings,
        figures.of(&Kind::CRDS),
        &kinds,
        present,
    );
    drop(steps);
    tokio::select! {
        _ = followers => {}
        () = crds => {}
        () = batch::gather(gathered, kinds.len(), &settings, changes) => {}
    }
}

#[cfg(test)]
mod tests;
