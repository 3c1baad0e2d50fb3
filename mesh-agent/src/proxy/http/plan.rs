//! Where a request goes: the core's decision, or the one application that an inbound connection is for.

use super::super::lookup;
use super::super::outbound::{Hop, Outbound, PASSTHROUGH, Unreachable};
use super::super::policy::Wish;
use super::edge;
use super::headers::View;
use crate::telemetry::labels::{ServiceNames, UNKNOWN};
use http::HeaderValue;
use http::request::Parts;
use mesh_core::model::route::RetryPolicy;
use mesh_core::model::service::{Endpoint, Protocol};
use mesh_core::model::snapshot::{Snapshot, Target};
use mesh_core::routing::{self, Answer, Decision, Draws, Refusal, RequestFacts, RoutePlan, Upstream};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What the source's node has decided.
pub(super) enum Plan {
    /// The core's decision.
    Routed(Box<RoutePlan>, Arc<ServiceNames>),
    /// The address that was dialled.
    Dialled(Arc<Endpoint>, Arc<ServiceNames>, Protocol),
}

/// What the proxy answers by itself, and the service that it stands in for.
pub(super) enum Own {
    /// A rule says so.
    Answer(Box<Answer>, Arc<ServiceNames>),
    /// There is nowhere to forward to.
    Refuse(Refusal, Arc<ServiceNames>),
}

/// Decides on a request of a pod.
pub(super) fn decide(
    conn: &Outbound,
    snapshot: &Snapshot,
    parts: &Parts,
    authority: &HeaderValue,
) -> Result<Plan, Own> {
    if let Some(at) = &conn.edge {
        return edge::decide(conn, at, snapshot, parts, authority);
    }
    let target = snapshot.target_for(conn.original, Some(&conn.source));
    let facts = RequestFacts {
        client: Some(&conn.source),
        gateway: None,
        dialled: Some(conn.original),
        target: &target,
        port: conn.original.port(),
        method: parts.method.as_str(),
        scheme: "http",
        authority: authority.to_str().unwrap_or_default(),
        path: parts.uri.path_and_query().map_or("/", |p| p.as_str()),
        headers: &View(&parts.headers),
    };
    match routing::route_request(snapshot, &facts, draws()) {
        Decision::Forward(plan) => Ok(forward(conn, snapshot, &target, plan)),
        Decision::Answer(answer) => Err(Own::Answer(Box::new(answer), names_of(conn, &target))),
        Decision::Refuse(refusal) => Err(Own::Refuse(refusal, names_of(conn, &target))),
    }
}

pub(super) fn draws() -> Draws {
    Draws {
        split: fastrand::u32(..),
        mirror: fastrand::u32(..),
        delay: fastrand::u32(..),
        abort: fastrand::u32(..),
        now: now(),
    }
}

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |time| time.as_secs())
}

/// What an answer of the proxy's own counts for.
fn names_of(conn: &Outbound, target: &Target) -> Arc<ServiceNames> {
    let meter = &conn.worker.meter;
    match target {
        Target::Service(service, _) | Target::NoSuchPort(service) => meter.service(service),
        Target::Workload(_) => meter.named(UNKNOWN),
        Target::Unknown => meter.named(super::super::outbound::BLACK_HOLE),
    }
}

pub(super) fn forward(conn: &Outbound, snapshot: &Snapshot, target: &Target, plan: RoutePlan) -> Plan {
    match (&plan.upstream.service, target) {
        // A pod dialled by its own address keeps that pod.
        (None, Target::Workload(workload)) => {
            let (names, protocol) = match lookup::port_of(snapshot, workload, conn.original) {
                Some((service, port)) => (conn.worker.meter.service(&service), port.protocol),
                None => (conn.worker.meter.named(UNKNOWN), Protocol::Auto),
            };
            dialled(conn, Some(workload), names, protocol)
        }
        (Some(service), _) => {
            let names = conn.worker.meter.service(service);
            Plan::Routed(Box::new(plan), names)
        }
        (None, _) => Plan::Routed(Box::new(plan), conn.worker.meter.named(PASSTHROUGH)),
    }
}

