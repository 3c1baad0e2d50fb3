//! Where the CA's key comes from: Secret `cacerts`, if the user made one, else Secret `heddle-ca`, which the first leader
//! makes. Both are watched, and so is the ConfigMap that tells everyone the roots.
//!
//! A root that is no longer in the Secret stays trusted for as long as certificates of it may live: it is kept in the
//! ConfigMap under `retired-roots.pem` until the moment in an annotation. Deleting the ConfigMap forgets retired roots.

use super::authority::{Authority, CA_CERT, CA_KEY, CERT_CHAIN, ROOT_CERT, bundle};
use super::metrics::Metrics;
use super::publish::FIELD_MANAGER;
use super::watching::events;
use crate::ca::Clock;
use crate::ca::signer::{certificates, new_root};
use crate::errors::chain;
use arc_swap::ArcSwapOption;
use futures_util::StreamExt;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::Api;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::runtime::watcher::{Config, Event};
use rustls::pki_types::CertificateDer;
use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// The user's Secret.
pub const USERS_SECRET: &str = "cacerts";
/// Heddle's own Secret.
pub const OWN_SECRET: &str = "heddle-ca";
/// ConfigMap of the roots.
pub const ROOTS: &str = "heddle-ca-root-cert";
/// Key of roots that no longer sign.
const RETIRED: &str = "retired-roots.pem";
/// Annotation: when retired roots are dropped, seconds since the Unix epoch.
const RETIRED_UNTIL: &str = "mesh.heddle.io/retired-roots-until";
/// Expiry and retirement are looked at this often, and what failed is tried again.
const TICK: Duration = Duration::from_secs(5);

type Data = BTreeMap<String, Vec<u8>>;

/// What is known of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Known<T> {
    /// Not listed yet.
    #[default]
    Unknown,
    /// Listed, and it is not there.
    Absent,
    /// Like this.
    There(T),
}

impl<T> Known<T> {
    /// A watch of one name. A listing that does not mention it, says that it is gone.
    fn take<K>(&mut self, event: Event<K>, pending: &mut Option<T>, read: impl Fn(K) -> T) {
        match event {
            Event::Init => *pending = None,
            Event::InitApply(object) => *pending = Some(read(object)),
            Event::InitDone => *self = pending.take().map_or(Self::Absent, Self::There),
            Event::Apply(object) => *self = Self::There(read(object)),
            Event::Delete(_) => *self = Self::Absent,
        }
    }
}

/// The ConfigMap, as far as it is read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Roots {
    current: String,
    retired: String,
    until: Option<u64>,
}

/// Keeps `authority` as the Secrets say until the task is dropped.
pub struct Keeper {
    /// To the API server.
    pub client: kube::Client,
    /// Where Heddle is installed.
    pub namespace: String,
    /// Named in a new root.
    pub trust_domain: String,
    /// How long roots stay trusted after the Secret has others, seconds.
    pub retirement: u64,
    /// Filled here.
    pub authority: Arc<ArcSwapOption<Authority>>,
    /// Only the leader writes.
    pub leader: watch::Receiver<bool>,
    /// Expiry and state of watches.
    pub metrics: Arc<Metrics>,
    /// Now.
    pub clock: Clock,
}

#[derive(Default)]
struct World {
    users: Known<Data>,
    own: Known<Data>,
    roots: Known<Roots>,
    /// From what the authority was made.
    used: Option<(Data, Vec<CertificateDer<'static>>)>,
    complained: Option<String>,
}

impl Keeper {
    /// Runs until the task is dropped.
    pub async fn run(self) {
        let secrets = Api::<Secret>::namespaced(self.client.clone(), &self.namespace);
        let maps = Api::<ConfigMap>::namespaced(self.client.clone(), &self.namespace);
        let named = |name: &str| Config::default().fields(&format!("metadata.name={name}"));
        let metrics = || Arc::clone(&self.metrics);
        let mut users = pin!(events(
            secrets.clone(),
            named(USERS_SECRET),
            USERS_SECRET,
            metrics()
        ));
        let mut own = pin!(events(secrets, named(OWN_SECRET), OWN_SECRET, metrics()));
        let mut roots = pin!(events(maps, named(ROOTS), ROOTS, metrics()));
        let mut world = World::default();
        let mut pending = (None, None, None);
        let mut ticks = tokio::time::interval(TICK);
        let mut leader = self.leader.clone();
        loop {
            tokio::select! {
                Some(event) = users.next() => world.users.take(event, &mut pending.0, data),
                Some(event) = own.next() => world.own.take(event, &mut pending.1, data),
                Some(event) = roots.next() => world.roots.take(event, &mut pending.2, read_roots),
                Ok(()) = leader.changed() => {}
                _ = ticks.tick() => {}
            }
            if let Err(reason) = self.settle(&mut world).await
                && world.complained.as_ref() != Some(&reason)
            {
                tracing::error!(reason, "CA");
                world.complained = Some(reason);
            }
        }
    }

