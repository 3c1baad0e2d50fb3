//! What stands beside `route`: redirects, answers, rewrites, faults, mirrors, CORS, retries.

use super::{Destination, StringMatch};
use crate::translate::value::Unsupported;
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in super::super) struct Redirect {
    pub(in super::super) uri: Option<String>,
    pub(in super::super) authority: Option<String>,
    pub(in super::super) port: Option<u16>,
    #[serde(alias = "derive_port")]
    pub(in super::super) derive_port: Option<DerivePort>,
    pub(in super::super) scheme: Option<String>,
    #[serde(alias = "redirect_code")]
    pub(in super::super) redirect_code: Option<u16>,
    #[serde(alias = "prefix_rewrite")]
    pub(in super::super) prefix_rewrite: Option<String>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(in super::super) enum DerivePort {
    FromProtocolDefault,
    FromRequestPort,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(in super::super) struct DirectResponse {
    pub(in super::super) status: u16,
    pub(in super::super) body: Option<Body>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(in super::super) struct Body {
    pub(in super::super) string: Option<String>,
    pub(in super::super) bytes: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in super::super) struct Rewrite {
    pub(in super::super) uri: Option<String>,
    pub(in super::super) authority: Option<String>,
    #[serde(alias = "uri_regex_rewrite")]
    pub(in super::super) uri_regex_rewrite: Option<RegexRewrite>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(in super::super) struct RegexRewrite {
    pub(in super::super) r#match: String,
    pub(in super::super) rewrite: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(in super::super) struct Fault {
    pub(in super::super) delay: Option<Delay>,
    pub(in super::super) abort: Option<Abort>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in super::super) struct Delay {
    pub(in super::super) percent: Option<i32>,
    #[serde(alias = "fixed_delay")]
    pub(in super::super) fixed_delay: Option<String>,
    #[serde(rename = "exponentialDelay", alias = "exponential_delay")]
    _exponential_delay: Option<Unsupported>,
    pub(in super::super) percentage: Option<Percent>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in super::super) struct Abort {
    #[serde(alias = "http_status")]
    pub(in super::super) http_status: Option<u16>,
    #[serde(alias = "grpc_status")]
    pub(in super::super) grpc_status: Option<String>,
    #[serde(rename = "http2Error", alias = "http2_error")]
    _http2_error: Option<Unsupported>,
    pub(in super::super) percentage: Option<Percent>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(in super::super) struct MirrorPolicy {
    pub(in super::super) destination: Destination,
    pub(in super::super) percentage: Option<Percent>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(in super::super) struct Percent {
    pub(in super::super) value: Option<f64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in super::super) struct Cors {
    #[serde(alias = "allow_origin")]
    pub(in super::super) allow_origin: Option<Vec<String>>,
    #[serde(alias = "allow_origins")]
    pub(in super::super) allow_origins: Option<Vec<StringMatch>>,
    #[serde(alias = "allow_methods")]
    pub(in super::super) allow_methods: Option<Vec<String>>,
    #[serde(alias = "allow_headers")]
    pub(in super::super) allow_headers: Option<Vec<String>>,
    #[serde(alias = "expose_headers")]
    pub(in super::super) expose_headers: Option<Vec<String>>,
    #[serde(alias = "max_age")]
    pub(in super::super) max_age: Option<String>,
    #[serde(alias = "allow_credentials")]
    pub(in super::super) allow_credentials: Option<bool>,
    #[serde(alias = "unmatched_preflights")]
    pub(in super::super) unmatched_preflights: Option<UnmatchedPreflights>,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(in super::super) enum UnmatchedPreflights {
    Unspecified,
    Forward,
    Ignore,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in super::super) struct Retry {
    pub(in super::super) attempts: Option<i32>,
    #[serde(alias = "per_try_timeout")]
    pub(in super::super) per_try_timeout: Option<String>,
    #[serde(alias = "retry_on")]
    pub(in super::super) retry_on: Option<String>,
    pub(in super::super) backoff: Option<String>,
    #[serde(alias = "retry_ignore_previous_hosts")]
    pub(in super::super) retry_ignore_previous_hosts: Option<bool>,
    #[serde(alias = "retry_remote_localities")]
    pub(in super::super) retry_remote_localities: Option<bool>,
}
