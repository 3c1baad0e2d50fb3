//! The agent's settings, parsed once from flags and environment.

use mesh_common::maps::{MAX_BACKENDS, MAX_SERVICES};
use mesh_core::datapath::Limits;
use mesh_core::model::snapshot::MeshSettings;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Everything that `mesh-agent run` can be told.
#[derive(Clone, Debug, clap::Args)]
pub struct AgentConfig {
    /// Name of this node, as in the pods' `spec.nodeName`.
    #[arg(long, env = "HEDDLE_NODE")]
    pub node: String,
    /// Take the place of an agent that serves this node already, without a connection lost; without this, a second agent
    /// refuses to start.
    #[arg(long, env = "HEDDLE_TAKEOVER", default_value_t = false, action = clap::ArgAction::Set)]
    pub takeover: bool,
    /// File that exists while this agent serves (see `mesh-agent ready`): of two agents on a node, only one does.
    #[arg(long, env = "HEDDLE_READY_FILE")]
    pub ready_file: Option<PathBuf>,
    /// Folder of YAML to run on; without it, the Kubernetes API of the cluster that the agent runs in.
    #[arg(long, env = "HEDDLE_CONFIG")]
    pub config: Option<PathBuf>,
    /// Directory for the lock file and the admin socket.
    #[arg(long, env = "HEDDLE_STATE_DIR", default_value = "/run/heddle")]
    pub state_dir: PathBuf,
    /// Directory of the pins, on a bpf file system.
    #[arg(long, env = "HEDDLE_BPF_DIR", default_value = "/sys/fs/bpf/heddle")]
    pub bpf_dir: PathBuf,
    /// cgroup v2 directory that holds this node's pods; without it, `kubepods` below the cgroup2 mount is looked for.
    #[arg(long, env = "HEDDLE_CGROUP")]
    pub cgroup: Option<PathBuf>,
    /// The CA.
    #[command(flatten)]
    pub ca: CaConfig,
    /// Namespace where Heddle is installed.
    #[arg(long, env = "HEDDLE_NAMESPACE", default_value = "heddle-system")]
    pub namespace: String,
    /// Where metrics and health are served.
    #[arg(long, env = "HEDDLE_METRICS_ADDR", default_value = "[::]:15020")]
    pub metrics_addr: SocketAddr,
    /// Unix socket of status and `why`; without it, `admin.sock` in the state directory.
    #[arg(long, env = "HEDDLE_ADMIN_SOCKET")]
    pub admin_socket: Option<PathBuf>,
    /// Proxy threads; 0 = one for each core.
    #[arg(long, env = "HEDDLE_WORKERS", default_value_t = 0)]
    pub workers: usize,
    /// Service ports and pod addresses that the data path holds: 16 bytes of kernel memory each, and 100 more when used.
    #[arg(long, env = "HEDDLE_MAX_SERVICES", default_value_t = MAX_SERVICES, value_parser = clap::value_parser!(u32).range(1_024..=4_194_304))]
    pub max_services: u32,
    /// Backends that the data path holds for services that it serves without a proxy: kernel memory as above.
    #[arg(long, env = "HEDDLE_MAX_BACKENDS", default_value_t = MAX_BACKENDS, value_parser = clap::value_parser!(u32).range(1_024..=4_194_304))]
    pub max_backends: u32,
    /// Trust domain of the mesh (`meshConfig.trustDomain`).
    #[arg(long, env = "HEDDLE_TRUST_DOMAIN", default_value = "cluster.local")]
    pub trust_domain: String,
    /// Namespace whose policies without a selector hold for the whole mesh (`meshConfig.rootNamespace`).
    #[arg(long, env = "HEDDLE_ROOT_NAMESPACE", default_value = "istio-system")]
    pub root_namespace: String,
    /// Take the kubelet's probes into the mesh like any other connection. Else those from an address of this node to the
    /// port of a declared probe go to the application, whatever PeerAuthentication says.
    #[arg(long, env = "HEDDLE_CAPTURE_PROBES", default_value_t = false, action = clap::ArgAction::Set)]
    pub capture_probes: bool,
    /// DNS domain of the cluster.
    #[arg(long, env = "HEDDLE_CLUSTER_DOMAIN", default_value = "cluster.local")]
    pub cluster_domain: String,
    /// `ALLOW_ANY` or `REGISTRY_ONLY` (`meshConfig.outboundTrafficPolicy.mode`).
    #[arg(long, env = "HEDDLE_OUTBOUND_TRAFFIC_POLICY", default_value = "ALLOW_ANY")]
    pub outbound_traffic_policy: OutboundPolicy,
    /// Answer pods' questions for hosts of ServiceEntries, and give an address to those that have none. Pods opt out with
    /// annotation `ambient.istio.io/dns-capture: "false"`.
    #[arg(long, env = "HEDDLE_DNS_CAPTURE", default_value_t = true, action = clap::ArgAction::Set)]
    pub dns_capture: bool,
    /// How long live connections may go on when a pod leaves the mesh or the agent stops, seconds.
    #[arg(long, env = "HEDDLE_DRAIN_SECONDS", default_value_t = 30)]
    pub drain_seconds: u64,
    /// Write one line per request and connection.
    #[arg(long, env = "HEDDLE_ACCESS_LOG", default_value_t = true, action = clap::ArgAction::Set)]
    pub access_log: bool,
    /// `text` or `json` log lines.
    #[arg(long, env = "HEDDLE_LOG_FORMAT", default_value = "json")]
    pub log_format: LogFormat,
    /// The chained CNI plug-in.
    #[command(flatten)]
    pub cni: crate::cni::CniConfig,
}

