//! What a controller says of objects of Gateway API.

use super::ObjectName;
use serde_json::{Value, json};

/// `controllerName` of what is said about Services.
pub const MESH_CONTROLLER: &str = "heddle.io/controller";
/// `controllerName` of GatewayClasses, and of what is said about their Gateways.
pub const GATEWAY_CONTROLLER: &str = "heddle.io/gateway-controller";
/// Names of Gateway API's features that Gateways of ours have, sorted (`GatewayClass.status.supportedFeatures`).
pub fn supported_features() -> impl Iterator<Item = &'static str> {
    include_str!("../../fields/gateway-features.txt").lines()
}
/// Condition of a Gateway that serves clients without a valid certificate though it has CAs for them. It is there as long as
/// it holds.
pub const INSECURE_CLIENTS: &str = "InsecureFrontendValidationMode";
/// The API's own bound (`PolicyStatus.ancestors`).
const MAX_ANCESTORS: usize = 16;
/// Longest message that a condition may have.
const MAX_MESSAGE: usize = 32_768;

/// One condition, without the times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// `type`.
    pub kind: &'static str,
    /// `status`: `True` or `False`.
    pub holds: bool,
    /// `reason`, in CamelCase.
    pub reason: &'static str,
    /// `message`, for people.
    pub message: String,
}

/// What is said of a route to one of its parents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParentStatus {
    /// Who says it.
    pub controller: &'static str,
    /// The conditions.
    pub conditions: Vec<Condition>,
}

/// What is said of a policy to one of the objects through which it takes effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AncestorStatus {
    /// That object: a Gateway, or a Service to which clients in the mesh connect.
    pub ancestor: Ancestor,
    /// The conditions.
    pub conditions: Vec<Condition>,
}

/// An object through which a policy takes effect.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Ancestor {
    /// A Gateway of ours.
    Gateway(ObjectName),
    /// A Service.
    Service(ObjectName),
}

impl Ancestor {
    fn to_json(&self) -> Value {
        let (group, kind, name) = match self {
            Self::Gateway(name) => ("gateway.networking.k8s.io", "Gateway", name),
            Self::Service(name) => ("", "Service", name),
        };
        json!({"group": group, "kind": kind, "namespace": &*name.namespace, "name": &*name.name})
    }

    const fn controller(&self) -> &'static str {
        match self {
            Self::Gateway(_) => GATEWAY_CONTROLLER,
            Self::Service(_) => MESH_CONTROLLER,
        }
    }
}

/// What there is of a Gateway: the objects that the controller made for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Running {
    /// Addresses at which it is reached, as (type, value).
    pub addresses: Vec<(&'static str, String)>,
    /// Whether a pod of it is ready.
    pub ready: bool,
    /// Why something of it is not there.
    pub problem: Option<String>,
}

/// What is said of a Gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayStatus {
    /// Of the Gateway as a whole.
    pub conditions: Vec<Condition>,
    /// Of each listener.
    pub listeners: Vec<ListenerStatus>,
    /// How many ListenerSets add listeners.
    pub attached_sets: usize,
}

/// What is said of a ListenerSet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerSetStatus {
    /// Of the set as a whole.
    pub conditions: Vec<Condition>,
    /// Of each listener; none where the set is not attached.
    pub listeners: Vec<ListenerStatus>,
}

/// What is said of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerStatus {
    /// `name`.
    pub name: String,
    /// `supportedKinds`, all of the API's own group.
    pub kinds: Vec<&'static str>,
    /// `attachedRoutes`.
    pub attached: usize,
    /// The conditions.
    pub conditions: Vec<Condition>,
}

impl GatewayStatus {
    fn insecure(&self) -> bool {
        self.conditions.iter().any(|c| c.kind == INSECURE_CLIENTS)
    }

    /// `status` of the Gateway; `before` is what is there.
    #[must_use]
    pub fn to_json(&self, running: &Running, generation: i64, before: &Value, now: &str) -> Value {
        let mut said = list(before, "conditions");
        said.retain(|c| c.get("type").and_then(Value::as_str) != Some(INSECURE_CLIENTS) || self.insecure());
        let address = |(kind, value): &(&str, String)| json!({"type": kind, "value": value});
        json!({
            "addresses": running.addresses.iter().map(address).collect::<Vec<_>>(),
            "attachedListenerSets": self.attached_sets,
            "conditions": conditions(&self.conditions, generation, &said, now),
            "listeners": listeners(&self.listeners, generation, before, now),
        })
    }
}

