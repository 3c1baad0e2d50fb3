//! Pods and namespaces → workloads.

use crate::model::ObjectName;
use crate::model::identity::SpiffeId;
use crate::model::snapshot::MeshSettings;
use crate::model::workload::{Enrollment, Names, Workload};
use crate::translate::{Membership, NamespaceSpec, PodSpec};
use std::net::IpAddr;
use std::sync::Arc;

/// The workload that a pod is.
pub(super) fn workload(
    id: u32,
    pod: &ObjectName,
    spec: &PodSpec,
    namespace: NamespaceSpec,
    settings: &MeshSettings,
) -> Workload {
    let identity = SpiffeId::new(
        Arc::clone(&settings.trust_domain),
        Arc::clone(&pod.namespace),
        Arc::clone(&spec.service_account),
    );
    Workload {
        id,
        pod: pod.clone(),
        uid: uid(pod, spec),
        node: Arc::clone(&spec.node),
        ips: spec.ips.clone(),
        labels: Arc::clone(&spec.labels),
        identity,
        names: names(pod, spec),
        enrollment: enrollment(spec, namespace),
        ready: spec.ready,
        netns: spec.netns.clone(),
        probe_ports: spec.probe_ports.clone(),
        fail_mode: namespace.fail_mode,
    }
}

/// What makes a pod another pod although its name is the same.
pub(super) fn uid(pod: &ObjectName, spec: &PodSpec) -> Arc<str> {
    spec.uid.clone().unwrap_or_else(|| pod.to_string().into())
}

fn enrollment(spec: &PodSpec, namespace: NamespaceSpec) -> Enrollment {
    match (spec.membership, namespace.membership) {
        (Some(Membership::Out), _) => Enrollment::OptedOut,
        (None, None | Some(Membership::Out)) => Enrollment::NotAsked,
        _ if spec.ended => Enrollment::Ended,
        _ if spec.host_network => Enrollment::HostNetwork,
        _ if spec.sandboxed => Enrollment::SandboxedRuntime,
        _ if spec.ips.is_empty() => Enrollment::NoAddress,
        _ => Enrollment::Enrolled,
    }
}

fn names(pod: &ObjectName, spec: &PodSpec) -> Names {
    let label = |keys: &[&str]| keys.iter().find_map(|k| spec.labels.get(*k)).cloned();
    let (kind, workload) = match &spec.owner {
        Some((kind, name)) => (Arc::clone(kind), Arc::clone(name)),
        None => ("pod".into(), Arc::clone(&pod.name)),
    };
    let canonical_service = label(&["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"])
        .unwrap_or_else(|| Arc::clone(&workload));
    let revision = [
        "service.istio.io/canonical-revision",
        "app.kubernetes.io/version",
        "version",
    ];
    Names {
        workload,
        kind,
        app: label(&["app"]).unwrap_or_else(|| Arc::clone(&canonical_service)),
        version: label(&["version"]).unwrap_or_else(|| "unknown".into()),
        canonical_revision: label(&revision).unwrap_or_else(|| "latest".into()),
        canonical_service,
    }
}

/// Which of two pods that claim one address has it: one that runs rather than one that has stopped being ready.
pub(super) fn prefer<'a>(old: Option<&'a Arc<Workload>>, new: &'a Arc<Workload>) -> &'a Arc<Workload> {
    match old {
        Some(old) if old.ready || !new.ready => old,
        _ => new,
    }
}

/// The addresses by which others know this pod: not those of its node, nor those that it no longer has.
pub(super) fn own_addresses<'a>(spec: &PodSpec, workload: &'a Workload) -> &'a [IpAddr] {
    if spec.host_network || spec.ended {
        &[]
    } else {
        &workload.ips
    }
}
