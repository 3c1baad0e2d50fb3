//! What is wrong with a set of objects, before the mesh runs them or while it does: `heddle analyze`.
//!
//! Refusals and findings between objects are those of the translators and of the state that the agents run, so that this
//! never says something else than they do; the rest are conditions that nothing refuses and nobody wants. Codes are those
//! of `istioctl analyze` where one exists.

mod code;
mod gateways;
mod known;
mod namespaces;
mod rules;
mod services;
mod virtual_services;
mod world;

use crate::model::snapshot::MeshSettings;
use crate::state::ObjectKey;
use crate::translate::describe;
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;

pub use code::{Code, Level};

/// Objects with this annotation are not reported for the codes in it, comma-separated; `*` stands for all.
const SUPPRESS: [&str; 2] = ["heddle.io/analyze-suppress", "galley.istio.io/analyze-suppress"];

/// An object and where it was read.
#[derive(Clone, Debug)]
pub struct Given<'a> {
    /// The object.
    pub object: &'a Value,
    /// Place, for reports: the same for no other object.
    pub origin: String,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Message {
    /// What kind of thing.
    pub code: &'static str,
    /// Its name in Istio's list of codes.
    pub name: &'static str,
    /// How bad.
    pub level: Level,
    /// `Kind namespace/name`.
    pub object: String,
    /// Namespace of the object, empty for a cluster-scoped one.
    pub namespace: String,
    /// Path inside the object; empty for the object as a whole.
    pub field: String,
    /// What is wrong and what would be right.
    pub message: String,
    /// As given.
    pub origin: String,
}

/// Gathers messages.
#[derive(Default)]
struct Report {
    messages: Vec<Message>,
    /// Where each object was read, and which codes it does not want to hear.
    origins: BTreeMap<ObjectKey, (String, Vec<String>)>,
}

impl Report {
    fn add(
        &mut self,
        code: &'static Code,
        key: &ObjectKey,
        field: impl Into<String>,
        text: impl Into<String>,
    ) {
        let (origin, suppressed) = match self.origins.get(key) {
            Some((origin, suppressed)) => (origin.clone(), suppressed.as_slice()),
            None => (String::new(), &[][..]),
        };
        if suppressed.iter().any(|s| s == "*" || s == code.id) {
            return;
        }
        let (object, namespace) = (describe(key), key.namespace.clone());
        self.push(code, object, namespace, field.into(), text.into(), origin);
    }

    fn push(
        &mut self,
        code: &'static Code,
        object: String,
        namespace: String,
        field: String,
        message: String,
        origin: String,
    ) {
        let message = Message {
            code: code.id,
            name: code.name,
            level: code.level,
            object,
            namespace,
            field,
            message,
            origin,
        };
        if !self.messages.contains(&message) {
            self.messages.push(message);
        }
    }
}

/// Everything that is wrong with these objects, the worst first.
#[must_use]
pub fn analyze(given: &[Given<'_>], settings: &MeshSettings) -> Vec<Message> {
    let mut report = Report::default();
    let world = world::World::read(given, settings);
    for object in &world.objects {
        let suppressed = SUPPRESS
            .iter()
            .filter_map(|key| object.value["metadata"]["annotations"][key].as_str())
            .flat_map(|codes| codes.split(',').map(|code| code.trim().to_owned()))
            .collect();
        report
            .origins
            .insert(object.key.clone(), (object.origin.clone(), suppressed));
    }
    known::check(given, &world, settings, &mut report);
    virtual_services::check(&world, &mut report);
    gateways::check(&world, &mut report);
    rules::check(&world, &mut report);
    services::check(&world, &mut report);
    namespaces::check(&world, &mut report);
    let mut messages = report.messages;
    messages.sort_by(|a, b| {
        let key = |m: &Message| {
            (
                std::cmp::Reverse(m.level),
                m.origin.clone(),
                m.object.clone(),
                m.field.clone(),
            )
        };
        key(a).cmp(&key(b)).then_with(|| a.code.cmp(b.code))
    });
    messages
}

#[cfg(test)]
mod tests;