impl ListenerSetStatus {
    /// `status` of the ListenerSet; `before` is what is there.
    #[must_use]
    pub fn to_json(&self, generation: i64, before: &Value, now: &str) -> Value {
        json!({
            "conditions": conditions(&self.conditions, generation, &list(before, "conditions"), now),
            "listeners": listeners(&self.listeners, generation, before, now),
        })
    }
}

fn list(value: &Value, field: &str) -> Vec<Value> {
    let found = value.get(field).and_then(Value::as_array);
    found.cloned().unwrap_or_default()
}

/// `status.listeners`.
fn listeners(said: &[ListenerStatus], generation: i64, before: &Value, now: &str) -> Vec<Value> {
    let old_listeners = list(before, "listeners");
    let listener = |said: &ListenerStatus| {
        let same = |old: &&Value| old.get("name").and_then(Value::as_str) == Some(&said.name);
        let old = old_listeners.iter().find(same).map(|old| list(old, "conditions"));
        let kind = |kind: &&str| json!({"group": "gateway.networking.k8s.io", "kind": kind});
        json!({
            "name": said.name, "attachedRoutes": said.attached,
            "supportedKinds": said.kinds.iter().map(kind).collect::<Vec<_>>(),
            "conditions": conditions(&said.conditions, generation, &old.unwrap_or_default(), now),
        })
    };
    said.iter().map(listener).collect()
}

impl Condition {
    /// A condition that holds; its reason is often its name.
    #[must_use]
    pub fn yes(kind: &'static str, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            kind,
            holds: true,
            reason,
            message: message.into(),
        }
    }

    /// A condition that does not hold.
    #[must_use]
    pub fn no(kind: &'static str, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            kind,
            holds: false,
            reason,
            message: message.into(),
        }
    }

    /// As the API has it. The time of the last change stays while `before`, what is there now, says the same.
    #[must_use]
    pub fn to_json(&self, generation: i64, before: &[Value], now: &str) -> Value {
        let status = if self.holds { "True" } else { "False" };
        let text = |value: &Value, field: &str| value.get(field).and_then(Value::as_str).map(str::to_owned);
        let old = before
            .iter()
            .find(|c| text(c, "type").as_deref() == Some(self.kind));
        let since = old
            .filter(|c| text(c, "status").as_deref() == Some(status))
            .and_then(|c| text(c, "lastTransitionTime"))
            .unwrap_or_else(|| now.to_owned());
        let message: String = self.message.chars().take(MAX_MESSAGE / 4).collect();
        json!({
            "type": self.kind, "status": status, "reason": self.reason, "message": message,
            "observedGeneration": generation, "lastTransitionTime": since,
        })
    }
}

/// A list of conditions after `wanted` was said: those of other types stay where they are.
#[must_use]
pub fn conditions(wanted: &[Condition], generation: i64, before: &[Value], now: &str) -> Vec<Value> {
    let ours = |c: &Value| {
        wanted
            .iter()
            .any(|w| c.get("type").and_then(Value::as_str) == Some(w.kind))
    };
    let mut conditions: Vec<Value> = wanted
        .iter()
        .map(|c| c.to_json(generation, before, now))
        .collect();
    conditions.extend(before.iter().filter(|c| !ours(c)).cloned());
    conditions
}

/// `status.parents` of a route after `said` was said of `parents` (`spec.parentRefs` as they are written; `None` where
/// it is not ours to speak). Entries of other controllers stay; ours of parents that are gone go.
#[must_use]
pub fn parents(
    parents: &[Value],
    said: &[Option<ParentStatus>],
    generation: i64,
    before: &[Value],
    now: &str,
) -> Vec<Value> {
    let controller = |entry: &Value| {
        let name = entry.get("controllerName").and_then(Value::as_str);
        name.map(str::to_owned).unwrap_or_default()
    };
    let ours = |entry: &Value| [MESH_CONTROLLER, GATEWAY_CONTROLLER].contains(&controller(entry).as_str());
    let mut entries: Vec<Value> = before.iter().filter(|e| !ours(e)).cloned().collect();
    for (parent, said) in parents.iter().zip(said) {
        let Some(said) = said else { continue };
        let old = before
            .iter()
            .find(|e| e.get("parentRef") == Some(parent) && controller(e) == said.controller);
        let old = old
            .and_then(|e| e.get("conditions")?.as_array())
            .map_or(&[] as &[Value], Vec::as_slice);
        entries.push(json!({
            "parentRef": parent, "controllerName": said.controller,
            "conditions": conditions(&said.conditions, generation, old, now),
        }));
    }
    entries
}

