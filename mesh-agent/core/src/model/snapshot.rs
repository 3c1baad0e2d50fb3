//! An immutable, versioned view of the whole known mesh; what the proxy, `why` and the data path plan read.

use super::ObjectName;
use super::attached::Attached;
use super::connection::ConnectionRoutes;
use super::gateway::Edge;
use super::locality::Locality;
use super::peer::{PeerPolicies, PeerRule};
use super::registry::Registry;
use super::route::{HostSubsets, RouteTable};
use super::scope::EgressScope;
use super::service::{Service, ServicePort};
use super::traffic::{BackendPolicy, TrafficPolicy};
use super::workload::{Labels, Workload};
use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Mesh-wide settings (Istio `meshConfig`, same names).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeshSettings {
    /// `trustDomain`.
    pub trust_domain: Arc<str>,
    /// The cluster's DNS domain.
    pub cluster_domain: Arc<str>,
    /// `outboundTrafficPolicy.mode: REGISTRY_ONLY`.
    pub registry_only: bool,
    /// `rootNamespace`.
    pub root_namespace: Arc<str>,
    /// Names of the mesh are answered in pods, and hosts of ServiceEntries without an address get one
    /// (`ISTIO_META_DNS_CAPTURE`, `ISTIO_META_DNS_AUTO_ALLOCATE`).
    pub capture_names: bool,
}

impl Default for MeshSettings {
    fn default() -> Self {
        Self {
            trust_domain: "cluster.local".into(),
            cluster_domain: "cluster.local".into(),
            registry_only: false,
            root_namespace: "istio-system".into(),
            capture_names: true,
        }
    }
}

impl MeshSettings {
    /// The fully qualified host of a Kubernetes Service.
    #[must_use]
    pub fn host_of(&self, service: &ObjectName) -> Arc<str> {
        let domain = &self.cluster_domain;
        format!("{}.{}.svc.{domain}", service.name, service.namespace).into()
    }
}

/// See the module's description. Cheap to clone through `Arc`, and still cheap by itself: what is large is shared.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Raised by one with each published change.
    pub version: u64,
    /// Settings.
    pub settings: MeshSettings,
    /// The pods that the source gives in full, sorted by namespace and name: all, or this node's.
    pub workloads: Vec<Arc<Workload>>,
    /// Other nodes' pods, as far as endpoints and templates tell of them.
    pub remotes: imbl::OrdMap<ObjectName, Arc<Workload>>,
    /// Pods that nobody is sent to, because who they are is not known.
    pub held_out: usize,
    /// Every service, sorted by namespace and name.
    pub services: Vec<Arc<Service>>,
    /// Pod address → pod.
    pub workloads_by_ip: imbl::HashMap<IpAddr, Arc<Workload>>,
    /// ClusterIP → service.
    pub services_by_vip: imbl::HashMap<IpAddr, Arc<Service>>,
    /// Fully qualified host → service.
    pub services_by_host: imbl::HashMap<Arc<str>, Arc<Service>>,
    /// Host → VirtualService that routes it for every client. `*.example.com` is kept as `.example.com`.
    pub routes: imbl::HashMap<Arc<str>, Arc<RouteTable>>,
    /// Client namespace → as `routes`, for VirtualServices that only some namespaces see and that are older than what all
    /// see. For the same host these come first.
    pub scoped_routes: imbl::HashMap<Arc<str>, imbl::HashMap<Arc<str>, Arc<RouteTable>>>,
    /// Host → rules for connections whose bytes are carried as they are.
    pub connections: ConnectionRoutes,
    /// Service → routes of Gateway API that are attached to it.
    pub attached: imbl::HashMap<ObjectName, Arc<Attached>>,
    /// Fully qualified host of a service → subsets, one entry for each namespace that has rules for it.
    pub subsets: imbl::HashMap<Arc<str>, Arc<[HostSubsets]>>,
    /// Fully qualified host of a service of which BackendTLSPolicies speak → the policy of each of `Service::ports`, for
    /// clients that see no subset rule.
    pub vouched: imbl::HashMap<Arc<str>, Arc<[Arc<TrafficPolicy>]>>,
    /// Service → what an XBackendTrafficPolicy says of it.
    pub backend_policies: imbl::HashMap<ObjectName, Arc<BackendPolicy>>,
    /// Ids of service ports with a policy that the kernel cannot carry out by itself.
    pub steered: imbl::HashSet<u32>,
    /// Node → where it is.
    pub nodes: Nodes,
    /// Hosts of ServiceEntries.
    pub registry: Arc<Registry>,
    /// What clients see, by their namespace.
    pub scopes: Arc<Scopes>,
    /// Namespaces whose traffic nobody looks into (`heddle.io/l7: disabled`).
    pub l4_only: HashSet<Arc<str>>,
    /// What this process serves as a gateway; empty in an agent.
    pub edge: Arc<Edge>,
    /// Which connections pods take.
    pub peers: PeerPolicies,
}

