use super::*;
use crate::model::snapshot::MeshSettings;
use crate::testing::documents;
use crate::translate::translate;
use proptest::prelude::*;

/// Old files, what they must become, and a note that must be there.
const GOLDEN: [(&str, &str, &str, &str); 6] = [
    (
        "canary-50",
        include_str!("tests/golden/canary-50.yaml"),
        include_str!("tests/golden/canary-50.out.yaml"),
        "RouteRule default/route-rules-svcb: spec.route[0].labels: version=v0.1 is subset v0-1 of the DestinationRule for svcb",
    ),
    (
        "canary-100",
        include_str!("tests/golden/canary-100.yaml"),
        include_str!("tests/golden/canary-100.out.yaml"),
        "RouteRule default/route-rules-svcb: spec.httpReqTimeout: requests ended after 15 s by default",
    ),
    (
        "egress",
        include_str!("tests/golden/egress.yaml"),
        include_str!("tests/golden/egress.out.yaml"),
        "EgressRule default/enable-svcb-engress-rule: spec.destination.service: 10.100.35.27 is in addresses",
    ),
    (
        "bookinfo",
        include_str!("tests/golden/bookinfo.yaml"),
        include_str!("tests/golden/bookinfo.out.yaml"),
        "RouteRule books/old-ratings: spec.redirect: the status was 302",
    ),
    (
        "ingress",
        include_str!("tests/golden/ingress.yaml"),
        include_str!("tests/golden/ingress.out.yaml"),
        "Ingress default/gateway: spec.tls[0].secretName: Secret shop-cert",
    ),
    (
        "legacy",
        include_str!("tests/golden/legacy.yaml"),
        include_str!("tests/golden/legacy.out.yaml"),
        "VirtualService default/httpbin: spec.http[0].fault.abort.percent: is percentage.value now",
    ),
];

#[test]
fn old_files_become_the_objects_that_mean_the_same() {
    for (name, old, new, note) in GOLDEN {
        let done = convert(&documents(old));
        assert_eq!(done.refused, [], "{name}");
        let wanted = documents(new);
        for (made, wanted) in done.objects.iter().zip(&wanted) {
            assert_eq!(made, wanted, "{name}");
        }
        assert_eq!(done.objects.len(), wanted.len(), "{name}: {:?}", done.objects);
        let notes: Vec<String> = done.notes.iter().map(ToString::to_string).collect();
        assert!(
            notes.iter().any(|text| text.starts_with(note)),
            "{name}: {notes:#?}"
        );
    }
}

#[test]
fn what_is_converted_is_not_converted_again() {
    for (name, old, ..) in GOLDEN {
        let once = convert(&documents(old)).objects;
        let twice = convert(&once);
        assert_eq!(twice.objects, once, "{name}");
        assert_eq!(twice.notes, [], "{name}");
    }
}

#[test]
fn the_canary_of_old_guides_is_understood_by_the_mesh_that_it_is_converted_for() {
    for old in [GOLDEN[0].1, GOLDEN[1].1] {
        for object in convert(&documents(old)).objects {
            let head = Head::read(&object).unwrap();
            translate(&head, &object, &MeshSettings::default()).unwrap();
        }
    }
}

#[test]
fn the_later_version_of_a_rule_replaces_the_earlier() {
    let both = format!("{}\n---\n{}", GOLDEN[0].1, GOLDEN[1].1);
    let done = convert(&documents(&both));
    assert_eq!(done.objects, documents(GOLDEN[1].2));
    assert!(
        done.notes.iter().any(|n| n.text.contains("more than once")),
        "{:?}",
        done.notes
    );
}

fn rule(spec: &str) -> String {
    format!("apiVersion: config.istio.io/v1alpha2\nkind: RouteRule\nmetadata: {{name: r}}\nspec: {spec}")
}

fn policy(spec: &str) -> String {
    format!(
        "apiVersion: config.istio.io/v1alpha2\nkind: DestinationPolicy\nmetadata: {{name: r}}\nspec: {spec}"
    )
}

