//! `tls`.

use super::policy::Scope;
use super::raw;
use crate::model::traffic::{ClientTls, TlsMode};
use crate::translate::value::{FieldError, is_subdomain};

/// The word that stands for the system's own roots.
const SYSTEM: &str = "system";

pub(super) fn client(at: &str, raw: raw::Tls, scope: Scope) -> Result<ClientTls, FieldError> {
    let field = |name: &str| format!("{at}.{name}");
    let mode = match raw.mode.as_deref() {
        None | Some("DISABLE") => TlsMode::Disable,
        Some("SIMPLE") => TlsMode::Simple,
        Some("MUTUAL") => TlsMode::Mutual,
        Some("ISTIO_MUTUAL") => TlsMode::Mesh,
        Some(other) => {
            return Err(FieldError::new(
                field("mode"),
                format!("{other:?} is no mode: expected DISABLE, SIMPLE, MUTUAL or ISTIO_MUTUAL"),
            ));
        }
    };
    let given = |text: &Option<String>| text.as_ref().is_some_and(|t| !t.is_empty());
    let files = [
        ("clientCertificate", given(&raw.client_certificate)),
        ("privateKey", given(&raw.private_key)),
        (
            "caCertificates",
            given(&raw.ca_certificates) && raw.ca_certificates.as_deref() != Some(SYSTEM),
        ),
        ("caCrl", given(&raw.ca_crl)),
    ];
    if let Some((name, _)) = files.iter().find(|(_, there)| *there) {
        let reason = match mode {
            TlsMode::Mesh => "must be empty for ISTIO_MUTUAL: the mesh's own certificates are used",
            _ => {
                "files are not supported, there is no sidecar that has them: put it into a Secret \
                 (tls.crt, tls.key, ca.crt, ca.crl) and name that by credentialName"
            }
        };
        return Err(FieldError::new(field(name), reason));
    }
    let credential = raw.credential_name.filter(|name| !name.is_empty());
    if let Some(name) = &credential {
        if matches!(mode, TlsMode::Mesh) {
            return Err(FieldError::new(
                field("credentialName"),
                "must be empty for ISTIO_MUTUAL: the mesh's own certificates are used",
            ));
        }
        // `kubernetes://name`, `configmap://name` and so on are other sources.
        let plain = name.strip_prefix("kubernetes://").unwrap_or(name);
        if !is_subdomain(plain) {
            return Err(FieldError::new(field("credentialName"), "is no name of a Secret"));
        }
    }
    if mode == TlsMode::Mutual && credential.is_none() {
        return Err(FieldError::new(
            field("credentialName"),
            "MUTUAL needs a certificate of the client: name a Secret that has tls.crt and tls.key",
        ));
    }
    let sni = raw.sni.filter(|sni| !sni.is_empty());
    if let Some(name) = &sni
        && !is_subdomain(&name.to_ascii_lowercase())
    {
        return Err(FieldError::new(field("sni"), "is no DNS name"));
    }
    let mut subject_alt_names = Vec::new();
    for (i, name) in raw.subject_alt_names.into_iter().flatten().enumerate() {
        if name.is_empty() || name.len() > 2048 || name.chars().any(char::is_control) {
            return Err(FieldError::new(
                field(&format!("subjectAltNames[{i}]")),
                "is no name",
            ));
        }
        subject_alt_names.push(name.into());
    }
    Ok(ClientTls {
        mode,
        sni: sni.map(|sni| sni.to_ascii_lowercase().into()),
        subject_alt_names,
        credential: credential.map(|name| name.trim_start_matches("kubernetes://").into()),
        // Without a selector Istio's sidecars take no Secret: it is for gateways.
        credential_optional: !scope.selected && mode == TlsMode::Simple,
        skip_verify: raw.insecure_skip_verify.unwrap_or(false),
        vouched: None,
    })
}
