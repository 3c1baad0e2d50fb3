//! The fields of Gateway API's routes as they are written. A field that is not here is unknown; one of type
//! [`Unsupported`] is known and refused.

use super::session;
use crate::translate::value::Unsupported;
use serde::Deserialize;

/// `spec` of an HTTPRoute or GRPCRoute, by the kind of its rules.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Spec<R> {
    pub(super) parent_refs: Option<Vec<ParentRef>>,
    pub(super) hostnames: Option<Vec<String>>,
    pub(super) rules: Option<Vec<R>>,
    pub(super) use_default_gateways: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ParentRef {
    pub(super) group: Option<String>,
    pub(super) kind: Option<String>,
    pub(super) namespace: Option<String>,
    pub(super) name: String,
    pub(super) section_name: Option<String>,
    pub(super) port: Option<u16>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct HttpRule {
    pub(super) name: Option<String>,
    pub(super) matches: Option<Vec<HttpMatch>>,
    pub(super) filters: Option<Vec<Filter>>,
    pub(super) backend_refs: Option<Vec<BackendRef>>,
    pub(super) timeouts: Option<Timeouts>,
    pub(super) retry: Option<Retry>,
    pub(super) session_persistence: Option<session::Raw>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct GrpcRule {
    pub(super) name: Option<String>,
    pub(super) matches: Option<Vec<GrpcMatch>>,
    pub(super) filters: Option<Vec<Filter>>,
    pub(super) backend_refs: Option<Vec<BackendRef>>,
    pub(super) session_persistence: Option<session::Raw>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ConnectionRule {
    pub(super) name: Option<String>,
    pub(super) backend_refs: Option<Vec<BackendRef>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct HttpMatch {
    pub(super) path: Option<ValueMatch>,
    pub(super) headers: Option<Vec<NamedMatch>>,
    pub(super) query_params: Option<Vec<NamedMatch>>,
    pub(super) method: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GrpcMatch {
    pub(super) method: Option<MethodMatch>,
    pub(super) headers: Option<Vec<NamedMatch>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ValueMatch {
    pub(super) r#type: Option<String>,
    pub(super) value: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NamedMatch {
    pub(super) r#type: Option<String>,
    pub(super) name: String,
    pub(super) value: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MethodMatch {
    pub(super) r#type: Option<String>,
    pub(super) service: Option<String>,
    pub(super) method: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Filter {
    pub(super) r#type: String,
    pub(super) request_header_modifier: Option<HeaderModifier>,
    pub(super) response_header_modifier: Option<HeaderModifier>,
    pub(super) request_mirror: Option<Mirror>,
    pub(super) request_redirect: Option<Redirect>,
    pub(super) url_rewrite: Option<Rewrite>,
    pub(super) cors: Option<Cors>,
    #[serde(rename = "externalAuth")]
    _external_auth: Option<Unsupported>,
    #[serde(rename = "extensionRef")]
    _extension_ref: Option<Unsupported>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HeaderModifier {
    pub(super) set: Option<Vec<Header>>,
    pub(super) add: Option<Vec<Header>>,
    pub(super) remove: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Header {
    pub(super) name: String,
    pub(super) value: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Mirror {
    pub(super) backend_ref: ObjectRef,
    pub(super) percent: Option<u32>,
    pub(super) fraction: Option<Fraction>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Fraction {
    pub(super) numerator: u32,
    pub(super) denominator: Option<u32>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Redirect {
    pub(super) scheme: Option<String>,
    pub(super) hostname: Option<String>,
    pub(super) path: Option<PathModifier>,
    pub(super) port: Option<u16>,
    pub(super) status_code: Option<u16>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Rewrite {
    pub(super) hostname: Option<String>,
    pub(super) path: Option<PathModifier>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct PathModifier {
    pub(super) r#type: String,
    pub(super) replace_full_path: Option<String>,
    pub(super) replace_prefix_match: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Cors {
    pub(super) allow_origins: Option<Vec<String>>,
    pub(super) allow_credentials: Option<bool>,
    pub(super) allow_methods: Option<Vec<String>>,
    pub(super) allow_headers: Option<Vec<String>>,
    pub(super) expose_headers: Option<Vec<String>>,
    pub(super) max_age: Option<u32>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Timeouts {
    pub(super) request: Option<String>,
    pub(super) backend_request: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Retry {
    pub(super) codes: Option<Vec<u16>>,
    pub(super) attempts: Option<u32>,
    pub(super) backoff: Option<String>,
}

/// An object that requests are sent to.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ObjectRef {
    pub(super) group: Option<String>,
    pub(super) kind: Option<String>,
    pub(super) name: String,
    pub(super) namespace: Option<String>,
    pub(super) port: Option<u16>,
}

/// One of `backendRefs`. Not flattened: unknown fields could not be refused.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BackendRef {
    pub(super) group: Option<String>,
    pub(super) kind: Option<String>,
    pub(super) name: String,
    pub(super) namespace: Option<String>,
    pub(super) port: Option<u16>,
    pub(super) weight: Option<u32>,
    pub(super) filters: Option<Vec<Filter>>,
}

impl BackendRef {
    /// The object, its weight (1 where none is written), and the filters of this reference.
    pub(super) fn parts(self) -> (ObjectRef, u32, Vec<Filter>) {
        let object = ObjectRef {
            group: self.group,
            kind: self.kind,
            name: self.name,
            namespace: self.namespace,
            port: self.port,
        };
        (object, self.weight.unwrap_or(1), self.filters.unwrap_or_default())
    }
}