fn dialled(
    conn: &Outbound,
    workload: Option<&Arc<mesh_core::model::workload::Workload>>,
    names: Arc<ServiceNames>,
    protocol: Protocol,
) -> Plan {
    let endpoint = Arc::new(Endpoint::new(conn.original, workload.cloned()));
    Plan::Dialled(endpoint, names, protocol)
}

impl Plan {
    /// `destination_service*` of the metrics.
    pub(super) const fn names(&self) -> &Arc<ServiceNames> {
        match self {
            Self::Routed(_, names) | Self::Dialled(_, names, _) => names,
        }
    }

    /// The route's timeout.
    pub(super) fn timeout(&self) -> Option<Duration> {
        match self {
            Self::Routed(plan, _) => plan.timeout(),
            Self::Dialled(..) => None,
        }
    }

    /// The route's retries.
    pub(super) fn retries(&self) -> &RetryPolicy {
        match self {
            Self::Routed(plan, _) => plan.retries(),
            Self::Dialled(..) => RetryPolicy::mesh_default(),
        }
    }

    /// The core's decision, if there is one.
    pub(super) fn route(&self) -> Option<&RoutePlan> {
        match self {
            Self::Routed(plan, _) => Some(plan),
            Self::Dialled(..) => None,
        }
    }

    /// Whether the upstream's port is declared to speak HTTP/2.
    fn declares_http2(&self) -> bool {
        let protocol = match self {
            Self::Routed(plan, _) => plan.upstream.port.as_ref().map_or(Protocol::Auto, |p| p.protocol),
            Self::Dialled(_, _, protocol) => *protocol,
        };
        matches!(protocol, Protocol::Http2 | Protocol::Grpc)
    }

    /// Whether the upstream's port is declared to speak HTTP/1.1.
    fn declares_http1(&self) -> bool {
        let port = self.route().and_then(|r| r.upstream.port.as_ref());
        port.is_some_and(|p| p.protocol == Protocol::Http)
    }

    /// The upstream and its policy, where there is one.
    pub(super) fn upstream(&self) -> Option<&Upstream> {
        self.route().map(|r| &r.upstream)
    }

    /// Whether a request goes on as HTTP/2, given whether it came so, and whether it `follows` that: a pod that dials
    /// speaks what its server speaks; a client of a gateway chose what the gateway speaks, but for gRPC, which is nothing
    /// else.
    pub(super) fn wants_http2(&self, came_so: bool, follows: bool) -> bool {
        let http = self.upstream().map(|u| &u.policy.connection_pool.http);
        if http.is_some_and(|h| h.use_client_protocol) {
            return came_so;
        }
        // What is not declared may speak anything: only HTTP is upgraded (`h2UpgradePolicy`).
        follows || self.declares_http2() || (self.declares_http1() && http.is_some_and(|h| h.upgrade))
    }

    /// An endpoint for the next try.
    pub(super) fn hop(&self, conn: &Outbound, wish: Wish, avoid: &[SocketAddr]) -> Result<Hop, Unreachable> {
        let names = Arc::clone(self.names());
        match self {
            Self::Routed(plan, _) => conn.hop_to(names, &plan.upstream, wish, avoid),
            Self::Dialled(endpoint, ..) => conn.hop(names, std::slice::from_ref(endpoint), &[]),
        }
    }
}

/// An endpoint of a mirror.
pub(super) fn mirror_hop(conn: &Outbound, upstream: &Upstream) -> Option<Hop> {
    let names = match &upstream.service {
        Some(service) => conn.worker.meter.service(service),
        None => conn.worker.meter.named(UNKNOWN),
    };
    conn.hop_to(names, upstream, Wish::default(), &[]).ok()
}
