//! What a gateway process serves: the Gateways that select it, the VirtualServices bound to them, the Secrets they name.

mod api;
mod assemble;
pub(super) mod credentials;
mod ingress;
mod needs;
mod sites;

use super::ObjectKey;
use super::tables::Tables;
use super::world::Warning;
use crate::model::ObjectName;
use crate::model::gateway::{Bind, Edge, GatewayRole, ListenerOrigin};
use crate::model::snapshot::MeshSettings;
use crate::translate::{GatewaySpec, IngressPath, PortRef, ServerSpec, resolve_port};
use assemble::{Draft, assemble};
pub(super) use needs::wanted_addresses;
pub use needs::{GatewayNeeds, GatewayPort, Material, Place};
use sites::Bound;
use std::sync::Arc;

/// Builds everything that the process in this role serves, and says what of it cannot be.
pub(super) fn edge(
    role: &GatewayRole,
    tables: &Tables,
    settings: &MeshSettings,
    warnings: &mut Vec<Warning>,
) -> Edge {
    let bound = Bound::index(tables, &role.pod.namespace);
    let mut drafts = Vec::new();
    if let Some(gateway) = &role.gateway {
        drafts = api::drafts(role, tables, gateway);
    } else {
        for (name, gateway) in selected(role, tables) {
            for (index, server) in gateway.servers.iter().enumerate() {
                drafts.push(draft(
                    role, tables, &bound, name, gateway, index, server, warnings,
                ));
            }
        }
        drafts.extend(ingress::drafts(role, tables, settings, warnings));
    }
    assemble(drafts, warnings)
}

/// Whether what a Service far from the gateway is like shows in [`edge`]: Ingresses may name its ports.
pub(super) fn reads_services(tables: &Tables) -> bool {
    let named = |path: &IngressPath| matches!(path.port, PortRef::Name(_));
    tables.ingresses.values().flat_map(|i| &i.paths).any(named)
}

/// The Gateways whose selector the process has, of all namespaces, oldest first.
fn selected<'a>(role: &GatewayRole, tables: &'a Tables) -> Vec<(&'a ObjectName, &'a GatewaySpec)> {
    let has = |(key, value): (&Arc<str>, &Arc<str>)| role.labels.get(key) == Some(value);
    let mut selected: Vec<_> = tables
        .gateways
        .iter()
        .filter(|(_, gateway)| gateway.selector.iter().all(has))
        .collect();
    selected.sort_by_key(|(name, gateway)| (&gateway.created, *name));
    selected
}

#[allow(clippy::too_many_arguments, reason = "all of what is known of one server")]
fn draft(
    role: &GatewayRole,
    tables: &Tables,
    bound: &Bound<'_>,
    name: &ObjectName,
    gateway: &GatewaySpec,
    index: usize,
    server: &ServerSpec,
    warnings: &mut Vec<Warning>,
) -> Draft {
    let origin = ListenerOrigin {
        kind: "Gateway",
        group: "networking.istio.io",
        object: name.clone(),
        list: "spec.servers",
        index,
    };
    let tls = server.tls.as_ref().map(|spec| {
        let tls = credentials::server_tls(tables, &role.pod.namespace, spec);
        if let Some(reason) = &tls.broken {
            let reason = format!("{reason}: nothing is served");
            warnings.push(warning(&origin, "tls", reason));
        }
        Arc::new(tls)
    });
    Draft {
        created: Arc::clone(&gateway.created),
        bind: Bind {
            port: listening_port(role, tables, server.port),
            address: server.bind,
        },
        name: Arc::clone(&server.name),
        port: server.port,
        protocol: server.protocol,
        hosts: server.hosts.iter().map(|h| Arc::clone(&h.pattern)).collect(),
        tls,
        shared: true,
        sites: bound.sites(&origin, server),
        connections: bound.connections(name, server),
        origin,
    }
}

/// Where the process listens for a server's port: the target port of the Service that has it and selects the process; a
/// port that no Service has is the process's own (S134).
fn listening_port(role: &GatewayRole, tables: &Tables, port: u16) -> u16 {
    let services = tables.services.get(&role.pod.namespace).into_iter().flatten();
    let has = |(key, value): (&Arc<str>, &Arc<str>)| role.labels.get(key) == Some(value);
    let named = tables
        .pod(&role.pod)
        .map_or(&[][..], |pod| pod.named_ports.as_slice());
    services
        .filter(|(_, service)| service.selector.as_ref().is_some_and(|s| s.iter().all(has)))
        .find_map(|(_, service)| {
            let found = service.ports.iter().find(|p| p.number == port)?;
            resolve_port(&found.target, named)
        })
        .unwrap_or(port)
}

fn warning(origin: &ListenerOrigin, field: &str, reason: String) -> Warning {
    let at = format!("{}[{}]", origin.list, origin.index);
    Warning {
        key: ObjectKey::of(origin.group, origin.kind, &origin.object),
        field: if field.is_empty() {
            at
        } else {
            format!("{at}.{field}")
        },
        reason,
    }
}

#[cfg(test)]
mod tests;
