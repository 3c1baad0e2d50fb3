use super::*;

#[test]
fn every_field_of_every_kind_is_honoured_refused_or_ignored_for_a_reason() {
    let mut unclear = Vec::new();
    for kind in kinds() {
        for field in &kind.fields {
            if let Err(error) = outcome(&kind, field) {
                unclear.push(format!("{} {}: {error}", kind.kind, field.path));
            }
        }
    }
    assert!(
        unclear.is_empty(),
        "{} fields:\n{}",
        unclear.len(),
        unclear.join("\n")
    );
}

#[test]
fn the_page_says_what_the_translators_do() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/compatibility.md");
    let page = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        page == markdown().unwrap(),
        "docs/compatibility.md is old: run `cargo xtask generate`"
    );
}

#[test]
fn the_reasons_for_ignoring_fields_are_those_of_fields_that_are_ignored() {
    let kinds = kinds();
    for (name, path, _) in IGNORED {
        let ignored = kinds
            .iter()
            .filter(|k| k.kind == name || name == "*")
            .any(|kind| {
                let field = kind.fields.iter().find(|f| f.path == path);
                field.is_some_and(|f| matches!(outcome(kind, f), Ok(Outcome::Ignored { .. })))
            });
        assert!(ignored, "{name} {path} is not ignored any more");
    }
}

fn found(kind: &str, path: &'static str, holds: Holds) -> Result<Outcome, Unclear> {
    let kind = kinds().into_iter().find(|k| k.kind == kind).unwrap();
    outcome(
        &kind,
        &Field {
            path,
            holds,
            experimental: false,
        },
    )
}

#[test]
fn a_field_that_a_newer_crd_brings_is_noticed() {
    for path in [
        "spec.newField",
        "spec.http[].newField",
        "spec.http[].match[].headers.*.suffix",
    ] {
        let outcome = found("VirtualService", path, Holds::Text);
        assert!(matches!(outcome, Err(Unclear::Unknown(_))), "{path}: {outcome:?}");
    }
    let outcome = found("VirtualService", "spec.http[].redirect.newField", Holds::Text);
    assert!(
        matches!(outcome, Err(Unclear::Unknown(_)) | Ok(Outcome::Refused { .. })),
        "{outcome:?}"
    );
}

#[test]
fn the_probe_tells_what_is_honoured_from_what_is_refused() {
    let honoured = Ok(Outcome::Honoured { refused: Vec::new() });
    assert_eq!(
        found("VirtualService", "spec.http[].timeout", Holds::Text),
        honoured
    );
    assert_eq!(
        found(
            "VirtualService",
            "spec.http[].match[].headers.*.regex",
            Holds::Text
        ),
        honoured
    );
    assert_eq!(
        found("VirtualService", "spec.http[].route[].weight", Holds::Integer),
        honoured
    );
    assert_eq!(
        found("DestinationRule", "spec.subsets[].labels.*", Holds::Text),
        honoured
    );
    let refused = found("VirtualService", "spec.http[].fault.abort.http2Error", Holds::Text);
    assert!(
        matches!(&refused, Ok(Outcome::Refused { at, .. }) if at == "spec.http[].fault.abort.http2Error"),
        "{refused:?}"
    );
}

#[test]
fn the_lists_have_every_kind_with_its_fields() {
    let kinds = kinds();
    let names: Vec<&str> = kinds.iter().map(|k| k.kind).collect();
    for name in [
        "VirtualService",
        "DestinationRule",
        "HTTPRoute",
        "XBackendTrafficPolicy",
    ] {
        assert!(names.contains(&name), "{name}: {names:?}");
    }
    assert!(
        kinds
            .iter()
            .all(|k| !k.fields.is_empty() && !k.versions.is_empty())
    );
    let fields: usize = kinds.iter().map(|k| k.fields.len()).sum();
    assert!(fields > 1_000, "{fields}");
}
