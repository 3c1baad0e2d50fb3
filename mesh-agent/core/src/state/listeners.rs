//! Gateways of Gateway API: which of their listeners can be served, and which routes are attached to each.
//!
//! The one answer for the process that serves and for the controller that says so.

use super::gateway_tls::Clients;
use super::tables::{RouteKey, Tables};
use crate::model::ObjectName;
use crate::model::gateway::pattern_intersection;
use crate::model::status::GATEWAY_CONTROLLER;
use crate::translate::RouteKind;
use crate::translate::gateway_api::{
    ApiGatewaySpec, ApiRouteSpec, GROUP, ListenerKind, ListenerSpec, ParentRef, RoutesFrom, SecretRef,
    precedence,
};
use std::sync::Arc;

/// A reason of a condition, and the words.
pub(super) type Reason = (&'static str, String);

/// One Gateway with what becomes of its listeners.
pub(super) struct View<'a> {
    pub(super) spec: &'a ApiGatewaySpec,
    pub(super) listeners: Vec<ListenerView<'a>>,
}

/// One listener.
pub(super) struct ListenerView<'a> {
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
        let spec = self.api_gateways.get(name)?;
        self.is_our_class(&spec.class).then(|| self.view(name, spec))
    }

    /// The Gateway that a process was made for, and what becomes of it.
    pub(super) fn served_view(&self, name: &ObjectName) -> Option<View<'_>> {
        let spec = self.api_gateways.get(name)?;
        (!self.is_others_class(&spec.class)).then(|| self.view(name, spec))
    }

    fn view<'a>(&'a self, name: &ObjectName, spec: &'a ApiGatewaySpec) -> View<'a> {
        let mut view = View {
            spec,
            listeners: Vec::new(),
        };
        for (index, listener) in spec.listeners.iter().enumerate() {
            let (kinds, kinds_problem) = kinds(listener);
            let certificates = self.certificates(name, listener);
            let clients = self.clients(name, spec, listener);
            let no_authority = clients.as_ref().and_then(Clients::unresolved);
            view.listeners.push(ListenerView {
                spec: listener,
                kinds,
                conflict: spec.listeners[..index]
                    .iter()
                    .find_map(|other| conflict(listener, other)),
                certificate_missing: certificates.is_some(),
                unresolved: certificates.or(no_authority).or(kinds_problem),
                clients,
                routes: Vec::new(),
            });
        }
        let mut routes: Vec<_> = self.routes_of_gateway(name).collect();
        routes.sort_by(|a, b| precedence((&a.1.created, &a.0.1), (&b.1.created, &b.0.1)));
        for (key, route) in routes {
            for listener in &mut view.listeners {
                let parents = route.parents.iter().filter(|p| p.is_gateway(name));
                let hosts = parents.filter_map(|p| self.hosts_at(name, listener, key, route, p).ok());
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
        gateway: &ObjectName,
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
        let admitted = match &spec.from {
            RoutesFrom::All => true,
            RoutesFrom::Same => *namespace == gateway.namespace,
            RoutesFrom::Nowhere => false,
            RoutesFrom::Selector(selector) => {
                let found = self.namespaces.get(namespace);
                found.is_some_and(|n| selector.selects(&n.labels))
            }
        };
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
    fn certificates(&self, gateway: &ObjectName, listener: &ListenerSpec) -> Option<Reason> {
        if !listener.protocol.as_ref().is_ok_and(|kind| kind.terminates()) {
            return None;
        }
        if listener.certificates.is_empty() {
            return Some(("InvalidCertificateRef", "tls.certificateRefs is missing".into()));
        }
        listener
            .certificates
            .iter()
            .find_map(|c| self.certificate(gateway, c))
    }

    /// What is wrong with a Secret that a Gateway names as a certificate.
    pub(super) fn certificate(&self, gateway: &ObjectName, wanted: &SecretRef) -> Option<Reason> {
        let name = &wanted.name;
        if (&*wanted.kind.0, &*wanted.kind.1) != ("", "Secret") {
            let reason = format!("a certificate is in a Secret, not in a {}", wanted.kind.1);
            return Some(("InvalidCertificateRef", reason));
        }
        if !self.permits((GROUP, "Gateway", &gateway.namespace), ("", "Secret"), name) {
            let reason = format!(
                "no ReferenceGrant lets Gateways of {} use Secret {name}",
                gateway.namespace
            );
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

/// Why a listener cannot stand beside one that is written before it.
fn conflict(listener: &ListenerSpec, other: &ListenerSpec) -> Option<Reason> {
    if listener.port != other.port {
        return None;
    }
    let (Ok(kind), Ok(before)) = (&listener.protocol, &other.protocol) else {
        return None;
    };
    let tls = |kind: &ListenerKind| !matches!(kind, ListenerKind::Http | ListenerKind::Tcp);
    let port = listener.port;
    if kind != before && !(tls(kind) && tls(before)) {
        let reason = format!("port {port} has another protocol in listener {}", other.name);
        return Some(("ProtocolConflict", reason));
    }
    (listener.hostname == other.hostname).then(|| {
        let reason = format!("port {port} has the same hostname in listener {}", other.name);
        ("HostnameConflict", reason)
    })
}

/// HTTPRoutes and GRPCRoutes do not share hosts of a listener: the older has them.
fn rivals(other: &Bound<'_>, route: &ApiRouteSpec, hosts: &[Arc<str>]) -> bool {
    let shared = |a: &Arc<str>| hosts.iter().any(|b| pattern_intersection(a, b).is_some());
    other.route.kind != route.kind && other.hosts.iter().any(shared)
}
