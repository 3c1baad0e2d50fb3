//! Destinations → endpoints, with Envoy's answer where there is none.

use super::{Refusal, RequestFacts, Upstream};
use crate::model::route::Destination;
use crate::model::service::{Endpoint, Service, ServicePort};
use crate::model::snapshot::{Snapshot, Target};
use crate::model::traffic::TrafficPolicy;
use crate::model::workload::Workload;
use std::net::SocketAddr;
use std::sync::Arc;

/// 404 `NR`.
#[cold]
pub(super) fn no_route(detail: impl FnOnce() -> String) -> Refusal {
    Refusal {
        status: 404,
        flag: "NR",
        detail: detail(),
    }
}

/// 503 `NC`: the configuration names something that is not there.
#[cold]
fn no_cluster(detail: String) -> Refusal {
    Refusal {
        status: 503,
        flag: "NC",
        detail,
    }
}

#[cold]
fn no_endpoint(detail: String) -> Refusal {
    Refusal {
        status: 503,
        flag: "UH",
        detail,
    }
}

#[cold]
pub(super) fn no_such_port(service: &Service, port: u16) -> Refusal {
    no_route(|| format!("service {} has no port {port}", service.name))
}

/// All ready endpoints of a service port, or the address that was dialled where the service is reached by that.
pub(super) fn service_port(
    snapshot: &Snapshot,
    client: Option<&Workload>,
    service: &Arc<Service>,
    port: &Arc<ServicePort>,
    dialled: Option<SocketAddr>,
) -> Result<Upstream, Refusal> {
    if let Some(addr) = dialled.filter(|_| service.keeps_address()) {
        return Ok(original(snapshot, client, service, port, addr));
    }
    if port.endpoints.is_empty() {
        return Err(no_endpoint(format!(
            "service {} port {} has no ready endpoint",
            service.name, port.number
        )));
    }
    Ok(Upstream {
        service: Some(Arc::clone(service)),
        port: Some(Arc::clone(port)),
        subset: None,
        endpoints: Arc::clone(&port.endpoints),
        policy: snapshot.policy(service, port.number, None, client),
        backend: snapshot.backend_policy(service),
    })
}

/// The address that was dialled, by a service's name.
fn original(
    snapshot: &Snapshot,
    client: Option<&Workload>,
    service: &Arc<Service>,
    port: &Arc<ServicePort>,
    addr: SocketAddr,
) -> Upstream {
    Upstream {
        service: Some(Arc::clone(service)),
        port: Some(Arc::clone(port)),
        subset: None,
        endpoints: Arc::new([Arc::new(Endpoint::new(addr, None))]),
        policy: snapshot.policy(service, port.number, None, client),
        backend: snapshot.backend_policy(service),
    }
}

/// What nobody knows: left alone, or refused where only the registry may be reached (T-80, T-81).
pub(super) fn unknown(snapshot: &Snapshot, request: &RequestFacts<'_>) -> Result<Upstream, Refusal> {
    if snapshot.registry_only(request.client) {
        return Err(Refusal {
            status: 502,
            flag: "NR",
            detail: "neither the Host header nor the address dialled is in the registry, and \
                     outboundTrafficPolicy is REGISTRY_ONLY"
                .into(),
        });
    }
    let Some(addr) = request.dialled else {
        return Err(no_route(|| {
            "neither the Host header nor the address dialled is known".into()
        }));
    };
    Ok(Upstream {
        service: None,
        port: None,
        subset: None,
        endpoints: Arc::new([Arc::new(Endpoint::new(addr, None))]),
        policy: TrafficPolicy::mesh_default(),
        backend: None,
    })
}

/// A pod dialled by its own address: that pod at that port, by any of its addresses.
pub(super) fn pod(workload: &Arc<Workload>, port: u16) -> Upstream {
    let at = |ip: &std::net::IpAddr| {
        Arc::new(Endpoint::new(
            SocketAddr::new(*ip, port),
            Some(Arc::clone(workload)),
        ))
    };
    Upstream {
        service: None,
        port: None,
        subset: None,
        endpoints: workload.ips.iter().map(at).collect(),
        policy: TrafficPolicy::mesh_default(),
        backend: None,
    }
}

/// As [`pod`], named by the headless service that the client used.
pub(super) fn chosen_pod(
    snapshot: &Snapshot,
    client: Option<&Workload>,
    workload: &Arc<Workload>,
    port: u16,
    headless: Option<&Arc<Service>>,
) -> Upstream {
    let mut upstream = pod(workload, port);
    if let Some(service) = headless {
        // A headless service's clients dial target ports; its own numbers are a convention.
        let found = service.ports.iter().find(|p| {
            p.endpoints
                .iter()
                .any(|e| e.addr.port() == port && is(e, workload))
        });
        upstream.port = found.or_else(|| service.port(port)).cloned();
        if let Some(port) = &upstream.port {
            upstream.policy = snapshot.policy(service, port.number, None, client);
        }
        upstream.backend = snapshot.backend_policy(service);
        upstream.service = Some(Arc::clone(service));
    }
    upstream
}

