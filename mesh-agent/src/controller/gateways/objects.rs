//! A Gateway → the objects that it is made of: ServiceAccount, Service, Deployment. Pure.

use super::names::{GATEWAY_NAME, MANAGED_BY, MANAGER, labelled, object_name};
use mesh_core::model::ObjectName;
use mesh_core::state::GatewayNeeds;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

/// Readiness is asked here; a Service has it, so that load balancers can ask as well.
const STATUS_PORT: u16 = 15021;
/// Ports on which the program itself listens: status and metrics.
const OWN_PORTS: [u16; 2] = [STATUS_PORT, 15020];
/// Where listeners on the program's own ports are moved to, in a pod.
const MOVED: u16 = 20_000;

/// What every Gateway's objects have in common, as the chart says it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Template {
    /// `spec.template` of the Deployment; the first container is the gateway.
    pub pod_template: Value,
    /// `spec` of the Service, without ports and selector.
    #[serde(default)]
    pub service: Map<String, Value>,
}

impl Template {
    /// Reads it from JSON.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        let template: Self = serde_json::from_str(text).map_err(|error| error.to_string())?;
        match template.pod_template.pointer("/spec/containers/0/args") {
            Some(Value::Array(_)) => Ok(template),
            _ => Err("podTemplate.spec.containers[0].args is missing".to_owned()),
        }
    }
}

/// What a Gateway is made of, in the order in which it is to be written. `uid` is the Gateway's: with it they go.
pub(super) fn objects(template: &Template, name: &ObjectName, uid: &str, needs: &GatewayNeeds) -> Vec<Value> {
    let metadata = metadata(name, uid, needs);
    vec![
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata}),
        service(template, name, needs, &metadata),
        deployment(template, name, needs, &metadata),
    ]
}

fn metadata(name: &ObjectName, uid: &str, needs: &GatewayNeeds) -> Value {
    let mut labels = infrastructure(needs.labels.iter());
    labels.extend(labelled(name));
    labels.insert(MANAGED_BY.to_owned(), MANAGER.into());
    json!({
        "name": object_name(name),
        "namespace": &*name.namespace,
        "labels": labels,
        "annotations": infrastructure(needs.annotations.iter()),
        "ownerReferences": [{
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "controller": true,
            "name": &*name.name, "uid": uid,
        }],
    })
}

fn infrastructure<'a, T: AsRef<str> + 'a>(pairs: impl Iterator<Item = (&'a T, &'a T)>) -> Map<String, Value> {
    let pairs = pairs.map(|(key, value)| (key.as_ref().to_owned(), value.as_ref().into()));
    pairs.collect()
}

fn service(template: &Template, name: &ObjectName, needs: &GatewayNeeds, metadata: &Value) -> Value {
    let mut spec = template.service.clone();
    spec.insert("selector".to_owned(), labelled(name).into());
    if let (Some(address), Some("LoadBalancer")) = (needs.address, spec.get("type").and_then(Value::as_str)) {
        spec.insert("loadBalancerIP".to_owned(), address.to_string().into());
    }
    let mut ports = Vec::new();
    if !needs.ports.contains_key(&STATUS_PORT) {
        ports.push(
            json!({"name": "status-port", "port": STATUS_PORT, "targetPort": STATUS_PORT, "protocol": "TCP"}),
        );
    }
    let mut taken: BTreeSet<u16> = needs.ports.keys().copied().chain(OWN_PORTS).collect();
    for (port, kind) in &needs.ports {
        let target = match OWN_PORTS.contains(port) {
            false => *port,
            true => (MOVED..).find(|free| !taken.contains(free)).unwrap_or(*port),
        };
        taken.insert(target);
        let name = format!("{}-{port}", kind.name());
        ports.push(json!({"name": name, "port": port, "targetPort": target, "protocol": "TCP"}));
    }
    spec.insert("ports".to_owned(), ports.into());
    json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec})
}

fn deployment(template: &Template, name: &ObjectName, needs: &GatewayNeeds, metadata: &Value) -> Value {
    let mut pod = template.pod_template.clone();
    let selector = labelled(name);
    // What keeps the pod what it is comes last: no label of the Gateway's may enrol it.
    let given = std::mem::take(&mut pod["metadata"]);
    let section = |field: &str| {
        given
            .get(field)
            .and_then(Value::as_object)
            .cloned()
            .unwrap_or_default()
    };
    let mut labels = infrastructure(needs.labels.iter());
    labels.extend(section("labels"));
    labels.extend(selector.clone());
    let mut annotations = section("annotations");
    annotations.extend(infrastructure(needs.annotations.iter()));
    pod["metadata"] = json!({"labels": labels, "annotations": annotations});
    let account = object_name(name);
    if let Some(spec) = pod.get_mut("spec").and_then(Value::as_object_mut) {
        spec.insert("serviceAccountName".to_owned(), account.as_str().into());
        spread(spec, &selector);
    }
    if let Some(Value::Array(args)) = pod.pointer_mut("/spec/containers/0/args") {
        args.push(format!("--gateway={name}").into());
        args.push(format!("--workload={account}").into());
    }
    // Without a number of replicas: it is whoever's who scales the Deployment.
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata,
        "spec": {
            "selector": {"matchLabels": {GATEWAY_NAME: selector[GATEWAY_NAME]}},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "template": pod,
        },
    })
}

/// Replicas of one Gateway go to different nodes where there are several, unless the template says where they go.
fn spread(spec: &mut Map<String, Value>, selector: &Map<String, Value>) {
    let affinity = spec.entry("affinity").or_insert_with(|| json!({}));
    let Some(affinity) = affinity.as_object_mut() else {
        return;
    };
    affinity.entry("podAntiAffinity").or_insert_with(|| {
        json!({"preferredDuringSchedulingIgnoredDuringExecution": [{
            "weight": 100,
            "podAffinityTerm": {
                "labelSelector": {"matchLabels": selector},
                "topologyKey": "kubernetes.io/hostname",
            },
        }]})
    });
}
