//! Services and their endpoints.

use super::ObjectName;
use super::visibility::Visibility;
use super::workload::Workload;
use ipnet::IpNet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// A Kubernetes Service, or a host of a ServiceEntry.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// Namespace and name; of a ServiceEntry its namespace and the host.
    pub name: ObjectName,
    /// `<name>.<namespace>.svc.<cluster domain>`, lower case.
    pub host: Arc<str>,
    /// `spec.clusterIPs`; empty for a headless service.
    pub vips: Vec<IpAddr>,
    /// Ports in the order of the object.
    pub ports: Vec<Arc<ServicePort>>,
    /// What a ServiceEntry says besides; `None` for a Kubernetes Service.
    pub external: Option<Arc<External>>,
    /// `spec.trafficDistribution`.
    pub distribution: Distribution,
}

/// Which endpoints clients prefer by where they are (Kubernetes `trafficDistribution`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Distribution {
    /// None.
    #[default]
    Any,
    /// `PreferClose`, `PreferSameZone`: those of the client's zone.
    SameZone,
    /// `PreferSameNode`: those of the client's node, then of its zone.
    SameNode,
}

/// What a ServiceEntry adds to a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct External {
    /// The ServiceEntry, of several for one host the oldest.
    pub object: ObjectName,
    /// `location: MESH_INTERNAL`.
    pub internal: bool,
    /// `resolution`.
    pub resolution: Resolution,
    /// `addresses` that are a CIDR.
    pub cidrs: Vec<IpNet>,
    /// Whether its virtual addresses are the mesh's own choice: the ServiceEntry has none.
    pub allocated: bool,
    /// `subjectAltNames`.
    pub subject_alt_names: Vec<Arc<str>>,
    /// `exportTo`.
    pub visibility: Visibility,
    /// Whether an endpoint has a weight of its own.
    pub weighted: bool,
}

/// How a ServiceEntry's host is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Resolution {
    /// `NONE`: the address that was dialled.
    Original,
    /// `STATIC`: its endpoints.
    Endpoints,
    /// `DNS`: every address of the host or of its endpoints' names.
    Names,
    /// `DNS_ROUND_ROBIN`: the first address.
    FirstName,
}

impl Service {
    /// Whether its endpoints have weights of their own.
    #[must_use]
    pub fn weighted(&self) -> bool {
        self.external.as_ref().is_some_and(|external| external.weighted)
    }

    /// The port with this number.
    #[must_use]
    pub fn port(&self, number: u16) -> Option<&Arc<ServicePort>> {
        self.ports.iter().find(|p| p.number == number)
    }

    /// Whether it is reached by the address that the application dialled.
    #[must_use]
    pub fn keeps_address(&self) -> bool {
        self.external
            .as_ref()
            .is_some_and(|e| e.resolution == Resolution::Original)
    }

    /// Whether a client of this namespace sees it.
    #[must_use]
    pub fn seen_from(&self, namespace: Option<&str>) -> bool {
        self.external
            .as_ref()
            .is_none_or(|e| e.visibility.admits(namespace))
    }
}

/// One port of a service with its endpoints.
#[derive(Clone, Debug, PartialEq)]
pub struct ServicePort {
    /// Number in the BPF maps, never 0; kept while the service has the port.
    pub id: u32,
    /// `port`.
    pub number: u16,
    /// `name`, empty if none.
    pub name: Arc<str>,
    /// What is spoken on it.
    pub protocol: Protocol,
    /// Ready endpoints, IPv4 and IPv6 mixed, sorted by address.
    pub endpoints: Arc<[Arc<Endpoint>]>,
}

/// Where one service port of one pod listens.
#[derive(Clone, Debug, PartialEq)]
pub struct Endpoint {
    /// Pod address and target port.
    pub addr: SocketAddr,
    /// The pod; absent for an address outside of the cluster or not known yet.
    pub workload: Option<Arc<Workload>>,
    /// Share of the requests beside the others', 1 where nothing says otherwise.
    pub weight: u32,
}

impl Endpoint {
    /// One like all others.
    #[must_use]
    pub const fn new(addr: SocketAddr, workload: Option<Arc<Workload>>) -> Self {
        Self {
            addr,
            workload,
            weight: 1,
        }
    }
}

/// How a port is treated (mission T-51).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Not said: detected on each connection.
    #[default]
    Auto,
    /// HTTP/1.1, or HTTP/2 with prior knowledge when the client sends its preface.
    Http,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// gRPC.
    Grpc,
    /// TLS from the application: passed through.
    Tls,
    /// Anything else: passed through.
    Tcp,
}

impl Protocol {
    /// Whether the proxy must see the bytes: everything but what is declared opaque.
    #[must_use]
    pub const fn needs_bytes(self) -> bool {
        match self {
            Self::Auto | Self::Http | Self::Http2 | Self::Grpc => true,
            Self::Tls | Self::Tcp => false,
        }
    }
}
