//! `spec.tls` of Gateways of Gateway API: what their clients must show, and what they show to backends.

use super::authorities::{Authorities, Lacking};
use super::gateways::credentials;
use super::listeners::{Owner, Reason};
use super::tables::Tables;
use crate::model::ObjectName;
use crate::model::gateway::{ClientCertificates, Credential, TlsMode};
use crate::translate::CertificateRef;
use crate::translate::gateway_api::{ApiGatewaySpec, GROUP, ListenerKind, ListenerSpec};
use std::sync::Arc;

/// What is asked of a listener's clients.
pub(super) struct Clients {
    authorities: Authorities,
    /// Whether clients without a certificate, or with a wrong one, are served as well.
    insecure: bool,
}

impl Clients {
    /// Why there is no CA by which any client could be known: then nobody is served.
    pub(super) fn refuses_all(&self) -> Option<&str> {
        let lacking = self.authorities.lacking.as_ref();
        lacking
            .filter(|_| self.authorities.found.is_none())
            .map(|(_, reason)| reason.as_str())
    }

    /// The first CA that is not there.
    pub(super) fn unresolved(&self) -> Option<Reason> {
        let (lacking, message) = self.authorities.lacking.as_ref()?;
        let reason = match lacking {
            Lacking::Kind => "InvalidCACertificateKind",
            Lacking::Object => "InvalidCACertificateRef",
            Lacking::Grant => "RefNotPermitted",
        };
        Some((reason, message.clone()))
    }

    /// As a listener is told.
    pub(super) fn mode(&self) -> (TlsMode, ClientCertificates) {
        let mode = match self.insecure {
            true => TlsMode::OptionalMutual,
            false => TlsMode::Mutual,
        };
        let wanted = ClientCertificates {
            authorities: self.authorities.found.clone(),
            skip_verify: self.insecure,
            ..ClientCertificates::default()
        };
        (mode, wanted)
    }
}

impl Tables {
    /// What is asked of the clients of a listener; `None` if nothing. It is asked where HTTPS is spoken only.
    pub(super) fn clients(
        &self,
        gateway: &ObjectName,
        spec: &ApiGatewaySpec,
        listener: &ListenerSpec,
    ) -> Option<Clients> {
        if listener.protocol != Ok(ListenerKind::Https) {
            return None;
        }
        let asked = spec.tls.clients_of(listener.port)?;
        let from = (GROUP, "Gateway", &*gateway.namespace);
        let wanted = asked.authorities.iter().map(|r| (&r.kind, r.name.clone()));
        Some(Clients {
            authorities: self.authorities(wanted, |name| self.permits(from, ("", "ConfigMap"), name)),
            insecure: asked.insecure,
        })
    }

    /// The certificate that a Gateway shows to backends that a BackendTLSPolicy vouches for, or why it cannot; `None` if it
    /// has none.
    pub(super) fn client_certificate(&self, gateway: &ObjectName) -> Option<Result<Credential, Reason>> {
        let wanted = self.api_gateways.get(gateway)?.tls.client_certificate.as_ref()?;
        if let Some((reason, message)) = self.certificate(Owner::Gateway(gateway), wanted) {
            let reason = match reason {
                "InvalidCertificateRef" => "InvalidClientCertificateRef",
                other => other,
            };
            return Some(Err((reason, message)));
        }
        let secret = CertificateRef::Secret(Arc::clone(&wanted.name.name));
        let found = credentials::certificate(self, &wanted.name.namespace, &secret);
        Some(found.map_err(|reason| ("InvalidClientCertificateRef", reason)))
    }
}
