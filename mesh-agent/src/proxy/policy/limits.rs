//! Limits of `connectionPool`, counted per client pod and destination (T-38).
//!
//! A connection counts while it is in use: a kept one that serves nobody takes no place, so that `maxConnections` bounds
//! HTTP/1.1 requests at once. What finds no place waits, if `http1MaxPendingRequests` lets it; bytes never wait.

use super::super::outbound::Outbound;
use mesh_core::model::traffic::{ConnectionPool, RetryBudget, RetryConstraint};
use mesh_core::routing::Upstream;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A limit is reached; names the field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is reached")]
pub(in super::super) struct Overflow(pub(in super::super) &'static str);

impl Overflow {
    /// `retryConstraint` of an XBackendTrafficPolicy.
    pub(in super::super) const RETRY_CONSTRAINT: Self = Self("retryConstraint");
}

/// Who is counted, and towards what.
#[derive(PartialEq, Eq, Hash)]
struct Key {
    pod: u32,
    port: u32,
    subset: Option<Arc<str>>,
}

/// See the module's description.
#[derive(Default)]
pub(super) struct Limits {
    gates: Mutex<HashMap<Key, Arc<Gate>>>,
}

/// The counters of one key.
struct Gate {
    pool: ConnectionPool,
    budget: Option<RetryBudget>,
    constraint: Option<Constraint>,
    /// Places for connections, if they are limited.
    places: Option<Arc<Semaphore>>,
    pending: AtomicU32,
    requests: AtomicU32,
    retries: AtomicU32,
    recent: Mutex<Recent>,
}

/// A `retryConstraint`, and what was counted for it.
struct Constraint {
    rule: RetryConstraint,
    counted: Mutex<Counted>,
}

struct Counted {
    requests: Recent,
    retries: Recent,
    /// Retries within the interval of the least rate.
    least: Recent,
}

/// What began in this interval and in the one before.
struct Recent {
    since: Instant,
    before: u32,
    now: u32,
}

/// A place of a connection and of a request, until it is dropped.
pub(in super::super) struct Permit {
    gate: Arc<Gate>,
    _place: Option<OwnedSemaphorePermit>,
    request: bool,
}

/// A place of a retry, until it is dropped.
pub(in super::super) struct RetryPermit(Arc<Gate>);

/// One of those that wait.
struct Pending<'a>(&'a Gate);

impl Limits {
    fn gate(&self, pod: u32, upstream: &Upstream) -> Option<Arc<Gate>> {
        let policy = &upstream.policy;
        let constraint = upstream.backend.as_ref().and_then(|b| b.retries.as_ref());
        if !policy.connection_pool.limited() && policy.retry_budget.is_none() && constraint.is_none() {
            return None;
        }
        let key = Key {
            pod,
            port: upstream.port.as_ref()?.id,
            subset: upstream.subset.clone(),
        };
        let mut gates = self.gates.lock();
        if let Some(known) = gates.get(&key)
            && known.pool == policy.connection_pool
            && known.budget == policy.retry_budget
            && known.constraint.as_ref().map(|c| &c.rule) == constraint
        {
            return Some(Arc::clone(known));
        }
        // What runs under the old limits ends under them.
        let made = Arc::new(Gate::new(
            policy.connection_pool.clone(),
            policy.retry_budget.clone(),
            constraint.cloned(),
        ));
        gates.insert(key, Arc::clone(&made));
        Some(made)
    }

    pub(super) fn sweep(&self) {
        self.gates
            .lock()
            .retain(|_, gate| Arc::strong_count(gate) > 1 || gate.remembers());
    }
}

impl Outbound {
    fn gate(&self, upstream: &Upstream) -> Option<Arc<Gate>> {
        let pod = self.pod.handle.workload.id;
        self.worker.shared.policies.limits.gate(pod, upstream)
    }

    /// Waits for a place for a request to `upstream`; `None` where nothing is limited. `streams` is how many requests
    /// share a connection. Cancel safe.
    ///
    /// # Errors
    /// The limit that leaves no place.
    pub(in super::super) async fn admit_request(
        &self,
        upstream: &Upstream,
        streams: u32,
    ) -> Result<Option<Permit>, Overflow> {
        match self.gate(upstream) {
            None => Ok(None),
            Some(gate) => Permit::request(gate, streams).await.map(Some),
        }
    }

    /// A place for a connection whose bytes are not looked at.
    ///
    /// # Errors
    /// The limit that leaves no place.
    pub(in super::super) fn admit_connection(&self, upstream: &Upstream) -> Result<Option<Permit>, Overflow> {
        let Some(gate) = self.gate(upstream) else {
            return Ok(None);
        };
        let place = match &gate.places {
            None => None,
            Some(places) => {
                let wanted = gate.weight(1);
                let place = Arc::clone(places).try_acquire_many_owned(wanted);
                Some(place.map_err(|_| Overflow("maxConnections"))?)
            }
        };
        Ok(Some(Permit {
            gate,
            _place: place,
            request: false,
        }))
    }

    /// A place for one more try of a request to `upstream`; `None` where nothing is limited.
    ///
    /// # Errors
    /// The limit that leaves no place.
    pub(in super::super) fn admit_retry(&self, upstream: &Upstream) -> Result<Option<RetryPermit>, Overflow> {
        self.gate(upstream).map(Gate::retry).transpose()
    }
}