/// Node → where it is.
pub type Nodes = imbl::HashMap<Arc<str>, Arc<Locality>>;

/// Namespace → its Sidecars: which workloads (`None` = all), and what they see. The first that selects a workload counts.
pub type Scopes = HashMap<Arc<str>, Vec<(Option<Labels>, Arc<EgressScope>)>>;

/// What an original destination is.
#[derive(Clone, Debug)]
pub enum Target {
    /// A port of a service's virtual address.
    Service(Arc<Service>, Arc<ServicePort>),
    /// A pod's own address.
    Workload(Arc<Workload>),
    /// A service's virtual address with a port that it does not have.
    NoSuchPort(Arc<Service>),
    /// Nothing known.
    Unknown,
}

impl Snapshot {
    /// What `addr` stands for to a client that dialled it: what is out of its scope is unknown.
    #[must_use]
    pub fn target_for(&self, addr: SocketAddr, client: Option<&Workload>) -> Target {
        let namespace = client.map(|c| &*c.pod.namespace);
        match self.target(addr) {
            Target::Service(service, port) => {
                if self.sees(client, &service) {
                    Target::Service(service, port)
                } else {
                    Target::Unknown
                }
            }
            Target::Unknown => {
                let found = self
                    .registry
                    .by_address(addr.ip().to_canonical(), addr.port(), namespace);
                let Some(service) = found.filter(|s| self.sees(client, s)) else {
                    return Target::Unknown;
                };
                match service.port(addr.port()) {
                    Some(port) => Target::Service(Arc::clone(service), Arc::clone(port)),
                    None => Target::Unknown,
                }
            }
            other => other,
        }
    }

    /// Whether a client sees a service: `exportTo` and its Sidecar admit it.
    #[must_use]
    pub fn sees(&self, client: Option<&Workload>, service: &Service) -> bool {
        service.seen_from(client.map(|c| &*c.pod.namespace))
            && client
                .and_then(|c| self.scope_of(c))
                .is_none_or(|scope| scope.admits(service))
    }

    /// The Sidecar that speaks for a workload: one of its namespace, else of the root namespace.
    #[must_use]
    pub fn scope_of(&self, workload: &Workload) -> Option<&Arc<EgressScope>> {
        if self.scopes.is_empty() {
            return None;
        }
        let selects = |labels: &Option<Labels>| {
            labels
                .as_ref()
                .is_none_or(|l| l.iter().all(|(k, v)| workload.labels.get(k) == Some(v)))
        };
        let of = |namespace: &str| {
            self.scopes
                .get(namespace)?
                .iter()
                .find(|(labels, _)| selects(labels))
        };
        of(&workload.pod.namespace)
            .or_else(|| of(&self.settings.root_namespace))
            .map(|(_, scope)| scope)
    }

    /// Whether a workload may reach what nobody knows.
    #[must_use]
    pub fn registry_only(&self, client: Option<&Workload>) -> bool {
        let of_scope = client.and_then(|c| self.scope_of(c)?.registry_only);
        of_scope.unwrap_or(self.settings.registry_only)
    }

