//! Namespaces that are not in the mesh, and annotations that nobody reads.

use super::Report;
use super::code::{MANY_LABELS, NAMESPACE_NOT_ENROLLED, UNKNOWN_ANNOTATION};
use super::world::World;
use serde_json::{Map, Value};

/// Annotations and labels that mean something here.
const OURS: [&str; 6] = [
    "heddle.io/mesh",
    "heddle.io/fail-mode",
    "heddle.io/l7",
    "heddle.io/netns",
    "heddle.io/analyze-suppress",
    "galley.istio.io/analyze-suppress",
];
/// Beginnings of annotations of sidecars and their injection.
const OF_SIDECARS: [&str; 4] = [
    "sidecar.istio.io/",
    "proxy.istio.io/",
    "traffic.sidecar.istio.io/",
    "inject.istio.io/",
];
/// Namespaces of Kubernetes and of the meshes themselves.
const SYSTEM: [&str; 5] = [
    "kube-system",
    "kube-public",
    "kube-node-lease",
    "istio-system",
    "heddle-system",
];

pub(super) fn check(world: &World<'_>, report: &mut Report) {
    for namespace in world.of("", "Namespace") {
        let name = namespace.key.name.as_str();
        let labels = &namespace.value["metadata"]["labels"];
        let sidecars = labels["istio-injection"] == "enabled" || labels["istio.io/rev"].is_string();
        let used = world.workloads.iter().any(|w| w.key.namespace == name);
        if is_enrolled(labels) {
            if sidecars {
                let text = "is labelled for sidecars too: Istio would inject them into the pods of this mesh";
                report.add(&MANY_LABELS, &namespace.key, "metadata.labels", text);
            }
        } else if !is_refused(labels) && !SYSTEM.contains(&name) && (used || sidecars) {
            let text = if sidecars {
                "istio-injection and istio.io/rev enrol nothing here: label it heddle.io/mesh=enabled"
            } else {
                "is not in the mesh: label it heddle.io/mesh=enabled, or disabled if that is meant"
            };
            report.add(&NAMESPACE_NOT_ENROLLED, &namespace.key, "metadata.labels", text);
        }
    }
    for object in &world.objects {
        let places = [
            ("metadata.annotations", &object.value["metadata"]["annotations"]),
            (
                "spec.template.metadata.annotations",
                &object.value["spec"]["template"]["metadata"]["annotations"],
            ),
        ];
        for (at, annotations) in places {
            for key in annotations.as_object().into_iter().flat_map(Map::keys) {
                if let Some(text) = unread(key) {
                    report.add(&UNKNOWN_ANNOTATION, &object.key, format!("{at}.{key}"), text);
                }
            }
        }
    }
}

/// By label, as the agents read it.
pub(super) fn is_enrolled(labels: &Value) -> bool {
    match labels["heddle.io/mesh"].as_str() {
        Some(word) => word == "enabled",
        None => labels["istio.io/dataplane-mode"] == "ambient",
    }
}

fn is_refused(labels: &Value) -> bool {
    labels["heddle.io/mesh"] == "disabled" || labels["istio.io/dataplane-mode"] == "none"
}

fn unread(key: &str) -> Option<String> {
    if OURS.contains(&key) {
        None
    } else if key.starts_with("heddle.io/") {
        Some("is no annotation of Heddle".into())
    } else if OF_SIDECARS.iter().any(|beginning| key.starts_with(beginning)) {
        Some("has no effect: there is no sidecar".into())
    } else {
        None
    }
}