#[test]
fn what_has_no_modern_form_is_refused_by_object_and_field() {
    let to = "destination: {name: a}";
    let table = [
        (rule("{destination: {namespace: x}}"), "spec.destination.name"),
        (rule("{destination: {name: a, labels: {v: x}}}"), "spec.destination.labels"),
        (rule(&format!("{{{to}, l4Fault: {{throttle: {{}}}}}}")), "spec.l4Fault"),
        (rule(&format!("{{{to}, match: {{tcp: {{}}}}}}")), "spec.match.tcp"),
        (rule(&format!("{{{to}, match: {{source: {{service: a.b}}}}}}")), "spec.match.source"),
        (
            rule(&format!("{{{to}, match: {{request: {{headers: {{x: {{regex: '(?!a)b'}}}}}}}}}}")),
            "spec.match.request.headers.x.regex",
        ),
        (rule(&format!("{{{to}, httpReqTimeout: {{custom: {{}}}}}}")), "spec.httpReqTimeout.custom"),
        (
            rule(&format!("{{{to}, httpReqRetries: {{simpleRetry: {{overrideHeaderName: x}}}}}}")),
            "spec.httpReqRetries.simpleRetry.overrideHeaderName",
        ),
        (
            rule(&format!("{{{to}, route: [{{weight: 0}}, {{weight: 0}}]}}")),
            "spec.route",
        ),
        (rule(&format!("{{{to}, route: [{{weight: -1}}]}}")), "spec.route[0].weight"),
        (rule(&format!("{{{to}, redirect: {{uri: /}}, route: []}}")), "spec.redirect"),
        (rule(&format!("{{{to}, rout: []}}")), "spec.rout"),
        (policy(&format!("{{{to}, source: {{name: b}}, loadBalancing: {{name: RANDOM}}}}")), "spec.source"),
        (policy(&format!("{{{to}, loadBalancing: {{name: BEST}}}}")), "spec.loadBalancing.name"),
        (policy(&format!("{{{to}}}")), "spec"),
        (
            "apiVersion: config.istio.io/v1alpha2\nkind: EgressRule\nmetadata: {name: r}\nspec: {destination: {service: a.com}, useEgressProxy: true, ports: [{port: 80, protocol: http}]}".to_owned(),
            "spec.useEgressProxy",
        ),
        (
            "apiVersion: config.istio.io/v1alpha2\nkind: EgressRule\nmetadata: {name: r}\nspec: {destination: {service: a.com}, ports: [{port: 80, protocol: quic}]}".to_owned(),
            "spec.ports[0].protocol",
        ),
        (
            "apiVersion: config.istio.io/v1alpha2\nkind: metric\nmetadata: {name: r}\nspec: {}".to_owned(),
            "kind",
        ),
        (
            "apiVersion: authentication.istio.io/v1alpha1\nkind: MeshPolicy\nmetadata: {name: r}\nspec: {}".to_owned(),
            "kind",
        ),
        (
            "apiVersion: extensions/v1beta1\nkind: Ingress\nmetadata: {name: r, annotations: {kubernetes.io/ingress.class: istio}}\nspec: {backend: {serviceName: a, servicePort: web}}".to_owned(),
            "spec.backend.servicePort",
        ),
        ("type: route-rule\nname: r\nspec: {}".to_owned(), "type"),
    ];
    for (yaml, field) in table {
        let done = convert(&documents(&yaml));
        assert_eq!(done.refused.len(), 1, "{yaml}: {done:?}");
        assert_eq!(done.refused[0].field, field, "{yaml}: {:?}", done.refused);
        assert!(done.refused[0].object.ends_with('r'), "{:?}", done.refused);
        assert!(done.objects.is_empty(), "{yaml}: {done:?}");
        assert_eq!(done.notes, [], "{yaml}");
    }
}

#[test]
fn a_rule_that_is_refused_takes_no_other_with_it_and_names_already_taken_are_said() {
    let good = GOLDEN[0].1;
    let bad = rule("{destination: {name: svcb}, l4Fault: {}}");
    let done = convert(&documents(&format!("{good}\n---\n{bad}")));
    assert_eq!(done.objects, documents(GOLDEN[0].2));
    assert_eq!(done.refused.len(), 1);
    let there = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: svcb, namespace: default}\nspec: {hosts: [svcb]}";
    let done = convert(&documents(&format!("{good}\n---\n{there}")));
    assert_eq!(done.refused[0].field, "metadata.name", "{:?}", done.refused);
}

#[test]
fn versions_that_share_a_name_get_subsets_of_their_own() {
    let done = convert(&documents(&rule(
        "{destination: {name: a}, route: [{labels: {version: v1.0}, weight: 1}, {labels: {version: v1-0}, weight: 1}]}",
    )));
    assert_eq!(done.objects[1]["spec"]["subsets"][0]["name"], "v1-0");
    assert_eq!(done.objects[1]["spec"]["subsets"][1]["name"], "v1-0-2");
    assert!(
        done.notes.iter().any(|n| n.text.contains("sum up to 2")),
        "{:?}",
        done.notes
    );
}

proptest! {
    #[test]
    fn no_text_makes_the_conversion_panic(name in "\\PC{0,12}", service in "\\PC{0,12}", weight in any::<i32>(), kind in 0..4_usize) {
        let kind = ["RouteRule", "DestinationPolicy", "EgressRule", "Ingress"][kind];
        let object = json!({"apiVersion": "config.istio.io/v1alpha2", "kind": kind, "metadata": {"name": "x"}, "spec": {
            "destination": {"name": name, "service": service, "labels": {&name: &service}},
            "route": [{"labels": {&name: &service}, "weight": weight}, {"weight": weight}],
            "ports": [{"port": 80, "protocol": name}], "loadBalancing": {"name": name}}});
        drop(convert(&[object]));
    }
}
