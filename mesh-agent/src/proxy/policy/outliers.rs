//! The core's outlier detection, fed by what happens to requests on this node.

use crate::telemetry::Telemetry;
use arc_swap::ArcSwap;
use mesh_core::model::ObjectName;
use mesh_core::model::service::Endpoint;
use mesh_core::model::traffic::OutlierDetection;
use mesh_core::outlier::{Detector, Outcome};
use mesh_core::routing::Upstream;
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// An endpoint that gets no requests for a while.
#[derive(Clone, Debug)]
pub struct Ejected {
    /// The service.
    pub service: ObjectName,
    /// Its port.
    pub port: u16,
    /// Its subset, if it is one.
    pub subset: Option<Arc<str>>,
    /// The endpoint.
    pub addr: SocketAddr,
}

/// What is watched together (T-39): the endpoints of a service port, or of a subset of it, under the same settings.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    port: u32,
    subset: Option<Arc<str>>,
    settings: OutlierDetection,
}

/// See the module's description.
pub(super) struct Outliers {
    began: Instant,
    groups: Mutex<HashMap<Key, Arc<Group>>>,
}

/// The endpoints of one key.
pub(in super::super) struct Group {
    began: Instant,
    settings: OutlierDetection,
    service: ObjectName,
    port: u16,
    subset: Option<Arc<str>>,
    detector: Mutex<Detector>,
    /// A copy of what the detector says, for readers.
    out: ArcSwap<HashSet<SocketAddr>>,
}

/// One try of a request, until it is known how it came out.
pub(in super::super) struct Watch {
    group: Arc<Group>,
    endpoints: Arc<[Arc<Endpoint>]>,
    addr: Option<SocketAddr>,
}

impl Outliers {
    pub(super) fn new(began: Instant) -> Self {
        Self {
            began,
            groups: Mutex::default(),
        }
    }

    /// The group of an upstream's endpoints, if its policy wants them watched.
    pub(super) fn group(&self, upstream: &Upstream) -> Option<Arc<Group>> {
        let settings = upstream.policy.outlier_detection.as_ref()?;
        let (service, port) = (upstream.service.as_ref()?, upstream.port.as_ref()?);
        let key = Key {
            port: port.id,
            subset: upstream.subset.clone(),
            settings: settings.clone(),
        };
        let make = || {
            Arc::new(Group {
                began: self.began,
                settings: settings.clone(),
                service: service.name.clone(),
                port: port.number,
                subset: upstream.subset.clone(),
                detector: Mutex::default(),
                out: ArcSwap::default(),
            })
        };
        Some(Arc::clone(self.groups.lock().entry(key).or_insert_with(make)))
    }

    pub(super) fn sweep(&self) {
        self.groups.lock().retain(|_, group| {
            group.advance();
            Arc::strong_count(group) > 1 || !group.detector.lock().is_blank()
        });
    }

    pub(super) fn ejected(&self) -> Vec<Ejected> {
        let groups: Vec<Arc<Group>> = self.groups.lock().values().cloned().collect();
        let of = |group: &Arc<Group>| {
            let named = |addr: &SocketAddr| Ejected {
                service: group.service.clone(),
                port: group.port,
                subset: group.subset.clone(),
                addr: *addr,
            };
            group.out().iter().map(named).collect::<Vec<_>>()
        };
        let mut all: Vec<Ejected> = groups.iter().flat_map(of).collect();
        all.sort_by(|a, b| (&a.service, a.port, a.addr).cmp(&(&b.service, b.port, b.addr)));
        all
    }
}

impl Group {
    /// The endpoints that are out now.
    pub(super) fn out(&self) -> Arc<HashSet<SocketAddr>> {
        let out = self.out.load_full();
        if out.is_empty() {
            return out;
        }
        self.advance();
        self.out.load_full()
    }

    /// Whether an endpoint is out now.
    pub(super) fn is_out(&self, addr: &SocketAddr) -> bool {
        self.out().contains(addr)
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    fn advance(&self) {
        let mut detector = self.detector.lock();
        if detector.advance(&self.settings, self.now()) {
            self.publish(&detector);
        }
    }

    fn publish(&self, detector: &Detector) {
        self.out.store(Arc::new(detector.ejected().collect()));
    }
}

impl Watch {
    /// Watches a try at one of `endpoints`.
    pub(super) fn new(group: Arc<Group>, endpoints: &Arc<[Arc<Endpoint>]>) -> Self {
        Self {
            group,
            endpoints: Arc::clone(endpoints),
            addr: None,
        }
    }

    /// Which one it is.
    pub(super) fn of(self, addr: SocketAddr) -> Self {
        Self {
            addr: Some(addr),
            ..self
        }
    }

    /// How the try came out.
    pub(in super::super) fn report(&self, outcome: Outcome, telemetry: &Telemetry) {
        let Some(addr) = self.addr else { return };
        let group = &self.group;
        let all = self.endpoints.iter().map(|e| &e.addr);
        let mut detector = group.detector.lock();
        let back = detector.advance(&group.settings, group.now());
        let ejection = detector.observe(&group.settings, addr, outcome, group.now(), all);
        if back || ejection.is_some() {
            group.publish(&detector);
        }
        drop(detector);
        let Some(ejection) = ejection else { return };
        telemetry
            .proxy
            .outlier_ejections
            .get_or_create(&[("reason", ejection.reason)])
            .inc();
        tracing::info!(
            service = %group.service, port = group.port, endpoint = %addr,
            reason = ejection.reason, time = ?ejection.time, "endpoint ejected"
        );
    }
}
