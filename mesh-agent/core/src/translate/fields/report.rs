//! `docs/compatibility.md`.

use super::{Field, Kind, Outcome, Unclear, kinds, outcome};
use std::fmt::Write as _;

const HEAD: &str = "# Compatibility

Every field of every kind of Istio's and the Gateway API's CustomResourceDefinitions, and what Heddle does with it. Made by
`cargo xtask generate`, which asks the translators: each field is set in a smallest object, which is translated with and
without it. So this page says what the program does, and a field that is not on it does not exist in the APIs.

- **honoured**: it changes what the mesh does.
- **refused**: an object that has it is not taken; its last good version stays in force. The message is what status, events
  and `heddle analyze` say.
- **no effect**: it is accepted, and the reason why nothing depends on it is given.

`[]` is an item of a list, `*` a key of a map, `…` everything below. *exp.* is the experimental channel of the Gateway API.
";

/// One row: fields that share what becomes of them are one.
struct Row {
    path: String,
    experimental: bool,
    text: String,
}

/// The page.
///
/// # Errors
/// The outcome of a field is not clear; with kind and path.
pub fn markdown() -> Result<String, Box<(String, Unclear)>> {
    let mut page = HEAD.to_owned();
    let mut refused_whole = Vec::new();
    for kind in kinds() {
        let mut outcomes = Vec::new();
        for field in &kind.fields {
            let outcome = outcome(&kind, field)
                .map_err(|unclear| Box::new((format!("{kind}: {}", field.path), unclear)))?;
            outcomes.push((field, outcome));
        }
        let whole = outcomes
            .iter()
            .all(|(_, o)| matches!(o, Outcome::Refused { at, .. } if at == "kind"));
        match outcomes.first() {
            Some((_, Outcome::Refused { message, .. })) if whole => {
                refused_whole.push((kind.kind, kind.group, message.clone()))
            }
            _ => section(&mut page, &kind, &outcomes),
        }
    }
    if !refused_whole.is_empty() {
        page.push_str("\n## Kinds that are refused as a whole\n\n| kind | message |\n|---|---|\n");
        for (kind, group, message) in refused_whole {
            let _ = writeln!(page, "| {kind} `{group}` | {message} |");
        }
    }
    Ok(page)
}

fn section(page: &mut String, kind: &Kind, outcomes: &[(&Field, Outcome)]) {
    let rows = rows(outcomes);
    let honoured = outcomes
        .iter()
        .filter(|(_, o)| matches!(o, Outcome::Honoured { .. }))
        .count();
    let _ = write!(
        page,
        "\n## {}\n\n`{}` {}: {honoured} of {} fields honoured\n\n| field | |\n|---|---|\n",
        kind.kind,
        kind.group,
        kind.versions.join(", "),
        outcomes.len(),
    );
    for row in rows {
        let mark = if row.experimental { " *exp.*" } else { "" };
        let _ = writeln!(page, "| `{}`{mark} | {} |", row.path, row.text);
    }
}

fn rows(outcomes: &[(&Field, Outcome)]) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    for (field, outcome) in outcomes {
        let row = Row {
            path: shown_path(field, outcome),
            experimental: field.experimental,
            text: shown(outcome),
        };
        let again = rows
            .last()
            .is_some_and(|last| last.path == row.path && last.text == row.text);
        if !again {
            rows.push(row);
        }
    }
    rows
}

/// A refusal that names a field around this one stands for everything in it.
fn shown_path(field: &Field, outcome: &Outcome) -> String {
    match outcome {
        Outcome::Refused { at, .. } if at.len() < field.path.len() && field.path.starts_with(at.as_str()) => {
            format!("{at}…")
        }
        _ => field.path.to_owned(),
    }
}

fn shown(outcome: &Outcome) -> String {
    let values = |refused: &[(String, String)]| -> String {
        let each = refused
            .iter()
            .map(|(value, message)| format!("; `{value}` refused: {}", cell(message)));
        each.collect()
    };
    match outcome {
        Outcome::Honoured { refused } => format!("honoured{}", values(refused)),
        Outcome::Refused { message, .. } => format!("**refused**: {}", cell(message)),
        Outcome::Ignored { reason, refused } => format!("no effect: {}{}", cell(reason), values(refused)),
    }
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}
