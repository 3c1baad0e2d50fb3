//! What a Gateway of Gateway API needs of the cluster: what its pods and its Service are to be like, and which Secrets it
//! has to see.

use crate::model::ObjectName;
use crate::state::State;
use crate::state::listeners::supported;
use crate::translate::gateway_api::{ApiGatewaySpec, GROUP, ListenerKind};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

/// What the objects that a Gateway is made of are to be like.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GatewayNeeds {
    /// Ports of its Service by number.
    pub ports: BTreeMap<u16, GatewayPort>,
    /// `infrastructure.labels`.
    pub labels: BTreeMap<Arc<str>, Arc<str>>,
    /// `infrastructure.annotations`.
    pub annotations: BTreeMap<Arc<str>, Arc<str>>,
    /// The address that it is to have, if one is asked for.
    pub address: Option<IpAddr>,
}

/// What is spoken on a port: with the number it makes the name of the Service's port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GatewayPort {
    /// `http`.
    Http,
    /// `https`.
    Https,
    /// `tls`.
    Tls,
    /// `tcp`.
    Tcp,
}

impl GatewayPort {
    /// The first part of the port's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
            Self::Tls => "tls",
            Self::Tcp => "tcp",
        }
    }
}

/// The addresses that a Gateway asks for by value.
pub(in crate::state) fn wanted_addresses(spec: &ApiGatewaySpec) -> impl Iterator<Item = IpAddr> {
    let addresses = spec.addresses.iter();
    addresses.filter_map(|(_, value)| value.parse().ok())
}

impl State {
    /// What a Gateway of ours needs; `None` for others.
    ///
    /// A listener has its port from the day it is written: a certificate that comes later changes no Service.
    #[must_use]
    pub fn gateway_needs(&self, name: &ObjectName) -> Option<GatewayNeeds> {
        let view = self.tables.gateway_view(name)?;
        let mut ports = BTreeMap::new();
        for listener in view.listeners.iter().filter(|l| l.conflict.is_none()) {
            let Ok(kind) = supported(listener.spec) else {
                continue;
            };
            ports.entry(listener.spec.port).or_insert(match kind {
                ListenerKind::Http => GatewayPort::Http,
                ListenerKind::Https => GatewayPort::Https,
                ListenerKind::TlsPassthrough | ListenerKind::TlsTerminate => GatewayPort::Tls,
                ListenerKind::Tcp => GatewayPort::Tcp,
            });
        }
        let infrastructure = &view.spec.infrastructure;
        Some(GatewayNeeds {
            ports,
            labels: infrastructure.labels.clone(),
            annotations: infrastructure.annotations.clone(),
            address: wanted_addresses(view.spec).next(),
        })
    }

    /// The namespaces whose Secrets Gateways of ours may refer to, and do, with the Gateways that do; of one Gateway if
    /// one is named.
    #[must_use]
    pub fn certificate_namespaces(
        &self,
        only: Option<&ObjectName>,
    ) -> BTreeMap<Arc<str>, BTreeSet<ObjectName>> {
        let mut namespaces: BTreeMap<Arc<str>, BTreeSet<ObjectName>> = BTreeMap::new();
        let gateways = self.tables.api_gateways.iter();
        let ours = gateways.filter(|(name, spec)| match only {
            None => self.tables.is_our_class(&spec.class),
            Some(only) => only == *name && !self.tables.is_others_class(&spec.class),
        });
        for (gateway, spec) in ours {
            let from = (GROUP, "Gateway", &*gateway.namespace);
            let terminating = spec.listeners.iter();
            let terminating = terminating.filter(|l| l.protocol.as_ref().is_ok_and(|kind| kind.terminates()));
            for secret in terminating.flat_map(|l| &l.certificates) {
                let is_secret = (&*secret.kind.0, &*secret.kind.1) == ("", "Secret");
                if is_secret && self.tables.permits(from, ("", "Secret"), &secret.name) {
                    let gateways = namespaces.entry(Arc::clone(&secret.name.namespace));
                    gateways.or_default().insert(gateway.clone());
                }
            }
        }
        namespaces
    }

    /// Gateways of classes that are known to be others': what was made for them while they were ours can go.
    #[must_use]
    pub fn gateways_of_others(&self) -> BTreeSet<ObjectName> {
        let gateways = self.tables.api_gateways.iter();
        gateways
            .filter(|(_, spec)| self.tables.is_others_class(&spec.class))
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// Whether a GatewayClass of this name is there, whoever's it is.
    #[must_use]
    pub fn has_class(&self, name: &str) -> bool {
        self.tables.gateway_classes.contains_key(name)
    }
}
