//! Who sends a request, and what it dials.

use super::Request;
use crate::model::ObjectName;
use crate::model::host;
use crate::model::identity::SpiffeId;
use crate::model::snapshot::{Snapshot, Target};
use crate::model::workload::{Enrollment, FailMode, Names, Workload};
use crate::routing::{HeaderView, RequestFacts};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

/// The pod that a request names, or one that has the labels that it gives; `None` if there is no such pod.
pub(super) fn of(snapshot: &Snapshot, request: &Request) -> Option<Arc<Workload>> {
    let Some(name) = &request.client else {
        let known = request.client_address.and_then(|ip| snapshot.workload_by_ip(ip));
        if let Some(known) = known {
            return Some(Arc::clone(known));
        }
        return Some(Arc::new(imagined(snapshot, request)));
    };
    let (namespace, pod) = name.split_once('/')?;
    let name = ObjectName::new(namespace, pod);
    let local = snapshot.workloads.iter().find(|w| w.pod == name);
    local.or_else(|| snapshot.remotes.get(&name)).cloned()
}

fn imagined(snapshot: &Snapshot, request: &Request) -> Workload {
    let namespace = request.namespace.as_deref().unwrap_or("default");
    let name: Arc<str> = "client".into();
    let labels = request
        .labels
        .iter()
        .map(|(key, value)| (Arc::from(key.as_str()), Arc::from(value.as_str())))
        .collect();
    Workload {
        id: 0,
        pod: ObjectName::new(namespace, "client"),
        uid: Arc::clone(&name),
        node: "".into(),
        ips: Vec::new(),
        labels: Arc::new(labels),
        identity: SpiffeId::new(Arc::clone(&snapshot.settings.trust_domain), namespace, "default"),
        names: Arc::new(Names {
            workload: Arc::clone(&name),
            kind: "pod".into(),
            app: Arc::clone(&name),
            version: "unknown".into(),
            canonical_service: Arc::clone(&name),
            canonical_revision: "latest".into(),
        }),
        enrollment: Enrollment::Enrolled,
        ready: true,
        netns: None,
        probe_ports: Vec::new(),
        fail_mode: FailMode::Closed,
        resolves_itself: false,
    }
}

struct Headers(BTreeMap<String, String>);

impl HeaderView for Headers {
    fn joined(&self, name: &str) -> Option<Cow<'_, str>> {
        self.0.get(name).map(|value| Cow::Borrowed(value.as_str()))
    }
}

/// Runs `f` on the request as the matcher sees it in this world.
pub(super) fn with_facts<T>(
    snapshot: &Snapshot,
    client: &Workload,
    request: &Request,
    f: impl FnOnce(&RequestFacts<'_>) -> T,
) -> T {
    let lower = |(name, value): (&String, &String)| (name.to_ascii_lowercase(), value.clone());
    let headers = Headers(request.headers.iter().map(lower).collect());
    let port = port(request);
    let gateway = request.gateway.as_deref().map(|name| {
        let (namespace, name) = name.split_once('/').unwrap_or(("default", name));
        ObjectName::new(namespace, name)
    });
    let (target, address) = match &gateway {
        None => dialled(snapshot, client, request, port),
        Some(_) => (Target::Unknown, None),
    };
    f(&RequestFacts {
        client: gateway.is_none().then_some(client),
        gateway: gateway.as_ref(),
        target: &target,
        port,
        dialled: address,
        method: &request.method,
        scheme: "http",
        authority: &request.host,
        path: &request.path,
        headers: &headers,
    })
}

fn port(request: &Request) -> u16 {
    let written = || {
        let (name, port) = request.host.rsplit_once(':')?;
        port.parse()
            .ok()
            .filter(|_| !name.contains(':') || name.ends_with(']'))
    };
    request.port.or_else(written).unwrap_or(80)
}

/// What DNS would give for the host: a service's virtual address, or a pod of a headless one.
fn dialled(
    snapshot: &Snapshot,
    client: &Workload,
    request: &Request,
    port: u16,
) -> (Target, Option<SocketAddr>) {
    if let Some(address) = request.address {
        let address = SocketAddr::new(address, port);
        return (snapshot.target(address), Some(address));
    }
    let name = host::canonical(&request.host);
    let Some(service) = host::service_named(snapshot, &name, Some(&client.pod.namespace)) else {
        return (Target::Unknown, None);
    };
    if let Some(vip) = service.vips.first() {
        let address = SocketAddr::new(*vip, port);
        return (snapshot.target(address), Some(address));
    }
    let first = service.port(port).and_then(|port| port.endpoints.first());
    match first {
        Some(endpoint) => (snapshot.target(endpoint.addr), Some(endpoint.addr)),
        None => (Target::Unknown, None),
    }
}