    async fn settle(&self, world: &mut World) -> Result<(), String> {
        let leads = *self.leader.borrow();
        let (name, data) = match (&world.users, &world.own) {
            (Known::There(data), _) => (USERS_SECRET, data.clone()),
            (Known::Absent, Known::There(data)) => (OWN_SECRET, data.clone()),
            (Known::Absent, Known::Absent) if leads => return self.create().await,
            _ => return Ok(()),
        };
        let Known::There(roots) = &world.roots else {
            if world.roots == Known::Absent {
                self.follow(world, name, data, Vec::new())?;
                return self.announce(&Roots::default(), leads).await;
            }
            return Ok(());
        };
        let roots = roots.clone();
        let now = (self.clock)();
        let plan = retire(&own_roots(&data), &roots, now, self.retirement);
        self.follow(world, name, data, plan.certificates.clone())?;
        let wanted = Roots {
            retired: bundle(&plan.certificates),
            until: plan.until,
            ..roots.clone()
        };
        self.announce_if(&roots, &wanted, leads).await
    }

    /// Makes the authority of `data`; one that cannot be used leaves the last good one in force.
    fn follow(
        &self,
        world: &mut World,
        name: &str,
        data: Data,
        retired: Vec<CertificateDer<'static>>,
    ) -> Result<(), String> {
        let used = (data, retired);
        if world.used.as_ref() == Some(&used) {
            return Ok(());
        }
        let authority = Authority::read(&used.0, &used.1, (self.clock)())
            .map_err(|error| format!("Secret {}/{name}: {error}", self.namespace))?;
        tracing::info!(secret = name, not_after = authority.not_after(), "CA in force");
        let end = i64::try_from(authority.not_after()).unwrap_or(i64::MAX);
        self.metrics.ca_not_after.set(end);
        self.authority.store(Some(Arc::new(authority)));
        world.used = Some(used);
        world.complained = None;
        Ok(())
    }

    /// Created, never overwritten: if another replica was first, the watch brings its Secret.
    async fn create(&self) -> Result<(), String> {
        let failed = |reason: String| format!("Secret {}/{OWN_SECRET}: {reason}", self.namespace);
        let root = new_root(&self.trust_domain, (self.clock)()).map_err(|error| failed(error.to_string()))?;
        let data = [
            (CA_KEY, root.key_pem),
            (CA_CERT, root.certificate_pem.clone()),
            (CERT_CHAIN, root.certificate_pem.clone()),
            (ROOT_CERT, root.certificate_pem),
        ];
        let data = data.map(|(key, text)| (key.to_owned(), ByteString(text.into_bytes())));
        let secret = Secret {
            metadata: ObjectMeta {
                name: Some(OWN_SECRET.to_owned()),
                ..ObjectMeta::default()
            },
            data: Some(data.into()),
            type_: Some("Opaque".to_owned()),
            ..Secret::default()
        };
        let api = Api::<Secret>::namespaced(self.client.clone(), &self.namespace);
        match api.create(&PostParams::default(), &secret).await {
            Ok(_) => {
                tracing::info!(secret = OWN_SECRET, "new root made");
                Ok(())
            }
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
            Err(error) => Err(failed(chain(&error))),
        }
    }

    async fn announce_if(&self, there: &Roots, wanted: &Roots, leads: bool) -> Result<(), String> {
        let authority = self.authority.load();
        let current = authority.as_ref().map_or("", |authority| authority.roots());
        if there.current == current && there.retired == wanted.retired && there.until == wanted.until {
            return Ok(());
        }
        self.announce(wanted, leads).await
    }

