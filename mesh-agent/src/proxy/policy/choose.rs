//! The endpoint of a try.

use super::super::outbound::{Hop, Outbound, Unreachable};
use super::super::upstream::{self, Path};
use super::outliers::Watch;
use crate::telemetry::labels::ServiceNames;
use mesh_core::model::service::{Distribution, Endpoint};
use mesh_core::model::snapshot::Snapshot;
use mesh_core::model::traffic::{Algorithm, Simple, TlsMode};
use mesh_core::routing::{Balancer, Choice, Held, PickDraws, Upstream, pick_endpoint};
use std::net::SocketAddr;
use std::sync::Arc;

/// What a request asks for among endpoints that are as good as each other.
#[derive(Clone, Copy, Debug, Default)]
pub(in super::super) struct Wish {
    /// What it hashes to.
    pub(in super::super) hash: Option<u64>,
    /// The endpoint of its session.
    pub(in super::super) held: Option<Held>,
}

impl Wish {
    /// The endpoint of its session, if that is there, was not tried already and is not out.
    fn pinned(
        self,
        endpoints: &[Arc<Endpoint>],
        avoid: &[SocketAddr],
        out: impl Fn(&SocketAddr) -> bool,
    ) -> Option<usize> {
        let usable = |i: &usize| {
            let endpoint = endpoints.get(*i);
            endpoint.is_some_and(|e| !avoid.contains(&e.addr) && !out(&e.addr))
        };
        self.held?.among(endpoints).filter(usable)
    }
}

impl Outbound {
    /// Picks an endpoint of `upstream` as its policy says.
    pub(in super::super) fn hop_to(
        &self,
        names: Arc<ServiceNames>,
        upstream: &Upstream,
        wish: Wish,
        avoid: &[SocketAddr],
    ) -> Result<Hop, Unreachable> {
        let snapshot = self.worker.snapshot();
        let (endpoint, watch) = self.pick(&snapshot, upstream, wish, avoid)?;
        let plain = upstream
            .policy
            .tls
            .as_ref()
            .is_some_and(|tls| tls.mode == TlsMode::Disable);
        let path = if plain {
            Path::Plain
        } else {
            upstream::path_to(&self.worker, &endpoint).map_err(Unreachable::Connect)?
        };
        let load = self.worker.take_load(endpoint.addr);
        Ok(Hop {
            endpoint,
            path,
            service: names,
            policy: Arc::clone(&upstream.policy),
            watch,
            permit: None,
            _load: load,
        })
    }

    fn pick(
        &self,
        snapshot: &Snapshot,
        upstream: &Upstream,
        wish: Wish,
        avoid: &[SocketAddr],
    ) -> Result<(Arc<Endpoint>, Option<Watch>), Unreachable> {
        let policy = &upstream.policy;
        let endpoints = &upstream.endpoints;
        let chosen = |index: Option<usize>, watch: Option<Watch>| {
            let endpoint = index
                .and_then(|i| endpoints.get(i))
                .ok_or(Unreachable::NoEndpoint)?;
            Ok((Arc::clone(endpoint), watch.map(|w| w.of(endpoint.addr))))
        };
        // What came to a gateway was dialled to the gateway itself.
        let passthrough = policy.load_balancer.algorithm == Algorithm::Simple(Simple::Passthrough);
        if passthrough && self.edge.is_none() {
            return Ok((self.dialled(snapshot), None));
        }
        let policies = &self.worker.shared.policies;
        let prefer_v6 = self.original.is_ipv6();
        let load = |e: &Endpoint| self.worker.load_of(&e.addr);
        let (distribution, weighted) = upstream
            .service
            .as_ref()
            .map_or((Distribution::Any, false), |s| (s.distribution, s.weighted()));
        // A list that nobody else holds was made for this request: a pod that was dialled by its own address.
        let own = Arc::strong_count(endpoints) == 1;
        if own || !Balancer::needed(policy, distribution, weighted) {
            let group = own.then(|| policies.outliers.group(upstream)).flatten();
            if let Some(group) = &group
                && endpoints.iter().all(|e| group.is_out(&e.addr))
            {
                return Err(Unreachable::NoEndpoint);
            }
            let is_out = |addr: &SocketAddr| group.as_ref().is_some_and(|group| group.is_out(addr));
            let index = match wish.pinned(endpoints, avoid, is_out) {
                Some(index) => Some(index),
                None if endpoints.len() == 1 => Some(0),
                None => {
                    let draws = (fastrand::u32(..), fastrand::u32(..));
                    pick_endpoint(endpoints, prefer_v6, avoid, draws, &load)
                }
            };
            return chosen(index, group.map(|g| Watch::new(g, endpoints)));
        }
        let shared = policies
            .balancers
            .of(&policies.outliers, snapshot, upstream, &self.source, prefer_v6);
        let out = shared.group.as_ref().map(|group| group.out());
        let is_out = |addr: &SocketAddr| out.as_ref().is_some_and(|out| out.contains(addr));
        let pinned = wish.pinned(shared.balancer.endpoints(), avoid, is_out);
        let balanced = || {
            shared.balancer.pick(&Choice {
                draws: PickDraws {
                    first: fastrand::u32(..),
                    second: fastrand::u32(..),
                    locality: fastrand::u32(..),
                },
                turn: shared.turn(),
                hash: wish.hash,
                avoid,
                ejected: &|e| out.as_ref().is_some_and(|out| out.contains(&e.addr)),
                load: &load,
                age: &|e| shared.age(e),
            })
        };
        let index = pinned.or_else(balanced);
        let watch = shared
            .group
            .as_ref()
            .map(|g| Watch::new(Arc::clone(g), endpoints));
        chosen(index, watch)
    }

    /// What the application dialled, as an endpoint.
    fn dialled(&self, snapshot: &Snapshot) -> Arc<Endpoint> {
        Arc::new(Endpoint::new(
            self.original,
            snapshot.workload_by_ip(self.original.ip()).cloned(),
        ))
    }
}
