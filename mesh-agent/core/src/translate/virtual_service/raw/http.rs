//! `http[]` and its `match[]`.

use super::action::{Cors, DirectResponse, Fault, MirrorPolicy, Percent, Redirect, Retry, Rewrite};
use super::{Destination, Headers, RouteDestination, StringMatch};
use serde::Deserialize;
use std::collections::BTreeMap;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in super::super) struct HttpRoute {
    pub(in super::super) name: Option<String>,
    pub(in super::super) r#match: Option<Vec<Match>>,
    pub(in super::super) route: Option<Vec<RouteDestination>>,
    pub(in super::super) redirect: Option<Redirect>,
    #[serde(alias = "direct_response")]
    pub(in super::super) direct_response: Option<DirectResponse>,
    pub(in super::super) delegate: Option<Delegate>,
    pub(in super::super) rewrite: Option<Rewrite>,
    pub(in super::super) timeout: Option<String>,
    pub(in super::super) retries: Option<Retry>,
    pub(in super::super) fault: Option<Fault>,
    pub(in super::super) mirror: Option<Destination>,
    pub(in super::super) mirrors: Option<Vec<MirrorPolicy>>,
    #[serde(alias = "mirror_percent")]
    pub(in super::super) mirror_percent: Option<u32>,
    #[serde(alias = "mirror_percentage")]
    pub(in super::super) mirror_percentage: Option<Percent>,
    #[serde(alias = "cors_policy")]
    pub(in super::super) cors_policy: Option<Cors>,
    pub(in super::super) headers: Option<Headers>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(in super::super) struct Delegate {
    pub(in super::super) name: String,
    pub(in super::super) namespace: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in super::super) struct Match {
    pub(in super::super) name: Option<String>,
    pub(in super::super) uri: Option<StringMatch>,
    pub(in super::super) scheme: Option<StringMatch>,
    pub(in super::super) method: Option<StringMatch>,
    pub(in super::super) authority: Option<StringMatch>,
    pub(in super::super) headers: Option<BTreeMap<String, Option<StringMatch>>>,
    #[serde(alias = "without_headers")]
    pub(in super::super) without_headers: Option<BTreeMap<String, Option<StringMatch>>>,
    #[serde(alias = "query_params")]
    pub(in super::super) query_params: Option<BTreeMap<String, Option<StringMatch>>>,
    #[serde(alias = "ignore_uri_case")]
    pub(in super::super) ignore_uri_case: Option<bool>,
    pub(in super::super) port: Option<u16>,
    #[serde(alias = "source_labels")]
    pub(in super::super) source_labels: Option<BTreeMap<String, String>>,
    #[serde(alias = "source_namespace")]
    pub(in super::super) source_namespace: Option<String>,
    pub(in super::super) gateways: Option<Vec<String>>,
    #[serde(alias = "stat_prefix")]
    pub(in super::super) stat_prefix: Option<String>,
}
