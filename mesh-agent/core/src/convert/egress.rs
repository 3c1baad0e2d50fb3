//! EgressRule → ServiceEntry.

use super::raw::{EgressPort, EgressRule};
use super::{Head, Notes, label, object, spec};
use crate::translate::value::{FieldError, is_subdomain};
use serde_json::{Map, Value, json};
use std::net::IpAddr;

/// What a destination of then is now.
struct Place {
    hosts: Vec<String>,
    addresses: Vec<String>,
    resolution: &'static str,
}

/// The ServiceEntry.
pub(super) fn convert(head: &Head, value: &Value, notes: &mut Notes<'_>) -> Result<Vec<Value>, FieldError> {
    let raw: EgressRule = spec(value)?;
    if raw.use_egress_proxy == Some(true) {
        return Err(FieldError::new(
            "spec.useEgressProxy",
            "was never implemented: write a Gateway, a VirtualService and a ServiceEntry for an egress gateway",
        ));
    }
    let Some(service) = raw.destination.service.as_deref().filter(|s| !s.is_empty()) else {
        return Err(FieldError::new("spec.destination.service", "is missing"));
    };
    let place = place(head, service, notes)?;
    let mut spec = Map::new();
    spec.insert("hosts".into(), place.hosts.into());
    if !place.addresses.is_empty() {
        spec.insert("addresses".into(), place.addresses.into());
    }
    spec.insert("location".into(), "MESH_EXTERNAL".into());
    spec.insert("resolution".into(), place.resolution.into());
    spec.insert("ports".into(), ports(&raw.ports, notes)?);
    notes.add("", "is a ServiceEntry now");
    Ok(vec![object(
        "networking.istio.io/v1",
        "ServiceEntry",
        &head.key.namespace,
        &head.key.name,
        spec,
    )])
}

fn place(head: &Head, service: &str, notes: &mut Notes<'_>) -> Result<Place, FieldError> {
    let at = "spec.destination.service";
    if is_address(service) {
        let host = format!("{}.{}.internal", label(&head.key.name), head.key.namespace);
        notes.add(
            at,
            format!(
                "{service} is in addresses; a ServiceEntry must have a host: {host} is only a name for it"
            ),
        );
        return Ok(Place {
            hosts: vec![host],
            addresses: vec![service.to_owned()],
            resolution: "NONE",
        });
    }
    let wildcard = service.strip_prefix("*.");
    if !is_subdomain(&wildcard.unwrap_or(service).to_ascii_lowercase()) {
        return Err(FieldError::new(
            at,
            "is no DNS name, *.DNS name, IP address or CIDR",
        ));
    }
    Ok(Place {
        hosts: vec![service.to_owned()],
        addresses: Vec::new(),
        resolution: if wildcard.is_some() { "NONE" } else { "DNS" },
    })
}

fn is_address(text: &str) -> bool {
    match text.split_once('/') {
        None => text.parse::<IpAddr>().is_ok(),
        Some((ip, length)) => match ip.parse::<IpAddr>() {
            Ok(ip) => length
                .parse::<u8>()
                .is_ok_and(|n| n <= if ip.is_ipv4() { 32 } else { 128 }),
            Err(_) => false,
        },
    }
}

fn ports(given: &[EgressPort], notes: &mut Notes<'_>) -> Result<Value, FieldError> {
    if given.is_empty() {
        return Err(FieldError::new("spec.ports", "is missing: at least one port"));
    }
    let mut ports = Vec::new();
    for (i, port) in given.iter().enumerate() {
        let at = format!("spec.ports[{i}]");
        if port.port == 0 {
            return Err(FieldError::new(format!("{at}.port"), "expected 1 to 65535"));
        }
        let protocol = port.protocol.to_ascii_uppercase();
        match protocol.as_str() {
            "HTTP" | "HTTP2" | "GRPC" | "TCP" | "MONGO" => {}
            "HTTPS" => notes.add(
                format!("{at}.protocol"),
                format!(
                    "the application called http://host:{0} and the proxy made TLS of it; now it calls https://host:{0} itself",
                    port.port
                ),
            ),
            _ => {
                return Err(FieldError::new(
                    format!("{at}.protocol"),
                    format!("{:?}: expected HTTP, HTTPS, HTTP2, GRPC, TCP or MONGO", port.protocol),
                ));
            }
        }
        ports.push(json!({
            "number": port.port,
            "name": format!("{}-{}", protocol.to_ascii_lowercase(), port.port),
            "protocol": protocol,
        }));
    }
    Ok(ports.into())
}