    /// The service with this fully qualified host: a Kubernetes Service first, then ServiceEntries that the client sees.
    #[must_use]
    pub fn service_by_host(&self, host: &str, client_namespace: Option<&str>) -> Option<&Arc<Service>> {
        self.services_by_host
            .get(host)
            .or_else(|| self.registry.by_host(host, client_namespace))
    }

    /// The service with this name.
    #[must_use]
    pub fn service(&self, name: &ObjectName) -> Option<&Arc<Service>> {
        let place = self.services.binary_search_by(|s| s.name.cmp(name)).ok()?;
        self.services.get(place)
    }

    /// What `addr` stands for, whoever dials it.
    #[must_use]
    pub fn target(&self, addr: SocketAddr) -> Target {
        let ip = addr.ip().to_canonical();
        if let Some(service) = self.services_by_vip.get(&ip) {
            return match service.port(addr.port()) {
                Some(port) => Target::Service(Arc::clone(service), Arc::clone(port)),
                None => Target::NoSuchPort(Arc::clone(service)),
            };
        }
        match self.workloads_by_ip.get(&ip) {
            Some(workload) => Target::Workload(Arc::clone(workload)),
            None => Target::Unknown,
        }
    }

    /// Which connections a port of a pod takes.
    #[must_use]
    pub fn peer_rule(&self, workload: &Workload, port: u16) -> PeerRule {
        self.peers.rule(&self.settings.root_namespace, workload, port)
    }

    /// The pod that has this address.
    #[must_use]
    pub fn workload_by_ip(&self, ip: IpAddr) -> Option<&Arc<Workload>> {
        self.workloads_by_ip.get(&ip.to_canonical())
    }
}

impl Snapshot {
    /// The subset rules and policies that a client sees for a service: those of its own namespace, else of the service's,
    /// else of the root namespace; the first namespace that has any wins whole (T-30). In it, rules that select the
    /// client come before those that select nobody.
    #[must_use]
    pub fn subsets_for(&self, service: &Service, client: Option<&Workload>) -> Option<&HostSubsets> {
        let candidates = self.subsets.get(&service.host)?;
        let client_namespace = client.map(|c| &*c.pod.namespace);
        let root = &*self.settings.root_namespace;
        let of = |namespace: &str| {
            let seen = || {
                candidates
                    .iter()
                    .filter(|c| &*c.namespace == namespace && c.export_to.admits(client_namespace))
            };
            seen()
                .find(|c| c.selects(client))
                .or_else(|| seen().find(|c| c.selector.is_none()))
        };
        client_namespace
            .filter(|ns| *ns != root)
            .and_then(of)
            .or_else(|| of(&service.name.namespace))
            .or_else(|| of(root))
    }

    /// The policy for what a client sends to a port of a service, or to a subset of it.
    #[must_use]
    pub fn policy(
        &self,
        service: &Service,
        port: u16,
        subset: Option<&str>,
        client: Option<&Workload>,
    ) -> Arc<TrafficPolicy> {
        let place = service.ports.iter().position(|p| p.number == port);
        let found = place.and_then(|place| {
            let rules = self.subsets_for(service, client);
            let of_rules = rules.and_then(|rules| rules.policy(place, subset));
            of_rules.or_else(|| self.vouched.get(&service.host)?.get(place))
        });
        found.map_or_else(TrafficPolicy::mesh_default, Arc::clone)
    }

    /// What an XBackendTrafficPolicy says of a service.
    #[must_use]
    pub fn backend_policy(&self, service: &Service) -> Option<Arc<BackendPolicy>> {
        self.backend_policies.get(&service.name).cloned()
    }

    /// Where a pod runs, as far as its labels and its node's tell.
    #[must_use]
    pub fn locality(&self, workload: &Workload) -> Arc<Locality> {
        if let Some(own) = Locality::of_workload(&workload.labels) {
            return Arc::new(own);
        }
        self.nodes.get(&workload.node).cloned().unwrap_or_default()
    }
}
