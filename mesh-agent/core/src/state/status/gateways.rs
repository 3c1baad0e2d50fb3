//! What is to be said of GatewayClasses, Gateways and their listeners, and of routes to Gateways.

use super::listener_sets::set_condition;
use crate::model::ObjectName;
use crate::model::status::{
    Condition, GATEWAY_CONTROLLER, GatewayStatus, INSECURE_CLIENTS, ListenerStatus, ParentStatus, Running,
};
use crate::state::gateways::wanted_addresses;
use crate::state::listeners::{ListenerView, Owner, Reason, View, supported};
use crate::state::tables::RouteKey;
use crate::state::{ObjectKey, State};
use crate::translate::gateway_api::{ApiRouteSpec, GROUP, ParentRef};
use std::net::IpAddr;
use std::sync::Arc;

impl State {
    /// What is to be said of a GatewayClass; `None` if it is not ours.
    #[must_use]
    pub fn class_status(&self, name: &str) -> Option<Vec<Condition>> {
        let spec = self.tables.gateway_classes.get(name)?;
        if &*spec.controller != GATEWAY_CONTROLLER {
            return None;
        }
        Some(vec![match &spec.parameters {
            None => Condition::yes("Accepted", "Accepted", "Gateways of this class are served"),
            Some(parameters) => {
                let reason = format!("spec.parametersRef: {parameters} is not supported");
                Condition::no("Accepted", "InvalidParameters", reason)
            }
        }])
    }

    /// The Gateways that are ours to serve.
    pub fn gateways(&self) -> impl Iterator<Item = &ObjectName> {
        let all = self.tables.api_gateways.iter();
        all.filter(|(_, spec)| self.tables.is_our_class(&spec.class))
            .map(|(name, _)| name)
    }

    /// What is to be said of a Gateway of ours, `running` being what there is of it; `None` for others.
    #[must_use]
    pub fn gateway_status(&self, name: &ObjectName, running: &Running) -> Option<GatewayStatus> {
        let view = self.tables.gateway_view(name)?;
        let accepted = self.refused_gateway(name).unwrap_or_else(|| accepted(&view));
        let programmed = programmed(&view, &accepted, running);
        let own = view.of(Owner::Gateway(name));
        let sets = self.tables.sets_of(name).into_iter();
        let attached =
            sets.filter(|(set, _)| set_condition(self.refused_set(set), &view, set, &accepted).holds);
        let attached_sets = attached.count();
        let listeners: Vec<ListenerStatus> = own.map(|l| listener_status(l, &programmed)).collect();
        let mut conditions = vec![accepted, programmed, self.resolved(name, &listeners)];
        let insecure = view.spec.tls.validations().any(|v| v.insecure);
        conditions.extend(insecure.then(|| {
            let words = "spec.tls.frontend: clients are served without a valid certificate";
            Condition::yes(INSECURE_CLIENTS, "ConfigurationChanged", words)
        }));
        Some(GatewayStatus {
            listeners,
            attached_sets,
            conditions,
        })
    }

    /// As [`State::gateway_status`], of a Gateway of class `class` of which no version was ever right.
    #[must_use]
    pub fn unread_gateway_status(&self, name: &ObjectName, class: &str) -> Option<GatewayStatus> {
        let accepted = self.refused_gateway(name)?;
        let programmed = Condition::no("Programmed", "Invalid", "the Gateway is not accepted");
        self.tables.is_our_class(class).then(|| GatewayStatus {
            listeners: Vec::new(),
            attached_sets: 0,
            conditions: vec![accepted, programmed],
        })
    }

    /// Whether all that a Gateway refers to is there.
    fn resolved(&self, name: &ObjectName, listeners: &[ListenerStatus]) -> Condition {
        let no = |reason, message: String| Condition::no("ResolvedRefs", reason, message);
        if let Some(Err((reason, message))) = self.tables.client_certificate(name) {
            return no(
                reason,
                format!("spec.tls.backend.clientCertificateRef: {message}"),
            );
        }
        let unresolved = |c: &Condition| c.kind == "ResolvedRefs" && !c.holds;
        match listeners.iter().find(|l| l.conditions.iter().any(unresolved)) {
            Some(listener) => no("ListenersNotResolved", format!("see listener {}", listener.name)),
            None => Condition::yes("ResolvedRefs", "ResolvedRefs", "every reference is there"),
        }
    }

    pub(super) fn refused_gateway(&self, name: &ObjectName) -> Option<Condition> {
        self.refused_object("Gateway", name)
    }

    /// What is wrong with the last version of an object of the API.
    pub(super) fn refused_object(&self, kind: &str, name: &ObjectName) -> Option<Condition> {
        let key = ObjectKey::of(GROUP, kind, name);
        let problem = self.records.get(&key)?.problem.as_ref()?;
        let words = format!("{}: {}", problem.field, problem.reason);
        Some(Condition::no("Accepted", "Invalid", words))
    }

