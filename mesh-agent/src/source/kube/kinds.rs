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
    /// Whether gateways watch them.
    at_gateways: AtGateways,
}

/// See [`Kind::at_gateways`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AtGateways {
    /// As agents do.
    Too,
    /// Agents only.
    Not,
    /// Gateways only.
    Only,
    /// Gateways only, those of their own namespace.
    OnlyOwn,
}

/// Who watches, and so what.
#[derive(Clone, Debug)]
pub enum Reader {
    /// The agent of this node.
    Agent {
        /// Its name.
        node: String,
    },
    /// A gateway.
    Gateway {
        /// Namespace of its pod.
        namespace: String,
    },
}

/// In the order in which they are named in reports.
pub(super) const KINDS: &[Kind] = &[
    Kind::builtin("Namespace", "namespaces", ""),
    Kind::builtin("Service", "services", ""),
    Kind::builtin("EndpointSlice", "endpointslices", "discovery.k8s.io"),
    Kind {
        of_node: true,
        at_gateways: AtGateways::Not,
        ..Kind::builtin("Pod", "pods", "")
    },
    Kind {
        at_gateways: AtGateways::OnlyOwn,
        ..Kind::builtin("Secret", "secrets", "")
    },
    Kind {
        at_gateways: AtGateways::OnlyOwn,
        ..Kind::builtin("ConfigMap", "configmaps", "")
    },
    Kind {
        at_gateways: AtGateways::Only,
        ..Kind::builtin("Ingress", "ingresses", "networking.k8s.io")
    },
    Kind {
        at_gateways: AtGateways::Only,
        ..Kind::istio("Gateway", "gateways")
    },
    Kind::istio("VirtualService", "virtualservices"),
    Kind::istio("DestinationRule", "destinationrules"),
    Kind::istio("ServiceEntry", "serviceentries"),
    Kind::istio("WorkloadEntry", "workloadentries"),
    Kind::istio("Sidecar", "sidecars"),
    Kind {
        kind: template::WORKLOAD_TEMPLATE,
        plural: "workloadtemplates",
        group: template::GROUP,
        versions: &[template::VERSION],
        optional: true,
        of_node: false,
        at_gateways: AtGateways::Too,
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
            at_gateways: AtGateways::Too,
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
            at_gateways: AtGateways::Too,
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

    /// Whether this reader watches the kind.
    pub(super) const fn concerns(&self, reader: &Reader) -> bool {
        match (self.at_gateways, reader) {
            (AtGateways::Too, _) => true,
            (AtGateways::Not, Reader::Agent { .. }) => true,
            (AtGateways::Not, Reader::Gateway { .. }) => false,
            (AtGateways::Only | AtGateways::OnlyOwn, Reader::Agent { .. }) => false,
            (AtGateways::Only | AtGateways::OnlyOwn, Reader::Gateway { .. }) => true,
        }
    }

    /// The field selector, if not all are wanted.
    pub(super) fn selector(&self, reader: &Reader) -> Option<String> {
        match reader {
            Reader::Agent { node } if self.of_node => Some(format!("spec.nodeName={node}")),
            // Releases of helm are large, and none of them is a certificate.
            Reader::Gateway { .. } if self.kind == "Secret" => Some("type!=helm.sh/release.v1".into()),
            _ => None,
        }
    }

    /// The namespace, if not all are wanted.
    pub(super) fn namespace(&self, reader: &Reader) -> Option<String> {
        match reader {
            Reader::Gateway { namespace } if self.at_gateways == AtGateways::OnlyOwn => {
                Some(namespace.clone())
            }
            _ => None,
        }
    }
}
