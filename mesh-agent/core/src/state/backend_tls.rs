//! BackendTLSPolicies → how the servers behind Services are known.
//!
//! What a policy says stands in the place of `tls` of every DestinationRule for the port: who serves it knows best, and one
//! that verifies must not be switched off by one that does not. A policy that cannot be carried out reaches nobody.

use super::ObjectKey;
use super::authorities::Lacking;
use super::tables::Tables;
use super::world::Warning;
use crate::model::ObjectName;
use crate::model::gateway::{Credential, GatewayRole};
use crate::model::service::Service;
use crate::model::traffic::{ClientTls, TlsMode, Vouched};
use crate::translate::BackendTlsSpec;
use crate::translate::gateway_api::{BackendAuthorities, GROUP, PolicyTarget, precedence};
use std::collections::HashMap;
use std::sync::Arc;

/// Which policy has which target: of several for one, the oldest.
#[derive(Default)]
pub(super) struct Claims {
    by_service: HashMap<ObjectName, HashMap<Option<Arc<str>>, ObjectName>>,
}

impl Claims {
    pub(super) fn of(tables: &Tables) -> Self {
        let mut policies: Vec<_> = tables.backend_tls.iter().collect();
        policies.sort_by(|a, b| precedence((&a.1.created, a.0), (&b.1.created, b.0)));
        let mut claims = Self::default();
        for (name, spec) in policies {
            for target in &spec.targets {
                let sections = claims.by_service.entry(service_of(name, target)).or_default();
                let section = sections.entry(target.section.clone());
                section.or_insert_with(|| name.clone());
            }
        }
        claims
    }

    /// The policy that has a target.
    pub(super) fn holder(&self, policy: &ObjectName, target: &PolicyTarget) -> Option<&ObjectName> {
        let sections = self.by_service.get(&service_of(policy, target))?;
        sections.get(&target.section)
    }

    /// Services that any policy names.
    pub(super) fn services(&self) -> impl Iterator<Item = &ObjectName> {
        self.by_service.keys()
    }

    /// How the servers behind each of the service's ports are known; empty if no policy says so of any. A policy for a port
    /// comes before one for all.
    pub(super) fn tls(
        &self,
        tables: &Tables,
        service: &Service,
        shown: Option<&Shown>,
    ) -> Vec<Option<ClientTls>> {
        let sections = match self.by_service.get(&service.name) {
            Some(sections) if service.external.is_none() => sections,
            _ => return Vec::new(),
        };
        let of_port = |name: &Arc<str>| {
            let own = sections.get(&Some(Arc::clone(name)));
            let policy = own.or_else(|| sections.get(&None))?;
            let spec = tables.backend_tls.get(policy)?;
            Some(client_tls(tables, policy, spec, shown))
        };
        service.ports.iter().map(|port| of_port(&port.name)).collect()
    }
}

/// The Service that a target of a policy names.
pub(super) fn service_of(policy: &ObjectName, target: &PolicyTarget) -> ObjectName {
    ObjectName::new(Arc::clone(&policy.namespace), Arc::clone(&target.service))
}

/// The certificate that a Gateway shows to such servers, or why it cannot.
pub(super) type Shown = Result<Credential, Arc<str>>;

/// What this process shows, if it is a Gateway's that has a certificate for it.
pub(super) fn shown(tables: &Tables, role: Option<&GatewayRole>) -> Option<Shown> {
    let gateway = role?.gateway.as_ref()?;
    let found = tables.client_certificate(gateway)?;
    Some(found.map_err(|(_, reason)| reason.into()))
}

fn client_tls(tables: &Tables, name: &ObjectName, spec: &BackendTlsSpec, shown: Option<&Shown>) -> ClientTls {
    let (authorities, mut broken) = match &spec.authorities {
        Err(reason) => (None, Some(Arc::clone(reason))),
        Ok(BackendAuthorities::System) => (None, None),
        Ok(_) => {
            let found = authorities(tables, name, spec);
            // One that is there is enough.
            let lacking = found.lacking.filter(|_| found.found.is_none());
            (found.found, lacking.map(|(_, reason)| reason.into()))
        }
    };
    let certificate = match shown {
        Some(Ok(certificate)) => Some(certificate.clone()),
        Some(Err(reason)) => {
            broken.get_or_insert_with(|| Arc::clone(reason));
            None
        }
        None => None,
    };
    ClientTls {
        mode: match certificate {
            Some(_) => TlsMode::Mutual,
            None => TlsMode::Simple,
        },
        sni: Some(Arc::clone(&spec.hostname)),
        subject_alt_names: spec.names.clone(),
        credential: None,
        credential_optional: false,
        skip_verify: false,
        vouched: Some(Arc::new(Vouched {
            object: name.clone(),
            authorities,
            certificate,
            broken,
        })),
    }
}

/// What the policy's `caCertificateRefs` come to.
pub(super) fn authorities(
    tables: &Tables,
    policy: &ObjectName,
    spec: &BackendTlsSpec,
) -> super::authorities::Authorities {
    let Ok(BackendAuthorities::Named(refs)) = &spec.authorities else {
        return super::authorities::Authorities::default();
    };
    let named = |name: &Arc<str>| ObjectName::new(Arc::clone(&policy.namespace), Arc::clone(name));
    tables.authorities(refs.iter().map(|r| (&r.kind, named(&r.name))), |_| true)
}

/// What is wrong with policies; of what they refer to only where all ConfigMaps with CAs are known (`whole`).
pub(super) fn warn(tables: &Tables, claims: &Claims, whole: bool, warnings: &mut Vec<Warning>) {
    for (name, spec) in &tables.backend_tls {
        let mut say = |field: String, reason: String| {
            let key = ObjectKey::of(GROUP, "BackendTLSPolicy", name);
            warnings.push(Warning { key, field, reason });
        };
        for (i, target) in spec.targets.iter().enumerate() {
            let at = format!("spec.targetRefs[{i}]");
            if let Err((_, reason)) = effect(tables, claims, name, target) {
                say(at, reason);
            }
        }
        let lacking = authorities(tables, name, spec).lacking.filter(|_| whole);
        if let Some((_, reason)) = lacking {
            say("spec.validation.caCertificateRefs".into(), reason);
        }
    }
}

/// Whether a policy applies to one of its targets, or why it does not.
pub(super) fn effect(
    tables: &Tables,
    claims: &Claims,
    policy: &ObjectName,
    target: &PolicyTarget,
) -> Result<(), (&'static str, String)> {
    let name = service_of(policy, target);
    let Some(service) = tables.service(&name) else {
        return Err(("TargetNotFound", format!("Service {name} is not there")));
    };
    if let Some(section) = &target.section
        && !service.ports.iter().any(|port| port.name == *section)
    {
        let reason = format!("Service {name} has no TCP port called {section}");
        return Err(("TargetNotFound", reason));
    }
    match claims.holder(policy, target) {
        Some(holder) if holder != policy => {
            let reason = format!("Service {name} has the older BackendTLSPolicy {}", holder.name);
            Err(("Conflicted", reason))
        }
        _ => Ok(()),
    }
}

/// Reason of condition `ResolvedRefs` of a policy.
pub(super) const fn reason(lacking: Lacking) -> &'static str {
    match lacking {
        Lacking::Kind => "InvalidKind",
        Lacking::Object | Lacking::Grant => "InvalidCACertificateRef",
    }
}
