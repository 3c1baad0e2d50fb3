//! The kinds that are watched.

use kube::core::{ApiResource, GroupVersionKind};
use mesh_core::model::template;

/// One kind of object.
#[derive(Debug)]
pub(super) struct Kind {
    pub(super) kind: &'static str,
    pub(super) plural: &'static str,
    pub(super) group: &'static str,
    /// Versions that can be read, the best first.
    pub(super) versions: &'static [&'static str],
    /// Whether the API server may not have it: it is waited for.
    pub(super) optional: bool,
    /// Whether only those of one node are watched.
    of_node: bool,
}

/// In the order in which they are named in reports.
pub(super) const KINDS: &[Kind] = &[
    Kind::builtin("Namespace", "namespaces", ""),
    Kind::builtin("Service", "services", ""),
    Kind::builtin("EndpointSlice", "endpointslices", "discovery.k8s.io"),
    Kind {
        of_node: true,
        ..Kind::builtin("Pod", "pods", "")
    },
    Kind::istio("VirtualService", "virtualservices"),
    Kind::istio("DestinationRule", "destinationrules"),
    Kind::istio("ServiceEntry", "serviceentries"),
    Kind::istio("WorkloadEntry", "workloadentries"),
    Kind::istio("Sidecar", "sidecars"),
    Kind {
        group: "security.istio.io",
        versions: &["v1", "v1beta1"],
        ..Kind::istio("PeerAuthentication", "peerauthentications")
    },
    Kind {
        kind: template::WORKLOAD_TEMPLATE,
        plural: "workloadtemplates",
        group: template::GROUP,
        versions: &[template::VERSION],
        optional: true,
        of_node: false,
    },
];

impl Kind {
    /// Watched for their names, so that the others can be waited for.
    pub(super) const CRDS: Self = Self::builtin(
        "CustomResourceDefinition",
        "customresourcedefinitions",
        "apiextensions.k8s.io",
    );

    const fn builtin(kind: &'static str, plural: &'static str, group: &'static str) -> Self {
        Self {
            kind,
            plural,
            group,
            versions: &["v1"],
            optional: false,
            of_node: false,
        }
    }

    const fn istio(kind: &'static str, plural: &'static str) -> Self {
        Self {
            kind,
            plural,
            group: "networking.istio.io",
            versions: &["v1", "v1beta1", "v1alpha3"],
            optional: true,
            of_node: false,
        }
    }

    /// Name of the CustomResourceDefinition.
    pub(super) fn crd(&self) -> String {
        format!("{}.{}", self.plural, self.group)
    }

    /// `apiVersion` of a version of it.
    pub(super) fn api_version(&self, version: &str) -> String {
        match self.group {
            "" => version.to_owned(),
            group => format!("{group}/{version}"),
        }
    }

    pub(super) fn resource(&self, version: &str) -> ApiResource {
        let gvk = GroupVersionKind::gvk(self.group, version, self.kind);
        ApiResource::from_gvk_with_plural(&gvk, self.plural)
    }

    /// The field selector, if not all are wanted.
    pub(super) fn selector(&self, node: &str) -> Option<String> {
        self.of_node.then(|| format!("spec.nodeName={node}"))
    }
}
