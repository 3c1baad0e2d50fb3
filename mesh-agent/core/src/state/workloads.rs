//! Pods and namespaces → workloads.

use super::Sandbox;
use crate::model::ObjectName;
use crate::model::identity::SpiffeId;
use crate::model::snapshot::MeshSettings;
use crate::model::workload::{Enrollment, Labels, Names, Workload};
use crate::translate::{Condition, EndpointSpec, Membership, NamespaceSpec, PodSpec, TemplateSpec};
use std::net::IpAddr;
use std::sync::Arc;

/// What decides on membership besides the namespace.
struct Traits {
    membership: Option<Membership>,
    ended: bool,
    host_network: bool,
    sandboxed: bool,
    has_address: bool,
}

/// The workload that a pod is. `sandbox` are facts of this node, where there are any: then the pod's own annotation is
/// not believed.
pub(super) fn full(
    id: u32,
    pod: &ObjectName,
    names: Arc<Names>,
    spec: &PodSpec,
    facts: Option<&Facts<'_>>,
    namespace: &NamespaceSpec,
    settings: &MeshSettings,
) -> Workload {
    let sandbox = facts.and_then(|f| f.sandbox);
    let ips = match sandbox {
        Some(sandbox) if spec.ips.is_empty() => sandbox.ips.clone(),
        _ => spec.ips.clone(),
    };
    let netns = match facts {
        Some(_) => sandbox.map(|s| Arc::clone(&s.netns)),
        None => spec.netns.clone(),
    };
    let traits = Traits {
        membership: spec.membership,
        ended: spec.ended,
        host_network: spec.host_network,
        sandboxed: spec.sandboxed,
        has_address: !ips.is_empty(),
    };
    Workload {
        id,
        pod: pod.clone(),
        uid: uid(pod, spec.uid.as_ref()),
        node: Arc::clone(&spec.node),
        ips,
        labels: Arc::clone(&spec.labels),
        identity: identity(pod, &spec.service_account, settings),
        names,
        enrollment: enrollment(&traits, namespace),
        ready: spec.ready,
        netns,
        probe_ports: spec.probe_ports.clone(),
        fail_mode: namespace.fail_mode,
        resolves_itself: spec.resolves_itself,
    }
}

/// What only this node knows of one of its pods.
pub(super) struct Facts<'a> {
    pub(super) sandbox: Option<&'a Sandbox>,
}

/// The workload that another node's pod is: who it is says its template, where it is say the endpoints that name it.
pub(super) fn remote(
    id: u32,
    pod: &ObjectName,
    names: Arc<Names>,
    seen: &Seen,
    template: &TemplateSpec,
    namespace: &NamespaceSpec,
    settings: &MeshSettings,
) -> Workload {
    let traits = Traits {
        membership: template.membership,
        ended: false,
        host_network: template.host_network,
        sandboxed: template.sandboxed,
        has_address: !seen.ips.is_empty(),
    };
    Workload {
        id,
        pod: pod.clone(),
        uid: uid(pod, seen.uid.as_ref()),
        node: Arc::clone(&seen.node),
        ips: seen.ips.clone(),
        labels: Arc::clone(&template.labels),
        identity: identity(pod, &template.service_account, settings),
        names,
        enrollment: enrollment(&traits, namespace),
        ready: seen.ready,
        netns: None,
        probe_ports: Vec::new(),
        fail_mode: namespace.fail_mode,
        resolves_itself: false,
    }
}

/// What endpoints tell of the pod that they name.
pub(super) struct Seen {
    uid: Option<Arc<str>>,
    pub(super) node: Arc<str>,
    ips: Vec<IpAddr>,
    ready: bool,
}

impl Seen {
    /// Endpoints may still name an earlier pod of the same name: those that agree with the one that is ready count.
    pub(super) fn of(endpoints: &[&EndpointSpec]) -> Self {
        let ready = |e: &&&EndpointSpec| e.condition == Condition::Ready;
        let uid_of = |e: &EndpointSpec| e.pod.as_ref().and_then(|p| p.uid.clone());
        let uid = endpoints
            .iter()
            .find(ready)
            .or(endpoints.last())
            .and_then(|e| uid_of(e));
        let mut seen = Self {
            uid,
            node: "".into(),
            ips: Vec::new(),
            ready: endpoints.iter().any(|e| ready(&e)),
        };
        for endpoint in endpoints.iter().filter(|e| uid_of(e) == seen.uid) {
            if seen.node.is_empty() {
                seen.node = Arc::clone(&endpoint.node);
            }
            for ip in &endpoint.addresses {
                if !seen.ips.iter().any(|other| other.is_ipv4() == ip.is_ipv4()) {
                    seen.ips.push(*ip);
                }
            }
        }
        seen.ips.sort();
        seen
    }
}

/// What makes a pod another pod although its name is the same.
pub(super) fn uid(pod: &ObjectName, uid: Option<&Arc<str>>) -> Arc<str> {
    uid.cloned().unwrap_or_else(|| pod.to_string().into())
}

impl Seen {
    pub(super) fn uid(&self, pod: &ObjectName) -> Arc<str> {
        uid(pod, self.uid.as_ref())
    }
}

fn identity(pod: &ObjectName, account: &Arc<str>, settings: &MeshSettings) -> SpiffeId {
    SpiffeId::new(
        Arc::clone(&settings.trust_domain),
        Arc::clone(&pod.namespace),
        Arc::clone(account),
    )
}

fn enrollment(pod: &Traits, namespace: &NamespaceSpec) -> Enrollment {
    match (pod.membership, namespace.membership) {
        (Some(Membership::Out), _) => Enrollment::OptedOut,
        (None, None | Some(Membership::Out)) => Enrollment::NotAsked,
        _ if pod.ended => Enrollment::Ended,
        _ if pod.host_network => Enrollment::HostNetwork,
        _ if pod.sandboxed => Enrollment::SandboxedRuntime,
        _ if !pod.has_address => Enrollment::NoAddress,
        _ => Enrollment::Enrolled,
    }
}

/// What telemetry calls a pod with this owner and these labels.
pub(super) fn names(pod: &ObjectName, owner: Option<&(Arc<str>, Arc<str>)>, labels: &Labels) -> Arc<Names> {
    Arc::new(Names::of(pod, owner, labels))
}
