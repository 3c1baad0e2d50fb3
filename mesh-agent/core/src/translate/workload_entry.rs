//! WorkloadEntry (`networking.istio.io`), by itself or as an endpoint of a ServiceEntry.

use super::head::{Head, labels};
use super::value::{FieldError, decode, is_subdomain, spec_of};
use super::virtual_service::check_host;
use crate::model::locality::OF_WORKLOAD;
use crate::model::workload::Labels;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

/// Sums of the weights of many endpoints must fit into 32 bits.
const MAX_WEIGHT: u32 = 1_000_000;

/// A workload outside of the cluster's pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkloadEntrySpec {
    /// `address`.
    pub address: EntryAddress,
    /// `ports`: name of a service port → number where it is served.
    pub ports: BTreeMap<Arc<str>, u16>,
    /// `labels`.
    pub labels: Labels,
    /// `serviceAccount`, `default` where none is given.
    pub service_account: Arc<str>,
    /// `weight`; 1 where none is given.
    pub weight: u32,
}

/// Where a workload is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryAddress {
    /// An address.
    Ip(IpAddr),
    /// A DNS name.
    Name(Arc<str>),
}

/// The fields as they are written.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Raw {
    address: Option<String>,
    ports: Option<BTreeMap<Arc<str>, u16>>,
    labels: Option<BTreeMap<Arc<str>, Option<Arc<str>>>>,
    #[serde(alias = "service_account")]
    service_account: Option<String>,
    network: Option<String>,
    locality: Option<String>,
    weight: Option<u32>,
}

pub(super) fn workload_entry(head: &Head, value: &Value) -> Result<WorkloadEntrySpec, FieldError> {
    let raw: Raw = decode(spec_of(value)?, "spec")?;
    let mut spec = entry("spec", raw)?;
    // Selectors see the object's labels as well.
    let mut all = head.labels.clone();
    all.extend(spec.labels.iter().map(|(k, v)| (Arc::clone(k), Arc::clone(v))));
    spec.labels = Arc::new(all);
    Ok(spec)
}

/// One entry, found at `at`.
pub(super) fn entry(at: &str, raw: Raw) -> Result<WorkloadEntrySpec, FieldError> {
    let refuse = |field: &str, why: &str| Err(FieldError::new(format!("{at}.{field}"), why));
    if raw.network.is_some_and(|n| !n.is_empty()) {
        return refuse("network", "several networks are not supported yet");
    }
    if raw.weight.is_some_and(|weight| weight > MAX_WEIGHT) {
        return refuse("weight", "expected 1 to 1000000");
    }
    let locality = raw.locality.filter(|locality| !locality.is_empty());
    if locality.as_ref().is_some_and(|text| text.split('/').count() > 3) {
        return refuse("locality", "expected region/zone/subzone");
    }
    let address = match raw.address.as_deref().unwrap_or_default() {
        "" => return refuse("address", "is missing: an IP address or DNS name"),
        unix if unix.starts_with("unix://") => {
            return refuse(
                "address",
                "a Unix socket cannot be reached by an agent that is not in the pod",
            );
        }
        text => match text.parse::<IpAddr>() {
            Ok(ip) => EntryAddress::Ip(usable(ip).map_err(|e| FieldError::new(format!("{at}.address"), e))?),
            Err(_) => {
                check_host(text, false).map_err(|e| FieldError::new(format!("{at}.address"), e))?;
                EntryAddress::Name(text.trim_end_matches('.').to_ascii_lowercase().into())
            }
        },
    };
    let ports = raw.ports.unwrap_or_default();
    if let Some((name, _)) = ports.iter().find(|(_, number)| **number == 0) {
        return refuse(&format!("ports.{name}"), "expected 1 to 65535");
    }
    let account = raw.service_account.filter(|a| !a.is_empty());
    if account.as_ref().is_some_and(|a| !is_subdomain(a)) {
        return refuse("serviceAccount", "is no name of a service account");
    }
    let mut labels = labels(raw.labels.unwrap_or_default(), &format!("{at}.labels"))?;
    if let Some(locality) = locality {
        // The field goes before a label that says the same.
        labels.insert(OF_WORKLOAD.into(), locality.into());
    }
    Ok(WorkloadEntrySpec {
        address,
        ports,
        labels: Arc::new(labels),
        service_account: account.map_or_else(|| "default".into(), Into::into),
        weight: raw.weight.unwrap_or(1).max(1),
    })
}

/// An address that a pod may be sent to: not the pod's own.
pub(super) fn usable(ip: IpAddr) -> Result<IpAddr, String> {
    let ip = ip.to_canonical();
    if ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() {
        Err(format!("{ip} cannot be the address of a workload"))
    } else {
        Ok(ip)
    }
}

/// `workloadSelector` of kinds that select by labels.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RawSelector {
    #[serde(alias = "matchLabels")]
    pub(super) labels: Option<BTreeMap<Arc<str>, Option<Arc<str>>>>,
}

/// Refuses a WorkloadGroup: machines register nowhere here.
pub(super) fn workload_group() -> FieldError {
    FieldError::new(
        "kind",
        "WorkloadGroup is not supported: machines cannot register themselves; write a WorkloadEntry for each",
    )
}