impl Gate {
    fn new(pool: ConnectionPool, budget: Option<RetryBudget>, constraint: Option<RetryConstraint>) -> Self {
        let places = pool
            .tcp
            .max_connections
            .map(|n| (n as usize).saturating_mul(STREAMS as usize));
        Self {
            places: places.map(|n| Arc::new(Semaphore::new(n.min(Semaphore::MAX_PERMITS)))),
            pool,
            budget,
            constraint: constraint.map(Constraint::new),
            pending: AtomicU32::new(0),
            requests: AtomicU32::new(0),
            retries: AtomicU32::new(0),
            recent: Mutex::new(Recent::new()),
        }
    }

    /// The part of a connection's place that one request takes.
    const fn weight(&self, streams: u32) -> u32 {
        let share = STREAMS / if streams == 0 { 1 } else { streams };
        if share == 0 { 1 } else { share }
    }

    fn retry(self: Arc<Self>) -> Result<RetryPermit, Overflow> {
        let (allowed, field) = match &self.budget {
            Some(budget) => (budget.retries(self.active(budget.interval)), "retryBudget"),
            None => (self.pool.http.max_retries.unwrap_or(u32::MAX), "maxRetries"),
        };
        if !take(&self.retries, allowed) {
            return Err(Overflow(field));
        }
        let permit = RetryPermit(self);
        match &permit.0.constraint {
            Some(constraint) if !constraint.admits() => Err(Overflow::RETRY_CONSTRAINT),
            _ => Ok(permit),
        }
    }

    /// Requests that a budget counts: those under way, and with an interval those that began in it.
    fn active(&self, interval: Duration) -> u32 {
        let under_way = self.requests.load(Ordering::Relaxed) + self.pending.load(Ordering::Relaxed);
        if interval.is_zero() {
            return under_way;
        }
        let mut recent = self.recent.lock();
        recent.turn(interval);
        under_way.max(recent.before + recent.now)
    }

    /// Whether what was counted still matters though nobody is there.
    fn remembers(&self) -> bool {
        self.constraint.as_ref().is_some_and(Constraint::remembers)
    }

    fn began(&self) {
        if let Some(budget) = self.budget.as_ref().filter(|b| !b.interval.is_zero()) {
            let mut recent = self.recent.lock();
            recent.turn(budget.interval);
            recent.now = recent.now.saturating_add(1);
        }
        if let Some(constraint) = &self.constraint {
            constraint.began();
        }
    }
}

impl Constraint {
    fn new(rule: RetryConstraint) -> Self {
        let counted = Counted {
            requests: Recent::new(),
            retries: Recent::new(),
            least: Recent::new(),
        };
        Self {
            rule,
            counted: Mutex::new(counted),
        }
    }

    fn began(&self) {
        let requests = &mut self.counted.lock().requests;
        requests.turn(self.rule.interval);
        requests.now = requests.now.saturating_add(1);
    }

    fn remembers(&self) -> bool {
        self.counted.lock().requests.since.elapsed() < self.rule.interval.saturating_mul(2)
    }

    /// Whether one more retry is let through, which then counts.
    fn admits(&self) -> bool {
        let mut counted = self.counted.lock();
        counted.requests.turn(self.rule.interval);
        counted.retries.turn(self.rule.interval);
        counted.least.turn(self.rule.least_in);
        let all = |recent: &Recent| recent.before.saturating_add(recent.now);
        let admitted = self
            .rule
            .admits(all(&counted.requests), all(&counted.retries), counted.least.now);
        if admitted {
            counted.retries.now = counted.retries.now.saturating_add(1);
            counted.least.now = counted.least.now.saturating_add(1);
        }
        admitted
    }
}

impl Recent {
    fn new() -> Self {
        Self {
            since: Instant::now(),
            before: 0,
            now: 0,
        }
    }

    fn turn(&mut self, interval: Duration) {
        let passed = self.since.elapsed();
        if passed < interval {
            return;
        }
        self.before = if passed < interval * 2 { self.now } else { 0 };
        self.now = 0;
        self.since = Instant::now();
    }
}

impl Permit {
    async fn request(gate: Arc<Gate>, streams: u32) -> Result<Self, Overflow> {
        let place = match &gate.places {
            None => None,
            Some(places) => {
                let wanted = gate.weight(streams);
                let places = Arc::clone(places);
                match Arc::clone(&places).try_acquire_many_owned(wanted) {
                    Ok(place) => Some(place),
                    Err(_) => Some(gate.wait(places, wanted).await?),
                }
            }
        };
        if !take(&gate.requests, gate.pool.http.max_requests.unwrap_or(u32::MAX)) {
            return Err(Overflow("http2MaxRequests"));
        }
        gate.began();
        Ok(Self {
            gate,
            _place: place,
            request: true,
        })
    }
}

impl Gate {
    async fn wait(&self, places: Arc<Semaphore>, wanted: u32) -> Result<OwnedSemaphorePermit, Overflow> {
        if !take(&self.pending, self.pool.http.max_pending.unwrap_or(u32::MAX)) {
            return Err(Overflow("http1MaxPendingRequests"));
        }
        let _pending = Pending(self);
        places
            .acquire_many_owned(wanted)
            .await
            .map_err(|_| Overflow("maxConnections"))
    }
}

/// Counts one up, unless that is above the limit.
fn take(count: &AtomicU32, limit: u32) -> bool {
    let more = |n: u32| (n < limit).then(|| n + 1);
    count
        .fetch_update(Ordering::AcqRel, Ordering::Acquire, more)
        .is_ok()
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.0.pending.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.request {
            self.gate.requests.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

impl Drop for RetryPermit {
    fn drop(&mut self) {
        self.0.retries.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Parts of a connection's place: so many requests share an HTTP/2 connection at most.
pub(in super::super) const STREAMS: u32 = 100;