    async fn announce(&self, wanted: &Roots, leads: bool) -> Result<(), String> {
        let authority = self.authority.load_full();
        let Some(authority) = authority.filter(|_| leads) else {
            return Ok(());
        };
        let mut data = BTreeMap::from([(ROOT_CERT, authority.roots())]);
        let mut annotations = BTreeMap::new();
        if let Some(until) = wanted.until {
            data.insert(RETIRED, &wanted.retired);
            annotations.insert(RETIRED_UNTIL, until.to_string());
        }
        let map = serde_json::json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": ROOTS, "namespace": self.namespace, "annotations": annotations},
            "data": data,
        });
        let api = Api::<ConfigMap>::namespaced(self.client.clone(), &self.namespace);
        api.patch(
            ROOTS,
            &PatchParams::apply(FIELD_MANAGER).force(),
            &Patch::Apply(&map),
        )
        .await
        .map(drop)
        .map_err(|error| format!("ConfigMap {}/{ROOTS}: {}", self.namespace, chain(&error)))
    }
}

/// Roots that are to be trusted although the Secret has them no more, and until when.
#[derive(Debug, Default, PartialEq, Eq)]
struct Retirement {
    certificates: Vec<CertificateDer<'static>>,
    until: Option<u64>,
}

fn retire(own: &[CertificateDer<'static>], there: &Roots, now: u64, keep: u64) -> Retirement {
    // What nobody can read was nobody's root.
    let read = |pem: &str| certificates(pem.as_bytes()).unwrap_or_default();
    let known = read(&there.retired);
    let live = there.until.is_some_and(|until| until > now);
    let is_own = |one: &CertificateDer<'static>| own.contains(one);
    let mut fresh = read(&there.current);
    fresh.retain(|one| !is_own(one) && !known.contains(one));
    let mut all = if live { known } else { Vec::new() };
    all.retain(|one| !is_own(one));
    let until = match (fresh.is_empty(), all.is_empty()) {
        (false, _) => Some(now.saturating_add(keep)),
        (true, false) => there.until,
        (true, true) => None,
    };
    all.extend(fresh);
    Retirement {
        certificates: all,
        until,
    }
}

fn own_roots(data: &Data) -> Vec<CertificateDer<'static>> {
    let pem = data.get(ROOT_CERT).map_or(&[][..], Vec::as_slice);
    certificates(pem).unwrap_or_default()
}

fn data(secret: Secret) -> Data {
    let data = secret.data.unwrap_or_default();
    data.into_iter().map(|(key, bytes)| (key, bytes.0)).collect()
}

fn read_roots(map: ConfigMap) -> Roots {
    let mut data = map.data.unwrap_or_default();
    let annotations = map.metadata.annotations.unwrap_or_default();
    Roots {
        current: data.remove(ROOT_CERT).unwrap_or_default(),
        retired: data.remove(RETIRED).unwrap_or_default(),
        until: annotations.get(RETIRED_UNTIL).and_then(|at| at.parse().ok()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> (String, CertificateDer<'static>) {
        let pem = new_root("cluster.local", 1_000_000).unwrap().certificate_pem;
        let der = certificates(pem.as_bytes()).unwrap().remove(0);
        (pem, der)
    }

    #[test]
    fn a_replaced_root_is_trusted_until_its_certificates_have_ended() {
        let ((old_pem, old), (_, new)) = (root(), root());
        let there = Roots {
            current: old_pem.clone(),
            ..Roots::default()
        };
        assert_eq!(
            retire(std::slice::from_ref(&old), &there, 100, 50),
            Retirement::default()
        );
        let replaced = retire(std::slice::from_ref(&new), &there, 100, 50);
        assert_eq!(
            (replaced.certificates, replaced.until),
            (vec![old.clone()], Some(150))
        );
        let both = Roots {
            current: bundle(&[new.clone(), old.clone()]),
            retired: old_pem,
            until: Some(150),
        };
        let later = retire(std::slice::from_ref(&new), &both, 149, 50);
        assert_eq!((later.certificates, later.until), (vec![old.clone()], Some(150)));
        assert_eq!(
            retire(std::slice::from_ref(&new), &both, 150, 50),
            Retirement::default()
        );
        // Taken back into the Secret: no longer retired.
        assert_eq!(retire(&[new, old], &both, 120, 50), Retirement::default());
    }

    #[test]
    fn a_listing_without_the_object_says_that_it_is_gone_and_one_under_way_says_nothing() {
        let mut known = Known::<u8>::default();
        let mut pending = None;
        let mut take = |event| {
            known.take(event, &mut pending, |object: u8| object);
            known.clone()
        };
        assert_eq!(take(Event::Init), Known::Unknown);
        assert_eq!(take(Event::InitDone), Known::Absent);
        assert_eq!(take(Event::Apply(1)), Known::There(1));
        assert_eq!(take(Event::Init), Known::There(1));
        assert_eq!(take(Event::InitApply(2)), Known::There(1));
        assert_eq!(take(Event::InitDone), Known::There(2));
    }
}
