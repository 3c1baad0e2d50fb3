//! What the translators refuse, and what the state finds between objects.

use super::code::{
    BETWEEN_OBJECTS, CONFLICTING_HOSTS, Code, REFERENCE_NOT_FOUND, SCHEMA, SCHEMA_WARNING, TWICE,
    UNKNOWN_RULE_HOST,
};
use super::world::World;
use super::{Given, Report};
use crate::convert;
use crate::model::snapshot::MeshSettings;
use crate::state::{Change, ObjectKey, Problem, State};
use crate::translate::{Head, Rejected, translate};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Reports both; and fields that are read but have a newer name.
pub(super) fn check(given: &[Given<'_>], world: &World<'_>, settings: &MeshSettings, report: &mut Report) {
    let mut refused = BTreeSet::new();
    for given in given {
        match Head::read(given.object) {
            Err(rejected) => {
                refused.insert(text(&given.origin, &rejected));
                let Rejected {
                    object,
                    field,
                    reason,
                } = rejected;
                report.push(
                    &SCHEMA,
                    object,
                    String::new(),
                    field,
                    reason,
                    given.origin.clone(),
                );
            }
            Ok(head) if !is_of_the_mesh(&head.key) => {}
            Ok(head) => {
                if let Err(rejected) = translate(&head, given.object, settings) {
                    refused.insert(text(&given.origin, &rejected));
                    let reason = hint(&head.key, rejected.reason);
                    report.add(&SCHEMA, &head.key, rejected.field, reason);
                }
            }
        }
    }
    between(given, world, settings, &refused, report);
    old_fields(world, report);
}

fn text(origin: &str, rejected: &Rejected) -> String {
    format!("{origin} {rejected}")
}

/// Other programs' objects may stand in the same files.
fn is_of_the_mesh(key: &ObjectKey) -> bool {
    let group = key.group.as_str();
    let builtin = matches!(group, "" | "discovery.k8s.io" | "heddle.io")
        || group.starts_with("gateway.networking.")
        || group.starts_with("mesh.heddle.io");
    builtin || group.ends_with(".istio.io") || group == "istio.io"
}

fn hint(key: &ObjectKey, reason: String) -> String {
    if key.group == "config.istio.io" {
        format!("{reason}: `heddle convert` makes current objects of it")
    } else {
        reason
    }
}

/// Lets the agents' own state take everything, and reports what it says beyond refusals.
fn between(
    given: &[Given<'_>],
    world: &World<'_>,
    settings: &MeshSettings,
    refused: &BTreeSet<String>,
    report: &mut Report,
) {
    let mut state = State::new(settings.clone());
    state.apply(Change::Init);
    for given in given {
        let known = Head::read(given.object).is_ok_and(|head| is_of_the_mesh(&head.key));
        if known {
            state.apply(Change::Apply {
                object: given.object.clone(),
                origin: given.origin.clone(),
            });
        }
    }
    state.apply(Change::InitDone);
    let keys: BTreeMap<String, &ObjectKey> = world
        .objects
        .iter()
        .map(|o| (crate::translate::describe(&o.key), &o.key))
        .collect();
    for problem in state.problems() {
        if refused.contains(&text(&problem.origin, &problem.rejected)) {
            continue;
        }
        let code = code_of(&problem);
        let Problem { origin, rejected, .. } = problem;
        match keys.get(&rejected.object) {
            Some(key) if *code != TWICE => report.add(code, key, rejected.field, rejected.reason),
            key => {
                let namespace = key.map(|key| key.namespace.clone()).unwrap_or_default();
                let Rejected {
                    object,
                    field,
                    reason,
                } = rejected;
                report.push(code, object, namespace, field, reason, origin);
            }
        }
    }
}

/// Istio's code for a finding of the state.
fn code_of(problem: &Problem) -> &'static Code {
    let Rejected {
        object,
        field,
        reason,
    } = &problem.rejected;
    let of = |kind: &str| object.split(' ').next() == Some(kind);
    if reason.contains("is already defined at") {
        &TWICE
    } else if of("DestinationRule") && field == "spec.host" {
        &UNKNOWN_RULE_HOST
    } else if of("VirtualService") && field.starts_with("spec.hosts[") && reason.contains("already routed by")
    {
        &CONFLICTING_HOSTS
    } else if reason.contains("is no service")
        || reason.contains("has no port")
        || reason.contains("no DestinationRule defines subset")
    {
        &REFERENCE_NOT_FOUND
    } else {
        &BETWEEN_OBJECTS
    }
}

/// What `heddle convert` would rename.
fn old_fields(world: &World<'_>, report: &mut Report) {
    let of_istio = |value: &Value| {
        value["apiVersion"]
            .as_str()
            .is_some_and(|version| version.starts_with("networking.istio.io/"))
    };
    for object in world.objects.iter().filter(|o| of_istio(o.value)) {
        for note in convert::convert(std::slice::from_ref(object.value)).notes {
            if !note.field.is_empty() && note.field != "apiVersion" {
                let text = format!("deprecated: {}", note.text);
                report.add(&SCHEMA_WARNING, &object.key, note.field, text);
            }
        }
    }
}
