//! Who the gateway is.

use super::config::GatewayConfig;
use anyhow::Context;
use mesh_core::model::ObjectName;
use mesh_core::model::gateway::GatewayRole;
use mesh_core::model::identity::SpiffeId;
use mesh_core::model::workload::{Enrollment, FailMode, Names, Workload};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A name that no node has: to a gateway every pod is another node's, and reached by HBONE.
pub(super) const NO_NODE: &str = "-";
/// No pod of a snapshot has this number.
const ID: u32 = u32::MAX;

/// The gateway as a workload of the mesh.
///
/// # Errors
/// The file of labels cannot be read.
pub(super) fn workload(config: &GatewayConfig) -> anyhow::Result<Arc<Workload>> {
    let pod = ObjectName::new(config.namespace.as_str(), config.name.as_str());
    let labels = Arc::new(labels(config)?);
    let owner = config.workload.as_deref();
    let owner = owner.map(|name| (Arc::from("deployment"), Arc::from(name)));
    Ok(Arc::new(Workload {
        id: ID,
        uid: pod.to_string().into(),
        node: NO_NODE.into(),
        ips: config.ips.iter().map(std::net::IpAddr::to_canonical).collect(),
        identity: SpiffeId::new(
            config.trust_domain.as_str(),
            config.namespace.as_str(),
            config.service_account.as_str(),
        ),
        names: Arc::new(Names::of(&pod, owner.as_ref(), &labels)),
        labels,
        enrollment: Enrollment::OptedOut,
        ready: true,
        netns: None,
        probe_ports: Vec::new(),
        fail_mode: FailMode::Closed,
        resolves_itself: false,
        pod,
    }))
}

/// What Gateways select it by.
pub(super) fn role(config: &GatewayConfig, me: &Workload) -> GatewayRole {
    GatewayRole {
        pod: me.pod.clone(),
        labels: Arc::clone(&me.labels),
        gateway: config.gateway.clone(),
    }
}

fn labels(config: &GatewayConfig) -> anyhow::Result<BTreeMap<Arc<str>, Arc<str>>> {
    let mut labels = BTreeMap::new();
    if let Some(path) = &config.labels_file {
        let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        labels.extend(written(&text));
    }
    let given = config.labels.iter();
    labels.extend(given.map(|(key, value)| (key.as_str().into(), value.as_str().into())));
    Ok(labels)
}

/// `key="value"` lines; labels have nothing in them that would be escaped.
fn written(text: &str) -> impl Iterator<Item = (Arc<str>, Arc<str>)> {
    text.lines().filter_map(|line| {
        let (key, value) = line.split_once('=')?;
        Some((key.trim().into(), value.trim().trim_matches('"').into()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_read_as_the_downward_api_writes_them() {
        let text = "app=\"istio-ingressgateway\"\nistio=\"ingressgateway\"\nempty=\"\"\n";
        let labels: BTreeMap<_, _> = written(text).collect();
        assert_eq!(labels.get("istio").map(|v| &**v), Some("ingressgateway"));
        assert_eq!(labels.get("empty").map(|v| &**v), Some(""));
        assert_eq!(labels.len(), 3);
    }
}
