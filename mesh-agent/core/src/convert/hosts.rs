//! What old rules say of each destination, gathered: one VirtualService and one DestinationRule each.

use super::raw::IstioService;
use super::{label, object, put};
use crate::translate::value::FieldError;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

type LabelSet = BTreeMap<String, String>;

/// A destination: the namespace that its new objects stand in, and its host as they write it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Host {
    pub(super) namespace: String,
    pub(super) host: String,
}

impl Host {
    /// Resolves an `IstioService` written in `namespace`.
    pub(super) fn of(at: &str, service: &IstioService, namespace: &str) -> Result<Self, FieldError> {
        let named = |text: &Option<String>| text.clone().filter(|t| !t.is_empty());
        if let Some(host) = named(&service.service) {
            return Ok(Self {
                namespace: namespace.to_owned(),
                host,
            });
        }
        let Some(name) = named(&service.name) else {
            return Err(FieldError::new(
                format!("{at}.name"),
                "is missing: name or service",
            ));
        };
        let namespace = named(&service.namespace).unwrap_or_else(|| namespace.to_owned());
        let host = match named(&service.domain) {
            Some(domain) => format!("{name}.{namespace}.{domain}"),
            None => name,
        };
        Ok(Self { namespace, host })
    }

    /// As rules of `namespace` write it: a short name means a service of the rule's own namespace (T-01).
    pub(super) fn seen_from(&self, namespace: &str) -> String {
        if self.namespace == namespace || self.host.contains('.') {
            self.host.clone()
        } else {
            format!("{}.{}.svc.cluster.local", self.host, self.namespace)
        }
    }

    fn object_name(&self) -> String {
        self.host.split('.').map(label).collect::<Vec<_>>().join(".")
    }
}

/// One `http` entry and what orders it.
struct Rule {
    precedence: i32,
    name: String,
    http: Value,
}

#[derive(Default)]
struct Gathered {
    rules: Vec<Rule>,
    /// In the order in which they were met: name, labels, policy.
    subsets: Vec<(String, LabelSet, Option<Value>)>,
    policy: Option<Value>,
}

/// All destinations.
#[derive(Default)]
pub(super) struct Hosts(BTreeMap<Host, Gathered>);

impl Hosts {
    /// Adds a RouteRule's `http` entry. Whether another rule has the same precedence: then their order was open.
    pub(super) fn add_rule(
        &mut self,
        host: Host,
        precedence: i32,
        name: &str,
        http: Value,
    ) -> Option<String> {
        let rules = &mut self.0.entry(host).or_default().rules;
        let tie = rules
            .iter()
            .find(|rule| rule.precedence == precedence)
            .map(|rule| rule.name.clone());
        rules.push(Rule {
            precedence,
            name: name.to_owned(),
            http,
        });
        tie
    }

    /// The subset of a host that has these labels, named after their values; `None` for no labels.
    pub(super) fn subset(&mut self, host: &Host, labels: Option<&LabelSet>) -> Option<String> {
        let labels = labels.filter(|labels| !labels.is_empty())?;
        let subsets = &mut self.0.entry(host.clone()).or_default().subsets;
        if let Some((name, ..)) = subsets.iter().find(|(_, known, _)| known == labels) {
            return Some(name.clone());
        }
        let base = label(&labels.values().cloned().collect::<Vec<_>>().join("-"));
        let taken = |name: &str| subsets.iter().any(|(known, ..)| known == name);
        let name = (1_usize..)
            .map(|n| {
                if n == 1 {
                    base.clone()
                } else {
                    format!("{base}-{n}")
                }
            })
            .find(|name| !taken(name))
            .unwrap_or(base.clone());
        subsets.push((name.clone(), labels.clone(), None));
        Some(name)
    }

    /// Sets the policy of a host or of one of its subsets; whether there was one.
    pub(super) fn set_policy(&mut self, host: &Host, subset: Option<&str>, policy: Value) -> bool {
        let gathered = self.0.entry(host.clone()).or_default();
        let place = match subset {
            None => Some(&mut gathered.policy),
            Some(name) => gathered
                .subsets
                .iter_mut()
                .find(|(known, ..)| known == name)
                .map(|(_, _, policy)| policy),
        };
        place.is_some_and(|place| place.replace(policy).is_some())
    }

    /// The VirtualServices, then the DestinationRules.
    pub(super) fn objects(self) -> Vec<Value> {
        let mut virtual_services = Vec::new();
        let mut destination_rules = Vec::new();
        for (host, gathered) in self.0 {
            let name = host.object_name();
            if !gathered.rules.is_empty() {
                let spec = routes(&host, gathered.rules);
                virtual_services.push(current("VirtualService", &host.namespace, &name, spec));
            }
            if !gathered.subsets.is_empty() || gathered.policy.is_some() {
                let mut spec = Map::new();
                spec.insert("host".into(), host.host.as_str().into());
                put(&mut spec, "trafficPolicy", gathered.policy);
                if !gathered.subsets.is_empty() {
                    spec.insert("subsets".into(), subsets(gathered.subsets));
                }
                destination_rules.push(current("DestinationRule", &host.namespace, &name, spec));
            }
        }
        virtual_services.extend(destination_rules);
        virtual_services
    }
}

fn current(kind: &str, namespace: &str, name: &str, spec: Map<String, Value>) -> Value {
    object("networking.istio.io/v1", kind, namespace, name, spec)
}

fn routes(host: &Host, mut rules: Vec<Rule>) -> Map<String, Value> {
    rules.sort_by(|a, b| (b.precedence, &a.name).cmp(&(a.precedence, &b.name)));
    let mut spec = Map::new();
    spec.insert("hosts".into(), json!([host.host]));
    spec.insert("http".into(), rules.into_iter().map(|rule| rule.http).collect());
    spec
}

fn subsets(subsets: Vec<(String, LabelSet, Option<Value>)>) -> Value {
    subsets
        .into_iter()
        .map(|(name, labels, policy)| {
            let mut subset = Map::new();
            subset.insert("name".into(), name.into());
            subset.insert("labels".into(), json!(labels));
            put(&mut subset, "trafficPolicy", policy);
            Value::Object(subset)
        })
        .collect()
}
