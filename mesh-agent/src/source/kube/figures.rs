//! What the source tells of itself.

use super::kinds::Kind;
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

type ByKind<M> = Family<[(&'static str, &'static str); 1], M>;

/// Figures of every kind that is watched.
#[derive(Clone, Debug, Default)]
pub struct SourceFigures {
    events: ByKind<Counter>,
    relists: ByKind<Counter>,
    errors: ByKind<Counter>,
    malformed: ByKind<Counter>,
    objects: ByKind<Gauge>,
    last_event: ByKind<Gauge>,
    resource_version: ByKind<Gauge>,
    refused: Arc<Mutex<BTreeMap<&'static str, String>>>,
    wire: WireFigures,
}

/// What all questions to the API server cost together.
#[derive(Clone, Debug, Default)]
pub(super) struct WireFigures {
    requests: Family<[(&'static str, &'static str); 1], Counter>,
    pub(super) open_watches: Gauge,
    pub(super) received: Counter,
}

/// Handles to the figures of one kind.
#[derive(Clone)]
pub(super) struct KindFigures {
    events: Counter,
    relists: Counter,
    errors: Counter,
    malformed: Counter,
    objects: Gauge,
    last_event: Gauge,
    resource_version: Gauge,
    kind: &'static str,
    refused: Arc<Mutex<BTreeMap<&'static str, String>>>,
}

impl SourceFigures {
    /// Registers them as `heddle_source_*`.
    #[must_use]
    pub fn register(registry: &mut Registry) -> Self {
        let f = Self::default();
        let r = registry.sub_registry_with_prefix("heddle_source");
        r.register("events", "Watch events of a kind", f.events.clone());
        r.register("relists", "Listings of a kind that were begun", f.relists.clone());
        r.register("errors", "Failed lists and watches of a kind", f.errors.clone());
        r.register(
            "malformed",
            "Objects without a name, which nobody can use",
            f.malformed.clone(),
        );
        r.register("objects", "Objects of a kind", f.objects.clone());
        r.register(
            "last_event_timestamp_seconds",
            "When the API server last told something of a kind, seconds since the Unix epoch",
            f.last_event.clone(),
        );
        r.register(
            "resource_version",
            "Newest resource version of a kind that was handed over",
            f.resource_version.clone(),
        );
        r.register(
            "requests",
            "Requests to the API server by verb",
            f.wire.requests.clone(),
        );
        r.register(
            "open_watches",
            "Watches that are open at the API server",
            f.wire.open_watches.clone(),
        );
        r.register(
            "received_bytes",
            "Bytes of answers of the API server, decompressed",
            f.wire.received.clone(),
        );
        f
    }

    pub(super) fn wire(&self) -> WireFigures {
        self.wire.clone()
    }

    pub(super) fn of(&self, kind: &Kind) -> KindFigures {
        let labels = [("kind", kind.kind)];
        KindFigures {
            events: self.events.get_or_create(&labels).clone(),
            relists: self.relists.get_or_create(&labels).clone(),
            errors: self.errors.get_or_create(&labels).clone(),
            malformed: self.malformed.get_or_create(&labels).clone(),
            objects: self.objects.get_or_create(&labels).clone(),
            last_event: self.last_event.get_or_create(&labels).clone(),
            resource_version: self.resource_version.get_or_create(&labels).clone(),
            kind: kind.kind,
            refused: Arc::clone(&self.refused),
        }
    }

    /// Kinds that the API server does not let this agent read, and its words.
    #[must_use]
    pub fn refused(&self) -> Vec<(&'static str, String)> {
        let refused = self.refused.lock();
        refused
            .iter()
            .map(|(kind, words)| (*kind, words.clone()))
            .collect()
    }
}

impl WireFigures {
    pub(super) fn asked(&self, watch: bool) {
        let verb = if watch { "watch" } else { "get" };
        self.requests.get_or_create(&[("verb", verb)]).inc();
    }
}

impl KindFigures {
    /// An event of a watch, or a listing that is complete.
    pub(super) fn event(&self) {
        self.events.inc();
        self.heard();
    }

    /// The API server answered.
    pub(super) fn heard(&self) {
        let age = SystemTime::now().duration_since(UNIX_EPOCH);
        let seconds = age.map_or(0, |age| i64::try_from(age.as_secs()).unwrap_or(i64::MAX));
        self.last_event.set(seconds);
        self.refused.lock().remove(self.kind);
    }

    /// The API server does not let this agent read the kind.
    pub(super) fn refused(&self, words: String) {
        self.refused.lock().insert(self.kind, words);
    }

    pub(super) fn relisted(&self) {
        self.relists.inc();
    }

    pub(super) fn failed(&self) {
        self.errors.inc();
    }

    pub(super) fn malformed(&self) {
        self.malformed.inc();
    }

    pub(super) fn objects(&self, count: usize) {
        self.objects.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Resource versions of one kind may be compared as numbers (KEP-5504); one that is none says nothing.
    pub(super) fn handed_over(&self, resource_version: &str) {
        if let Ok(version) = resource_version.parse::<i64>()
            && version > self.resource_version.get()
        {
            self.resource_version.set(version);
        }
    }
}

#[cfg(test)]
impl KindFigures {
    /// Events, listings, errors, objects and the newest resource version.
    pub(super) fn summary(&self) -> (u64, u64, u64, i64, i64) {
        let versions = (self.objects.get(), self.resource_version.get());
        (
            self.events.get(),
            self.relists.get(),
            self.errors.get(),
            versions.0,
            versions.1,
        )
    }
}
