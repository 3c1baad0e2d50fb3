//! Balancers, built once for each list of endpoints and shared.

use super::outliers::{Group, Outliers};
use mesh_core::model::locality::Locality;
use mesh_core::model::service::{Distribution, Endpoint};
use mesh_core::model::snapshot::{Nodes, Snapshot};
use mesh_core::model::workload::Workload;
use mesh_core::routing::{Balancer, Place, Upstream};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// A balancer and what its picks remember.
pub(super) struct Shared {
    pub(super) balancer: Balancer,
    /// Who watches its endpoints, if anybody does.
    pub(super) group: Option<Arc<Group>>,
    turn: AtomicU32,
    /// Since when each endpoint is known; empty where nobody asks.
    since: HashMap<SocketAddr, Instant>,
    nodes: Nodes,
}

/// What balancers are known by. The allocations are kept alive by the balancer, so that their addresses stay theirs.
#[derive(PartialEq, Eq, Hash)]
struct Key {
    endpoints: usize,
    policy: usize,
    distribution: Distribution,
    prefer_v6: bool,
    /// Labels of the client, where they matter.
    labels: usize,
}

/// See the module's description.
#[derive(Default)]
pub(super) struct Balancers {
    shared: Mutex<HashMap<Key, Arc<Shared>>>,
    /// Since when endpoints that warm up are known.
    ages: Mutex<HashMap<SocketAddr, Instant>>,
}

impl Balancers {
    /// The balancer for what `client` sends to `upstream`.
    pub(super) fn of(
        &self,
        outliers: &Outliers,
        snapshot: &Snapshot,
        upstream: &Upstream,
        client: &Arc<Workload>,
        prefer_v6: bool,
    ) -> Arc<Shared> {
        let distribution = upstream
            .service
            .as_ref()
            .map_or(Distribution::Any, |s| s.distribution);
        let own = upstream
            .policy
            .load_balancer
            .locality
            .as_ref()
            .is_some_and(|l| !l.priority.is_empty())
            || Locality::of_workload(&client.labels).is_some();
        let key = Key {
            endpoints: Arc::as_ptr(&upstream.endpoints).cast::<()>() as usize,
            policy: Arc::as_ptr(&upstream.policy) as usize,
            distribution,
            prefer_v6,
            labels: if own {
                Arc::as_ptr(&client.labels) as usize
            } else {
                0
            },
        };
        let known = self.shared.lock().get(&key).cloned();
        if let Some(known) = known.filter(|k| k.nodes.ptr_eq(&snapshot.nodes)) {
            return known;
        }
        let place = Place {
            locality: snapshot.locality(client),
            client: Some(client),
        };
        let balancer = Balancer::new(
            snapshot,
            &upstream.endpoints,
            &upstream.policy,
            distribution,
            &place,
            prefer_v6,
        );
        let since = match upstream.policy.load_balancer.warmup {
            Some(_) => self.since(&upstream.endpoints),
            None => HashMap::new(),
        };
        let made = Arc::new(Shared {
            balancer,
            group: outliers.group(upstream),
            turn: AtomicU32::new(fastrand::u32(..)),
            since,
            nodes: snapshot.nodes.clone(),
        });
        self.shared.lock().insert(key, Arc::clone(&made));
        made
    }

    fn since(&self, endpoints: &[Arc<Endpoint>]) -> HashMap<SocketAddr, Instant> {
        let mut ages = self.ages.lock();
        let now = Instant::now();
        let of = |e: &Arc<Endpoint>| (e.addr, *ages.entry(e.addr).or_insert(now));
        endpoints.iter().map(of).collect()
    }

    /// Forgets balancers of lists that no snapshot has any more.
    pub(super) fn sweep(&self) {
        let mut shared = self.shared.lock();
        shared.retain(|_, s| Arc::strong_count(s.balancer.endpoints()) > 1);
        let mut ages = self.ages.lock();
        if !ages.is_empty() {
            ages.retain(|addr, _| shared.values().any(|s| s.since.contains_key(addr)));
        }
    }
}

impl Shared {
    /// The turn of the next request.
    pub(super) fn turn(&self) -> u32 {
        self.turn.fetch_add(1, Ordering::Relaxed)
    }

    /// How long an endpoint is known.
    pub(super) fn age(&self, endpoint: &Endpoint) -> Duration {
        self.since
            .get(&endpoint.addr)
            .map_or(Duration::MAX, Instant::elapsed)
    }
}
