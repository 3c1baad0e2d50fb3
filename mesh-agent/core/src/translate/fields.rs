//! What becomes of every field of every API: asked of the translators themselves, field by field.
//!
//! The fields are those of the CustomResourceDefinitions (`core/fields/*.txt`, made by `cargo xtask generate --fields`).
//! A probe sets one field in a smallest object and translates it with and without: a field that is honoured changes what
//! comes out, one that is not supported refuses the object and says so. Anything else must stand in [`IGNORED`] with its
//! reason, so that a translator cannot drop a field in silence, and a new field of a newer CRD is noticed.

mod bases;
mod probe;
mod report;

use super::MeshSettings;
use std::fmt;

pub use probe::outcome;
pub use report::markdown;

const LISTS: [&str; 2] = [
    include_str!("../../fields/istio.txt"),
    include_str!("../../fields/gateway-api.txt"),
];

/// Fields that are accepted and change nothing: kind (`*` = any), path, why that is right.
pub const IGNORED: [(&str, &str, &str); 3] = [
    (
        "VirtualService",
        "spec.http[].match[].statPrefix",
        "there are no statistics of single routes to prefix",
    ),
    ("GatewayClass", "spec.description", "it is for people"),
    ("*", "spec.useDefaultGateways", "None is what holds anyway"),
];

/// A kind of object and all that can be written in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kind {
    /// API group.
    pub group: &'static str,
    /// `kind`.
    pub kind: &'static str,
    /// Versions that the API serves.
    pub versions: Vec<&'static str>,
    /// Whether only the experimental channel has it.
    pub experimental: bool,
    /// Its fields below `spec`, sorted.
    pub fields: Vec<Field>,
}

/// One field that holds a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// Path: `[]` is an item of a list, `*` a key of a map.
    pub path: &'static str,
    /// Type of its value.
    pub holds: Holds,
    /// Whether only the experimental channel has it.
    pub experimental: bool,
}

/// Type of a field's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holds {
    /// Text.
    Text,
    /// A whole number.
    Integer,
    /// A number.
    Number,
    /// `true` or `false`.
    Boolean,
    /// One of these words.
    OneOf(Vec<&'static str>),
    /// One of these numbers.
    OneOfNumbers(Vec<i64>),
    /// A number, or text that stands for one.
    IntegerOrText,
    /// An object whose fields the API does not know.
    Free,
}

/// What becomes of a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It changes what the mesh does; some of its values may be refused, each with a message.
    Honoured {
        /// Value and message.
        refused: Vec<(String, String)>,
    },
    /// An object that has it is refused.
    Refused {
        /// What the refusal says.
        message: String,
        /// The field that the refusal names: this one or one around it; empty for the kind as a whole.
        at: String,
    },
    /// It is accepted, and nothing depends on it.
    Ignored {
        /// Why that is right.
        reason: &'static str,
        /// Values that are refused all the same, with messages.
        refused: Vec<(String, String)>,
    },
}

/// Why the outcome of a field is not known: its translator or the probe has to be mended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unclear {
    /// The translator does not know a field of the API.
    #[error("the translator does not know the field: {0}")]
    Unknown(String),
    /// It is accepted without effect.
    #[error("is accepted and changes nothing: honour it, refuse it, or list it in IGNORED with the reason")]
    Silent,
    /// The probe's object is refused for another reason: a base in `bases.rs` has to be added.
    #[error("no object could be made that has it: {0}")]
    NoProbe(String),
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.kind, self.group)
    }
}

/// Every kind of the lists.
#[must_use]
pub fn kinds() -> Vec<Kind> {
    let mut kinds: Vec<Kind> = Vec::new();
    let lines = LISTS.iter().flat_map(|list| list.lines());
    for line in lines.filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let mut words = line.split(' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("kind"), Some(group), Some(kind), Some(versions)) => kinds.push(Kind {
                group,
                kind,
                versions: versions.trim_end_matches('~').split(',').collect(),
                experimental: versions.ends_with('~'),
                fields: Vec::new(),
            }),
            (Some(path), Some(what), mark, None) => {
                if let Some(kind) = kinds.last_mut() {
                    kind.fields.push(Field {
                        path,
                        holds: holds(what),
                        experimental: mark == Some("~"),
                    });
                }
            }
            _ => {}
        }
    }
    kinds
}

fn holds(what: &'static str) -> Holds {
    match what.split_once(':') {
        Some(("enum", words)) => Holds::OneOf(words.split('|').collect()),
        Some(("codes", words)) => {
            Holds::OneOfNumbers(words.split('|').filter_map(|w| w.parse().ok()).collect())
        }
        Some(("int-or-string", _)) => Holds::IntegerOrText,
        _ => match what {
            "string" => Holds::Text,
            "integer" => Holds::Integer,
            "number" => Holds::Number,
            "boolean" => Holds::Boolean,
            "int-or-string" => Holds::IntegerOrText,
            _ => Holds::Free,
        },
    }
}

fn settings() -> MeshSettings {
    MeshSettings::default()
}

#[cfg(test)]
mod tests;
