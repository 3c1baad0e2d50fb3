//! Label sets of the traffic metrics (Istio's standard metrics). A missing label drops an edge of Kiali's graph, so
//! all are always there, with `unknown` where nothing is known.

use mesh_core::model::identity::SpiffeId;
use mesh_core::model::service::Service;
use mesh_core::model::workload::Workload;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelSetEncoder, LabelValueEncoder};
use std::fmt;
use std::fmt::Write as _;
use std::sync::Arc;

/// One end of a connection, as metrics call it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Party {
    /// `*_workload`.
    pub workload: Arc<str>,
    /// `*_workload_namespace`.
    pub namespace: Arc<str>,
    /// `*_principal`: a verified SPIFFE ID or `unknown`.
    pub principal: Arc<str>,
    /// `*_app`.
    pub app: Arc<str>,
    /// `*_version`.
    pub version: Arc<str>,
    /// `*_cluster`.
    pub cluster: Arc<str>,
    /// `*_canonical_service`.
    pub canonical_service: Arc<str>,
    /// `*_canonical_revision`.
    pub canonical_revision: Arc<str>,
}

impl Party {
    /// Nothing is known.
    #[must_use]
    pub fn unknown() -> Self {
        let unknown: Arc<str> = UNKNOWN.into();
        Self {
            workload: Arc::clone(&unknown),
            namespace: Arc::clone(&unknown),
            principal: Arc::clone(&unknown),
            app: Arc::clone(&unknown),
            version: Arc::clone(&unknown),
            cluster: Arc::clone(&unknown),
            canonical_service: Arc::clone(&unknown),
            canonical_revision: unknown,
        }
    }

    /// A pod; `identity` only if the connection proves it.
    #[must_use]
    pub fn of(workload: &Workload, identity: Option<&SpiffeId>, cluster: &Arc<str>) -> Self {
        let names = &workload.names;
        Self {
            workload: Arc::clone(&names.workload),
            namespace: Arc::clone(&workload.pod.namespace),
            principal: principal(identity),
            app: Arc::clone(&names.app),
            version: Arc::clone(&names.version),
            cluster: Arc::clone(cluster),
            canonical_service: Arc::clone(&names.canonical_service),
            canonical_revision: Arc::clone(&names.canonical_revision),
        }
    }
}

/// `*_principal` of a verified identity.
#[must_use]
pub fn principal(identity: Option<&SpiffeId>) -> Arc<str> {
    identity.map_or_else(|| UNKNOWN.into(), |id| id.to_string().into())
}

/// `destination_service*`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServiceNames {
    /// `destination_service`: the host.
    pub host: Arc<str>,
    /// `destination_service_name`.
    pub name: Arc<str>,
    /// `destination_service_namespace`.
    pub namespace: Arc<str>,
}

impl ServiceNames {
    /// A service.
    #[must_use]
    pub fn of(service: &Service) -> Self {
        Self {
            host: Arc::clone(&service.host),
            name: Arc::clone(&service.name.name),
            namespace: Arc::clone(&service.name.namespace),
        }
    }

    /// Something that is no service of the mesh, under one of Istio's names for it.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self {
            host: UNKNOWN.into(),
            name: name.into(),
            namespace: UNKNOWN.into(),
        }
    }
}

/// Who tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reporter {
    /// The client's node.
    Source,
    /// The server's node.
    Destination,
}

/// `connection_security_policy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Security {
    /// Both ends were authenticated.
    MutualTls,
    /// No TLS of the mesh.
    None,
    /// As seen from a source, which in Istio does not say.
    Unknown,
}

/// `request_protocol`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RequestProtocol {
    /// HTTP of any version.
    Http,
    /// gRPC.
    Grpc,
    /// Bytes.
    Tcp,
}

/// What all traffic metrics share.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PairLabels {
    /// `reporter`.
    pub reporter: Reporter,
    /// `source_*`.
    pub source: Arc<Party>,
    /// `destination_*`.
    pub destination: Arc<Party>,
    /// `destination_service*`.
    pub service: Arc<ServiceNames>,
    /// `request_protocol`.
    pub protocol: RequestProtocol,
    /// `connection_security_policy`.
    pub security: Security,
    /// `response_flags`.
    pub flags: &'static str,
}

