//! The gateway's settings.

use crate::app::config::{CaConfig, LogFormat};
use mesh_core::model::ObjectName;
use mesh_core::model::snapshot::MeshSettings;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// Everything that `mesh-agent gateway` can be told.
#[derive(Clone, Debug, clap::Args)]
pub struct GatewayConfig {
    /// Name of this pod.
    #[arg(long, env = "POD_NAME")]
    pub name: String,
    /// Namespace of this pod: Secrets are looked for in it.
    #[arg(long, env = "POD_NAMESPACE")]
    pub namespace: String,
    /// Service account of this pod.
    #[arg(long, env = "SERVICE_ACCOUNT", default_value = "default")]
    pub service_account: String,
    /// Addresses of this pod.
    #[arg(long, env = "POD_IPS", value_delimiter = ',')]
    pub ips: Vec<IpAddr>,
    /// Name of the Deployment, as telemetry tells it.
    #[arg(long, env = "HEDDLE_WORKLOAD")]
    pub workload: Option<String>,
    /// Labels of this pod, by which Gateways select it: `istio=ingressgateway,app=…`.
    #[arg(long, env = "HEDDLE_LABELS", value_delimiter = ',', value_parser = label)]
    pub labels: Vec<(String, String)>,
    /// File with the labels, one `key="value"` a line, as the downward API writes it.
    #[arg(long, env = "HEDDLE_LABELS_FILE")]
    pub labels_file: Option<PathBuf>,
    /// `NAMESPACE/NAME` of the one Gateway (gateway.networking.k8s.io) to serve, instead of all that select the pod's
    /// labels.
    #[arg(long, env = "HEDDLE_GATEWAY", value_parser = object)]
    pub gateway: Option<ObjectName>,
    /// Folder of YAML to run on; without it, the Kubernetes API of the cluster that the gateway runs in.
    #[arg(long, env = "HEDDLE_CONFIG")]
    pub config: Option<PathBuf>,
    /// The CA.
    #[command(flatten)]
    pub ca: CaConfig,
    /// Namespace where Heddle is installed.
    #[arg(long, env = "HEDDLE_NAMESPACE", default_value = "heddle-system")]
    pub mesh_namespace: String,
    /// Where readiness is asked (`/healthz/ready`).
    #[arg(long, env = "HEDDLE_STATUS_ADDR", default_value = "[::]:15021")]
    pub status_addr: SocketAddr,
    /// Where metrics are served.
    #[arg(long, env = "HEDDLE_METRICS_ADDR", default_value = "[::]:15020")]
    pub metrics_addr: SocketAddr,
    /// Unix socket for `heddle status`, `why` and `routes`; without it there is none.
    #[arg(long, env = "HEDDLE_ADMIN_SOCKET")]
    pub admin_socket: Option<PathBuf>,
    /// Proxy threads; 0 = one for each core.
    #[arg(long, env = "HEDDLE_WORKERS", default_value_t = 0)]
    pub workers: usize,
    /// Trust domain of the mesh (`meshConfig.trustDomain`).
    #[arg(long, env = "HEDDLE_TRUST_DOMAIN", default_value = "cluster.local")]
    pub trust_domain: String,
    /// DNS domain of the cluster.
    #[arg(long, env = "HEDDLE_CLUSTER_DOMAIN", default_value = "cluster.local")]
    pub cluster_domain: String,
    /// Proxies in front of the gateway that are trusted to say who the client is
    /// (`gatewayTopology.numTrustedProxies`).
    #[arg(long, env = "HEDDLE_NUM_TRUSTED_PROXIES", default_value_t = 0)]
    pub num_trusted_proxies: usize,
    /// After SIGTERM new connections are still taken for this long, seconds: load balancers need a while to notice.
    #[arg(long, env = "HEDDLE_DRAIN_DELAY_SECONDS", default_value_t = 5)]
    pub drain_delay_seconds: u64,
    /// How long live connections may go on after that, seconds.
    #[arg(long, env = "HEDDLE_DRAIN_SECONDS", default_value_t = 30)]
    pub drain_seconds: u64,
    /// Write one line per request and connection.
    #[arg(long, env = "HEDDLE_ACCESS_LOG", default_value_t = true, action = clap::ArgAction::Set)]
    pub access_log: bool,
    /// `text` or `json` log lines.
    #[arg(long, env = "HEDDLE_LOG_FORMAT", default_value = "json")]
    pub log_format: LogFormat,
}

impl GatewayConfig {
    /// The settings of the mesh.
    #[must_use]
    pub fn settings(&self) -> MeshSettings {
        MeshSettings {
            trust_domain: self.trust_domain.as_str().into(),
            cluster_domain: self.cluster_domain.as_str().into(),
            ..MeshSettings::default()
        }
    }

    /// See `drain_seconds`.
    #[must_use]
    pub const fn drain_deadline(&self) -> Duration {
        Duration::from_secs(self.drain_seconds)
    }

    /// See `drain_delay_seconds`.
    #[must_use]
    pub const fn drain_delay(&self) -> Duration {
        Duration::from_secs(self.drain_delay_seconds)
    }
}

fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("expected key=value".to_owned()),
    }
}

fn object(text: &str) -> Result<ObjectName, String> {
    match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() => {
            Ok(ObjectName::new(namespace, name))
        }
        _ => Err("expected NAMESPACE/NAME".to_owned()),
    }
}
