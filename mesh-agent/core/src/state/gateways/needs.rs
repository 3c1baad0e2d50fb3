//! What a Gateway of Gateway API needs of the cluster: what its pods and its Service are to be like, and which Secrets
//! and ConfigMaps it has to see.

use crate::model::ObjectName;
use crate::state::State;
use crate::state::backend_tls::service_of;
use crate::state::listeners::{Owner, supported};
use crate::translate::gateway_api::{
    ApiGatewaySpec, GROUP, GatewayTlsSpec, ListenerKind, ListenerSpec, SecretRef,
};
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

/// A kind of object that holds certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Material {
    /// Certificates with their keys.
    Secret,
    /// CAs.
    ConfigMap,
}

impl Material {
    /// `kind`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Secret => "Secret",
            Self::ConfigMap => "ConfigMap",
        }
    }
}

/// The objects of one kind in one namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// The kind.
    pub kind: Material,
    /// The namespace.
    pub namespace: Arc<str>,
}

impl Place {
    /// Of a kind and namespace.
    #[must_use]
    pub fn new(kind: Material, namespace: &Arc<str>) -> Self {
        let namespace = Arc::clone(namespace);
        Self { kind, namespace }
    }
}

/// The certificates of listeners that show one.
fn certificates(listeners: &[ListenerSpec]) -> impl Iterator<Item = &SecretRef> {
    let terminating = listeners.iter();
    let terminating = terminating.filter(|l| l.protocol.as_ref().is_ok_and(|kind| kind.terminates()));
    terminating.flat_map(|l| &l.certificates)
}

/// What `tls` of a Gateway refers to, with the kind that is read there.
fn of_tls(tls: &GatewayTlsSpec) -> impl Iterator<Item = (Material, &SecretRef)> {
    let shown = tls.client_certificate.iter();
    let authorities = tls.validations().flat_map(|v| &v.authorities);
    let shown = shown.map(|secret| (Material::Secret, secret));
    shown.chain(authorities.map(|map| (Material::ConfigMap, map)))
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

    /// Where what Gateways of ours and their ListenerSets refer to is to be read, as far as they may, with the Gateways; of
    /// one Gateway if one is named.
    #[must_use]
    pub fn gateway_material(&self, only: Option<&ObjectName>) -> BTreeMap<Place, BTreeSet<ObjectName>> {
        let mut places: BTreeMap<Place, BTreeSet<ObjectName>> = BTreeMap::new();
        let gateways = self.tables.api_gateways.iter();
        let ours = gateways.filter(|(name, spec)| match only {
            None => self.tables.is_our_class(&spec.class),
            Some(only) => only == *name && !self.tables.is_others_class(&spec.class),
        });
        let ours: BTreeMap<_, _> = ours.collect();
        for (gateway, spec) in &ours {
            for (owner, kind, wanted) in self.named(gateway, spec) {
                let from = (GROUP, owner.kind(), &*owner.name().namespace);
                let is_kind = (&*wanted.kind.0, &*wanted.kind.1) == ("", kind.name());
                if is_kind && self.tables.permits(from, ("", kind.name()), &wanted.name) {
                    let place = Place::new(kind, &wanted.name.namespace);
                    places.entry(place).or_default().insert((*gateway).clone());
                }
            }
        }
        for (policy, spec) in &self.tables.backend_tls {
            if !spec.reads_config_maps() {
                continue;
            }
            let services = spec.targets.iter().map(|t| service_of(policy, t));
            for service in services {
                let gateways = self.gateways_to(&service);
                for gateway in gateways.into_iter().filter(|g| ours.contains_key(g)) {
                    let place = Place::new(Material::ConfigMap, &policy.namespace);
                    places.entry(place).or_default().insert(gateway.clone());
                }
            }
        }
        places
    }

    /// Where the CAs are by which clients in the mesh verify servers that a BackendTLSPolicy names.
    #[must_use]
    pub fn backend_material(&self) -> BTreeSet<Place> {
        let policies = self.tables.backend_tls.iter();
        let reading = policies.filter(|(_, spec)| spec.reads_config_maps());
        reading
            .map(|(name, _)| Place::new(Material::ConfigMap, &name.namespace))
            .collect()
    }

    /// What a Gateway and its ListenerSets refer to, with the object that does and the kind that is read there.
    fn named<'a>(
        &'a self,
        gateway: &'a ObjectName,
        spec: &'a ApiGatewaySpec,
    ) -> impl Iterator<Item = (Owner<'a>, Material, &'a SecretRef)> {
        let own = (Owner::Gateway(gateway), spec.listeners.as_slice());
        let sets = self.tables.sets_of(gateway).into_iter();
        let sets = sets.map(|(name, set)| (Owner::Set(name), set.listeners.as_slice()));
        let certificates = std::iter::once(own).chain(sets).flat_map(|(owner, listeners)| {
            certificates(listeners).map(move |secret| (owner, Material::Secret, secret))
        });
        let of_tls = of_tls(&spec.tls);
        certificates.chain(of_tls.map(|(kind, named)| (Owner::Gateway(gateway), kind, named)))
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
