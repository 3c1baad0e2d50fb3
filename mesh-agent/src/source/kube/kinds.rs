//! The kinds that are watched.

use kube::core::{ApiResource, GroupVersionKind};
use mesh_core::model::template;
use mesh_core::state::is_rule;
use mesh_core::translate::gateway_api;

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
    /// Whether nothing of them is asked for but their metadata.
    pub(super) metadata: bool,
    readers: Readers,
}

/// Who needs a kind.
#[derive(Clone, Copy, Debug)]
struct Readers {
    agents: bool,
    controller: bool,
    gateways: Gateways,
}

/// Which objects of a kind gateways need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gateways {
    None,
    All,
    /// Those of their own namespace.
    Own,
}

/// For whom the API is watched.
#[derive(Clone, Debug)]
pub enum Reader {
    /// The agent of the node with this name.
    Agent(String),
    /// The controller: what statuses depend on.
    Controller,
    /// A gateway in this namespace.
    Gateway(String),
    /// The gateway of one Gateway of Gateway API: it sees Secrets where it may, see [`super::material`].
    ApiGateway,
}

impl Reader {
    /// The kinds that it needs.
    pub(super) fn kinds(&self) -> Vec<&'static Kind> {
        let needs = |readers: Readers| match self {
            Self::Agent(_) => readers.agents,
            Self::Controller => readers.controller,
            Self::Gateway(_) => readers.gateways != Gateways::None,
            Self::ApiGateway => readers.gateways == Gateways::All,
        };
        KINDS.iter().filter(|kind| needs(kind.readers)).collect()
    }
}

/// Group and kind of the rules that every agent reads; with `gateways`, that every gateway reads.
pub fn rules_read(gateways: bool) -> impl Iterator<Item = (&'static str, &'static str)> {
    let reads = move |kind: &&Kind| match gateways {
        true => kind.readers.gateways == Gateways::All,
        false => kind.readers.agents,
    };
    let read = KINDS.iter().filter(reads);
    read.map(|kind| (kind.group, kind.kind))
        .filter(|(group, kind)| is_rule(group, kind))
}

/// Field selector of Secrets that may hold a certificate.
pub(super) const NO_RELEASES: &str = "type!=helm.sh/release.v1";

/// In the order in which they are named in reports.
static KINDS: &[Kind] = &[
    Kind::builtin("Namespace", "namespaces", "").for_both(),
    Kind::builtin("Service", "services", "").for_both(),
    Kind::builtin("EndpointSlice", "endpointslices", "discovery.k8s.io"),
    Kind {
        of_node: true,
        readers: Readers {
            gateways: Gateways::None,
            ..Readers::DATA_PATH
        },
        ..Kind::builtin("Pod", "pods", "")
    },
    // Where they are. A kubelet writes its node's status every five minutes, which is what this watch costs.
    Kind {
        metadata: true,
        ..Kind::builtin("Node", "nodes", "")
    },
    Kind::SECRETS,
    Kind::CONFIG_MAPS,
    Kind::builtin("Ingress", "ingresses", "networking.k8s.io").for_gateways(Gateways::All),
    Kind::istio("Gateway", "gateways").for_gateways(Gateways::All),
    Kind::istio("VirtualService", "virtualservices").for_both(),
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
        metadata: false,
        readers: Readers::DATA_PATH,
    },
    Kind::gateway_api("HTTPRoute", "httproutes", &["v1", "v1beta1"]),
    Kind::gateway_api("GRPCRoute", "grpcroutes", &["v1", "v1alpha2"]),
    Kind::gateway_api("TLSRoute", "tlsroutes", &["v1", "v1alpha3", "v1alpha2"]),
    Kind::gateway_api("TCPRoute", "tcproutes", &["v1", "v1alpha2"]),
    Kind::gateway_api("BackendTLSPolicy", "backendtlspolicies", &["v1", "v1alpha3"]),
    // Not served: statuses say so.
    Kind::gateway_api("UDPRoute", "udproutes", &["v1", "v1alpha2"]).for_controller(),
    // In the mesh no reference needs a grant: agents do not read them.
    Kind::gateway_api("ReferenceGrant", "referencegrants", &["v1", "v1beta1"])
        .for_gateways(Gateways::All)
        .for_both(),
    Kind::gateway_api("Gateway", "gateways", &["v1", "v1beta1"])
        .for_gateways(Gateways::All)
        .for_both(),
    Kind::gateway_api("ListenerSet", "listenersets", &["v1"])
        .for_gateways(Gateways::All)
        .for_both(),
    Kind {
        group: gateway_api::EXPERIMENTAL_GROUP,
        ..Kind::gateway_api(
            gateway_api::BACKEND_TRAFFIC,
            "xbackendtrafficpolicies",
            &["v1alpha1"],
        )
    },
    Kind::gateway_api("GatewayClass", "gatewayclasses", &["v1", "v1beta1"])
        .for_gateways(Gateways::All)
        .for_both(),
];

impl Kind {
    /// Watched for their names, so that the others can be waited for.
    pub(super) const CRDS: Self = Self::builtin(
        "CustomResourceDefinition",
        "customresourcedefinitions",
        "apiextensions.k8s.io",
    );

    /// By the readers of [`KINDS`] in their own namespace, by others where they may.
    pub(super) const SECRETS: Self = Self::builtin("Secret", "secrets", "").for_gateways(Gateways::Own);

    /// As [`Kind::SECRETS`].
    pub(super) const CONFIG_MAPS: Self =
        Self::builtin("ConfigMap", "configmaps", "").for_gateways(Gateways::Own);

    const fn builtin(kind: &'static str, plural: &'static str, group: &'static str) -> Self {
        Self {
            kind,
            plural,
            group,
            versions: &["v1"],
            optional: false,
            of_node: false,
            metadata: false,
            readers: Readers::DATA_PATH,
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
            readers: Readers {
                controller: true,
                ..Readers::DATA_PATH
            },
            ..Self::builtin(kind, plural, "")
        }
    }

    /// For the controller as well.
    const fn for_both(self) -> Self {
        Self {
            readers: Readers {
                controller: true,
                ..self.readers
            },
            ..self
        }
    }

    /// For the controller and nobody else.
    const fn for_controller(self) -> Self {
        Self {
            readers: Readers {
                agents: false,
                controller: true,
                gateways: Gateways::None,
            },
            ..self
        }
    }

    /// For gateways and nobody else.
    const fn for_gateways(self, gateways: Gateways) -> Self {
        Self {
            readers: Readers {
                agents: false,
                controller: false,
                gateways,
            },
            ..self
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
            metadata: false,
            readers: Readers::DATA_PATH,
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
    pub(super) fn selector(&self, reader: &Reader) -> Option<String> {
        match reader {
            Reader::Agent(node) if self.of_node => Some(format!("spec.nodeName={node}")),
            // Releases of helm are large, and none of them is a certificate.
            Reader::Gateway(_) if self.kind == "Secret" => Some(NO_RELEASES.into()),
            _ => None,
        }
    }

    /// The namespace, if not all are wanted.
    pub(super) fn namespace(&self, reader: &Reader) -> Option<String> {
        match reader {
            Reader::Gateway(namespace) if self.readers.gateways == Gateways::Own => Some(namespace.clone()),
            _ => None,
        }
    }
}

impl Readers {
    /// Agents and gateways: what carries connections.
    const DATA_PATH: Self = Self {
        agents: true,
        controller: false,
        gateways: Gateways::All,
    };
}