fn is(endpoint: &Endpoint, workload: &Workload) -> bool {
    endpoint.workload.as_ref().is_some_and(|w| w.id == workload.id)
}

/// A destination of a rule.
pub(super) fn destination(
    snapshot: &Snapshot,
    request: &RequestFacts<'_>,
    wanted: &Destination,
) -> Result<Upstream, Refusal> {
    let namespace = request.client.map(|c| &*c.pod.namespace);
    let found = snapshot.service_by_host(&wanted.host, namespace);
    let Some(service) = found.filter(|s| snapshot.sees(request.client, s)) else {
        return Err(no_cluster(format!("host {} is no service", wanted.host)));
    };
    let (place, port) = port_of(service, wanted.port, request)?;
    if let Some(mut addr) = request.dialled.filter(|_| service.keeps_address()) {
        if wanted.port.is_some() {
            addr.set_port(port.number);
        }
        return Ok(original(snapshot, request.client, service, port, addr));
    }
    let (list, policy) = match &wanted.subset {
        None => {
            let policy = snapshot.policy(service, port.number, None, request.client);
            (&port.endpoints, policy)
        }
        Some(name) => subset(snapshot, request, service, name, place)?,
    };
    let mut upstream = Upstream {
        service: Some(Arc::clone(service)),
        port: Some(Arc::clone(port)),
        subset: wanted.subset.clone(),
        endpoints: Arc::clone(list),
        policy,
        backend: snapshot.backend_policy(service),
    };
    if let Target::Workload(dialled) = request.target {
        // The pod that the client chose stays chosen as long as the rule allows it (T-10).
        let kept: Vec<_> = list.iter().filter(|e| is(e, dialled)).cloned().collect();
        if !kept.is_empty() {
            upstream.endpoints = kept.into();
        }
    }
    if upstream.endpoints.is_empty() {
        return Err(no_endpoint(format!(
            "{} has no ready endpoint",
            describe(&upstream)
        )));
    }
    Ok(upstream)
}

/// The named port, else the only one, else the one that the client used.
fn port_of<'a>(
    service: &'a Service,
    wanted: Option<u16>,
    request: &RequestFacts<'_>,
) -> Result<(usize, &'a Arc<ServicePort>), Refusal> {
    let number = match (wanted, service.ports.as_slice()) {
        (Some(number), _) => number,
        (None, [only]) => only.number,
        (None, _) => request.port,
    };
    let found = service.ports.iter().enumerate().find(|(_, p)| p.number == number);
    found.ok_or_else(|| no_cluster(format!("service {} has no port {number}", service.name)))
}

fn subset<'a>(
    snapshot: &'a Snapshot,
    request: &RequestFacts<'_>,
    service: &Service,
    name: &str,
    port: usize,
) -> Result<Part<'a>, Refusal> {
    snapshot
        .subsets_for(service, request.client)
        .and_then(|rules| rules.subset(name))
        .and_then(|s| Some((s.endpoints.get(port)?, Arc::clone(s.policies.get(port)?))))
        .ok_or_else(|| {
            no_cluster(format!(
                "no DestinationRule defines subset {name} of {}",
                service.host
            ))
        })
}

/// Endpoints, and how they are used.
type Part<'a> = (&'a Arc<[Arc<Endpoint>]>, Arc<TrafficPolicy>);

/// `ns/name:port subset x, n endpoints`.
pub(super) fn describe(upstream: &Upstream) -> String {
    use std::fmt::Write as _;
    let first = upstream.endpoints.first().map(|e| (e.addr, e.workload.as_ref()));
    let mut text = match (&upstream.service, first) {
        (Some(service), _) => format!("service {}", service.name),
        (None, Some((addr, Some(pod)))) => format!("pod {} at {addr}", pod.pod),
        (None, _) => "an address".into(),
    };
    if let Some(port) = &upstream.port {
        let _ = write!(text, " port {}", port.number);
    }
    if let Some(subset) = &upstream.subset {
        let _ = write!(text, " subset {subset}");
    }
    let _ = write!(text, " ({} endpoints)", upstream.endpoints.len());
    text
}

/// What applies to the endpoints, where that is not the mesh's default: ` by DestinationRule ns/name: LEAST_REQUEST`.
pub(super) fn policy(upstream: &Upstream) -> String {
    let policy = &upstream.policy;
    let mut text = String::new();
    if !policy.objects.is_empty() {
        let names: Vec<String> = policy.objects.iter().map(ToString::to_string).collect();
        text = format!(" by DestinationRule {}: {}", names.join(", "), policy.describe());
    }
    match &upstream.backend {
        None => text,
        Some(backend) => format!("{text} by {backend}"),
    }
}
