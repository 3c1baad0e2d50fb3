//! Small look-ups in a snapshot that both directions need.

use mesh_core::model::service::{Endpoint, Protocol, Service, ServicePort};
use mesh_core::model::snapshot::{Snapshot, Target};
use mesh_core::model::workload::Workload;
use std::net::SocketAddr;
use std::sync::Arc;

/// A service port that has `addr`, an address of `workload`, as endpoint. Services select pods of their own
/// namespace, and both lists are sorted, so that this is short. The first by name wins where there are several.
pub(super) fn port_of(
    snapshot: &Snapshot,
    workload: &Workload,
    addr: SocketAddr,
) -> Option<(Arc<Service>, Arc<ServicePort>)> {
    let namespace = &workload.pod.namespace;
    let first = snapshot
        .services
        .partition_point(|s| s.name.namespace < *namespace);
    snapshot.services[first..]
        .iter()
        .take_while(|s| s.name.namespace == *namespace)
        .find_map(|service| {
            let port = service.ports.iter().find(|port| has(&port.endpoints, addr))?;
            Some((Arc::clone(service), Arc::clone(port)))
        })
}

/// The service of this host, if `addr` is an endpoint of it: what the client's node says it was asked for.
pub(super) fn told(snapshot: &Snapshot, addr: SocketAddr, host: &str) -> Option<Arc<Service>> {
    let service = snapshot.service_by_host(host, None)?;
    let serves = service.ports.iter().any(|port| has(&port.endpoints, addr));
    serves.then(|| Arc::clone(service))
}

fn has(endpoints: &[Arc<Endpoint>], addr: SocketAddr) -> bool {
    endpoints.iter().any(|e| e.addr == addr)
}

/// What is spoken at a target.
pub(super) fn protocol_of(snapshot: &Snapshot, target: &Target, addr: SocketAddr) -> Protocol {
    let opaque = |namespace: &Arc<str>| snapshot.l4_only.contains(namespace);
    match target {
        Target::Service(service, _) if opaque(&service.name.namespace) => Protocol::Tcp,
        Target::Workload(workload) if opaque(&workload.pod.namespace) => Protocol::Tcp,
        Target::Service(_, port) => port.protocol,
        Target::Workload(workload) => {
            port_of(snapshot, workload, addr).map_or(Protocol::Auto, |(_, port)| port.protocol)
        }
        Target::NoSuchPort(_) | Target::Unknown => Protocol::Auto,
    }
}
