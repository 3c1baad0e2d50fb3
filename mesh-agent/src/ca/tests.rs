//! The issuer on real files, the store on a CA that counts and fails.

mod own;

use super::*;
use crate::contract::{CertificateError, Certificates, certificate};
use crate::drain::drain;
use crate::testing::{ALICE, BOB, TempDir, TestCa, id};
use crate::tls::peer_identity;
use futures_util::FutureExt;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::time::Duration;
use x509_parser::prelude::{FromDer, X509Certificate};

const DAY: u64 = 24 * 3600;

fn open(dir: &TempDir) -> Result<Issuer, CaError> {
    Issuer::open(&dir.0, "cluster.local", Duration::from_secs(DAY))
}

/// Alice's certificate of `now`, which a CA that has its key gives at once.
fn alices(issuer: &Issuer, now: u64) -> Issued {
    issuer.issue(&id(ALICE), now).now_or_never().unwrap().unwrap()
}

#[test]
fn agents_that_start_at_the_same_moment_agree_on_one_root() {
    for _ in 0..10 {
        let dir = TempDir::new();
        let start = Barrier::new(8);
        let now = system_clock()();
        let roots: Vec<_> = std::thread::scope(|scope| {
            let race = || {
                start.wait();
                alices(&open(&dir).unwrap(), now).material.roots
            };
            let racers: Vec<_> = (0..8).map(|_| scope.spawn(race)).collect();
            racers.into_iter().map(|racer| racer.join().unwrap()).collect()
        });
        assert_eq!(roots[0].len(), 1);
        assert!(roots.iter().all(|other| *other == roots[0]));
        let mode = std::fs::metadata(dir.0.join("ca.key"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        let mut files: Vec<_> = std::fs::read_dir(&dir.0)
            .unwrap()
            .map(|f| f.unwrap().file_name())
            .collect();
        files.sort();
        assert_eq!(files, ["ca.crt", "ca.key", "ca.lock"]);
    }
}

#[test]
fn a_leaf_proves_one_identity_for_both_sides_and_a_day() {
    let dir = TempDir::new();
    let now = system_clock()();
    let issued = alices(&open(&dir).unwrap(), now);
    assert_eq!(
        (issued.not_before, issued.material.not_after),
        (now - 120, now + DAY)
    );
    assert_eq!(peer_identity(&issued.material.chain).unwrap(), id(ALICE));
    let (_, leaf) = X509Certificate::from_der(&issued.material.chain[0]).unwrap();
    assert!(!leaf.is_ca());
    let usage = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.client_auth && usage.server_auth && !usage.any);
    assert_eq!(
        leaf.validity().not_before.timestamp(),
        i64::try_from(now - 120).unwrap()
    );
    assert_eq!(
        leaf.validity().not_after.timestamp(),
        i64::try_from(now + DAY).unwrap()
    );
    assert_eq!(format!("{:0>32x}", leaf.serial), issued.material.serial);
    crate::tls::identity_tls(issued.material).unwrap();
}

#[test]
fn every_root_in_the_file_is_trusted_from_the_next_certificate_on() {
    let (dir, other) = (TempDir::new(), TempDir::new());
    let issuer = open(&dir).unwrap();
    open(&other).unwrap();
    let now = system_clock()();
    let alone = alices(&issuer, now).material.roots;
    let next = std::fs::read_to_string(other.0.join("ca.crt")).unwrap();
    let both = next + &std::fs::read_to_string(dir.0.join("ca.crt")).unwrap();
    std::fs::write(dir.0.join("ca.crt"), both).unwrap();
    let roots = alices(&issuer, now).material.roots;
    assert_eq!((roots.len(), &roots[1]), (2, &alone[0]));
}

#[test]
fn a_creator_that_died_half_way_is_made_good_and_a_lost_key_is_an_error() {
    let dir = TempDir::new();
    std::fs::write(dir.0.join("ca.key"), "cut sho").unwrap();
    std::fs::write(dir.0.join("ca.new"), "cut sho").unwrap();
    open(&dir).unwrap();
    std::fs::remove_file(dir.0.join("ca.key")).unwrap();
    let error = open(&dir).unwrap_err().to_string();
    assert!(error.contains("ca.key"), "{error}");
    let other = TempDir::new();
    open(&other).unwrap();
    std::fs::copy(other.0.join("ca.key"), dir.0.join("ca.key")).unwrap();
    let error = open(&dir).unwrap_err().to_string();
    assert!(error.contains("ca.crt") && error.contains("ca.key"), "{error}");
}

#[test]
fn an_expired_ca_signs_nothing() {
    let dir = TempDir::new();
    let issuer = open(&dir).unwrap();
    let end = system_clock()() + 11 * 365 * DAY;
    assert!(matches!(
        issuer.issue(&id(ALICE), end).now_or_never().unwrap(),
        Err(CaError::Sign { .. })
    ));
}

/// Signs for 1,000 s with a test CA, counts, and fails when told to.
#[derive(Clone)]
struct Scripted {
    ca: Arc<TestCa>,
    asked: Arc<AtomicU64>,
    down: Arc<AtomicBool>,
}

impl Scripted {
    fn store() -> (Self, Arc<AtomicU64>, CertificateStore) {
        let scripted = Self {
            ca: Arc::new(TestCa::new()),
            asked: Arc::default(),
            down: Arc::default(),
        };
        let time = Arc::new(AtomicU64::new(1_000_000));
        let clock = Arc::clone(&time);
        let store = CertificateStore::new(scripted.clone(), Arc::new(move || clock.load(Ordering::Relaxed)));
        (scripted, time, store)
    }

    fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }
}

