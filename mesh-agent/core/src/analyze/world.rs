//! The objects, indexed for the checks.

use super::Given;
use crate::model::host;
use crate::model::snapshot::MeshSettings;
use crate::state::ObjectKey;
use crate::translate::Head;
use serde_json::Value;
use std::collections::{HashMap, HashSet};

/// One object that has a name.
pub(super) struct Object<'a> {
    pub(super) key: ObjectKey,
    pub(super) value: &'a Value,
    pub(super) origin: String,
}

impl Object<'_> {
    /// A list inside `spec`.
    pub(super) fn list(&self, field: &str) -> &[Value] {
        self.value["spec"][field].as_array().map_or(&[], Vec::as_slice)
    }

    /// A list of texts inside `spec`.
    pub(super) fn texts(&self, field: &str) -> impl Iterator<Item = &str> {
        self.list(field).iter().filter_map(Value::as_str)
    }
}

/// Pods, or what will make them.
pub(super) struct Workload<'a> {
    pub(super) key: ObjectKey,
    pub(super) labels: &'a Value,
}

/// All of them.
pub(super) struct World<'a> {
    pub(super) objects: Vec<Object<'a>>,
    /// Pods, and the templates of what makes pods.
    pub(super) workloads: Vec<Workload<'a>>,
    /// Group and kind → places in `objects`.
    kinds: HashMap<(String, String), Vec<usize>>,
    /// Absolute host of each Kubernetes service → place in `objects`.
    services: HashMap<String, usize>,
    domain: String,
}

impl<'a> World<'a> {
    pub(super) fn read(given: &[Given<'a>], settings: &MeshSettings) -> Self {
        let mut seen = HashSet::new();
        let mut world = Self {
            objects: Vec::new(),
            workloads: Vec::new(),
            kinds: HashMap::new(),
            services: HashMap::new(),
            domain: settings.cluster_domain.to_string(),
        };
        for given in given {
            if let Ok(head) = Head::read(given.object)
                && seen.insert(head.key.clone())
            {
                world.add(head.key, given);
            }
        }
        world
    }

    fn add(&mut self, key: ObjectKey, given: &Given<'a>) {
        let place = self.objects.len();
        let labels = match (key.group.as_str(), key.kind.as_str()) {
            ("", "Pod") => Some(&given.object["metadata"]["labels"]),
            ("apps", "Deployment" | "StatefulSet" | "DaemonSet") => {
                Some(&given.object["spec"]["template"]["metadata"]["labels"])
            }
            ("", "Service") => {
                self.services
                    .insert(self.absolute(&key.name, &key.namespace), place);
                None
            }
            _ => None,
        };
        self.workloads.extend(labels.map(|labels| Workload {
            key: key.clone(),
            labels,
        }));
        let kind = (key.group.clone(), key.kind.clone());
        self.kinds.entry(kind).or_default().push(place);
        self.objects.push(Object {
            key,
            value: given.object,
            origin: given.origin.clone(),
        });
    }

    /// All objects of a kind.
    pub(super) fn of(&self, group: &str, kind: &str) -> impl Iterator<Item = &Object<'a>> {
        let places = self.kinds.get(&(group.to_owned(), kind.to_owned()));
        places
            .into_iter()
            .flatten()
            .filter_map(|place| self.objects.get(*place))
    }

    /// All objects of a kind of `networking.istio.io`.
    pub(super) fn istio(&self, kind: &str) -> impl Iterator<Item = &Object<'a>> {
        self.of("networking.istio.io", kind)
    }

    /// A host as a rule of this namespace means it.
    pub(super) fn absolute(&self, host: &str, namespace: &str) -> String {
        host::absolute(host, namespace, &self.domain).to_string()
    }

    /// The Kubernetes service that has this absolute host.
    pub(super) fn service(&self, host: &str) -> Option<&Object<'a>> {
        self.services.get(host).and_then(|place| self.objects.get(*place))
    }

    /// The workloads of a namespace that a selector (a map) selects.
    pub(super) fn selected<'w>(
        &'w self,
        namespace: &'w str,
        selector: &'w Value,
    ) -> impl Iterator<Item = &'w Workload<'a>> {
        let of = move |w: &&Workload<'a>| w.key.namespace == namespace && selects(selector, w.labels);
        self.workloads.iter().filter(of)
    }

    /// Whether a host is a service's, or a ServiceEntry's.
    pub(super) fn knows_host(&self, host: &str) -> bool {
        let entry = |o: &Object<'a>| {
            o.texts("hosts").any(|known| {
                let known = known.to_ascii_lowercase();
                known == host
                    || known
                        .strip_prefix('*')
                        .is_some_and(|suffix| host.ends_with(suffix))
            })
        };
        self.services.contains_key(host) || self.istio("ServiceEntry").any(entry)
    }
}

/// Whether labels have everything that a selector (a map) asks for; an empty one selects nothing here.
pub(super) fn selects(selector: &Value, labels: &Value) -> bool {
    selector.as_object().is_some_and(|selector| {
        !selector.is_empty() && selector.iter().all(|(k, v)| labels.get(k) == Some(v))
    })
}

/// `host` in a list of hosts and wildcards of a Gateway's server, which may begin with a namespace (`ns/host`).
pub(super) fn covers(pattern: &str, host: &str) -> bool {
    let pattern = pattern
        .split_once('/')
        .map_or(pattern, |(_, host)| host)
        .to_ascii_lowercase();
    let host = host.to_ascii_lowercase();
    if pattern == "*" || host == "*" || pattern == host {
        return true;
    }
    match (pattern.strip_prefix('*'), host.strip_prefix('*')) {
        (Some(suffix), None) => host.ends_with(suffix),
        (None, Some(suffix)) => pattern.ends_with(suffix),
        (Some(a), Some(b)) => a.ends_with(b) || b.ends_with(a),
        (None, None) => false,
    }
}
