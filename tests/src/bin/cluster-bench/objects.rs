//! The objects of a large mesh: namespaces in the mesh, services that kube-proxy leaves alone, their EndpointSlices
//! with pods on nodes that do not exist, and what the controller would say of these pods.

use serde_json::{Value, json};
use std::net::Ipv4Addr;

/// Namespaces are called this and a number.
const PREFIX: &str = "bench";
const SERVICES_A_NAMESPACE: u32 = 200;
/// kube-proxy and CoreDNS are not what is measured.
const OTHER_PROXY: (&str, &str) = ("service.kubernetes.io/service-proxy-name", "bench.heddle.io");

/// Which objects there are.
#[derive(Clone, Copy)]
pub(crate) struct Mesh {
    pub(crate) services: u32,
    per_service: u32,
}

impl Mesh {
    pub(crate) fn new(services: u32, endpoints: u32) -> Self {
        Self {
            services,
            per_service: (endpoints / services).clamp(1, 100),
        }
    }

    pub(crate) fn endpoints(&self) -> u32 {
        self.services * self.per_service
    }

    pub(crate) fn per_service(&self) -> u32 {
        self.per_service
    }

    pub(crate) fn namespaces(&self) -> impl Iterator<Item = String> + use<> {
        (0..self.services.div_ceil(SERVICES_A_NAMESPACE)).map(|n| format!("{PREFIX}-{n}"))
    }

    /// Every tenth service is one that the kernel serves itself, as its port is opaque.
    pub(crate) fn is_opaque(service: u32) -> bool {
        service.is_multiple_of(10)
    }

    pub(crate) fn service(&self, service: u32) -> Value {
        let (name, protocol) = (
            name(service),
            if Self::is_opaque(service) { "tcp" } else { "http" },
        );
        json!({"apiVersion": "v1", "kind": "Service",
            "metadata": {"name": name, "namespace": namespace(service), "labels": {
                "app.kubernetes.io/name": name, OTHER_PROXY.0: OTHER_PROXY.1}},
            "spec": {"ports": [{"name": protocol, "port": 80, "targetPort": 8080}]}})
    }

    /// `waiting` says which of its endpoints are not ready.
    pub(crate) fn slice(&self, service: u32, waiting: impl Fn(u32) -> bool) -> Value {
        let (name, namespace) = (name(service), namespace(service));
        let protocol = if Self::is_opaque(service) { "tcp" } else { "http" };
        let endpoint = |i: u32| {
            let pod = service * self.per_service + i;
            let ready = !waiting(i);
            json!({"addresses": [Ipv4Addr::from(0x0b00_0001 + pod).to_string()],
                "nodeName": format!("bench-node-{}", pod % 1_000), "zone": "bench-a",
                "conditions": {"ready": ready, "serving": ready, "terminating": false},
                "targetRef": {"kind": "Pod", "namespace": namespace, "name": format!("{name}-7d9f6c5b4-{}", suffix(pod)),
                    "uid": format!("6f1d0a52-8c4e-4b7a-9d3e-{pod:012x}")}})
        };
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": format!("{name}-x7k2p"), "namespace": namespace, "labels": {
                "kubernetes.io/service-name": name, "endpointslice.kubernetes.io/managed-by": "bench.heddle.io",
                "app.kubernetes.io/name": name, OTHER_PROXY.0: OTHER_PROXY.1}},
            "ports": [{"name": protocol, "port": 8080, "protocol": "TCP"}],
            "endpoints": (0..self.per_service).map(endpoint).collect::<Vec<_>>()})
    }

    pub(crate) fn template(&self, service: u32) -> Value {
        let name = name(service);
        json!({"apiVersion": "mesh.heddle.io/v1alpha1", "kind": "WorkloadTemplate",
            "metadata": {"name": format!("{name}-7d9f6c5b4"), "namespace": namespace(service)},
            "spec": {"podPrefix": format!("{name}-7d9f6c5b4-"), "serviceAccountName": name,
                "labels": {"app": name, "version": "v1", "app.kubernetes.io/part-of": "bench"},
                "owner": {"kind": "deployment", "name": name}}})
    }
}

pub(crate) fn namespace(service: u32) -> String {
    format!("{PREFIX}-{}", service / SERVICES_A_NAMESPACE)
}

pub(crate) fn name(service: u32) -> String {
    format!("service-{service}")
}

pub(crate) fn in_the_mesh(namespace: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": namespace, "labels": {"heddle.io/mesh": "enabled"}}})
}

/// Five characters, as the API server appends them to a generateName.
fn suffix(pod: u32) -> String {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut number = pod;
    let mut text = String::new();
    for _ in 0..5 {
        text.push(char::from(LETTERS[number as usize % LETTERS.len()]));
        number /= 27;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_pod_has_a_name_and_an_address_of_its_own() {
        let mesh = Mesh::new(300, 1_500);
        let slices: Vec<Value> = (0..300).map(|s| mesh.slice(s, |_| false)).collect();
        let endpoints = slices.iter().flat_map(|s| s["endpoints"].as_array().unwrap());
        let names: BTreeSet<(String, String)> = endpoints
            .map(|e| (e["targetRef"]["name"].to_string(), e["addresses"].to_string()))
            .collect();
        assert_eq!((mesh.endpoints(), names.len()), (1_500, 1_500));
        assert_eq!(mesh.namespaces().collect::<Vec<_>>(), ["bench-0", "bench-1"]);
    }
}
