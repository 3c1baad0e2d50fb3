//! Smallest objects that a field can be set in: what its neighbours need, and nothing that excludes it.

mod routes;
mod virtual_service;

use routes::{GRPC_ROUTE, HTTP_ROUTE, L4_ROUTE, TLS_ROUTE, route_filter};
use serde_json::{Value, json};
use virtual_service::VIRTUAL_SERVICE;

/// `spec`s for a field of a kind, the most specific first: those whose beginning of a path its path has.
pub(super) fn specs(kind: &str, group: &str, path: &str) -> Vec<Value> {
    if kind == "DestinationRule" {
        return destination_rule(path);
    }
    if kind == "Sidecar" && path.contains("onnectionPool.") {
        return vec![sidecar_pool(path)];
    }
    if let Some(bases) = route_filter(kind, path) {
        return bases;
    }
    let table: &[(&str, &str)] = match (group, kind) {
        ("networking.istio.io", "VirtualService") => &VIRTUAL_SERVICE,
        ("networking.istio.io", "Gateway") => &ISTIO_GATEWAY,
        ("networking.istio.io", "ServiceEntry") => &SERVICE_ENTRY,
        ("networking.istio.io", "WorkloadEntry") => &[("", r#"{"address": "10.9.0.9"}"#)],
        ("networking.istio.io", "WorkloadGroup") => &WORKLOAD_GROUP,
        ("networking.istio.io", "Sidecar") => &SIDECAR,
        ("security.istio.io", "PeerAuthentication") => &[(
            "",
            r#"{"selector": {"matchLabels": {"app": "a"}}, "mtls": {"mode": "PERMISSIVE"}}"#,
        )],
        ("security.istio.io", "AuthorizationPolicy") => &[("", r#"{"rules": [{}]}"#)],
        ("security.istio.io", "RequestAuthentication") => {
            &[("", r#"{"jwtRules": [{"issuer": "a", "jwks": "{\"keys\":[]}"}]}"#)]
        }
        ("gateway.networking.k8s.io", "HTTPRoute") => &HTTP_ROUTE,
        ("gateway.networking.k8s.io", "GRPCRoute") => &GRPC_ROUTE,
        ("gateway.networking.k8s.io", "TLSRoute") => &[("", TLS_ROUTE)],
        ("gateway.networking.k8s.io", "TCPRoute" | "UDPRoute") => &[("", L4_ROUTE)],
        ("gateway.networking.k8s.io", "Gateway") => &GATEWAY,
        ("gateway.networking.k8s.io", "ListenerSet") => &LISTENER_SET,
        ("gateway.networking.k8s.io", "GatewayClass") => &GATEWAY_CLASS,
        ("gateway.networking.k8s.io", "ReferenceGrant") => &REFERENCE_GRANT,
        ("gateway.networking.k8s.io", "BackendTLSPolicy") => &BACKEND_TLS,
        ("gateway.networking.x-k8s.io", "XBackendTrafficPolicy") => &BACKEND_TRAFFIC,
        _ => &[("", "{}")],
    };
    matching(table, path)
}

fn matching(table: &[(&str, &str)], path: &str) -> Vec<Value> {
    let mut matching: Vec<_> = table
        .iter()
        .filter(|(beginning, _)| path.starts_with(beginning))
        .collect();
    matching.sort_by_key(|(beginning, _)| std::cmp::Reverse(beginning.len()));
    // A base that is no JSON would make every probe of its fields unclear, which the test shows.
    let read = |(_, spec): &&(&str, &str)| serde_json::from_str(spec).unwrap_or(Value::Null);
    matching.iter().map(read).collect()
}

/// `trafficPolicy` stands in three places.
fn destination_rule(path: &str) -> Vec<Value> {
    let in_subset = path.starts_with("spec.subsets");
    let rule = |policy: Value| {
        let mut spec = json!({"host": "reviews"});
        if in_subset {
            spec["subsets"] = json!([{"name": "v1", "labels": {"version": "v1"}}]);
        }
        if !policy.is_null() {
            let place = if in_subset {
                &mut spec["subsets"][0]
            } else {
                &mut spec
            };
            place["trafficPolicy"] = policy;
        }
        spec
    };
    let Some((_, rest)) = path.split_once("trafficPolicy.") else {
        return vec![rule(Value::Null)];
    };
    let policies = match rest.strip_prefix("portLevelSettings[].") {
        None => matching(&TRAFFIC_POLICY, rest),
        Some(rest) => {
            let of_port = |mut settings: Value| {
                settings["port"] = json!({"number": 80});
                json!({"portLevelSettings": [settings]})
            };
            matching(&TRAFFIC_POLICY, rest).into_iter().map(of_port).collect()
        }
    };
    policies.into_iter().map(rule).collect()
}

const TRAFFIC_POLICY: [(&str, &str); 21] = [
    ("", "{}"),
    (
        "loadBalancer.consistentHash.httpCookie.attributes",
        r#"{"loadBalancer": {"consistentHash": {"httpCookie": {"name": "c", "attributes": [{"name": "a"}]}}}}"#,
    ),
    (
        "loadBalancer.consistentHash.httpCookie",
        r#"{"loadBalancer": {"consistentHash": {"httpCookie": {"name": "c", "ttl": "9s"}}}}"#,
    ),
    (
        "loadBalancer.consistentHash.ringHash",
        r#"{"loadBalancer": {"consistentHash": {"httpHeaderName": "x"}}}"#,
    ),
    (
        "loadBalancer.consistentHash.maglev",
        r#"{"loadBalancer": {"consistentHash": {"httpHeaderName": "x"}}}"#,
    ),
    (
        "loadBalancer.consistentHash.minimumRingSize",
        r#"{"loadBalancer": {"consistentHash": {"httpHeaderName": "x"}}}"#,
    ),
    (
        "loadBalancer.localityLbSetting",
        r#"{"outlierDetection": {"interval": "9s"}, "loadBalancer": {"simple": "ROUND_ROBIN"}}"#,
    ),
    (
        "loadBalancer.localityLbSetting.enabled",
        r#"{"outlierDetection": {"interval": "9s"}, "loadBalancer": {"localityLbSetting": {"failover": [{"from": "a", "to": "b"}]}}}"#,
    ),
    (
        "loadBalancer.localityLbSetting.distribute[].from",
        r#"{"loadBalancer": {"localityLbSetting": {"distribute": [{"from": "a/*", "to": {"b/*": 100}}]}}}"#,
    ),
    (
        "loadBalancer.localityLbSetting.distribute[].to",
        r#"{"loadBalancer": {"localityLbSetting": {"distribute": [{"from": "a/*", "to": {"b/*": 50}}]}}}"#,
    ),
    (
        "loadBalancer.localityLbSetting.failover[]",
        r#"{"outlierDetection": {"interval": "9s"}, "loadBalancer": {"localityLbSetting": {"failover": [{"from": "a", "to": "b"}]}}}"#,
    ),
    (
        "loadBalancer.localityLbSetting.failoverPriority",
        r#"{"outlierDetection": {"interval": "9s"}, "loadBalancer": {"simple": "ROUND_ROBIN"}}"#,
    ),
    (
        "loadBalancer.warmup",
        r#"{"loadBalancer": {"simple": "ROUND_ROBIN", "warmup": {"duration": "9s"}}}"#,
    ),
    (
        "loadBalancer.warmupDurationSecs",
        r#"{"loadBalancer": {"simple": "ROUND_ROBIN"}}"#,
    ),
    (
        "connectionPool.http.http2KeepAlive",
        r#"{"connectionPool": {"http": {"http2KeepAlive": {"interval": "9s", "timeout": "3s"}}}}"#,
    ),
    (
        "tunnel",
        r#"{"tunnel": {"protocol": "CONNECT", "targetHost": "a.example.com", "targetPort": 443}}"#,
    ),
    ("tls", r#"{"tls": {"mode": "SIMPLE"}}"#),
    ("tls.clientCertificate", r#"{"tls": {"mode": "MUTUAL"}}"#),
    ("tls.privateKey", r#"{"tls": {"mode": "MUTUAL"}}"#),
    ("tls.mode", "{}"),
    (
        "portLevelSettings[].port",
        r#"{"portLevelSettings": [{"port": {"number": 80}}]}"#,
    ),
];

fn sidecar_pool(path: &str) -> Value {
    let keepalive = if path.contains("http2KeepAlive") {
        json!({"http": {"http2KeepAlive": {"interval": "9s", "timeout": "3s"}}})
    } else {
        json!({})
    };
    if path.starts_with("spec.ingress") {
        json!({"ingress": [{"port": {"number": 80, "name": "http", "protocol": "HTTP"}, "connectionPool": keepalive}]})
    } else {
        json!({"inboundConnectionPool": keepalive})
    }
}

const SIDECAR: [(&str, &str); 5] = [
    ("", r#"{"egress": [{"hosts": ["./*"]}]}"#),
    (
        "spec.egress[].port",
        r#"{"egress": [{"port": {"number": 80, "name": "http", "protocol": "HTTP"}, "hosts": ["./*"]}]}"#,
    ),
    (
        "spec.ingress",
        r#"{"ingress": [{"port": {"number": 80, "name": "http", "protocol": "HTTP"}}]}"#,
    ),
    (
        "spec.ingress[].tls",
        r#"{"ingress": [{"port": {"number": 443, "name": "https", "protocol": "HTTPS"}, "tls": {"mode": "SIMPLE"}}]}"#,
    ),
    (
        "spec.outboundTrafficPolicy.egressProxy",
        r#"{"outboundTrafficPolicy": {"mode": "ALLOW_ANY", "egressProxy": {"host": "a.example.com"}}}"#,
    ),
];

const ISTIO_GATEWAY: [(&str, &str); 12] = [
    (
        "",
        r#"{"selector": {"istio": "ingressgateway"}, "servers": [{"name": "s", "port": {"number": 80, "name": "http", "protocol": "HTTP"}, "hosts": ["*"]}]}"#,
    ),
    (
        "spec.servers[].port.name",
        r#"{"servers": [{"port": {"number": 80, "name": "http", "protocol": "HTTP"}, "hosts": ["*"]}]}"#,
    ),
    (
        "spec.servers[].tls",
        r#"{"selector": {"istio": "ingressgateway"}, "servers": [{"name": "s", "port": {"number": 443, "name": "https", "protocol": "HTTPS"}, "hosts": ["*"], "tls": {"mode": "SIMPLE", "credentialName": "a"}}]}"#,
    ),
    (
        "spec.servers[].tls.httpsRedirect",
        r#"{"selector": {"istio": "ingressgateway"}, "servers": [{"name": "s", "port": {"number": 80, "name": "http", "protocol": "HTTP"}, "hosts": ["*"]}]}"#,
    ),
    (
        "spec.servers[].tls.credentialNames",
        r#"{"selector": {"istio": "ingressgateway"}, "servers": [{"name": "s", "port": {"number": 443, "name": "https", "protocol": "HTTPS"}, "hosts": ["*"], "tls": {"mode": "SIMPLE", "credentialNames": ["a"]}}]}"#,
    ),
    (
        "spec.servers[].tls.serverCertificate",
        r#"{"selector": {"istio": "ingressgateway"}, "servers": [{"name": "s", "port": {"number": 443, "name": "https", "protocol": "HTTPS"}, "hosts": ["*"], "tls": {"mode": "SIMPLE", "serverCertificate": "/a", "privateKey": "/b"}}]}"#,
    ),
    (
        "spec.servers[].tls.privateKey",
        r#"{"selector": {"istio": "ingressgateway"}, "servers": [{"name": "s", "port": {"number": 443, "name": "https", "protocol": "HTTPS"}, "hosts": ["*"], "tls": {"mode": "SIMPLE", "serverCertificate": "/a", "privateKey": "/b"}}]}"#,
    ),
    (
        "spec.servers[].tls.tlsCertificates",
        r#"{"selector": {"istio": "ingressgateway"}, "servers": [{"name": "s", "port": {"number": 443, "name": "https", "protocol": "HTTPS"}, "hosts": ["*"], "tls": {"mode": "SIMPLE", "tlsCertificates": [{"serverCertificate": "/a", "privateKey": "/b"}]}}]}"#,
    ),
    (
        "spec.servers[].tls.ca",
        r#"{"selector": {"istio": "ingressgateway"}, "servers": [{"name": "s", "port": {"number": 443, "name": "https", "protocol": "HTTPS"}, "hosts": ["*"], "tls": {"mode": "MUTUAL", "credentialName": "a"}}]}"#,
    ),
    (
        "spec.servers[].tls.subjectAltNames",
        r#"{"selector": {"istio": "ingressgateway"}, "servers": [{"name": "s", "port": {"number": 443, "name": "https", "protocol": "HTTPS"}, "hosts": ["*"], "tls": {"mode": "MUTUAL", "credentialName": "a"}}]}"#,
    ),
    (
        "spec.servers[].tls.verifyCertificate",
        r#"{"selector": {"istio": "ingressgateway"}, "servers": [{"name": "s", "port": {"number": 443, "name": "https", "protocol": "HTTPS"}, "hosts": ["*"], "tls": {"mode": "MUTUAL", "credentialName": "a"}}]}"#,
    ),
    (
        "spec.servers[].tls.insecureSkipVerify",
        r#"{"selector": {"istio": "ingressgateway"}, "servers": [{"name": "s", "port": {"number": 443, "name": "https", "protocol": "HTTPS"}, "hosts": ["*"], "tls": {"mode": "MUTUAL", "credentialName": "a"}}]}"#,
    ),
];

const SERVICE_ENTRY: [(&str, &str); 3] = [
    (
        "",
        r#"{"hosts": ["a.example.com"], "location": "MESH_EXTERNAL", "resolution": "STATIC", "ports": [{"number": 443, "name": "tls", "protocol": "TLS"}], "endpoints": [{"address": "10.8.0.1"}]}"#,
    ),
    (
        "spec.workloadSelector",
        r#"{"hosts": ["a.example.com"], "resolution": "STATIC", "ports": [{"number": 443, "name": "tls", "protocol": "TLS"}]}"#,
    ),
    (
        "spec.resolution",
        r#"{"hosts": ["a.example.com"], "ports": [{"number": 443, "name": "tls", "protocol": "TLS"}]}"#,
    ),
];

const WORKLOAD_GROUP: [(&str, &str); 2] = [
    ("", r#"{"template": {"serviceAccount": "a"}}"#),
    (
        "spec.probe",
        r#"{"template": {"serviceAccount": "a"}, "probe": {"tcpSocket": {"port": 80}}}"#,
    ),
];

const GATEWAY_CLASS: [(&str, &str); 2] = [
    ("", r#"{"controllerName": "heddle.io/gateway-controller"}"#),
    (
        "spec.parametersRef",
        r#"{"controllerName": "heddle.io/gateway-controller", "parametersRef": {"group": "a.io", "kind": "B", "name": "c"}}"#,
    ),
];

const GATEWAY: [(&str, &str); 10] = [
    (
        "spec.tls.backend",
        r#"{"gatewayClassName": "heddle", "tls": {"backend": {"clientCertificateRef": {"name": "a"}}}}"#,
    ),
    (
        "spec.tls.frontend",
        r#"{"gatewayClassName": "heddle", "tls": {"frontend": {"default": {"validation": {"caCertificateRefs": [{"group": "", "kind": "ConfigMap", "name": "a"}]}}, "perPort": [{"port": 443, "tls": {"validation": {"caCertificateRefs": [{"group": "", "kind": "ConfigMap", "name": "a"}]}}}]}}}"#,
    ),
    (
        "spec.allowedListeners.namespaces.selector",
        r#"{"gatewayClassName": "heddle", "allowedListeners": {"namespaces": {"from": "Selector", "selector": {}}}}"#,
    ),
    (
        "spec.allowedListeners.namespaces.selector.matchExpressions",
        r#"{"gatewayClassName": "heddle", "allowedListeners": {"namespaces": {"from": "Selector", "selector": {"matchExpressions": [{"key": "a", "operator": "In", "values": ["b"]}]}}}}"#,
    ),
    (
        "spec.infrastructure.parametersRef",
        r#"{"gatewayClassName": "heddle", "infrastructure": {"parametersRef": {"group": "a.io", "kind": "B", "name": "c"}}}"#,
    ),
    (
        "spec.listeners[].allowedRoutes.kinds",
        r#"{"gatewayClassName": "heddle", "listeners": [{"name": "http", "port": 80, "protocol": "HTTP", "allowedRoutes": {"kinds": [{"kind": "HTTPRoute"}]}}]}"#,
    ),
    (
        "spec.listeners[].allowedRoutes.namespaces.selector",
        r#"{"gatewayClassName": "heddle", "listeners": [{"name": "http", "port": 80, "protocol": "HTTP", "allowedRoutes": {"namespaces": {"from": "Selector", "selector": {}}}}]}"#,
    ),
    (
        "spec.listeners[].allowedRoutes.namespaces.selector.matchExpressions",
        r#"{"gatewayClassName": "heddle", "listeners": [{"name": "http", "port": 80, "protocol": "HTTP", "allowedRoutes": {"namespaces": {"from": "Selector", "selector": {"matchExpressions": [{"key": "a", "operator": "In", "values": ["b"]}]}}}}]}"#,
    ),
    (
        "",
        r#"{"gatewayClassName": "heddle", "listeners": [{"name": "http", "port": 80, "protocol": "HTTP"}]}"#,
    ),
    (
        "spec.listeners[].tls",
        r#"{"gatewayClassName": "heddle", "listeners": [{"name": "https", "port": 443, "protocol": "HTTPS", "tls": {"certificateRefs": [{"name": "cert"}]}}]}"#,
    ),
];

const LISTENER_SET: [(&str, &str); 5] = [
    (
        "spec.listeners[].allowedRoutes.kinds",
        r#"{"parentRef": {"name": "gw"}, "listeners": [{"name": "http", "port": 80, "protocol": "HTTP", "allowedRoutes": {"kinds": [{"kind": "HTTPRoute"}]}}]}"#,
    ),
    (
        "spec.listeners[].allowedRoutes.namespaces.selector",
        r#"{"parentRef": {"name": "gw"}, "listeners": [{"name": "http", "port": 80, "protocol": "HTTP", "allowedRoutes": {"namespaces": {"from": "Selector", "selector": {}}}}]}"#,
    ),
    (
        "spec.listeners[].allowedRoutes.namespaces.selector.matchExpressions",
        r#"{"parentRef": {"name": "gw"}, "listeners": [{"name": "http", "port": 80, "protocol": "HTTP", "allowedRoutes": {"namespaces": {"from": "Selector", "selector": {"matchExpressions": [{"key": "a", "operator": "In", "values": ["b"]}]}}}}]}"#,
    ),
    (
        "",
        r#"{"parentRef": {"name": "gw"}, "listeners": [{"name": "http", "port": 80, "protocol": "HTTP"}]}"#,
    ),
    (
        "spec.listeners[].tls",
        r#"{"parentRef": {"name": "gw"}, "listeners": [{"name": "https", "port": 443, "protocol": "HTTPS", "tls": {"certificateRefs": [{"name": "cert"}]}}]}"#,
    ),
];

const REFERENCE_GRANT: [(&str, &str); 1] = [(
    "",
    r#"{"from": [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "namespace": "a"}], "to": [{"group": "", "kind": "Service"}]}"#,
)];

const BACKEND_TLS: [(&str, &str); 4] = [
    (
        "",
        r#"{"targetRefs": [{"group": "", "kind": "Service", "name": "a"}], "validation": {"hostname": "a.example.com", "wellKnownCACertificates": "System"}}"#,
    ),
    (
        "spec.validation.caCertificateRefs",
        r#"{"targetRefs": [{"group": "", "kind": "Service", "name": "a"}], "validation": {"hostname": "a.example.com", "caCertificateRefs": [{"group": "", "kind": "ConfigMap", "name": "ca"}]}}"#,
    ),
    (
        "spec.validation.subjectAltNames",
        r#"{"targetRefs": [{"group": "", "kind": "Service", "name": "a"}], "validation": {"hostname": "a.example.com", "wellKnownCACertificates": "System", "subjectAltNames": [{"type": "Hostname", "hostname": "b.example.com"}]}}"#,
    ),
    (
        "spec.validation.subjectAltNames[].uri",
        r#"{"targetRefs": [{"group": "", "kind": "Service", "name": "a"}], "validation": {"hostname": "a.example.com", "wellKnownCACertificates": "System", "subjectAltNames": [{"type": "URI", "uri": "spiffe://a/b"}]}}"#,
    ),
];

const BACKEND_TRAFFIC: [(&str, &str); 1] = [(
    "",
    r#"{"targetRefs": [{"group": "", "kind": "Service", "name": "a"}]}"#,
)];
