//! The controller's settings.

use super::decision::Policy;
use super::gateways::Template;
use crate::app::config::LogFormat;
use mesh_core::model::snapshot::MeshSettings;
use std::collections::BTreeSet;
use std::net::SocketAddr;

/// Everything that `mesh-agent controller` can be told.
#[derive(Clone, Debug, clap::Args)]
pub struct ControllerConfig {
    /// Namespace where Heddle is installed.
    #[arg(long, env = "HEDDLE_NAMESPACE", default_value = "heddle-system")]
    pub namespace: String,
    /// Where certificates are asked for (gRPC, TLS).
    #[arg(long, env = "HEDDLE_CA_ADDR", default_value = "[::]:15012")]
    pub ca_addr: SocketAddr,
    /// Where the API server asks whether an object is right (HTTPS).
    #[arg(long, env = "HEDDLE_WEBHOOK_ADDR", default_value = "[::]:15017")]
    pub webhook_addr: SocketAddr,
    /// Where metrics and health are served.
    #[arg(long, env = "HEDDLE_METRICS_ADDR", default_value = "[::]:15014")]
    pub metrics_addr: SocketAddr,
    /// Trust domain of the mesh (`meshConfig.trustDomain`).
    #[arg(long, env = "HEDDLE_TRUST_DOMAIN", default_value = "cluster.local")]
    pub trust_domain: String,
    /// DNS domain of the cluster.
    #[arg(long, env = "HEDDLE_CLUSTER_DOMAIN", default_value = "cluster.local")]
    pub cluster_domain: String,
    /// `NAMESPACE/NAME` of a service account that may ask for certificates of the pods on its own node; may be given
    /// several times. Without it, `heddle-agent` of `--namespace`.
    #[arg(
        long = "trusted-account",
        env = "HEDDLE_TRUSTED_ACCOUNTS",
        value_delimiter = ',',
        value_parser = account
    )]
    pub trusted_accounts: Vec<(String, String)>,
    /// Longest life of a workload certificate, seconds.
    #[arg(
        long,
        env = "HEDDLE_MAX_CERT_TTL",
        default_value_t = 90 * 24 * 3600,
        value_parser = clap::value_parser!(u64).range(60..=10 * 365 * 24 * 3600)
    )]
    pub max_cert_ttl: u64,
    /// What every Gateway of class `heddle` is deployed as, JSON: `podTemplate`, and `service` (its `spec`). Without it none is
    /// deployed, and there is no such class.
    #[arg(long, env = "HEDDLE_GATEWAY_TEMPLATE", value_parser = Template::parse)]
    pub gateway_template: Option<Template>,
    /// `text` or `json` log lines.
    #[arg(long, env = "HEDDLE_LOG_FORMAT", default_value = "json")]
    pub log_format: LogFormat,
}

impl ControllerConfig {
    /// Who may ask for what.
    #[must_use]
    pub fn policy(&self) -> Policy {
        let mut trusted: BTreeSet<_> = self.trusted_accounts.iter().cloned().collect();
        if trusted.is_empty() {
            trusted.insert((self.namespace.clone(), "heddle-agent".to_owned()));
        }
        Policy {
            trust_domain: self.trust_domain.clone(),
            trusted,
            max_ttl: self.max_cert_ttl,
        }
    }

    /// The settings of the mesh that translation needs: the same as the agents'.
    #[must_use]
    pub fn settings(&self) -> MeshSettings {
        MeshSettings {
            trust_domain: self.trust_domain.as_str().into(),
            cluster_domain: self.cluster_domain.as_str().into(),
            ..MeshSettings::default()
        }
    }

    /// Names under which agents and the API server reach the controller.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let short = format!("heddle-controller.{}.svc", self.namespace);
        let full = format!("{short}.{}", self.cluster_domain);
        vec![short, full]
    }
}

fn account(text: &str) -> Result<(String, String), String> {
    match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
            Ok((namespace.to_owned(), name.to_owned()))
        }
        _ => Err("expected NAMESPACE/NAME of a service account".to_owned()),
    }
}
