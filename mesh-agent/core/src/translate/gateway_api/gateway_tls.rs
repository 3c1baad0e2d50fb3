//! `tls` of a Gateway: what it shows to backends, and what it asks of clients.

use super::gateway::{RawSecret, SecretRef, reference};
use crate::translate::value::FieldError;
use serde::Deserialize;
use std::sync::Arc;

/// `tls` of a Gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GatewayTlsSpec {
    /// `backend.clientCertificateRef`.
    pub client_certificate: Option<SecretRef>,
    /// `frontend.default.validation`.
    pub clients: Option<ClientValidation>,
    /// `frontend.perPort[]`: what stands in the place of the default for listeners of a port.
    pub clients_by_port: Vec<(u16, Option<ClientValidation>)>,
}

/// What is asked of clients' certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientValidation {
    /// `caCertificateRefs`.
    pub authorities: Vec<SecretRef>,
    /// `mode` is `AllowInsecureFallback`: a client without a certificate, or with a wrong one, is served as well.
    pub insecure: bool,
}

impl GatewayTlsSpec {
    /// What is asked of clients of listeners that terminate TLS on this port.
    #[must_use]
    pub fn clients_of(&self, port: u16) -> Option<&ClientValidation> {
        let own = self.clients_by_port.iter().find(|(number, _)| *number == port);
        own.map_or(self.clients.as_ref(), |(_, validation)| validation.as_ref())
    }

    /// Everything that is asked of any client.
    pub fn validations(&self) -> impl Iterator<Item = &ClientValidation> {
        let by_port = self.clients_by_port.iter().filter_map(|(_, v)| v.as_ref());
        self.clients.iter().chain(by_port)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Raw {
    backend: Option<RawBackend>,
    frontend: Option<RawFrontend>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawBackend {
    client_certificate_ref: Option<RawSecret>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawFrontend {
    default: Option<RawConfig>,
    per_port: Option<Vec<RawPort>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPort {
    port: u16,
    tls: Option<RawConfig>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawConfig {
    validation: Option<RawValidation>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawValidation {
    ca_certificate_refs: Vec<RawSecret>,
    mode: Option<String>,
}

pub(super) fn gateway_tls(raw: Raw, namespace: &str) -> Result<GatewayTlsSpec, FieldError> {
    let mut spec = GatewayTlsSpec::default();
    let certificate = raw.backend.and_then(|b| b.client_certificate_ref);
    spec.client_certificate = certificate
        .map(|given| {
            reference(
                "spec.tls.backend.clientCertificateRef",
                given,
                "Secret",
                namespace,
            )
        })
        .transpose()?;
    let Some(frontend) = raw.frontend else {
        return Ok(spec);
    };
    let at = "spec.tls.frontend.default.validation";
    spec.clients = validation(at, frontend.default, namespace)?;
    for (i, raw) in frontend.per_port.into_iter().flatten().enumerate() {
        let at = format!("spec.tls.frontend.perPort[{i}]");
        if raw.port == 0 {
            return Err(FieldError::new(format!("{at}.port"), "expected 1 to 65535"));
        }
        if spec.clients_by_port.iter().any(|(port, _)| *port == raw.port) {
            let reason = format!("port {} is there twice", raw.port);
            return Err(FieldError::new(format!("{at}.port"), reason));
        }
        let validation = validation(&format!("{at}.tls.validation"), raw.tls, namespace)?;
        spec.clients_by_port.push((raw.port, validation));
    }
    Ok(spec)
}

fn validation(
    at: &str,
    raw: Option<RawConfig>,
    namespace: &str,
) -> Result<Option<ClientValidation>, FieldError> {
    let Some(raw) = raw.and_then(|config| config.validation) else {
        return Ok(None);
    };
    let insecure = match raw.mode.as_deref() {
        None | Some("AllowValidOnly") => false,
        Some("AllowInsecureFallback") => true,
        Some(_) => {
            let reason = "expected AllowValidOnly or AllowInsecureFallback";
            return Err(FieldError::new(format!("{at}.mode"), reason));
        }
    };
    if raw.ca_certificate_refs.is_empty() {
        return Err(FieldError::new(
            format!("{at}.caCertificateRefs"),
            "is empty: name at least one CA",
        ));
    }
    let refs = raw.ca_certificate_refs.into_iter().enumerate();
    let authorities =
        refs.map(|(i, r)| reference(&format!("{at}.caCertificateRefs[{i}]"), r, "ConfigMap", namespace));
    Ok(Some(ClientValidation {
        authorities: authorities.collect::<Result<Vec<_>, _>>()?,
        insecure,
    }))
}

/// Names of CAs, for reports: `ConfigMap shop/ca`.
impl std::fmt::Display for SecretRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (group, kind): (&Arc<str>, &Arc<str>) = (&self.kind.0, &self.kind.1);
        match &**group {
            "" => write!(f, "{kind} {}", self.name),
            group => write!(f, "{kind}.{group} {}", self.name),
        }
    }
}
