//! Certificates in use: made on demand, one per identity, renewed around half of their life, kept in memory only.

use super::{CaError, CertificateAuthority, Issued};
use crate::contract::{CertificateError, Certificates, IdentityTls};
use crate::drain::DrainWatch;
use crate::tls::config::provider;
use crate::tls::identity_tls;
use arc_swap::ArcSwapOption;
use mesh_core::model::identity::SpiffeId;
use mesh_core::rotation::{Rotation, rotation};
use parking_lot::{Mutex, RwLock};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Seconds since the Unix epoch.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// How often the store looks for certificates to renew.
const TICK: Duration = Duration::from_secs(5);
/// Longest wait after failures, in seconds (ztunnel: 150).
const MAX_BACKOFF: u64 = 150;

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
}

#[derive(Default)]
struct Attempts {
    failures: u32,
    retry_at: u64,
    last_error: Option<String>,
}

struct Slot {
    identity: SpiffeId,
    jitter: u8,
    served: ArcSwapOption<Served>,
    /// Held while a certificate is asked for: all who need the same one wait for one answer.
    attempts: Mutex<Attempts>,
}

/// The node's certificates.
pub struct CertificateStore {
    ca: Box<dyn CertificateAuthority>,
    clock: Clock,
    slots: RwLock<HashMap<SpiffeId, Arc<Slot>>>,
}

impl CertificateStore {
    /// An empty store in front of `ca`.
    #[must_use]
    pub fn new(ca: impl CertificateAuthority + 'static, clock: Clock) -> Self {
        Self {
            ca: Box::new(ca),
            clock,
            slots: RwLock::default(),
        }
    }

    /// Renews what is due at `now` (seconds since the Unix epoch). What cannot be renewed is served on until it
    /// expires. Connections that exist are not touched.
    pub fn tick(&self, now: u64) {
        let slots: Vec<_> = self.slots.read().values().cloned().collect();
        for slot in slots {
            if matches!(
                slot.rotation(now),
                Some(Rotation::Renew | Rotation::RenewUrgently | Rotation::Expired)
            ) {
                let mut attempts = slot.attempts.lock();
                if attempts.retry_at <= now
                    && let Err(error) = self.renew(&slot, &mut attempts, now)
                {
                    tracing::warn!(identity = %slot.identity, %error, "certificate not renewed");
                }
            }
        }
    }

    /// Renews until the drain's deadline. To be run on the runtime of the control side: signing blocks for a moment.
    pub async fn run(self: Arc<Self>, drain: DrainWatch) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = drain.cut() => return,
                _ = ticks.tick() => self.tick((self.clock)()),
            }
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
        };
        Arc::clone(
            self.slots
                .write()
                .entry(identity.clone())
                .or_insert_with(|| Arc::new(slot)),
        )
    }

    fn renew(&self, slot: &Slot, attempts: &mut Attempts, now: u64) -> Result<Arc<IdentityTls>, String> {
        let issued = self
            .ca
            .issue(&slot.identity, now)
            .and_then(|Issued { material, not_before }| {
                let tls = identity_tls(material).map_err(|error| CaError::Sign {
                    identity: slot.identity.clone(),
                    reason: error.to_string(),
                })?;
                Ok((Arc::new(tls), not_before))
            });
        match issued {
            Ok((tls, not_before)) => {
                slot.served.store(Some(Arc::new(Served {
                    tls: Arc::clone(&tls),
                    not_before,
                })));
                *attempts = Attempts::default();
                Ok(tls)
            }
            Err(error) => {
                let wait = 1_u64
                    .checked_shl(attempts.failures)
                    .unwrap_or(MAX_BACKOFF)
                    .min(MAX_BACKOFF);
                let text = error.to_string();
                attempts.failures = attempts.failures.saturating_add(1);
                attempts.retry_at = now.saturating_add(wait);
                attempts.last_error = Some(text.clone());
                Err(text)
            }
        }
    }
}

impl Certificates for CertificateStore {
    fn tls(&self, identity: &SpiffeId) -> Result<Arc<IdentityTls>, CertificateError> {
        let now = (self.clock)();
        let slot = self.slot(identity);
        if let Some(tls) = slot.current(now) {
            return Ok(tls);
        }
        let mut attempts = slot.attempts.lock();
        // Someone else may have got it while this one waited.
        if let Some(tls) = slot.current(now) {
            return Ok(tls);
        }
        let result = match &attempts.last_error {
            Some(error) if attempts.retry_at > now => Err(error.clone()),
            _ => self.renew(&slot, &mut attempts, now),
        };
        result.map_err(|reason| match slot.served.load().is_some() {
            true => CertificateError::Expired(identity.clone()),
            false => CertificateError::Refused {
                identity: identity.clone(),
                reason,
            },
        })
    }
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
            .map(|served| rotation(served.not_before, served.tls.not_after, now, self.jitter))
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
