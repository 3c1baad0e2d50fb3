use super::*;
use serde_json::json;

const TEXT: &str = "\
# a comment
apiVersion: v1
kind: Thing
metadata:
  name: a
spec:
  http:
  - match:
    - uri: {exact: /a}
    route:
    - destination:
        host: b
---
---
kind: ThingList
items:
- kind: Thing
  spec: {x: 1}
- kind: Thing
  spec:
    y: [true, null, 1.5, -1, \"1\"]
";

#[test]
fn every_field_knows_its_line_and_a_field_that_is_not_there_the_nearest_around_it() {
    let documents = parse("f.yaml", TEXT).unwrap();
    let lines = |document: &Document, fields: &[&str]| -> Vec<u64> {
        fields.iter().map(|field| document.line_of(field)).collect()
    };
    assert_eq!(documents[0].origin(), "f.yaml:2");
    assert_eq!(
        lines(
            &documents[0],
            &[
                "metadata",
                "metadata.name",
                "spec.http",
                "spec.http[0]",
                "spec.http[0].match[0].uri.exact",
                "spec.http[0].route[0].destination.host",
                "spec.http[0].route[0].destination.subset",
                "spec.http[0].timeout",
                "status",
                "",
            ]
        ),
        [4, 5, 7, 8, 9, 12, 11, 8, 2, 2]
    );
    assert_eq!(documents[1].origin(), "f.yaml:17");
    assert_eq!(
        lines(&documents[2], &["spec", "spec.y", "spec.y[1]"]),
        [20, 21, 21]
    );
}

#[test]
fn values_are_those_that_the_agent_reads() {
    let documents = parse("f.yaml", TEXT).unwrap();
    assert_eq!(documents.len(), 3);
    assert_eq!(
        documents[2].object,
        json!({"kind": "Thing", "spec": {"y": [true, null, 1.5, -1, "1"]}})
    );
    let plain = serde_saphyr::from_multiple::<Value>(TEXT).unwrap();
    assert_eq!(documents[0].object, plain[0]);
}

#[test]
fn what_is_no_yaml_is_said_with_file_and_line() {
    let error = parse("f.yaml", "a: 1\nb: [").unwrap_err().to_string();
    assert!(error.starts_with("f.yaml: ") && error.contains("line"), "{error}");
    assert!(parse("f.yaml", &"[".repeat(100_000)).is_err());
}
