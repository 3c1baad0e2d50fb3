//! One worker's way to its series: a small map from pointers to handles, so that no label set is built or hashed
//! for a request that is like one before it.

use super::Telemetry;
use super::labels::{HttpLabels, PairLabels, Party, ServiceNames};
use super::metrics::{HttpSeries, TcpSeries};
use mesh_core::model::service::Service;
use mesh_core::model::workload::Workload;
use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;

/// Not shared between threads. Everything in it can be made anew, so it is emptied when it has grown too large.
pub struct Meter {
    telemetry: Arc<Telemetry>,
    http: RefCell<HashMap<Key, (HttpLabels, Rc<HttpSeries>)>>,
    tcp: RefCell<HashMap<Key, (PairLabels, Rc<TcpSeries>)>>,
    pods: RefCell<HashMap<(usize, bool), Kept<Workload, Party>>>,
    services: RefCell<HashMap<usize, Kept<Service, ServiceNames>>>,
    parties: RefCell<HashSet<Arc<Party>>>,
    unknown: Arc<Party>,
    named: RefCell<HashMap<&'static str, Arc<ServiceNames>>>,
}

/// A value under its address, and what was made of it.
type Kept<T, N> = (Arc<T>, Arc<N>);

/// Addresses of shared values are their identity here: the map's value keeps them alive.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    source: usize,
    destination: usize,
    service: usize,
    kind: u64,
}

impl Meter {
    /// An empty one.
    #[must_use]
    pub fn new(telemetry: Arc<Telemetry>) -> Self {
        Self {
            telemetry,
            http: RefCell::default(),
            tcp: RefCell::default(),
            pods: RefCell::default(),
            services: RefCell::default(),
            parties: RefCell::default(),
            unknown: Arc::new(Party::unknown()),
            named: RefCell::default(),
        }
    }

    /// What is behind.
    #[must_use]
    pub fn telemetry(&self) -> &Arc<Telemetry> {
        &self.telemetry
    }

    /// Names of a pod; its identity is among them only if it is `proven`.
    #[must_use]
    pub fn pod(&self, workload: &Arc<Workload>, proven: bool) -> Arc<Party> {
        let key = (Arc::as_ptr(workload).addr(), proven);
        let mut pods = self.pods.borrow_mut();
        if let Some((_, party)) = pods.get(&key) {
            return Arc::clone(party);
        }
        let identity = proven.then_some(&workload.identity);
        let party = self.intern(Party::of(workload, identity, self.telemetry.cluster()));
        make_room(&mut pods);
        pods.insert(key, (Arc::clone(workload), Arc::clone(&party)));
        party
    }

    /// One shared value for equal names.
    #[must_use]
    pub fn intern(&self, party: Party) -> Arc<Party> {
        let mut parties = self.parties.borrow_mut();
        if let Some(known) = parties.get(&party) {
            return Arc::clone(known);
        }
        if parties.len() >= ROOM {
            parties.clear();
        }
        let party = Arc::new(party);
        parties.insert(Arc::clone(&party));
        party
    }

    /// Nothing known.
    #[must_use]
    pub fn unknown(&self) -> Arc<Party> {
        Arc::clone(&self.unknown)
    }

    /// Names of a service.
    #[must_use]
    pub fn service(&self, service: &Arc<Service>) -> Arc<ServiceNames> {
        let key = Arc::as_ptr(service).addr();
        let mut services = self.services.borrow_mut();
        if let Some((_, names)) = services.get(&key) {
            return Arc::clone(names);
        }
        let names = Arc::new(ServiceNames::of(service));
        make_room(&mut services);
        services.insert(key, (Arc::clone(service), Arc::clone(&names)));
        names
    }

    /// One of the few names for what is no service of the mesh.
    #[must_use]
    pub fn named(&self, name: &'static str) -> Arc<ServiceNames> {
        let mut named = self.named.borrow_mut();
        Arc::clone(
            named
                .entry(name)
                .or_insert_with(|| Arc::new(ServiceNames::named(name))),
        )
    }

    /// Series of a request.
    #[must_use]
    pub fn http(&self, labels: &HttpLabels) -> Rc<HttpSeries> {
        let key = key(&labels.pair, u64::from(labels.code), labels.grpc);
        let mut http = self.http.borrow_mut();
        if let Some((_, series)) = http.get(&key) {
            return Rc::clone(series);
        }
        let series = Rc::new(self.telemetry.http(labels));
        make_room(&mut http);
        http.insert(key, (labels.clone(), Rc::clone(&series)));
        series
    }

    /// Series of a connection.
    #[must_use]
    pub fn tcp(&self, labels: &PairLabels) -> Rc<TcpSeries> {
        let key = key(labels, 0, None);
        let mut tcp = self.tcp.borrow_mut();
        if let Some((_, series)) = tcp.get(&key) {
            return Rc::clone(series);
        }
        let series = Rc::new(self.telemetry.tcp(labels));
        make_room(&mut tcp);
        tcp.insert(key, (labels.clone(), Rc::clone(&series)));
        series
    }
}

fn key(pair: &PairLabels, code: u64, grpc: Option<u8>) -> Key {
    let mut flags = [0u8; 4];
    for (to, from) in flags.iter_mut().zip(pair.flags.bytes()) {
        *to = from;
    }
    let grpc = grpc.map_or(0, |g| u64::from(g) + 1);
    let small = (pair.reporter as u64) | (pair.protocol as u64) << 1 | (pair.security as u64) << 3;
    Key {
        source: Arc::as_ptr(&pair.source).addr(),
        destination: Arc::as_ptr(&pair.destination).addr(),
        service: Arc::as_ptr(&pair.service).addr(),
        kind: code | grpc << 10 | small << 19 | u64::from(u32::from_le_bytes(flags)) << 32,
    }
}

fn make_room<K, V>(map: &mut HashMap<K, V>) {
    if map.len() >= ROOM {
        map.clear();
    }
}

/// Entries per map.
const ROOM: usize = 4_096;
