//! BackendTLSPolicies → how the servers behind Services are known.
//!
//! What a policy says stands in the place of `tls` of every DestinationRule for the port: who serves it knows best, and one
//! that verifies must not be switched off by one that does not. A policy that cannot be carried out reaches nobody.

use super::ObjectKey;
use super::aged::Aged;
use super::authorities::Lacking;
use super::findings::Findings;
use super::tables::Tables;
use super::world::Warning;
use crate::model::ObjectName;
use crate::model::gateway::{Credential, GatewayRole};
use crate::model::service::Service;
use crate::model::traffic::{ClientTls, TlsMode, Vouched};
use crate::translate::BackendTlsSpec;
use crate::translate::gateway_api::{BackendAuthorities, GROUP, PolicyTarget};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Which policy has which target: of several for one, the oldest.
#[derive(Default)]
pub(super) struct Claims {
    by_service: Aged<ObjectName>,
    /// The section of a service, or all of it.
    by_target: Aged<(ObjectName, Option<Arc<str>>)>,
    findings: Findings<ObjectName>,
}

impl Claims {
    /// Follows changes of policies. Returns the services of which they said something before or say something now.
    pub(super) fn follow(&mut self, tables: &Tables, changed: &BTreeSet<ObjectName>) -> BTreeSet<ObjectName> {
        let mut touched = BTreeSet::new();
        for name in changed {
            let spec = tables.backend_tls.get(name);
            let target = |t: &PolicyTarget| (service_of(name, t), t.section.clone());
            let targets: Option<Vec<_>> = spec.map(|spec| spec.targets.iter().map(target).collect());
            let created = spec.map(|spec| &spec.created);
            let services = targets
                .iter()
                .flatten()
                .map(|(service, _)| service.clone())
                .collect();
            touched.extend(self.by_service.follow(name, created.map(|at| (at, services))));
            self.by_target.follow(name, created.zip(targets));
        }
        touched
    }

    /// Looks again at policies that changed, and at all that name `services`. Of what they refer to something is said only
    /// where all ConfigMaps with CAs are known (`whole`).
    pub(super) fn look(
        &mut self,
        tables: &Tables,
        changed: &BTreeSet<ObjectName>,
        services: &BTreeSet<ObjectName>,
        whole: bool,
    ) {
        let naming = services.iter().flat_map(|service| self.by_service.of(service));
        let concerned: BTreeSet<&ObjectName> = naming.chain(changed).collect();
        for name in concerned {
            let found = self.problems(tables, name, whole);
            self.findings.put(name, found);
        }
    }

    /// What is wrong with policies.
    pub(super) fn warnings(&self) -> impl Iterator<Item = &Warning> {
        self.findings.iter()
    }

    /// The policy that has a target.
    pub(super) fn holder(&self, policy: &ObjectName, target: &PolicyTarget) -> Option<&ObjectName> {
        self.of(service_of(policy, target), target.section.clone())
    }

    fn of(&self, service: ObjectName, section: Option<Arc<str>>) -> Option<&ObjectName> {
        self.by_target.of(&(service, section)).next()
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
        let claimed = self.by_service.of(&service.name).next().is_some();
        if !claimed || service.external.is_some() {
            return Vec::new();
        }
        let of_port = |name: &Arc<str>| {
            let own = self.of(service.name.clone(), Some(Arc::clone(name)));
            let policy = own.or_else(|| self.of(service.name.clone(), None))?;
            let spec = tables.backend_tls.get(policy)?;
            Some(client_tls(tables, policy, spec, shown))
        };
        service.ports.iter().map(|port| of_port(&port.name)).collect()
    }

    fn problems(&self, tables: &Tables, name: &ObjectName, whole: bool) -> Vec<Warning> {
        let Some(spec) = tables.backend_tls.get(name) else {
            return Vec::new();
        };
        let warning = |field: String, reason: String| Warning {
            key: ObjectKey::of(GROUP, "BackendTLSPolicy", name),
            field,
            reason,
        };
        let of_target = |(i, target)| {
            let (_, reason) = effect(tables, self, name, target).err()?;
            Some(warning(format!("spec.targetRefs[{i}]"), reason))
        };
        let mut found: Vec<Warning> = spec.targets.iter().enumerate().filter_map(of_target).collect();
        if let Some((_, reason)) = authorities(tables, name, spec).lacking.filter(|_| whole) {
            found.push(warning("spec.validation.caCertificateRefs".into(), reason));
        }
        found
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
