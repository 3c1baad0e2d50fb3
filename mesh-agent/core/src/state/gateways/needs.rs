//! What a Gateway of Gateway API needs of the cluster: what its pods and its Service are to be like, and which Secrets it
//! has to see.

use crate::model::ObjectName;
use crate::state::State;
use crate::state::listeners::{Owner, supported};
use crate::translate::gateway_api::{ApiGatewaySpec, GROUP, ListenerKind, ListenerSpec};
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

    /// The namespaces whose Secrets Gateways of ours, or their ListenerSets, may refer to, and do, with the Gateways; of
    /// one Gateway if one is named.
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
            let sets = self.tables.sets_of(gateway).into_iter();
            let sets = sets.map(|(name, set)| (Owner::Set(name), set.listeners.as_slice()));
            let own = std::iter::once((Owner::Gateway(gateway), spec.listeners.as_slice()));
            for (owner, listeners) in own.chain(sets) {
                for namespace in self.secrets_of(owner, listeners) {
                    let gateways = namespaces.entry(namespace);
                    gateways.or_default().insert(gateway.clone());
                }
            }
        }
        namespaces
    }

    /// The namespaces of the Secrets that these listeners name and may.
    fn secrets_of<'a>(
        &'a self,
        owner: Owner<'a>,
        listeners: &'a [ListenerSpec],
    ) -> impl Iterator<Item = Arc<str>> + 'a {
        let from = (GROUP, owner.kind(), &*owner.name().namespace);
        let terminating = listeners
            .iter()
            .filter(|l| l.protocol.as_ref().is_ok_and(|kind| kind.terminates()));
        let secrets = terminating.flat_map(|l| &l.certificates).filter(move |secret| {
            let is_secret = (&*secret.kind.0, &*secret.kind.1) == ("", "Secret");
            is_secret && self.tables.permits(from, ("", "Secret"), &secret.name)
        });
        secrets.map(|secret| Arc::clone(&secret.name.namespace))
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