/// Which CA signs.
#[derive(Clone, Debug, clap::Args)]
pub struct CaConfig {
    /// Directory of the mesh's root key and certificate, shared by the agents of a mesh; made if it is not there.
    #[arg(long, env = "HEDDLE_CA_DIR", default_value = "/etc/heddle/ca")]
    pub ca_dir: PathBuf,
    /// `host:port` of a certificate service as Istio has it (Heddle's controller, istiod, istio-csr); without it, the CA
    /// in `--ca-dir` signs.
    #[arg(long, env = "HEDDLE_CA_ADDRESS")]
    pub ca_address: Option<String>,
    /// File of the service-account token, audience `istio-ca`, that proves this node to the certificate service.
    #[arg(
        long,
        env = "HEDDLE_CA_TOKEN",
        default_value = "/var/run/secrets/tokens/istio-token"
    )]
    pub ca_token: PathBuf,
    /// PEM file of the roots that verify the certificate service; without it, key `root-cert.pem` of ConfigMap
    /// `heddle-ca-root-cert` in the namespace where Heddle is installed.
    #[arg(long, env = "HEDDLE_CA_ROOT")]
    pub ca_root: Option<PathBuf>,
    /// Life of a workload certificate, seconds.
    #[arg(long, env = "HEDDLE_CERT_TTL", default_value_t = 86_400)]
    pub cert_ttl: u64,
}

/// `meshConfig.outboundTrafficPolicy.mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum OutboundPolicy {
    /// Unknown destinations are left alone.
    #[value(name = "ALLOW_ANY")]
    AllowAny,
    /// Unknown destinations are refused.
    #[value(name = "REGISTRY_ONLY")]
    RegistryOnly,
}

/// Form of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For programs.
    Json,
}

impl AgentConfig {
    /// The settings of the mesh.
    #[must_use]
    pub fn settings(&self) -> MeshSettings {
        MeshSettings {
            trust_domain: self.trust_domain.as_str().into(),
            cluster_domain: self.cluster_domain.as_str().into(),
            registry_only: self.outbound_traffic_policy == OutboundPolicy::RegistryOnly,
            root_namespace: self.root_namespace.as_str().into(),
            capture_names: self.dns_capture,
        }
    }

    /// Sizes of the data path's maps.
    #[must_use]
    pub const fn limits(&self) -> Limits {
        Limits {
            services: self.max_services,
            backends: self.max_backends,
        }
    }

    /// Where status is asked.
    #[must_use]
    pub fn admin_socket(&self) -> PathBuf {
        self.admin_socket
            .clone()
            .unwrap_or_else(|| self.state_dir.join("admin.sock"))
    }

    /// See `drain_seconds`.
    #[must_use]
    pub fn drain_deadline(&self) -> Duration {
        Duration::from_secs(self.drain_seconds)
    }
}
