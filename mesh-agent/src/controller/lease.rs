//! Who of the replicas writes: client-go's leader election on a Lease. Clocks of different nodes are never compared; what
//! counts is how long this replica has seen the lease unchanged.

use super::metrics::Metrics;
use crate::errors::chain;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{ObjectMeta, PostParams};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Name of the Lease.
pub const LEASE: &str = "heddle-controller";
/// A lease that nobody renewed for this long is free.
const DURATION: Duration = Duration::from_secs(15);
/// A leader that could not renew for this long stops writing: well before anyone else may begin.
const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// Time between two looks.
const RETRY: Duration = Duration::from_secs(2);

/// What to do with the lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Move {
    /// There is none: make it.
    Create,
    /// It is free: take it.
    Take,
    /// It is ours: renew it.
    Renew,
    /// It is another's.
    Wait,
}

/// Decides on a lease that was seen unchanged for `unchanged`.
#[must_use]
pub fn decide(lease: Option<&LeaseSpec>, me: &str, unchanged: Duration) -> Move {
    let Some(lease) = lease else {
        return Move::Create;
    };
    let seconds = lease
        .lease_duration_seconds
        .and_then(|s| u64::try_from(s).ok())
        .filter(|seconds| *seconds > 0);
    let duration = seconds.map_or(DURATION, Duration::from_secs);
    match lease.holder_identity.as_deref().unwrap_or_default() {
        "" => Move::Take,
        holder if holder == me => Move::Renew,
        _ if unchanged > duration => Move::Take,
        _ => Move::Wait,
    }
}

/// The lease as it is written after a move; `Wait` writes nothing.
#[must_use]
pub fn next(lease: Option<&LeaseSpec>, me: &str, step: Move, now: Timestamp) -> Option<LeaseSpec> {
    let mut spec = lease.cloned().unwrap_or_default();
    match step {
        Move::Wait => return None,
        Move::Renew => {}
        Move::Create | Move::Take => {
            let before = spec.lease_transitions.unwrap_or(0);
            spec.lease_transitions = Some(before.saturating_add(i32::from(step == Move::Take)));
            spec.acquire_time = Some(MicroTime(now));
            spec.holder_identity = Some(me.to_owned());
        }
    }
    spec.lease_duration_seconds = i32::try_from(DURATION.as_secs()).ok();
    spec.renew_time = Some(MicroTime(now));
    Some(spec)
}

/// Takes part in the election until `until` changes, then gives the lease back.
pub struct Election {
    api: Api<Lease>,
    me: String,
    leader: watch::Sender<bool>,
    metrics: Arc<Metrics>,
    seen: Option<(Option<LeaseSpec>, Instant)>,
    renewed: Option<Instant>,
}

impl Election {
    /// A candidate called `me`; the receiver says whether it leads.
    #[must_use]
    pub fn new(
        client: kube::Client,
        namespace: &str,
        me: String,
        metrics: Arc<Metrics>,
    ) -> (Self, watch::Receiver<bool>) {
        let (leader, receiver) = watch::channel(false);
        let election = Self {
            api: Api::namespaced(client, namespace),
            me,
            leader,
            metrics,
            seen: None,
            renewed: None,
        };
        (election, receiver)
    }

