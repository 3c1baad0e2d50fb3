//! The fields of a VirtualService as they are written. A field that is not here is unknown; one of type
//! [`Unsupported`] is known and refused.

use crate::translate::value::Unsupported;
use serde::Deserialize;
use std::collections::BTreeMap;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Spec {
    pub(super) hosts: Option<Vec<String>>,
    pub(super) gateways: Option<Vec<String>>,
    pub(super) http: Option<Vec<HttpRoute>>,
    #[serde(alias = "export_to")]
    pub(super) export_to: Option<Vec<String>>,
    #[serde(rename = "tls")]
    _tls: Option<Unsupported>,
    #[serde(rename = "tcp")]
    _tcp: Option<Unsupported>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct HttpRoute {
    pub(super) name: Option<String>,
    pub(super) r#match: Option<Vec<Match>>,
    pub(super) route: Option<Vec<RouteDestination>>,
    pub(super) timeout: Option<String>,
    pub(super) retries: Option<Retry>,
    pub(super) mirror: Option<Destination>,
    pub(super) mirrors: Option<Vec<MirrorPolicy>>,
    #[serde(alias = "mirror_percent")]
    pub(super) mirror_percent: Option<u32>,
    #[serde(alias = "mirror_percentage")]
    pub(super) mirror_percentage: Option<Percent>,
    pub(super) headers: Option<Headers>,
    #[serde(rename = "redirect")]
    _redirect: Option<Unsupported>,
    #[serde(rename = "directResponse", alias = "direct_response")]
    _direct_response: Option<Unsupported>,
    #[serde(rename = "delegate")]
    _delegate: Option<Unsupported>,
    #[serde(rename = "rewrite")]
    _rewrite: Option<Unsupported>,
    #[serde(rename = "fault")]
    _fault: Option<Unsupported>,
    #[serde(rename = "corsPolicy", alias = "cors_policy")]
    _cors_policy: Option<Unsupported>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Match {
    pub(super) name: Option<String>,
    pub(super) uri: Option<StringMatch>,
    pub(super) scheme: Option<StringMatch>,
    pub(super) method: Option<StringMatch>,
    pub(super) authority: Option<StringMatch>,
    pub(super) headers: Option<BTreeMap<String, Option<StringMatch>>>,
    #[serde(alias = "without_headers")]
    pub(super) without_headers: Option<BTreeMap<String, Option<StringMatch>>>,
    #[serde(alias = "query_params")]
    pub(super) query_params: Option<BTreeMap<String, Option<StringMatch>>>,
    #[serde(alias = "ignore_uri_case")]
    pub(super) ignore_uri_case: Option<bool>,
    pub(super) port: Option<u16>,
    #[serde(alias = "source_labels")]
    pub(super) source_labels: Option<BTreeMap<String, String>>,
    #[serde(alias = "source_namespace")]
    pub(super) source_namespace: Option<String>,
    pub(super) gateways: Option<Vec<String>>,
    #[serde(rename = "statPrefix", alias = "stat_prefix")]
    _stat_prefix: Option<Unsupported>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StringMatch {
    pub(super) exact: Option<String>,
    pub(super) prefix: Option<String>,
    pub(super) regex: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RouteDestination {
    pub(super) destination: Destination,
    pub(super) weight: Option<i32>,
    pub(super) headers: Option<Headers>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Destination {
    pub(super) host: String,
    pub(super) subset: Option<String>,
    pub(super) port: Option<Port>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Port {
    pub(super) number: u16,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MirrorPolicy {
    pub(super) destination: Destination,
    pub(super) percentage: Option<Percent>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Percent {
    pub(super) value: Option<f64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Retry {
    pub(super) attempts: Option<i32>,
    #[serde(alias = "per_try_timeout")]
    pub(super) per_try_timeout: Option<String>,
    #[serde(alias = "retry_on")]
    pub(super) retry_on: Option<String>,
    pub(super) backoff: Option<String>,
    #[serde(alias = "retry_ignore_previous_hosts")]
    pub(super) retry_ignore_previous_hosts: Option<bool>,
    #[serde(rename = "retryRemoteLocalities", alias = "retry_remote_localities")]
    _retry_remote_localities: Option<Unsupported>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Headers {
    pub(super) request: Option<HeaderEdits>,
    pub(super) response: Option<HeaderEdits>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HeaderEdits {
    pub(super) set: Option<BTreeMap<String, String>>,
    pub(super) add: Option<BTreeMap<String, String>>,
    pub(super) remove: Option<Vec<String>>,
}
