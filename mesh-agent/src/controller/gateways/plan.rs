//! What is wanted of the cluster for the Gateways that there are. Pure.

use super::ledger::{Key, Kind, Ledger};
use super::names::{CLASS, labelled, object_name};
use super::objects::{Template, objects};
use super::rights::{Account, Reading, bindings};
use mesh_core::model::ObjectName;
use mesh_core::model::status::Running;
use mesh_core::state::{GatewayNeeds, Place, State};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// The Gateways of ours.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// With their UIDs.
    gateways: BTreeMap<ObjectName, (String, GatewayNeeds)>,
    /// Whose Secrets and ConfigMaps they, and policies, name.
    reading: Reading,
    /// Gateways that are others' now.
    leaving: BTreeSet<ObjectName>,
    /// Whether the GatewayClass is there.
    pub(super) has_class: bool,
}

impl Plan {
    /// Of everything that is known, once it is. A Gateway whose UID is not known is not there any more.
    pub fn of(state: &State, uid: impl Fn(&ObjectName) -> Option<String>) -> Self {
        let gateway = |name: &ObjectName| Some((name.clone(), (uid(name)?, state.gateway_needs(name)?)));
        Self {
            gateways: state.gateways().filter_map(gateway).collect(),
            reading: Reading {
                by_gateways: state.gateway_material(None),
                by_all: state.backend_material(),
            },
            leaving: state.gateways_of_others(),
            has_class: state.has_class(CLASS),
        }
    }

    /// Whose Secrets and ConfigMaps are to be read.
    #[must_use]
    pub fn places(&self) -> BTreeSet<Place> {
        self.reading.places()
    }

    /// As objects; `owner` is the UID of the ClusterRole with which bindings to Secrets go.
    pub(super) fn objects(&self, template: &Template, controller: &Account, owner: &str) -> Vec<Value> {
        let mut all = bindings(self.gateways.keys(), &self.reading, controller, owner);
        for (name, (uid, needs)) in &self.gateways {
            all.extend(objects(template, name, uid, needs));
        }
        all
    }

    /// Gateways whose objects can go, as the objects are labelled.
    pub(super) fn leaving(&self) -> BTreeSet<(String, String)> {
        let label = |name: &ObjectName| {
            labelled(name)
                .values()
                .find_map(|v| v.as_str().map(str::to_owned))
        };
        let leaving = self.leaving.iter();
        leaving
            .filter_map(|name| Some((name.namespace.to_string(), label(name)?)))
            .collect()
    }

    /// What there is of each Gateway.
    pub(super) fn running(&self, ledger: &Ledger) -> BTreeMap<ObjectName, Running> {
        let gateways = self.gateways.keys();
        gateways
            .map(|name| (name.clone(), running(name, ledger)))
            .collect()
    }
}

fn running(name: &ObjectName, ledger: &Ledger) -> Running {
    let key = |kind| Key {
        kind,
        namespace: name.namespace.to_string(),
        name: object_name(name),
    };
    let problem = [Kind::ServiceAccount, Kind::Service, Kind::Deployment]
        .into_iter()
        .find_map(|kind| ledger.problem(&key(kind)));
    let available = ledger.seen(&key(Kind::Deployment));
    let available = available.and_then(|d| d.pointer("/status/availableReplicas")?.as_u64());
    Running {
        addresses: ledger
            .seen(&key(Kind::Service))
            .map(addresses)
            .unwrap_or_default(),
        ready: available.is_some_and(|count| count > 0),
        problem: problem.map(str::to_owned),
    }
}

/// What the load balancer says; a Service without one is reached at its own addresses.
fn addresses(service: &Value) -> Vec<(&'static str, String)> {
    let list = |pointer: &str| {
        let found = service.pointer(pointer).and_then(Value::as_array);
        found.cloned().unwrap_or_default()
    };
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let ip = |value: &Value| text(value).filter(|ip| ip != "None").map(|ip| ("IPAddress", ip));
    if service.pointer("/spec/type").and_then(Value::as_str) != Some("LoadBalancer") {
        return list("/spec/clusterIPs").iter().filter_map(ip).collect();
    }
    let ingress = list("/status/loadBalancer/ingress");
    let address = |one: &Value| {
        let host = || Some(("Hostname", text(one.get("hostname")?)?));
        one.get("ip").and_then(ip).or_else(host)
    };
    ingress.iter().filter_map(address).collect()
}
