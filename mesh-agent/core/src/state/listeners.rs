//! Gateways of Gateway API: which of their listeners, and of those that ListenerSets add, can be served, and which
//! routes are attached to each.
//!
//! The one answer for the process that serves and for the controller that says so.

use super::gateway_tls::Clients;
use super::parents::Parent;
use super::tables::{RouteKey, Tables};
use crate::model::ObjectName;
use crate::model::gateway::pattern_intersection;
use crate::model::status::GATEWAY_CONTROLLER;
use crate::translate::RouteKind;
use crate::translate::gateway_api::{
    ApiGatewaySpec, ApiRouteSpec, GROUP, ListenerKind, ListenerSetSpec, ListenerSpec, ParentRef, SecretRef,
    precedence,
};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// A reason of a condition, and the words.
pub(super) type Reason = (&'static str, String);

/// One Gateway with what becomes of its listeners.
pub(super) struct View<'a> {
    pub(super) spec: &'a ApiGatewaySpec,
    /// Its own and those of ListenerSets, in the order of precedence.
    pub(super) listeners: Vec<ListenerView<'a>>,
}

/// The object in which a listener is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner<'a> {
    Gateway(&'a ObjectName),
    Set(&'a ObjectName),
}

/// One listener.
pub(super) struct ListenerView<'a> {
    pub(super) owner: Owner<'a>,
    /// Place among the listeners of its owner.
    pub(super) index: usize,
    pub(super) spec: &'a ListenerSpec,
    /// Kinds of routes that it takes.
    pub(super) kinds: Vec<RouteKind>,
    /// Why it conflicts with one before it.
    pub(super) conflict: Option<Reason>,
    /// What it refers to and is not there: certificates, kinds of routes.
    pub(super) unresolved: Option<Reason>,
    /// Whether that keeps it from being served.
    pub(super) certificate_missing: bool,
    /// What is asked of clients, if anything is.
    pub(super) clients: Option<Clients>,
    /// Routes, in the API's order.
    pub(super) routes: Vec<Bound<'a>>,
}

/// A route at a listener.
pub(super) struct Bound<'a> {
    pub(super) key: &'a RouteKey,
    pub(super) route: &'a ApiRouteSpec,
    /// The hosts that both have: `a.example.com`, `*.example.com`, `*`.
    pub(super) hosts: Vec<Arc<str>>,
}

impl<'a> Owner<'a> {
    /// `kind`.
    pub(super) const fn kind(self) -> &'static str {
        match self {
            Self::Gateway(_) => "Gateway",
            Self::Set(_) => "ListenerSet",
        }
    }

    pub(super) const fn name(self) -> &'a ObjectName {
        match self {
            Self::Gateway(name) | Self::Set(name) => name,
        }
    }

    /// Whether a route's parent reference means it.
    pub(super) fn is(self, parent: &ParentRef) -> bool {
        match self {
            Self::Gateway(name) => parent.is_gateway(name),
            Self::Set(name) => parent.is_listener_set(name),
        }
    }

    fn parent(self) -> Parent {
        match self {
            Self::Gateway(name) => Parent::Gateway(name.clone()),
            Self::Set(name) => Parent::ListenerSet(name.clone()),
        }
    }
}

impl<'a> View<'a> {
    /// The listeners of one object.
    pub(super) fn of(&self, owner: Owner<'_>) -> impl Iterator<Item = &ListenerView<'a>> {
        self.listeners.iter().filter(move |l| l.owner == owner)
    }
}

impl ListenerView<'_> {
    /// What it is served as, if it is.
    pub(super) fn served(&self) -> Option<ListenerKind> {
        let kind = supported(self.spec).ok()?;
        let served = self.conflict.is_none() && !self.certificate_missing && self.refuses_all().is_none();
        served.then_some(kind)
    }

    /// Why no client could prove itself, where it must.
    pub(super) fn refuses_all(&self) -> Option<&str> {
        self.clients.as_ref()?.refuses_all()
    }
}

