//! The fields of a Gateway as they are written. A field that is not here is unknown; one of type [`Unsupported`] is known
//! and refused.

use crate::translate::value::Unsupported;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::Arc;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Spec {
    pub(super) servers: Option<Vec<Server>>,
    pub(super) selector: Option<BTreeMap<Arc<str>, Option<Arc<str>>>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Server {
    pub(super) port: Option<Port>,
    pub(super) bind: Option<String>,
    pub(super) hosts: Option<Vec<String>>,
    pub(super) tls: Option<Tls>,
    pub(super) name: Option<String>,
    #[serde(rename = "defaultEndpoint", alias = "default_endpoint")]
    _default_endpoint: Option<Unsupported>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Port {
    pub(super) number: Option<u32>,
    pub(super) protocol: Option<String>,
    pub(super) name: Option<String>,
    #[serde(rename = "targetPort", alias = "target_port")]
    _target_port: Option<Unsupported>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Tls {
    #[serde(alias = "https_redirect")]
    pub(super) https_redirect: Option<bool>,
    pub(super) mode: Option<String>,
    #[serde(alias = "server_certificate")]
    pub(super) server_certificate: Option<String>,
    #[serde(alias = "private_key")]
    pub(super) private_key: Option<String>,
    #[serde(alias = "ca_certificates")]
    pub(super) ca_certificates: Option<String>,
    #[serde(alias = "ca_crl")]
    pub(super) ca_crl: Option<String>,
    #[serde(alias = "credential_name")]
    pub(super) credential_name: Option<String>,
    #[serde(alias = "credential_names")]
    pub(super) credential_names: Option<Vec<String>>,
    #[serde(alias = "ca_cert_credential_name")]
    pub(super) ca_cert_credential_name: Option<String>,
    #[serde(alias = "tls_certificates")]
    pub(super) tls_certificates: Option<Vec<TlsCertificate>>,
    #[serde(alias = "subject_alt_names")]
    pub(super) subject_alt_names: Option<Vec<String>>,
    #[serde(alias = "verify_certificate_spki")]
    pub(super) verify_certificate_spki: Option<Vec<String>>,
    #[serde(alias = "verify_certificate_hash")]
    pub(super) verify_certificate_hash: Option<Vec<String>>,
    #[serde(alias = "min_protocol_version")]
    pub(super) min_protocol_version: Option<String>,
    #[serde(alias = "max_protocol_version")]
    pub(super) max_protocol_version: Option<String>,
    #[serde(alias = "cipher_suites")]
    pub(super) cipher_suites: Option<Vec<String>>,
    #[serde(alias = "insecure_skip_verify")]
    pub(super) insecure_skip_verify: Option<bool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct TlsCertificate {
    #[serde(alias = "server_certificate")]
    pub(super) server_certificate: Option<String>,
    #[serde(alias = "private_key")]
    pub(super) private_key: Option<String>,
    #[serde(rename = "caCertificates", alias = "ca_certificates")]
    _ca_certificates: Option<Unsupported>,
}

impl Tls {
    /// Whether nothing but `httpsRedirect` is written.
    pub(super) fn only_redirects(&self) -> bool {
        self.mode.is_none()
            && self.server_certificate.is_none()
            && self.private_key.is_none()
            && self.ca_certificates.is_none()
            && self.ca_crl.is_none()
            && self.credential_name.is_none()
            && self.credential_names.is_none()
            && self.ca_cert_credential_name.is_none()
            && self.tls_certificates.is_none()
            && self.subject_alt_names.is_none()
            && self.verify_certificate_spki.is_none()
            && self.verify_certificate_hash.is_none()
            && self.min_protocol_version.is_none()
            && self.max_protocol_version.is_none()
            && self.cipher_suites.is_none()
            && self.insecure_skip_verify.is_none()
    }
}
