//! `istio.v1.auth.IstioCertificateService` on the wire (istio/api `security/v1alpha1/ca.proto`).

use mesh_core::model::identity::SpiffeId;
use prost_types::value::Kind;
use prost_types::{Struct, Value};
use std::collections::BTreeMap;

/// Path of the only method.
pub const CREATE_CERTIFICATE: &str = "/istio.v1.auth.IstioCertificateService/CreateCertificate";
/// Audience of the tokens that callers prove themselves with.
pub const AUDIENCE: &str = "istio-ca";
/// Key of `metadata` under which a node agent says for whom it asks.
const IMPERSONATED: &str = "ImpersonatedIdentity";

/// `IstioCertificateRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CertificateRequest {
    /// PEM.
    #[prost(string, tag = "1")]
    pub csr: String,
    /// Seconds.
    #[prost(int64, tag = "3")]
    pub validity_duration: i64,
    /// `ImpersonatedIdentity`.
    #[prost(message, optional, tag = "4")]
    pub metadata: Option<Struct>,
}

/// `IstioCertificateResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CertificateResponse {
    /// Leaf, then intermediates, one PEM each; last the roots, several PEMs in one string.
    #[prost(string, repeated, tag = "1")]
    pub cert_chain: Vec<String>,
}

/// `metadata` that asks for another's identity.
#[must_use]
pub fn impersonate(identity: &SpiffeId) -> Struct {
    let value = Value {
        kind: Some(Kind::StringValue(identity.to_string())),
    };
    Struct {
        fields: BTreeMap::from([(IMPERSONATED.to_owned(), value)]),
    }
}

/// Whose identity `metadata` asks for, if it says so.
#[must_use]
pub fn impersonated(metadata: Option<&Struct>) -> Option<&str> {
    match metadata?.fields.get(IMPERSONATED)?.kind.as_ref()? {
        Kind::StringValue(uri) if !uri.is_empty() => Some(uri),
        _ => None,
    }
}