/// What a listener is to be, or why it cannot be served.
pub(super) fn supported(spec: &ListenerSpec) -> Result<ListenerKind, Arc<str>> {
    spec.protocol.clone()
}

impl Tables {
    /// Whether a class is ours to serve.
    pub(super) fn is_our_class(&self, class: &str) -> bool {
        let spec = self.gateway_classes.get(class);
        spec.is_some_and(|c| &*c.controller == GATEWAY_CONTROLLER && c.parameters.is_none())
    }

    /// Whether a grant in the namespace of `to` lets an object of `from` (group, kind, namespace) refer to it.
    pub(super) fn permits(&self, from: (&str, &str, &str), to: (&str, &str), name: &ObjectName) -> bool {
        from.2 == &*name.namespace
            || self
                .grants
                .iter()
                .filter(|(grant, _)| grant.namespace == name.namespace)
                .any(|(_, grant)| grant.permits(from, (to.0, to.1, &name.name)))
    }

    /// Whether a class is known to be another controller's. One that is not there is nobody's: a gateway that serves goes
    /// on while somebody makes it anew.
    pub(super) fn is_others_class(&self, class: &str) -> bool {
        self.gateway_classes.contains_key(class) && !self.is_our_class(class)
    }

    /// A Gateway of ours and what becomes of it.
    pub(super) fn gateway_view(&self, name: &ObjectName) -> Option<View<'_>> {
        let (name, spec) = self.api_gateways.get_key_value(name)?;
        self.is_our_class(&spec.class).then(|| self.view(name, spec))
    }

    /// The Gateway that a process was made for, and what becomes of it.
    pub(super) fn served_view(&self, name: &ObjectName) -> Option<View<'_>> {
        let (name, spec) = self.api_gateways.get_key_value(name)?;
        (!self.is_others_class(&spec.class)).then(|| self.view(name, spec))
    }

    /// The ListenerSets that a Gateway takes, in the API's order.
    pub(super) fn sets_of<'a>(&'a self, gateway: &ObjectName) -> Vec<(&'a ObjectName, &'a ListenerSetSpec)> {
        let Some(spec) = self.api_gateways.get(gateway) else {
            return Vec::new();
        };
        let sets = self.listener_sets.iter();
        let mut sets: Vec<_> = sets
            .filter(|(name, set)| set.gateway == *gateway && self.admits_set(gateway, spec, name))
            .collect();
        sets.sort_by(|a, b| precedence((&a.1.created, a.0), (&b.1.created, b.0)));
        sets
    }

    /// Whether a Gateway takes listeners from a ListenerSet of this name.
    pub(super) fn admits_set(&self, gateway: &ObjectName, spec: &ApiGatewaySpec, set: &ObjectName) -> bool {
        let labels = self.namespaces.get(&set.namespace).map(|n| &*n.labels);
        spec.sets_from.admits(&set.namespace, &gateway.namespace, labels)
    }

    fn view<'a>(&'a self, name: &'a ObjectName, spec: &'a ApiGatewaySpec) -> View<'a> {
        let sets = self.sets_of(name);
        let mut owners = vec![(Owner::Gateway(name), spec.listeners.as_slice())];
        owners.extend(
            sets.into_iter()
                .map(|(name, set)| (Owner::Set(name), set.listeners.as_slice())),
        );
        let mut listeners = Vec::new();
        let mut ports = Ports::default();
        for (owner, of_owner) in &owners {
            for (index, listener) in of_owner.iter().enumerate() {
                let (kinds, kinds_problem) = kinds(listener);
                let certificates = self.certificates(*owner, listener);
                let clients = self.clients(name, spec, listener);
                let no_authority = clients.as_ref().and_then(Clients::unresolved);
                listeners.push(ListenerView {
                    owner: *owner,
                    index,
                    spec: listener,
                    kinds,
                    conflict: ports.take(*owner, listener),
                    certificate_missing: certificates.is_some(),
                    unresolved: certificates.or(no_authority).or(kinds_problem),
                    clients,
                    routes: Vec::new(),
                });
            }
        }
        let mut view = View { spec, listeners };
        let routes = owners
            .iter()
            .flat_map(|(owner, _)| self.routes_to(&owner.parent()));
        let routes: BTreeMap<_, _> = routes.collect();
        let mut routes: Vec<_> = routes.into_iter().collect();
        routes.sort_by(|a, b| precedence((&a.1.created, &a.0.1), (&b.1.created, &b.0.1)));
        for (key, route) in routes {
            for listener in &mut view.listeners {
                let parents = route.parents.iter().filter(|p| listener.owner.is(p));
                let hosts = parents.filter_map(|p| self.hosts_at(listener, key, route, p).ok());
                let Some(hosts) = hosts.into_iter().next() else {
                    continue;
                };
                if listener.routes.iter().all(|other| !rivals(other, route, &hosts)) {
                    listener.routes.push(Bound { key, route, hosts });
                }
            }
        }
        view
    }

    /// The hosts that a route has at a listener by one of its parent references, or why it has none.
    pub(super) fn hosts_at(
        &self,
        listener: &ListenerView<'_>,
        key: &RouteKey,
        route: &ApiRouteSpec,
        parent: &ParentRef,
    ) -> Result<Vec<Arc<str>>, Reason> {
        let spec = listener.spec;
        if !parent.covers(spec.port, &spec.name) {
            return Err(("NoMatchingParent", "no listener has this name and port".into()));
        }
        if !listener.kinds.contains(&key.0) {
            let reason = format!("listener {} takes no {}", spec.name, key.0.name());
            return Err(("NotAllowedByListeners", reason));
        }
        let namespace = &key.1.namespace;
        let labels = self.namespaces.get(namespace).map(|n| &*n.labels);
        let admitted = spec
            .from
            .admits(namespace, &listener.owner.name().namespace, labels);
        if !admitted {
            let reason = format!("listener {} takes no routes of namespace {namespace}", spec.name);
            return Err(("NotAllowedByListeners", reason));
        }
        let own: Arc<str> = spec.hostname.clone().unwrap_or_else(|| "*".into());
        if route.hostnames.is_empty() || key.0 == RouteKind::Tcp {
            return Ok(vec![own]);
        }
        let common = route.hostnames.iter();
        let hosts: Vec<Arc<str>> = common
            .filter_map(|host| pattern_intersection(&own, host))
            .map(Into::into)
            .collect();
        if hosts.is_empty() {
            let reason = format!(
                "no hostname of the route is one of listener {} ({own})",
                spec.name
            );
            return Err(("NoMatchingListenerHostname", reason));
        }
        Ok(hosts)
    }

    /// What is wrong with the certificates of a listener that shows one.
    fn certificates(&self, owner: Owner<'_>, listener: &ListenerSpec) -> Option<Reason> {
        if !listener.protocol.as_ref().is_ok_and(|kind| kind.terminates()) {
            return None;
        }
        if listener.certificates.is_empty() {
            return Some(("InvalidCertificateRef", "tls.certificateRefs is missing".into()));
        }
        listener
            .certificates
            .iter()
            .find_map(|c| self.certificate(owner, c))
    }

    /// What is wrong with a Secret that a Gateway or ListenerSet names as a certificate.
    pub(super) fn certificate(&self, owner: Owner<'_>, wanted: &SecretRef) -> Option<Reason> {
        let name = &wanted.name;
        if (&*wanted.kind.0, &*wanted.kind.1) != ("", "Secret") {
            let reason = format!("a certificate is in a Secret, not in a {}", wanted.kind.1);
            return Some(("InvalidCertificateRef", reason));
        }
        let (kind, namespace) = (owner.kind(), &owner.name().namespace);
        if !self.permits((GROUP, kind, namespace), ("", "Secret"), name) {
            let reason = format!("no ReferenceGrant lets {kind}s of {namespace} use Secret {name}");
            return Some(("RefNotPermitted", reason));
        }
        if self.blind {
            let reason = format!("Secret {name} cannot be checked: the controller may not read Secrets");
            return Some(("InvalidCertificateRef", reason));
        }
        let Some(secret) = self.material("Secret", name) else {
            return Some(("InvalidCertificateRef", format!("Secret {name} is not there")));
        };
        let has = |key: &str, begin: &str| {
            let pem = secret.data.get(key).and_then(|pem| std::str::from_utf8(pem).ok());
            pem.is_some_and(|pem| pem.contains(begin))
        };
        let good = has("tls.crt", "-----BEGIN CERTIFICATE-----") && has("tls.key", "PRIVATE KEY-----");
        (!good).then(|| {
            let reason = format!("Secret {name} has no certificate and key (tls.crt, tls.key, PEM)");
            ("InvalidCertificateRef", reason)
        })
    }
}

