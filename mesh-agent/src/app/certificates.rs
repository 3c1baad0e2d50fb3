//! Which CA the agent asks, and where it learns whom to trust as one.

use super::config::CaConfig;
use crate::ca::remote::{RootSource, server_name};
use crate::ca::{CertificateStore, Issuer, RemoteCa, RemoteConfig, system_clock};
use crate::errors::chain;
use anyhow::Context;
use k8s_openapi::api::core::v1::ConfigMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// ConfigMap in the namespace of Heddle that holds the CA's roots.
pub const ROOT_CONFIG_MAP: &str = "heddle-ca-root-cert";
/// Its key.
pub const ROOT_KEY: &str = "root-cert.pem";

/// The store in front of the CA that the settings name. `namespace` is the one where Heddle is installed.
///
/// # Errors
/// The built-in CA cannot be opened. A CA elsewhere may be away: it is asked until it answers.
pub fn store(config: &CaConfig, trust_domain: &str, namespace: &str) -> anyhow::Result<CertificateStore> {
    let Some(address) = &config.ca_address else {
        let ttl = Duration::from_secs(config.cert_ttl);
        let issuer = Issuer::open(&config.ca_dir, trust_domain, ttl)
            .with_context(|| format!("open the CA in {}", config.ca_dir.display()))?;
        return Ok(CertificateStore::new(issuer, system_clock()));
    };
    let remote = RemoteCa::new(RemoteConfig {
        address: address.clone(),
        server_name: server_name(address, namespace),
        token: config.ca_token.clone(),
        roots: match &config.ca_root {
            Some(path) => roots_in_file(path.clone()),
            None => roots_in_config_map(namespace.to_owned()),
        },
        ttl: config.cert_ttl,
    });
    Ok(CertificateStore::new(remote, system_clock()))
}

fn roots_in_file(path: PathBuf) -> RootSource {
    Arc::new(move || {
        let path = path.clone();
        Box::pin(async move {
            tokio::fs::read(&path)
                .await
                .map_err(|error| format!("{}: {error}", path.display()))
        })
    })
}

fn roots_in_config_map(namespace: String) -> RootSource {
    Arc::new(move || {
        let namespace = namespace.clone();
        Box::pin(async move {
            let named = |reason: &str| format!("ConfigMap {namespace}/{ROOT_CONFIG_MAP}: {reason}");
            let client = kube::Client::try_default()
                .await
                .map_err(|error| named(&chain(&error)))?;
            let map = kube::Api::<ConfigMap>::namespaced(client, &namespace)
                .get(ROOT_CONFIG_MAP)
                .await
                .map_err(|error| named(&chain(&error)))?;
            let pem = map.data.unwrap_or_default().remove(ROOT_KEY);
            pem.map(String::into_bytes)
                .ok_or_else(|| named(&format!("data.{ROOT_KEY} is missing")))
        })
    })
}
