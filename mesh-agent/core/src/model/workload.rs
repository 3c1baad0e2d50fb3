//! Pods.

use super::ObjectName;
use super::identity::SpiffeId;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

/// Labels of an object, shared by everything that has the same set.
pub type Labels = Arc<BTreeMap<Arc<str>, Arc<str>>>;

/// One running instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Number in the BPF maps; unique among live pods known to this agent and never 0. Kept while the pod lives.
    pub id: u32,
    /// Namespace and name of the pod.
    pub pod: ObjectName,
    /// `metadata.uid`, or namespace/name where the source gives none.
    pub uid: Arc<str>,
    /// `spec.nodeName`.
    pub node: Arc<str>,
    /// `status.podIPs`; at most one of each family.
    pub ips: Vec<IpAddr>,
    /// `metadata.labels`.
    pub labels: Labels,
    /// Who the pod is: its service account in the mesh's trust domain.
    pub identity: SpiffeId,
    /// What telemetry calls it; the same for all pods of one template.
    pub names: Arc<Names>,
    /// Whether its connections are captured, or why not.
    pub enrollment: Enrollment,
    /// Ready to be an endpoint.
    pub ready: bool,
    /// Path of the pod's network namespace, known for pods of this node only.
    pub netns: Option<Arc<str>>,
    /// Ports that the kubelet probes (`livenessProbe`, `readinessProbe`, `startupProbe`).
    pub probe_ports: Vec<u16>,
    /// What happens to new connections while no agent runs.
    pub fail_mode: FailMode,
    /// Its questions for names go to its own name server (`ambient.istio.io/dns-capture: "false"`).
    pub resolves_itself: bool,
}

impl Workload {
    /// Whether the pod takes part in the mesh: it is captured, and speaks HBONE to other nodes.
    #[must_use]
    pub fn enrolled(&self) -> bool {
        self.enrollment == Enrollment::Enrolled
    }
}

/// Names under which metrics, logs and baggage know a workload (Istio telemetry labels).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Names {
    /// Name of the owner (Deployment, StatefulSet, …) or of the pod itself: `source_workload`.
    pub workload: Arc<str>,
    /// Kind of the owner in lower case: `deployment`, `pod`, …
    pub kind: Arc<str>,
    /// `app` label, else the canonical service name.
    pub app: Arc<str>,
    /// `version` label, else `unknown`.
    pub version: Arc<str>,
    /// `service.istio.io/canonical-name`, `app.kubernetes.io/name`, `app`, else the workload name.
    pub canonical_service: Arc<str>,
    /// `service.istio.io/canonical-revision`, `app.kubernetes.io/version`, `version`, else `latest`.
    pub canonical_revision: Arc<str>,
}

impl Names {
    /// The names of a pod with this owner (kind and name) and these labels.
    #[must_use]
    pub fn of(pod: &ObjectName, owner: Option<&(Arc<str>, Arc<str>)>, labels: &Labels) -> Self {
        let label = |keys: &[&str]| keys.iter().find_map(|k| labels.get(*k)).cloned();
        let (kind, workload) = match owner {
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
        Self {
            workload,
            kind,
            app: label(&["app"]).unwrap_or_else(|| Arc::clone(&canonical_service)),
            version: label(&["version"]).unwrap_or_else(|| "unknown".into()),
            canonical_revision: label(&revision).unwrap_or_else(|| "latest".into()),
            canonical_service,
        }
    }
}

/// Whether a pod is in the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Enrollment {
    /// In the mesh.
    Enrolled,
    /// Neither the namespace nor the pod asks for it.
    NotAsked,
    /// The pod opts out with `heddle.io/mesh: disabled` or `istio.io/dataplane-mode: none`.
    OptedOut,
    /// The pod shares its node's network namespace.
    HostNetwork,
    /// The pod's sockets are not made by this kernel (gVisor, Kata, …).
    SandboxedRuntime,
    /// The pod has no address yet.
    NoAddress,
    /// The pod has ended (`Succeeded`, `Failed`).
    Ended,
}

impl Enrollment {
    /// One line for `heddle status`.
    #[must_use]
    pub const fn describe(self) -> &'static str {
        match self {
            Self::Enrolled => "enrolled",
            Self::NotAsked => "namespace has no label heddle.io/mesh=enabled",
            Self::OptedOut => "pod opts out by label",
            Self::HostNetwork => "pod uses the host network: its sockets cannot be told from the node's own",
            Self::SandboxedRuntime => "runtime class makes sockets outside of the node's kernel",
            Self::NoAddress => "pod has no address yet",
            Self::Ended => "pod has ended",
        }
    }
}

/// `heddle.io/fail-mode` of a namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum FailMode {
    /// Refuse.
    #[default]
    Closed,
    /// Let through untouched.
    Open,
}
