//! What a workload sees of the registry (`Sidecar.egress`), and what becomes of the rest.

use super::ObjectName;
use super::service::Service;
use std::sync::Arc;

/// One Sidecar's word on the way out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EgressScope {
    /// The Sidecar.
    pub object: ObjectName,
    /// `egress[].hosts`; `None` = everything, an empty list = nothing.
    pub hosts: Option<Vec<EgressHost>>,
    /// `outboundTrafficPolicy`; `None` = the mesh's.
    pub registry_only: Option<bool>,
}

/// One of `egress[].hosts`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EgressHost {
    /// Namespace of the service, `None` = any.
    pub namespace: Option<Arc<str>>,
    /// Host, `*.suffix` or `*`.
    pub host: Arc<str>,
}

impl EgressScope {
    /// Whether a service is in scope.
    #[must_use]
    pub fn admits(&self, service: &Service) -> bool {
        let Some(hosts) = &self.hosts else { return true };
        hosts.iter().any(|wanted| {
            let here = wanted
                .namespace
                .as_ref()
                .is_none_or(|ns| *ns == service.name.namespace);
            let named = match wanted.host.strip_prefix('*') {
                Some(suffix) => service.host.ends_with(suffix),
                None => wanted.host == service.host,
            };
            here && named
        })
    }
}