impl CertificateAuthority for Scripted {
    fn issue<'a>(&'a self, identity: &'a SpiffeId, now: u64) -> Issuing<'a> {
        Box::pin(async move {
            let number = self.asked.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(20)).await;
            if self.down.load(Ordering::Relaxed) {
                return Err(CaError::Away {
                    address: "ca:15012".to_owned(),
                    reason: "connection refused".to_owned(),
                });
            }
            if *identity == id(MALLORY) {
                return Err(CaError::Refused {
                    address: "ca:15012".to_owned(),
                    identity: identity.clone(),
                    reason: "no such pod on this node".to_owned(),
                });
            }
            let mut material = self.ca.material(&[&identity.to_string()], |_| ());
            material.not_after = now + 1000;
            material.serial = number.to_string();
            Ok(Issued {
                material,
                not_before: now,
            })
        })
    }
}

const MALLORY: &str = "spiffe://cluster.local/ns/weather/sa/mallory";

#[tokio::test(start_paused = true)]
async fn many_who_need_the_same_certificate_ask_once_and_wait_for_the_answer() {
    let (ca, _, store) = Scripted::store();
    let store = Arc::new(store);
    let (_trigger, until) = drain();
    let upkeep = tokio::spawn(Arc::clone(&store).run(until));
    assert!(matches!(store.tls(&id(ALICE)), Err(CertificateError::Pending(_))));
    let many: Vec<_> = (0..16)
        .map(|_| {
            let store = Arc::clone(&store);
            tokio::spawn(async move { certificate(&*store, &id(ALICE)).await.is_ok() })
        })
        .collect();
    for one in many {
        assert!(one.await.unwrap());
    }
    assert_eq!(ca.asked(), 1);
    certificate(&*store, &id(BOB)).await.unwrap();
    assert_eq!(ca.asked(), 2);
    assert_eq!(store.list().len(), 2);
    store.retain(|identity| *identity == id(BOB));
    assert_eq!(store.list().len(), 1);
    drop(_trigger);
    upkeep.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_certificate_is_renewed_around_half_of_its_life_only() {
    let (ca, time, store) = Scripted::store();
    store.want(&id(ALICE));
    store.settle(1_000_000).await;
    let first = store.tls(&id(ALICE)).unwrap();
    store.settle(1_000_449).await;
    assert_eq!(ca.asked(), 1);
    time.store(1_000_551, Ordering::Relaxed);
    assert_eq!(store.list()[0].state, CertificateState::RenewalDue);
    store.settle(1_000_551).await;
    let second = store.tls(&id(ALICE)).unwrap();
    assert_eq!((ca.asked(), second.not_after), (2, 1_001_551));
    assert!(!Arc::ptr_eq(&first, &second));
    assert_eq!(store.list()[0].state, CertificateState::Valid);
}

#[tokio::test(start_paused = true)]
async fn a_ca_that_is_away_costs_nothing_until_the_end_and_then_never_plaintext() {
    let (ca, time, store) = Scripted::store();
    store.want(&id(ALICE));
    store.settle(1_000_000).await;
    let first = store.tls(&id(ALICE)).unwrap();
    ca.down.store(true, Ordering::Relaxed);
    for now in 1_000_551..1_000_700 {
        store.settle(now).await;
    }
    let asked = ca.asked();
    assert!(asked < 20, "backs off, asked {asked} times");
    store.want(&id(BOB));
    for now in 1_000_700..1_000_900 {
        store.settle(now).await;
    }
    let more = ca.asked() - asked;
    assert!(
        more < 80,
        "who has none is asked for every few seconds, {more} times"
    );
    time.store(1_000_999, Ordering::Relaxed);
    assert!(Arc::ptr_eq(&first, &store.tls(&id(ALICE)).unwrap()));
    store.settle(1_000_999).await;
    time.store(1_001_000, Ordering::Relaxed);
    assert!(matches!(store.tls(&id(ALICE)), Err(CertificateError::Expired(_))));
    assert!(matches!(
        store.tls(&id(BOB)),
        Err(CertificateError::Refused { .. })
    ));
    let states: Vec<_> = store.list().into_iter().map(|status| status.state).collect();
    assert_eq!(
        states,
        [CertificateState::Missing, CertificateState::Expired],
        "BOB, ALICE"
    );
    // Back again: both served within the back-off, with no restart.
    ca.down.store(false, Ordering::Relaxed);
    time.store(1_001_020, Ordering::Relaxed);
    store.settle(1_001_020).await;
    assert_eq!(store.tls(&id(ALICE)).unwrap().not_after, 1_002_020);
    assert_eq!(store.tls(&id(BOB)).unwrap().not_after, 1_002_020);
}

#[tokio::test(start_paused = true)]
async fn one_identity_that_is_refused_keeps_no_other_from_its_certificate() {
    let (ca, time, store) = Scripted::store();
    for uri in [MALLORY, ALICE, BOB] {
        store.want(&id(uri));
    }
    store.settle(1_000_000).await;
    store.tls(&id(ALICE)).unwrap();
    store.tls(&id(BOB)).unwrap();
    assert!(
        matches!(store.tls(&id(MALLORY)), Err(CertificateError::Pending(_))),
        "the CA may not have heard of the pod yet"
    );
    for now in 1_000_000..1_000_400 {
        store.settle(now).await;
    }
    time.store(1_000_400, Ordering::Relaxed);
    let refusal = store.tls(&id(MALLORY)).unwrap_err().to_string();
    assert!(refusal.contains("no such pod"), "{refusal}");
    assert!(ca.asked() < 16, "backs off, asked {} times", ca.asked());
}

#[tokio::test]
async fn a_life_shorter_than_the_cas_dating_back_is_no_storm_of_questions() {
    let dir = TempDir::new();
    let issuer = Issuer::open(&dir.0, "cluster.local", Duration::from_secs(1)).unwrap();
    let store = CertificateStore::new(issuer, system_clock());
    store.want(&id(ALICE));
    let now = system_clock()();
    store.settle(now).await;
    let first = store.list()[0].serial.clone();
    store.settle(now).await;
    assert_eq!(store.list()[0].serial, first);
    store.settle(now + 1).await;
    assert_ne!(store.list()[0].serial, first);
}
