//! Watches, as the controller's tasks see them: a stream of events without errors. Errors are logged, counted and
//! followed by a growing wait.

use super::metrics::Metrics;
use crate::errors::chain;
use futures_util::{Stream, StreamExt};
use kube::runtime::watcher::{self, Event, watcher};
use kube::runtime::{WatchStreamExt, utils::StreamBackoff};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::sync::Arc;

/// Objects in one page of a listing.
const PAGE: u32 = 500;

/// Events of `api`, of one kind called `kind` in metrics and logs.
pub fn events<K>(
    api: Api<K>,
    config: watcher::Config,
    kind: &'static str,
    metrics: Arc<Metrics>,
) -> impl Stream<Item = Event<K>> + Send
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let stream: StreamBackoff<_, _> = watcher(api, config.page_size(PAGE)).default_backoff();
    stream.filter_map(move |event| {
        let known = match event {
            Ok(event) => {
                metrics.watch(kind, true);
                Some(event)
            }
            Err(error) => {
                metrics.watch(kind, false);
                tracing::warn!(kind, error = chain(&error), "watch");
                None
            }
        };
        std::future::ready(known)
    })
}
