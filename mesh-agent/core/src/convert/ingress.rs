//! Ingress of class `istio` in an API version that Kubernetes no longer serves → Gateway and VirtualServices.

use super::{Head, Notes, label, object, spec};
use crate::translate::value::FieldError;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

const CLASS: &str = "kubernetes.io/ingress.class";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Spec {
    backend: Option<Backend>,
    #[serde(rename = "ingressClassName")]
    _class: Option<String>,
    tls: Option<Vec<Tls>>,
    rules: Option<Vec<Rule>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Tls {
    hosts: Option<Vec<String>>,
    secret_name: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    host: Option<String>,
    http: Option<Http>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Http {
    paths: Vec<Path>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Path {
    path: Option<String>,
    path_type: Option<String>,
    backend: Backend,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Backend {
    service_name: String,
    service_port: Value,
}

/// Whether this is an Ingress for Istio that is too old for today's API servers.
pub(super) fn is_istio(object: &Value) -> bool {
    let old = matches!(
        object["apiVersion"].as_str(),
        Some("extensions/v1beta1" | "networking.k8s.io/v1beta1")
    );
    let class = object["metadata"]["annotations"][CLASS].as_str();
    old && class.or(object["spec"]["ingressClassName"].as_str()) == Some("istio")
}

/// A Gateway, and a VirtualService for each host.
pub(super) fn convert(
    head: &Head,
    value: &Value,
    services: &BTreeMap<(String, String), Value>,
    notes: &mut Notes<'_>,
) -> Result<Vec<Value>, FieldError> {
    let raw: Spec = spec(value)?;
    for key in value["metadata"]["annotations"]
        .as_object()
        .into_iter()
        .flat_map(Map::keys)
    {
        if key != CLASS && key.contains("ingress") {
            return Err(FieldError::new(
                format!("metadata.annotations.{key}"),
                "has no form in a Gateway or VirtualService",
            ));
        }
    }
    let around = Around { head, services };
    let mut by_host: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for (i, rule) in raw.rules.unwrap_or_default().into_iter().enumerate() {
        let host = rule.host.filter(|h| !h.is_empty()).unwrap_or_else(|| "*".into());
        for (j, path) in rule.http.into_iter().flat_map(|http| http.paths).enumerate() {
            let at = format!("spec.rules[{i}].http.paths[{j}]");
            let route = around.route(&at, &path, notes)?;
            by_host.entry(host.clone()).or_default().push(route);
        }
    }
    if let Some(backend) = &raw.backend {
        let destination = around.destination("spec.backend", backend)?;
        by_host
            .entry("*".into())
            .or_default()
            .push(json!({"route": [{"destination": destination}]}));
    }
    if by_host.is_empty() {
        return Err(FieldError::new("spec", "says nothing: rules or backend"));
    }
    let hosts: Vec<&String> = by_host.keys().collect();
    let mut objects = vec![gateway(head, &hosts, raw.tls.unwrap_or_default(), notes)];
    let many = by_host.len() > 1;
    for (host, http) in by_host {
        let name = if many {
            label(&format!("{}-{}", head.key.name, host.replace('*', "any")))
        } else {
            head.key.name.clone()
        };
        let spec = Map::from_iter([
            ("hosts".to_owned(), json!([host])),
            ("gateways".to_owned(), json!([head.key.name])),
            ("http".to_owned(), http.into()),
        ]);
        objects.push(current("VirtualService", &head.key.namespace, &name, spec));
    }
    notes.add(
        "",
        "is a Gateway for pods labelled istio=ingressgateway, and a VirtualService for each host",
    );
    Ok(objects)
}

fn current(kind: &str, namespace: &str, name: &str, spec: Map<String, Value>) -> Value {
    object("networking.istio.io/v1", kind, namespace, name, spec)
}

fn gateway(head: &Head, hosts: &[&String], tls: Vec<Tls>, notes: &mut Notes<'_>) -> Value {
    let mut servers = vec![json!({
        "port": {"number": 80, "name": "http", "protocol": "HTTP"},
        "hosts": hosts,
    })];
    for (i, tls) in tls.into_iter().enumerate() {
        let secret = tls.secret_name.unwrap_or_else(|| "istio-ingress-certs".into());
        notes.add(
            format!("spec.tls[{i}].secretName"),
            format!("Secret {secret} is read from the namespace of the gateway's pods now"),
        );
        let own: Vec<String> = tls.hosts.unwrap_or_default();
        let hosts = if own.is_empty() { json!(hosts) } else { json!(own) };
        servers.push(json!({
            "port": {"number": 443, "name": format!("https-{i}"), "protocol": "HTTPS"},
            "hosts": hosts,
            "tls": {"mode": "SIMPLE", "credentialName": secret},
        }));
    }
    let spec = Map::from_iter([
        ("selector".to_owned(), json!({"istio": "ingressgateway"})),
        ("servers".to_owned(), servers.into()),
    ]);
    current("Gateway", &head.key.namespace, &head.key.name, spec)
}

struct Around<'a> {
    head: &'a Head,
    services: &'a BTreeMap<(String, String), Value>,
}

impl Around<'_> {
    fn route(&self, at: &str, path: &Path, notes: &mut Notes<'_>) -> Result<Value, FieldError> {
        let destination = self.destination(&format!("{at}.backend"), &path.backend)?;
        let route = json!([{"destination": destination}]);
        let Some(text) = path.path.as_deref().filter(|p| !p.is_empty()) else {
            return Ok(json!({"route": route}));
        };
        let uri = match path.path_type.as_deref() {
            Some("Exact") => json!({"exact": text}),
            Some("Prefix") => {
                notes.add(
                    format!("{at}.path"),
                    "a prefix of path elements is a prefix of characters now: /a also matches /ab",
                );
                json!({"prefix": text})
            }
            _ => as_istio_read(&format!("{at}.path"), text, notes),
        };
        Ok(json!({"match": [{"uri": uri}], "route": route}))
    }

    fn destination(&self, at: &str, backend: &Backend) -> Result<Value, FieldError> {
        let at = format!("{at}.servicePort");
        let number = match (&backend.service_port, backend.service_port.as_u64()) {
            (_, Some(number)) => number,
            (Value::String(text), _) => match text.parse::<u16>() {
                Ok(number) => number.into(),
                Err(_) => self.named(&at, &backend.service_name, text)?,
            },
            _ => return Err(FieldError::new(at, "is neither a number nor a name")),
        };
        if !(1..=65_535).contains(&number) {
            return Err(FieldError::new(at, "expected 1 to 65535"));
        }
        Ok(json!({"host": backend.service_name, "port": {"number": number}}))
    }

    /// A VirtualService knows ports by number only.
    fn named(&self, at: &str, service: &str, port: &str) -> Result<u64, FieldError> {
        let namespace = &self.head.key.namespace;
        let found = self.services.get(&(namespace.clone(), service.to_owned()));
        let ports = found.and_then(|service| service["spec"]["ports"].as_array());
        ports
            .into_iter()
            .flatten()
            .find(|p| p["name"] == port)
            .and_then(|p| p["port"].as_u64())
            .ok_or_else(|| {
                FieldError::new(
                    at,
                    format!("{port:?} is a name: ports are numbers now, and Service {namespace}/{service}, which would tell, is not in the input"),
                )
            })
    }
}

/// Istio took a path with special characters as a regular expression, and one that ends in `.*` as a prefix.
fn as_istio_read(at: &str, path: &str, notes: &mut Notes<'_>) -> Value {
    let special = |text: &str| text.contains(|c| r"\.+*?()|[]{}^$".contains(c));
    match path.strip_suffix(".*") {
        _ if !special(path) => json!({"exact": path}),
        Some(prefix) if !special(prefix) => json!({"prefix": prefix}),
        _ => {
            notes.add(at, "is a regular expression, as then: it has special characters");
            json!({"regex": path})
        }
    }
}
