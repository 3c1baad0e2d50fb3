//! Certificates in use: asked for ahead and on demand, one per identity, renewed around half of their life, kept in
//! memory only.
//!
//! Only [`CertificateStore::run`] asks the CA, on the control side. Whoever needs a certificate that is not there yet
//! waits for its answer without a thread being held, and not for long. While a CA is away one question at a time finds
//! out when it is back.

use super::{CaError, CertificateAuthority, Issued};
use crate::contract::{CertificateError, CertificateWait, Certificates, IdentityTls};
use crate::drain::DrainWatch;
use crate::tls::config::provider;
use crate::tls::identity_tls;
use arc_swap::ArcSwapOption;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use mesh_core::model::identity::SpiffeId;
use mesh_core::rotation::{Rotation, rotation};
use parking_lot::{Mutex, RwLock};
use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::Notify;

/// Seconds since the Unix epoch.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// How often the store looks for certificates to renew.
const TICK: Duration = Duration::from_secs(1);
/// Longest wait after a refusal, in seconds (ztunnel: 150).
const MAX_BACKOFF: u64 = 150;
/// Longest wait before a CA that is away is tried again, in seconds.
const MAX_AWAY: u64 = 16;
/// The same while an identity has no certificate at all, and its connections fail: after a node's reboot.
const MAX_AWAY_WITHOUT: u64 = 4;
/// A CA may hear of a new pod later than the agent does: this many refusals do not end anyone's waiting.
const LAGS: u32 = 2;
/// Questions to the CA at once (ztunnel: 8).
const PARALLEL: usize = 8;
/// How long a connection waits for a first certificate.
const PATIENCE: Duration = Duration::from_secs(5);

/// The system's clock.
#[must_use]
pub fn system_clock() -> Clock {
    Arc::new(|| {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs())
    })
}

/// One certificate as `heddle status` and `heddle certs` show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateStatus {
    /// Who it proves.
    pub identity: SpiffeId,
    /// Serial number, hexadecimal; empty while there was none yet.
    pub serial: String,
    /// `notBefore`, seconds since the Unix epoch.
    pub not_before: u64,
    /// `notAfter`, seconds since the Unix epoch.
    pub not_after: u64,
    /// What the rotation thinks of it.
    pub state: CertificateState,
    /// Why the last attempt to renew failed, if it did.
    pub last_error: Option<String>,
}

/// Stage in the life of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CertificateState {
    /// In the first half of its life.
    Valid,
    /// To be renewed.
    RenewalDue,
    /// Less than a quarter of its life is left.
    RenewalOverdue,
    /// No handshake uses it.
    Expired,
    /// There was never one.
    Missing,
}

struct Served {
    tls: Arc<IdentityTls>,
    not_before: u64,
    /// When it was asked for. From here its life is counted: a CA dates back, and a short life would be over its half
    /// at once.
    since: u64,
}

#[derive(Default)]
struct Attempts {
    in_flight: bool,
    failures: u32,
    retry_at: u64,
    last_error: Option<String>,
}

struct Slot {
    identity: SpiffeId,
    jitter: u8,
    served: ArcSwapOption<Served>,
    attempts: Mutex<Attempts>,
    /// Rung after every attempt.
    news: Notify,
}

/// What is known of the CA as a whole: since it failed to answer at all, nobody else needs to try.
#[derive(Default)]
struct Outage {
    failures: u32,
    until: u64,
}

/// The node's certificates.
pub struct CertificateStore {
    ca: Box<dyn CertificateAuthority>,
    clock: Clock,
    slots: RwLock<HashMap<SpiffeId, Arc<Slot>>>,
    outage: Mutex<Outage>,
    /// Rung when something may be due before the next tick.
    wake: Notify,
    /// Rung when there is a new certificate.
    issued: Notify,
}

impl CertificateStore {
    /// An empty store in front of `ca`.
    #[must_use]
    pub fn new(ca: impl CertificateAuthority + 'static, clock: Clock) -> Self {
        Self {
            ca: Box::new(ca),
            clock,
            slots: RwLock::default(),
            outage: Mutex::default(),
            wake: Notify::new(),
            issued: Notify::new(),
        }
    }

    /// Returns when a certificate has been issued since the last call.
    pub async fn issued(&self) {
        self.issued.notified().await;
    }