    /// Runs until the task is dropped.
    pub async fn run(mut self, mut until: watch::Receiver<bool>) {
        let mut ticks = tokio::time::interval(RETRY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = until.wait_for(|stop| *stop) => break,
                _ = ticks.tick() => {}
            }
            // A request that hangs must not make a leader of the past write on.
            match tokio::time::timeout(RENEW_DEADLINE / 2, self.step()).await {
                Ok(Ok(true)) => self.renewed = Some(Instant::now()),
                Ok(Ok(false)) => self.renewed = None,
                Ok(Err(error)) => tracing::warn!(error = chain(&error), "lease"),
                Err(_) => tracing::warn!("lease: no answer from the API server"),
            }
            let leads = self.renewed.is_some_and(|at| at.elapsed() < RENEW_DEADLINE);
            self.tell(leads);
        }
        self.tell(false);
        if self.renewed.is_some() {
            let _given_back = tokio::time::timeout(RETRY, self.release()).await;
        }
    }

    fn tell(&self, leads: bool) {
        self.metrics.leader.set(i64::from(leads));
        if self.leader.send_replace(leads) != leads {
            tracing::info!(leads, me = self.me, "leadership");
        }
    }

    /// One look and one move. Whether this replica holds the lease after it.
    async fn step(&mut self) -> Result<bool, kube::Error> {
        let found = self.api.get_opt(LEASE).await?;
        let spec = found.as_ref().and_then(|lease| lease.spec.clone());
        if self.seen.as_ref().is_none_or(|(before, _)| *before != spec) {
            self.seen = Some((spec.clone(), Instant::now()));
        }
        let unchanged = self.seen.as_ref().map_or(Duration::ZERO, |(_, at)| at.elapsed());
        let exists = found.as_ref().map(|_| spec.clone().unwrap_or_default());
        let step = decide(exists.as_ref(), &self.me, unchanged);
        let Some(next) = next(spec.as_ref(), &self.me, step, Timestamp::now()) else {
            return Ok(false);
        };
        match self.write(found, next.clone()).await {
            Ok(()) => {
                self.seen = Some((Some(next), Instant::now()));
                Ok(true)
            }
            // Someone else was first.
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn write(&self, found: Option<Lease>, spec: LeaseSpec) -> Result<(), kube::Error> {
        let params = PostParams::default();
        match found {
            Some(mut lease) => {
                lease.spec = Some(spec);
                self.api.replace(LEASE, &params, &lease).await?;
            }
            None => {
                let lease = Lease {
                    metadata: ObjectMeta {
                        name: Some(LEASE.to_owned()),
                        ..ObjectMeta::default()
                    },
                    spec: Some(spec),
                };
                self.api.create(&params, &lease).await?;
            }
        }
        Ok(())
    }

    /// The other replica need not wait for the lease to run out.
    async fn release(&self) -> Result<(), kube::Error> {
        let Some(mut lease) = self.api.get_opt(LEASE).await? else {
            return Ok(());
        };
        let spec = lease.spec.get_or_insert_default();
        if spec.holder_identity.as_deref() == Some(&*self.me) {
            spec.holder_identity = Some(String::new());
            self.api.replace(LEASE, &PostParams::default(), &lease).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(by: &str) -> LeaseSpec {
        next(None, by, Move::Create, Timestamp::UNIX_EPOCH).unwrap()
    }

    #[test]
    fn a_lease_is_taken_only_when_it_is_free_or_nobody_renewed_it() {
        let soon = Duration::from_secs(1);
        assert_eq!(decide(None, "a", soon), Move::Create);
        assert_eq!(decide(Some(&held("a")), "a", soon), Move::Renew);
        assert_eq!(decide(Some(&held("b")), "a", soon), Move::Wait);
        assert_eq!(decide(Some(&held("b")), "a", DURATION), Move::Wait);
        assert_eq!(decide(Some(&held("b")), "a", DURATION + soon), Move::Take);
        assert_eq!(decide(Some(&LeaseSpec::default()), "a", soon), Move::Take);
        let longer = LeaseSpec {
            lease_duration_seconds: Some(60),
            ..held("b")
        };
        assert_eq!(decide(Some(&longer), "a", DURATION + soon), Move::Wait);
    }

    #[test]
    fn a_change_of_leader_is_counted_and_a_renewal_is_not() {
        let first = held("a");
        assert_eq!(first.lease_transitions, Some(0));
        let renewed = next(Some(&first), "a", Move::Renew, Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!(renewed, first);
        let taken = next(Some(&first), "b", Move::Take, Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!(
            (taken.lease_transitions, taken.holder_identity.as_deref()),
            (Some(1), Some("b"))
        );
        assert_eq!(next(Some(&first), "b", Move::Wait, Timestamp::UNIX_EPOCH), None);
    }

    #[test]
    fn a_leader_stops_before_another_may_begin() {
        assert!(RENEW_DEADLINE + RETRY < DURATION);
    }
}
