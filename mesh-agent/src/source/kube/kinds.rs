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
    readers: Readers,
}

/// Who watches a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Readers {
    agents: bool,
    gateways: Extent,
    controller: bool,
}

/// How much of a kind is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extent {
    Nothing,
    Everything,
    /// What is in the reader's own namespace.
    Own,
}

impl Readers {
    /// Whoever carries traffic.
    const CARRIERS: Self = Self {
        agents: true,
        gateways: Extent::Everything,
        controller: false,
    };
    /// Agents, of what is on their own nodes.
    const AGENTS: Self = Self {
        gateways: Extent::Nothing,
        ..Self::CARRIERS
    };
    const ALL: Self = Self {
        controller: true,
        ..Self::CARRIERS
    };
    /// What only Gateways depend on, and what is said of them.
    const OF_GATEWAYS: Self = Self {
        agents: false,
        ..Self::ALL
    };
    const GATEWAYS: Self = Self {
        controller: false,
        ..Self::OF_GATEWAYS
    };
    /// Secrets: gateways read those beside them, the controller whether they are there.
    const SECRETS: Self = Self {
        gateways: Extent::Own,
        ..Self::OF_GATEWAYS
    };
    const MATERIAL: Self = Self {
        controller: false,
        ..Self::SECRETS
    };
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
    /// The controller: what statuses depend on.
    Controller,
}

impl Reader {
    /// The kinds that it needs.
    pub(super) fn kinds(&self) -> Vec<&'static Kind> {
        KINDS.iter().filter(|kind| kind.concerns(self)).collect()
    }
}

/// In the order in which they are named in reports.
static KINDS: &[Kind] = &[
    Kind::builtin("Namespace", "namespaces", "").read_by(Readers::ALL),
    Kind::builtin("Service", "services", "").read_by(Readers::ALL),
    Kind::builtin("EndpointSlice", "endpointslices", "discovery.k8s.io"),
    Kind {
        of_node: true,
        readers: Readers::AGENTS,
        ..Kind::builtin("Pod", "pods", "")
    },
    Kind::builtin("Secret", "secrets", "").read_by(Readers::SECRETS),
    Kind::builtin("ConfigMap", "configmaps", "").read_by(Readers::MATERIAL),
    Kind::istio("Gateway", "gateways").read_by(Readers::GATEWAYS),
    Kind::istio("VirtualService", "virtualservices").read_by(Readers::ALL),
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
        readers: Readers::CARRIERS,
    },
    Kind::gateway_api("HTTPRoute", "httproutes", &["v1", "v1beta1"]),
    Kind::gateway_api("GRPCRoute", "grpcroutes", &["v1", "v1alpha2"]),
    Kind::gateway_api("TLSRoute", "tlsroutes", &["v1", "v1alpha3", "v1alpha2"]),
    Kind::gateway_api("TCPRoute", "tcproutes", &["v1", "v1alpha2"]),
    // In the mesh no reference needs a grant: agents do not read them.
    Kind::gateway_api("ReferenceGrant", "referencegrants", &["v1", "v1beta1"]).read_by(Readers::OF_GATEWAYS),
    Kind::gateway_api("Gateway", "gateways", &["v1", "v1beta1"]).read_by(Readers::OF_GATEWAYS),
    Kind::gateway_api("GatewayClass", "gatewayclasses", &["v1", "v1beta1"]).read_by(Readers::OF_GATEWAYS),
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
            readers: Readers::CARRIERS,
        }
    }

    const fn gateway_api(
        kind: &'static str,
        plural: &'static str,
        versions: &'static [&'static str],
    ) -> Self {
        Self {
            group: "gateway.networking.k8s.io",
            versions,
            optional: true,
            readers: Readers::ALL,
            ..Self::builtin(kind, plural, "")
        }
    }

    const fn read_by(self, readers: Readers) -> Self {
        Self { readers, ..self }
    }

    const fn istio(kind: &'static str, plural: &'static str) -> Self {
        Self {
            kind,
            plural,
            group: "networking.istio.io",
            versions: &["v1", "v1beta1", "v1alpha3"],
            optional: true,
            of_node: false,
            readers: Readers::CARRIERS,
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
    const fn concerns(&self, reader: &Reader) -> bool {
        match reader {
            Reader::Agent { .. } => self.readers.agents,
            Reader::Gateway { .. } => !matches!(self.readers.gateways, Extent::Nothing),
            Reader::Controller => self.readers.controller,
        }
    }

    /// The field selector, if not all are wanted.
    pub(super) fn selector(&self, reader: &Reader) -> Option<String> {
        match reader {
            Reader::Agent { node } if self.of_node => Some(format!("spec.nodeName={node}")),
            // Releases of helm are large, and none of them is a certificate.
            Reader::Gateway { .. } | Reader::Controller if self.kind == "Secret" => {
                Some("type!=helm.sh/release.v1".into())
            }
            _ => None,
        }
    }

    /// The namespace, if not all are wanted.
    pub(super) fn namespace(&self, reader: &Reader) -> Option<String> {
        match reader {
            Reader::Gateway { namespace } if self.readers.gateways == Extent::Own => Some(namespace.clone()),
            _ => None,
        }
    }
}