/// `status.ancestors` of a policy after `said` was said: entries of other controllers stay, as the API has no room for more
/// than sixteen.
#[must_use]
pub fn ancestors(said: &[AncestorStatus], generation: i64, before: &[Value], now: &str) -> Vec<Value> {
    let controller = |entry: &Value| {
        let name = entry.get("controllerName").and_then(Value::as_str);
        name.map(str::to_owned).unwrap_or_default()
    };
    let ours = |entry: &Value| [MESH_CONTROLLER, GATEWAY_CONTROLLER].contains(&controller(entry).as_str());
    let mut entries: Vec<Value> = before.iter().filter(|e| !ours(e)).cloned().collect();
    for said in said.iter().take(MAX_ANCESTORS.saturating_sub(entries.len())) {
        let (ancestor, name) = (said.ancestor.to_json(), said.ancestor.controller());
        let same = |e: &&Value| e.get("ancestorRef") == Some(&ancestor) && controller(e) == name;
        let old = before.iter().find(same);
        let old = old
            .and_then(|e| e.get("conditions")?.as_array())
            .map_or(&[] as &[Value], Vec::as_slice);
        entries.push(json!({
            "ancestorRef": ancestor, "controllerName": name,
            "conditions": conditions(&said.conditions, generation, old, now),
        }));
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_say_stays_and_times_change_only_with_the_status() {
        let parent = json!({"kind": "Service", "group": "", "name": "a"});
        let gone = json!({"kind": "Service", "group": "", "name": "b"});
        let accepted = |time: &str, generation: i64| {
            json!({"type": "Accepted", "status": "True", "reason": "Accepted", "message": "",
                "observedGeneration": generation, "lastTransitionTime": time})
        };
        let foreign = json!({"type": "Foreign", "status": "True"});
        let before = vec![
            json!({"parentRef": gone, "controllerName": MESH_CONTROLLER, "conditions": []}),
            json!({"parentRef": parent, "controllerName": "other.io/c", "conditions": []}),
            json!({"parentRef": parent, "controllerName": MESH_CONTROLLER,
                "conditions": [accepted("then", 1), foreign]}),
        ];
        let said = |holds: bool| {
            Some(ParentStatus {
                controller: MESH_CONTROLLER,
                conditions: vec![Condition {
                    kind: "Accepted",
                    holds,
                    reason: "Accepted",
                    message: String::new(),
                }],
            })
        };
        let list = [parent.clone()];
        let same = parents(&list, &[said(true)], 2, &before, "now");
        assert_eq!(same[0], before[1]);
        assert_eq!(same[1]["conditions"], json!([accepted("then", 2), foreign]));
        assert_eq!(same.len(), 2);
        let other = parents(&list, &[said(false)], 2, &before, "now");
        assert_eq!(other[1]["conditions"][0]["lastTransitionTime"], "now");
        assert_eq!(parents(&list, &[None], 2, &before, "now"), [before[1].clone()]);
        assert_eq!(parents(&list, &[said(true)], 2, &same, "later"), same, "stable");
    }

    #[test]
    fn a_policy_has_no_more_ancestors_than_the_api_takes_and_those_of_others_stay() {
        let foreign = json!({"ancestorRef": {"name": "x"}, "controllerName": "other.io/c", "conditions": []});
        let said = |name: &str| AncestorStatus {
            ancestor: Ancestor::Gateway(ObjectName::new("infra", name)),
            conditions: vec![Condition::yes("Accepted", "Accepted", "")],
        };
        let first = ancestors(&[said("a")], 1, std::slice::from_ref(&foreign), "then");
        assert_eq!(first[0], foreign);
        assert_eq!(first[1]["ancestorRef"]["namespace"], "infra");
        assert_eq!(first[1]["controllerName"], GATEWAY_CONTROLLER);
        let many: Vec<_> = (0..20).map(|i| said(&format!("a{i}"))).collect();
        let all = ancestors(&[&[said("a")][..], &many].concat(), 2, &first, "now");
        assert_eq!(all.len(), 16);
        assert_eq!(all[0], foreign);
        let condition = &all[1]["conditions"][0];
        assert_eq!(condition["lastTransitionTime"], "then");
        assert_eq!(condition["observedGeneration"], 2);
        let service = AncestorStatus {
            ancestor: Ancestor::Service(ObjectName::new("infra", "a")),
            ..said("")
        };
        let of_mesh = ancestors(&[service], 2, &all, "now");
        assert_eq!(of_mesh.len(), 2, "the Gateways are gone: {of_mesh:?}");
        assert_eq!(of_mesh[1]["controllerName"], MESH_CONTROLLER);
        assert_eq!(of_mesh[1]["ancestorRef"]["group"], "");
    }
}