/// Kinds of routes that a listener takes, and whether others were asked for.
fn kinds(listener: &ListenerSpec) -> (Vec<RouteKind>, Option<Reason>) {
    let able = supported(listener).map_or(&[] as &[RouteKind], ListenerKind::routes);
    let Some(wanted) = &listener.kinds else {
        return (able.to_vec(), None);
    };
    let mut kinds = Vec::new();
    let mut problem = None;
    for (group, kind) in wanted {
        match RouteKind::named(kind).filter(|k| &**group == GROUP && able.contains(k)) {
            Some(kind) => kinds.push(kind),
            None => {
                let reason = format!("listener {} cannot have routes of kind {kind}", listener.name);
                problem = Some(("InvalidRouteKinds", reason));
            }
        }
    }
    (kinds, problem)
}

/// The ports that listeners have taken so far.
#[derive(Default)]
struct Ports<'a>(HashMap<u16, Taken<'a>>);

struct Taken<'a> {
    kind: ListenerKind,
    by: Holder<'a>,
    hosts: HashMap<Option<&'a Arc<str>>, Holder<'a>>,
}

type Holder<'a> = (Owner<'a>, &'a ListenerSpec);

impl<'a> Ports<'a> {
    /// Gives a listener its place, or says why it cannot stand beside one that comes before it.
    fn take(&mut self, owner: Owner<'a>, spec: &'a ListenerSpec) -> Option<Reason> {
        let Ok(kind) = spec.protocol else { return None };
        let port = spec.port;
        let taken = self.0.entry(port).or_insert_with(|| Taken {
            kind,
            by: (owner, spec),
            hosts: HashMap::new(),
        });
        let tls = |kind: ListenerKind| !matches!(kind, ListenerKind::Http | ListenerKind::Tcp);
        if kind != taken.kind && !(tls(kind) && tls(taken.kind)) {
            let reason = format!("port {port} has another protocol in {}", holder(owner, taken.by));
            return Some(("ProtocolConflict", reason));
        }
        match taken.hosts.get(&spec.hostname.as_ref()) {
            Some(before) => {
                let reason = format!("port {port} has the same hostname in {}", holder(owner, *before));
                Some(("HostnameConflict", reason))
            }
            None => {
                taken.hosts.insert(spec.hostname.as_ref(), (owner, spec));
                None
            }
        }
    }
}

/// Who was first, as far as the owner of the other may know: listeners may be other people's.
fn holder(asking: Owner<'_>, (owner, spec): Holder<'_>) -> String {
    match owner {
        Owner::Gateway(_) => format!("listener {} of the Gateway", spec.name),
        Owner::Set(_) if owner == asking => format!("listener {}", spec.name),
        Owner::Set(_) => "a listener of another ListenerSet".to_owned(),
    }
}

/// HTTPRoutes and GRPCRoutes do not share hosts of a listener: the older has them.
fn rivals(other: &Bound<'_>, route: &ApiRouteSpec, hosts: &[Arc<str>]) -> bool {
    let shared = |a: &Arc<str>| hosts.iter().any(|b| pattern_intersection(a, b).is_some());
    other.route.kind != route.kind && other.hosts.iter().any(shared)
}