    /// Asks for certificates and renews them until the drain's deadline. What cannot be renewed is served on until it
    /// expires. Connections that exist are not touched.
    pub async fn run(self: Arc<Self>, drain: DrainWatch) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut asking = FuturesUnordered::new();
        loop {
            let now = (self.clock)();
            for slot in self.due(now, asking.len()) {
                asking.push(self.attempt(slot, now));
            }
            tokio::select! {
                biased;
                () = drain.cut() => return,
                Some(()) = asking.next() => {}
                () = self.wake.notified() => {}
                _ = ticks.tick() => {}
            }
        }
    }

    /// Does everything that is due at `now` (seconds since the Unix epoch) and returns when it is done.
    pub async fn settle(&self, now: u64) {
        let mut asking = FuturesUnordered::new();
        loop {
            for slot in self.due(now, asking.len()) {
                asking.push(self.attempt(slot, now));
            }
            if asking.next().await.is_none() {
                return;
            }
        }
    }

    /// A certificate of `identity` will be needed: it is asked for ahead.
    pub fn want(&self, identity: &SpiffeId) {
        if !self.slots.read().contains_key(identity) {
            self.slot(identity);
            self.wake.notify_one();
        }
    }

    /// Forgets identities that `keep` refuses: no pod of this node has them any more.
    pub fn retain(&self, keep: impl Fn(&SpiffeId) -> bool) {
        self.slots.write().retain(|identity, _| keep(identity));
    }

    /// Every certificate, by identity.
    #[must_use]
    pub fn list(&self) -> Vec<CertificateStatus> {
        let now = (self.clock)();
        let slots: Vec<_> = self.slots.read().values().cloned().collect();
        let mut all: Vec<_> = slots.iter().map(|slot| slot.status(now)).collect();
        all.sort_by(|a, b| a.identity.cmp(&b.identity));
        all
    }

    fn slot(&self, identity: &SpiffeId) -> Arc<Slot> {
        if let Some(slot) = self.slots.read().get(identity) {
            return Arc::clone(slot);
        }
        let mut jitter = [128];
        // Without randomness all renew at the very half, which still works.
        let _spread = provider().secure_random.fill(&mut jitter);
        let slot = Slot {
            identity: identity.clone(),
            jitter: jitter[0],
            served: ArcSwapOption::empty(),
            attempts: Mutex::default(),
            news: Notify::new(),
        };
        Arc::clone(
            self.slots
                .write()
                .entry(identity.clone())
                .or_insert_with(|| Arc::new(slot)),
        )
    }

    /// What to ask for now, the most urgent first, while `in_flight` questions are open. Marks it as asked.
    fn due(&self, now: u64, in_flight: usize) -> Vec<Arc<Slot>> {
        let room = {
            let outage = self.outage.lock();
            match (outage.failures, outage.until > now) {
                (0, _) => PARALLEL.saturating_sub(in_flight),
                (_, true) => 0,
                (_, false) => 1_usize.saturating_sub(in_flight),
            }
        };
        if room == 0 {
            return Vec::new();
        }
        let mut due: Vec<_> = self
            .slots
            .read()
            .values()
            .filter_map(|slot| Some((slot.urgency(now)?, Arc::clone(slot))))
            .collect();
        due.sort_by_key(|(urgency, _)| *urgency);
        due.truncate(room);
        due.into_iter()
            .map(|(_, slot)| {
                slot.attempts.lock().in_flight = true;
                slot
            })
            .collect()
    }

    async fn attempt(&self, slot: Arc<Slot>, now: u64) {
        let asked = Asked(&slot);
        let issued = self
            .ca
            .issue(&slot.identity, now)
            .await
            .and_then(|Issued { material, not_before }| {
                let tls = identity_tls(material).map_err(|error| CaError::Sign {
                    identity: slot.identity.clone(),
                    reason: crate::errors::chain(&error),
                })?;
                Ok(Served {
                    tls: Arc::new(tls),
                    not_before,
                    since: now,
                })
            });
        match issued {
            Ok(served) => {
                slot.served.store(Some(Arc::new(served)));
                self.issued.notify_one();
                // Whatever the CA gave: the same question is not asked twice in a second.
                *slot.attempts.lock() = Attempts {
                    retry_at: now.saturating_add(1),
                    ..Attempts::default()
                };
                *self.outage.lock() = Outage::default();
            }
            Err(error) => {
                tracing::warn!(identity = %slot.identity, %error, "no certificate");
                self.failed(&slot, &error, now);
            }
        }
        drop(asked);
        self.wake.notify_one();
    }

    fn failed(&self, slot: &Slot, error: &CaError, now: u64) {
        let mut attempts = slot.attempts.lock();
        attempts.last_error = Some(error.to_string());
        if matches!(error, CaError::Away { .. }) {
            let mut outage = self.outage.lock();
            let served = slot.served.load().is_some();
            let most = if served { MAX_AWAY } else { MAX_AWAY_WITHOUT };
            outage.until = now.saturating_add(backoff(outage.failures, most));
            outage.failures = outage.failures.saturating_add(1);
            drop((attempts, outage));
            for other in self.slots.read().values() {
                other.news.notify_waiters();
            }
        } else {
            attempts.retry_at = now.saturating_add(backoff(attempts.failures, MAX_BACKOFF));
            attempts.failures = attempts.failures.saturating_add(1);
        }
    }

    /// Why nobody needs to wait for a certificate now, if so.
    fn hopeless(&self, slot: &Slot, now: u64) -> Option<String> {
        let attempts = slot.attempts.lock();
        let outage = self.outage.lock();
        let may_lag = (1..=LAGS).contains(&attempts.failures) && outage.failures == 0;
        if attempts.in_flight || may_lag || (attempts.retry_at <= now && outage.until <= now) {
            return None;
        }
        let unknown = || "the CA is away".to_owned();
        Some(attempts.last_error.clone().unwrap_or_else(unknown))
    }
}

