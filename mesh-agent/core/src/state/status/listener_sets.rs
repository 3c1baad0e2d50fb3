//! What is to be said of ListenerSets.

use super::gateways::{accepted, listener_status, programmed};
use crate::model::ObjectName;
use crate::model::status::{Condition, ListenerSetStatus, Running};
use crate::state::State;
use crate::state::listeners::{Owner, View};

impl State {
    /// What is to be said of a ListenerSet of this name that names `gateway`, `running` being what there is of that;
    /// `None` if the Gateway is not ours.
    #[must_use]
    pub fn listener_set_status(
        &self,
        name: &ObjectName,
        gateway: &ObjectName,
        running: &Running,
    ) -> Option<ListenerSetStatus> {
        let view = self.tables.gateway_view(gateway)?;
        let neither = |accepted: Condition| ListenerSetStatus {
            listeners: Vec::new(),
            conditions: vec![
                accepted.clone(),
                Condition {
                    kind: "Programmed",
                    ..accepted
                },
            ],
        };
        let refused = self.refused_set(name);
        let Some((name, set)) = self.tables.listener_sets.get_key_value(name) else {
            return refused.map(neither);
        };
        if !self.tables.admits_set(gateway, view.spec, name) {
            let message = "allowedListeners of the Gateway admit no ListenerSet of this namespace";
            return Some(neither(Condition::no("Accepted", "NotAllowed", message)));
        }
        if set.gateway != *gateway {
            // A version that is refused names another Gateway than the one that is in force.
            return refused.map(neither);
        }
        let of_gateway = self.refused_gateway(gateway).unwrap_or_else(|| accepted(&view));
        let said = set_condition(refused, &view, name, &of_gateway);
        let parent = programmed(&view, &of_gateway, running);
        let programmed = match (said.holds, parent.holds) {
            (false, _) => Condition {
                kind: "Programmed",
                ..said.clone()
            },
            (true, false) => Condition::no("Programmed", "ParentNotProgrammed", parent.message),
            (true, true) => Condition::yes("Programmed", "Programmed", "the listeners are served"),
        };
        let listeners = view.of(Owner::Set(name));
        Some(ListenerSetStatus {
            listeners: listeners.map(|l| listener_status(l, &programmed)).collect(),
            conditions: vec![said, programmed],
        })
    }

    pub(super) fn refused_set(&self, name: &ObjectName) -> Option<Condition> {
        self.refused_object("ListenerSet", name)
    }
}

/// `Accepted` of a ListenerSet that its Gateway admits.
pub(super) fn set_condition(
    refused: Option<Condition>,
    view: &View<'_>,
    set: &ObjectName,
    gateway: &Condition,
) -> Condition {
    if let Some(refused) = refused {
        return refused;
    }
    let (good, bad): (Vec<_>, Vec<_>) = view.of(Owner::Set(set)).partition(|l| l.served().is_some());
    if good.is_empty() {
        return Condition::no(
            "Accepted",
            "ListenersNotValid",
            "no listener can be served: see their conditions",
        );
    }
    if !gateway.holds {
        let message = format!("the Gateway is not accepted: {}", gateway.message);
        return Condition::no("Accepted", "ParentNotAccepted", message);
    }
    if bad.is_empty() {
        Condition::yes("Accepted", "Accepted", "every listener is accepted")
    } else {
        Condition::yes(
            "Accepted",
            "ListenersNotValid",
            "some listeners cannot be served: see their conditions",
        )
    }
}