/// Labels of `istio_requests_total` and its histograms.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HttpLabels {
    /// Ends and protocol.
    pub pair: PairLabels,
    /// `response_code`; 0 if the client left before there was one.
    pub code: u16,
    /// `grpc_response_status`, gRPC only.
    pub grpc: Option<u8>,
}

/// Labels of `istio_tcp_*`.
pub type TcpLabels = PairLabels;

impl PairLabels {
    /// The series that takes what is above the ceiling.
    #[must_use]
    pub fn overflow(&self) -> Self {
        let party = Arc::new(Party {
            workload: OVERFLOW.into(),
            ..Party::unknown()
        });
        Self {
            source: Arc::clone(&party),
            destination: party,
            service: Arc::new(ServiceNames::named(OVERFLOW)),
            ..self.clone()
        }
    }
}

impl EncodeLabelSet for PairLabels {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        let (src, dst) = (&self.source, &self.destination);
        let pairs: [(&str, &str); 23] = [
            ("reporter", self.reporter.as_str()),
            ("source_workload", &src.workload),
            ("source_workload_namespace", &src.namespace),
            ("source_principal", &src.principal),
            ("source_app", &src.app),
            ("source_version", &src.version),
            ("source_cluster", &src.cluster),
            ("source_canonical_service", &src.canonical_service),
            ("source_canonical_revision", &src.canonical_revision),
            ("destination_workload", &dst.workload),
            ("destination_workload_namespace", &dst.namespace),
            ("destination_principal", &dst.principal),
            ("destination_app", &dst.app),
            ("destination_version", &dst.version),
            ("destination_service", &self.service.host),
            ("destination_service_name", &self.service.name),
            ("destination_service_namespace", &self.service.namespace),
            ("destination_cluster", &dst.cluster),
            ("destination_canonical_service", &dst.canonical_service),
            ("destination_canonical_revision", &dst.canonical_revision),
            ("request_protocol", self.protocol.as_str()),
            ("response_flags", self.flags),
            ("connection_security_policy", self.security.as_str()),
        ];
        pairs
            .iter()
            .try_for_each(|(name, value)| label(encoder, name, *value))
    }
}

impl EncodeLabelSet for HttpLabels {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        self.pair.encode(encoder)?;
        label(encoder, "response_code", self.code)?;
        match self.grpc {
            Some(status) => label(encoder, "grpc_response_status", u32::from(status)),
            None => label(encoder, "grpc_response_status", ""),
        }
    }
}

impl Reporter {
    /// Label value.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Destination => "destination",
        }
    }
}

impl Security {
    const fn as_str(self) -> &'static str {
        match self {
            Self::MutualTls => "mutual_tls",
            Self::None => "none",
            Self::Unknown => UNKNOWN,
        }
    }
}

impl RequestProtocol {
    /// Label value.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Grpc => "grpc",
            Self::Tcp => "tcp",
        }
    }
}

fn label(encoder: &mut LabelSetEncoder<'_>, name: &str, value: impl LabelText) -> fmt::Result {
    let mut label = encoder.encode_label();
    let mut key = label.encode_label_key()?;
    key.write_str(name)?;
    let mut out = key.encode_label_value()?;
    value.write(&mut out)?;
    out.finish()
}

trait LabelText {
    fn write(&self, out: &mut LabelValueEncoder<'_>) -> fmt::Result;
}

impl LabelText for &str {
    fn write(&self, out: &mut LabelValueEncoder<'_>) -> fmt::Result {
        EncodeLabelValue::encode(self, out)
    }
}

impl LabelText for u16 {
    fn write(&self, out: &mut LabelValueEncoder<'_>) -> fmt::Result {
        write!(out, "{self}")
    }
}

impl LabelText for u32 {
    fn write(&self, out: &mut LabelValueEncoder<'_>) -> fmt::Result {
        write!(out, "{self}")
    }
}

/// Where nothing is known.
pub const UNKNOWN: &str = "unknown";
const OVERFLOW: &str = "overflow";