impl Certificates for CertificateStore {
    fn tls(&self, identity: &SpiffeId) -> Result<Arc<IdentityTls>, CertificateError> {
        let now = (self.clock)();
        let slot = self.slot(identity);
        if let Some(tls) = slot.current(now) {
            return Ok(tls);
        }
        let Some(reason) = self.hopeless(&slot, now) else {
            self.wake.notify_one();
            return Err(CertificateError::Pending(identity.clone()));
        };
        Err(match slot.served.load().is_some() {
            true => CertificateError::Expired(identity.clone()),
            false => CertificateError::Refused {
                identity: identity.clone(),
                reason,
            },
        })
    }

    fn wait<'a>(&'a self, identity: &'a SpiffeId) -> CertificateWait<'a> {
        Box::pin(async move {
            let slot = self.slot(identity);
            let answer = async {
                loop {
                    // Registered before the look, so that an answer in between is not missed.
                    let mut news = pin!(slot.news.notified());
                    news.as_mut().enable();
                    match self.tls(identity) {
                        Err(CertificateError::Pending(_)) => news.await,
                        known => return known,
                    }
                }
            };
            tokio::time::timeout(PATIENCE, answer)
                .await
                .unwrap_or_else(|_| Err(CertificateError::Pending(identity.clone())))
        })
    }
}

/// Marks a slot as being asked for until it is dropped, also when the asking was given up.
struct Asked<'a>(&'a Slot);

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.0.attempts.lock().in_flight = false;
        self.0.news.notify_waiters();
    }
}

/// Seconds to wait after `failures` earlier ones: doubled each time, spread by a quarter.
fn backoff(failures: u32, most: u64) -> u64 {
    let wait = 1_u64.checked_shl(failures).unwrap_or(most).min(most);
    wait - fastrand::u64(0..=wait / 4)
}

impl Slot {
    fn current(&self, now: u64) -> Option<Arc<IdentityTls>> {
        let served = self.served.load();
        served
            .as_ref()
            .filter(|served| served.tls.not_after > now)
            .map(|served| Arc::clone(&served.tls))
    }

    fn rotation(&self, now: u64) -> Option<Rotation> {
        let served = self.served.load();
        served
            .as_ref()
            .map(|served| rotation(served.since, served.tls.not_after, now, self.jitter))
    }

    /// 0 = connections wait for it; nothing if it is not to be asked for now.
    fn urgency(&self, now: u64) -> Option<u8> {
        let attempts = self.attempts.lock();
        if attempts.in_flight || attempts.retry_at > now {
            return None;
        }
        match self.rotation(now) {
            None | Some(Rotation::Expired) => Some(0),
            Some(Rotation::RenewUrgently) => Some(1),
            Some(Rotation::Renew) => Some(2),
            Some(Rotation::WaitUntil(_)) => None,
        }
    }

    fn status(&self, now: u64) -> CertificateStatus {
        let state = match self.rotation(now) {
            Some(Rotation::WaitUntil(_)) => CertificateState::Valid,
            Some(Rotation::Renew) => CertificateState::RenewalDue,
            Some(Rotation::RenewUrgently) => CertificateState::RenewalOverdue,
            Some(Rotation::Expired) => CertificateState::Expired,
            None => CertificateState::Missing,
        };
        let served = self.served.load();
        let served = served.as_ref();
        CertificateStatus {
            identity: self.identity.clone(),
            serial: served.map_or_else(String::new, |served| served.tls.serial.clone()),
            not_before: served.map_or(0, |served| served.not_before),
            not_after: served.map_or(0, |served| served.tls.not_after),
            state,
            last_error: self.attempts.lock().last_error.clone(),
        }
    }
}
