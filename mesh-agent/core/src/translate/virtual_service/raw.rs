//! The fields of a VirtualService as they are written. A field that is not here is unknown; one of type
//! [`Unsupported`] is known and refused.

mod action;
mod http;

pub(super) use action::{
    Abort, Body, Cors, Delay, DerivePort, DirectResponse, Fault, MirrorPolicy, Percent, Redirect,
    RegexRewrite, Retry, Rewrite, UnmatchedPreflights,
};
pub(super) use http::{Delegate, HttpRoute, Match};

use serde::Deserialize;
use std::collections::BTreeMap;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Spec {
    pub(super) hosts: Option<Vec<String>>,
    pub(super) gateways: Option<Vec<String>>,
    pub(super) http: Option<Vec<HttpRoute>>,
    pub(super) tls: Option<Vec<TlsRoute>>,
    pub(super) tcp: Option<Vec<TcpRoute>>,
    #[serde(alias = "export_to")]
    pub(super) export_to: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TlsRoute {
    pub(super) r#match: Option<Vec<TlsMatch>>,
    pub(super) route: Option<Vec<L4Destination>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TcpRoute {
    pub(super) r#match: Option<Vec<L4Match>>,
    pub(super) route: Option<Vec<L4Destination>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct TlsMatch {
    #[serde(alias = "sni_hosts")]
    pub(super) sni_hosts: Option<Vec<String>>,
    #[serde(alias = "destination_subnets")]
    pub(super) destination_subnets: Option<Vec<String>>,
    pub(super) port: Option<u16>,
    #[serde(alias = "source_labels")]
    pub(super) source_labels: Option<BTreeMap<String, String>>,
    pub(super) gateways: Option<Vec<String>>,
    #[serde(alias = "source_namespace")]
    pub(super) source_namespace: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct L4Match {
    #[serde(alias = "destination_subnets")]
    pub(super) destination_subnets: Option<Vec<String>>,
    pub(super) port: Option<u16>,
    #[serde(alias = "source_subnet")]
    pub(super) source_subnet: Option<String>,
    #[serde(alias = "source_labels")]
    pub(super) source_labels: Option<BTreeMap<String, String>>,
    pub(super) gateways: Option<Vec<String>>,
    #[serde(alias = "source_namespace")]
    pub(super) source_namespace: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct L4Destination {
    pub(super) destination: Destination,
    pub(super) weight: Option<i32>,
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