    /// What is to be said of a route to a Gateway, or to a ListenerSet of it; `None` if that is not ours.
    pub(super) fn to_gateway(
        &self,
        gateway: &ObjectName,
        key: &RouteKey,
        route: &ApiRouteSpec,
        parent: &ParentRef,
    ) -> Option<ParentStatus> {
        let view = self.tables.gateway_view(gateway)?;
        let mut refusal: Option<Reason> = None;
        let mut accepted = false;
        for listener in view.listeners.iter().filter(|l| l.owner.is(parent)) {
            match self.tables.hosts_at(listener, key, route, parent) {
                Ok(_) if listener.routes.iter().any(|bound| bound.key == key) => accepted = true,
                Ok(_) => {
                    let reason = "an older route of another kind has the same hosts";
                    refusal = Some(("Conflicted", reason.into()));
                }
                // The reason of the listener that came nearest to taking it.
                Err(reason) => match &refusal {
                    Some((known, _)) if distance(known) <= distance(reason.0) => {}
                    _ => refusal = Some(reason),
                },
            }
        }
        let accepted = match refusal {
            _ if accepted => Condition::yes("Accepted", "Accepted", "served by the Gateway"),
            Some((reason, message)) => Condition::no("Accepted", reason, message),
            None => {
                let message = format!("{} {} has no listener at its Gateway", parent.kind, parent.name);
                Condition::no("Accepted", "NoMatchingParent", message)
            }
        };
        Some(ParentStatus {
            controller: GATEWAY_CONTROLLER,
            conditions: vec![accepted, super::resolved(&self.tables, route, Some(key))],
        })
    }
}

fn distance(reason: &str) -> u8 {
    match reason {
        "Conflicted" => 0,
        "NoMatchingListenerHostname" => 1,
        "NotAllowedByListeners" => 2,
        _ => 3,
    }
}

pub(super) fn accepted(view: &View<'_>) -> Condition {
    let no = |reason, message| Condition::no("Accepted", reason, message);
    if let Some(parameters) = &view.spec.infrastructure.parameters {
        let message = format!("spec.infrastructure.parametersRef: {parameters} is not supported");
        return no("InvalidParameters", message);
    }
    // An empty value asks for any address of that type.
    let supported_address = |(kind, value): &&(Arc<str>, Arc<str>)| match &**kind {
        "IPAddress" => value.is_empty() || value.parse::<IpAddr>().is_ok(),
        "Hostname" => value.is_empty(),
        _ => false,
    };
    let mut addresses = view.spec.addresses.iter();
    if let Some((kind, value)) = addresses.find(|a| !supported_address(a)) {
        let message = format!("spec.addresses: {kind} {value:?} cannot be chosen: expected an IPAddress");
        return no("UnsupportedAddress", message);
    }
    let usable = |l: &&ListenerView<'_>| {
        supported(l.spec).is_ok() && l.conflict.is_none() && l.refuses_all().is_none()
    };
    let own = |l: &&ListenerView<'_>| matches!(l.owner, Owner::Gateway(_));
    match view.listeners.iter().filter(usable).count() {
        0 => no("ListenersNotValid", "no listener can be served".into()),
        _ if view.listeners.iter().filter(own).any(|l| !usable(&l)) => Condition::yes(
            "Accepted",
            "ListenersNotValid",
            "some listeners cannot be served: see their conditions",
        ),
        _ => Condition::yes("Accepted", "Accepted", "every listener is accepted"),
    }
}

pub(super) fn programmed(view: &View<'_>, accepted: &Condition, running: &Running) -> Condition {
    let no = |reason, message: &str| Condition::no("Programmed", reason, message);
    let lacking = wanted_addresses(view.spec).find(|wanted| {
        !running
            .addresses
            .iter()
            .any(|(_, has)| has.parse() == Ok(*wanted))
    });
    if !accepted.holds {
        no("Invalid", "the Gateway is not accepted")
    } else if let Some(problem) = &running.problem {
        no("Pending", problem)
    } else if let Some(lacking) = lacking {
        let message = format!("spec.addresses: the Gateway's Service was not given {lacking}");
        no("AddressNotUsable", &message)
    } else if running.addresses.is_empty() {
        no("AddressNotAssigned", "the Gateway's Service has no address yet")
    } else if !running.ready {
        no("Pending", "no pod of the Gateway is ready yet")
    } else {
        Condition::yes("Programmed", "Programmed", "the Gateway is served")
    }
}

/// What is said of a listener, `programmed` being that condition of its owner.
pub(super) fn listener_status(listener: &ListenerView<'_>, programmed: &Condition) -> ListenerStatus {
    ListenerStatus {
        name: listener.spec.name.to_string(),
        kinds: listener.kinds.iter().map(|kind| kind.name()).collect(),
        attached: listener.routes.len(),
        conditions: listener_conditions(listener, programmed),
    }
}

fn listener_conditions(listener: &ListenerView<'_>, gateway: &Condition) -> Vec<Condition> {
    let accepted = match (supported(listener.spec), &listener.conflict) {
        (Err(reason), _) => Condition::no("Accepted", "UnsupportedProtocol", reason.to_string()),
        (_, Some((reason, message))) => Condition::no("Accepted", reason, message.clone()),
        (Ok(_), None) => match listener.refuses_all() {
            Some(reason) => Condition::no("Accepted", "NoValidCACertificate", reason),
            None => Condition::yes("Accepted", "Accepted", ""),
        },
    };
    let conflicted = match &listener.conflict {
        Some((reason, message)) => Condition::yes("Conflicted", reason, message.clone()),
        None => Condition::no("Conflicted", "NoConflicts", ""),
    };
    let resolved = match &listener.unresolved {
        Some((reason, message)) => Condition::no("ResolvedRefs", reason, message.clone()),
        None => Condition::yes("ResolvedRefs", "ResolvedRefs", ""),
    };
    let programmed = if let Some((reason, message)) = &listener.conflict {
        Condition::no("Programmed", reason, message.clone())
    } else if listener.served().is_none() || listener.kinds.is_empty() {
        Condition::no("Programmed", "Invalid", "the listener cannot be served")
    } else if gateway.holds {
        Condition::yes("Programmed", "Programmed", "")
    } else {
        Condition::no("Programmed", "Pending", gateway.message.clone())
    };
    vec![accepted, conflicted, resolved, programmed]
}
