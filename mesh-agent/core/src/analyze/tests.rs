use super::*;
use crate::testing::{WEATHER, documents};

fn messages(yaml: &str) -> Vec<Message> {
    let objects = documents(yaml);
    let given: Vec<Given<'_>> = objects
        .iter()
        .enumerate()
        .map(|(i, object)| Given {
            object,
            origin: format!("f.yaml:{i}"),
        })
        .collect();
    analyze(&given, &MeshSettings::default())
}

/// Codes, objects and fields; of what the weather application itself has nothing to say.
fn found(yaml: &str) -> Vec<String> {
    let own = messages(WEATHER);
    let all = messages(&format!("{WEATHER}\n---\n{yaml}"));
    let new = all.into_iter().filter(|m| !own.contains(m));
    new.map(|m| {
        format!("{} {} {}", m.code, m.object, m.field)
            .trim_end()
            .to_owned()
    })
    .collect()
}

fn vs(spec: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: r, namespace: weather}}\nspec: {spec}"
    )
}

fn istio(kind: &str, name: &str, spec: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: {kind}\nmetadata: {{name: {name}, namespace: weather}}\nspec: {spec}"
    )
}

const TO: &str = "route: [{destination: {host: forecast, port: {number: 80}}}]";

#[test]
fn references_to_what_is_not_there_are_errors_with_object_and_field() {
    assert_eq!(
        found(&vs(
            "{hosts: [forecast], http: [{route: [{destination: {host: forcast}}]}]}"
        )),
        ["IST0101 VirtualService weather/r spec.http[0].route[0].destination.host"]
    );
    assert_eq!(
        found(&vs(
            "{hosts: [forecast], http: [{route: [{destination: {host: forecast, subset: v9, port: {number: 80}}}]}]}"
        )),
        ["IST0101 VirtualService weather/r spec.http[0].route[0].destination.subset"]
    );
    assert_eq!(
        found(&vs(&format!(
            "{{hosts: [forecast], gateways: [mesh, other/gw], http: [{{{TO}}}]}}"
        ))),
        ["IST0101 VirtualService weather/r spec.gateways[1]"]
    );
    assert_eq!(
        found(&istio("DestinationRule", "d", "{host: nobody}")),
        ["IST0174 DestinationRule weather/d spec.host"]
    );
}

#[test]
fn what_the_translators_refuse_is_a_schema_error_and_said_once() {
    let all = messages(&vs(
        "{hosts: [forecast], http: [{route: [{destination: {host: a}, weigth: 5}]}]}",
    ));
    assert_eq!(all.len(), 1, "{all:?}");
    assert_eq!((all[0].code, all[0].level), ("IST0106", Level::Error));
    assert_eq!(all[0].field, "spec.http[0].route[0].weigth");
    assert_eq!(all[0].origin, "f.yaml:0");
    let old =
        messages("apiVersion: config.istio.io/v1alpha2\nkind: RouteRule\nmetadata: {name: r}\nspec: {}");
    assert!(old[0].message.contains("heddle convert"), "{old:?}");
    let nameless = messages("apiVersion: v1\nkind: Pod\nmetadata: {}");
    assert_eq!(
        (nameless[0].code, nameless[0].field.as_str()),
        ("IST0106", "metadata.name")
    );
}

#[test]
fn objects_of_other_programs_are_none_of_our_business() {
    assert_eq!(
        messages("apiVersion: cert-manager.io/v1\nkind: Certificate\nmetadata: {name: c}\nspec: {}"),
        []
    );
}

#[test]
fn two_virtual_services_for_one_host_of_the_mesh_conflict() {
    let one = vs(&format!("{{hosts: [forecast], http: [{{{TO}}}]}}"));
    let two = one.replace("name: r,", "name: s,");
    assert_eq!(
        found(&format!("{one}\n---\n{two}")),
        ["IST0109 VirtualService weather/s spec.hosts[0]"]
    );
    assert_eq!(
        found(&format!("{one}\n---\n{one}")),
        ["HED0002 VirtualService weather/r"]
    );
}

#[test]
fn rules_that_nothing_reaches_and_matches_that_nothing_is_left_for_are_found() {
    let rules = |http: &str| found(&vs(&format!("{{hosts: [forecast], http: {http}}}")));
    let table: [(&str, &[&str]); 9] = [
        (
            &format!("[{{{TO}}}, {{match: [{{uri: {{prefix: /a}}}}], {TO}}}]"),
            &["IST0130 VirtualService weather/r spec.http[1]"],
        ),
        (
            &format!("[{{match: [{{uri: {{prefix: /}}}}], {TO}}}, {{{TO}}}]"),
            &["IST0130 VirtualService weather/r spec.http[1]"],
        ),
        (
            &format!(
                "[{{match: [{{uri: {{prefix: /a}}}}], {TO}}}, {{match: [{{uri: {{exact: /ab}}, method: {{exact: GET}}}}], {TO}}}]"
            ),
            &["IST0130 VirtualService weather/r spec.http[1]"],
        ),
        (
            &format!(
                "[{{match: [{{uri: {{prefix: /a}}}}], {TO}}}, {{match: [{{uri: {{exact: /ab}}}}, {{uri: {{exact: /b}}}}], {TO}}}]"
            ),
            &["IST0131 VirtualService weather/r spec.http[1].match[0]"],
        ),
        (
            &format!(
                "[{{match: [{{headers: {{a: {{exact: b}}}}}}], {TO}}}, {{match: [{{headers: {{a: {{exact: b}}, c: {{exact: d}}}}}}], {TO}}}]"
            ),
            &["IST0130 VirtualService weather/r spec.http[1]"],
        ),
        // Not certain, or not so.
        (
            &format!(
                "[{{match: [{{uri: {{prefix: /a, }}, method: {{exact: GET}}}}], {TO}}}, {{match: [{{uri: {{prefix: /a}}}}], {TO}}}]"
            ),
            &[],
        ),
        (
            &format!(
                "[{{match: [{{uri: {{prefix: /a}}}}], {TO}}}, {{match: [{{uri: {{prefix: /a}}, ignoreUriCase: true}}], {TO}}}]"
            ),
            &[],
        ),
        (
            &format!(
                "[{{match: [{{uri: {{regex: /a.*}}}}], {TO}}}, {{match: [{{uri: {{exact: /ab}}}}], {TO}}}, {{{TO}}}]"
            ),
            &[],
        ),
        (
            &format!(
                "[{{match: [{{uri: {{prefix: /ab}}}}], {TO}}}, {{match: [{{uri: {{prefix: /a}}}}], {TO}}}]"
            ),
            &[],
        ),
    ];
    for (http, wanted) in table {
        assert_eq!(rules(http), wanted, "{http}");
    }
}

#[test]
fn gateways_are_looked_at_with_their_routes_and_with_each_other() {
    let gateway = |name: &str, host: &str| {
        istio(
            "Gateway",
            name,
            &format!(
                "{{selector: {{istio: ingressgateway}}, servers: [{{port: {{number: 80, name: http, protocol: HTTP}}, hosts: ['{host}']}}]}}"
            ),
        )
    };
    let only = |yaml: &str, code: &str| -> Vec<String> {
        found(yaml).into_iter().filter(|m| m.starts_with(code)).collect()
    };
    let route = vs(&format!(
        "{{hosts: [a.example.com], gateways: [gw], http: [{{{TO}}}]}}"
    ));
    let other = gateway("gw", "b.example.com");
    assert_eq!(
        only(&format!("{route}\n---\n{other}"), "IST0132"),
        ["IST0132 VirtualService weather/r spec.hosts[0]"]
    );
    let wide = gateway("gw", "*.example.com");
    assert_eq!(only(&format!("{route}\n---\n{wide}"), "IST0132"), [""; 0]);
    let rivals = format!("{wide}\n---\n{}", gateway("hw", "*.example.com"));
    assert_eq!(
        only(&rivals, "IST0145"),
        [
            "IST0145 Gateway weather/gw spec.servers[0]",
            "IST0145 Gateway weather/hw spec.servers[0]"
        ]
    );
    assert_eq!(
        only(
            &format!("{wide}\n---\n{}", gateway("hw", "a.example.com")),
            "IST0145"
        ),
        [""; 0]
    );
    let pods = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: gw, namespace: weather}\nspec: {template: {metadata: {labels: {istio: ingressgateway}}}}\n---\napiVersion: v1\nkind: Service\nmetadata: {name: gw, namespace: weather}\nspec: {selector: {istio: ingressgateway}, ports: [{name: https, port: 443}]}";
    assert_eq!(
        only(&format!("{wide}\n---\n{pods}"), "IST0162"),
        ["IST0162 Gateway weather/gw spec.servers[0].port.number"]
    );
}

#[test]
fn services_that_disagree_about_pods_and_ports_without_protocol_are_found() {
    let service = |name: &str, port: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: weather}}\nspec: {{selector: {{app: frontend}}, ports: [{port}]}}"
        )
    };
    assert_eq!(
        found(&service("one", "{name: web, port: 80}")),
        ["IST0118 Service weather/one spec.ports[0].name"]
    );
    let both = format!(
        "{}\n---\n{}",
        service("one", "{name: http-a, port: 80}"),
        service("two", "{name: tcp-a, port: 80}")
    );
    assert_eq!(found(&both), ["IST0116 Pod weather/frontend"]);
    let both = format!(
        "{}\n---\n{}",
        service("one", "{name: http-a, port: 80, targetPort: 8080}"),
        service("two", "{name: http-a, port: 81, targetPort: 8080}")
    );
    assert_eq!(found(&both), ["IST0137 Pod weather/frontend"]);
}

#[test]
fn namespaces_outside_of_the_mesh_and_annotations_nobody_reads_are_found_unless_they_are_suppressed() {
    let namespace = |labels: &str| {
        format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: other, labels: {{{labels}}}}}")
    };
    assert_eq!(found(&namespace("")), ["IST0102 Namespace other metadata.labels"]);
    assert_eq!(
        found(&namespace("istio-injection: enabled")),
        ["IST0102 Namespace other metadata.labels"]
    );
    assert_eq!(found(&namespace("heddle.io/mesh: disabled")), [""; 0]);
    assert_eq!(
        found(&namespace("heddle.io/mesh: enabled, istio-injection: enabled")),
        ["IST0123 Namespace other metadata.labels"]
    );
    let pod = |more: &str| {
        format!(
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: d, namespace: weather, annotations: {{{more}}}}}\nspec: {{template: {{metadata: {{annotations: {{sidecar.istio.io/inject: 'true'}}}}}}}}"
        )
    };
    assert_eq!(
        found(&pod("heddle.io/mehs: enabled")),
        [
            "IST0108 Deployment weather/d metadata.annotations.heddle.io/mehs",
            "IST0108 Deployment weather/d spec.template.metadata.annotations.sidecar.istio.io/inject"
        ]
    );
    assert_eq!(
        found(&pod("galley.istio.io/analyze-suppress: 'IST0101, IST0108'")),
        [""; 0]
    );
}

#[test]
fn subsets_selectors_entries_and_old_fields_are_looked_at() {
    let only = |yaml: &str, code: &str| -> Vec<String> {
        found(yaml).into_iter().filter(|m| m.starts_with(code)).collect()
    };
    assert_eq!(
        only(
            &istio(
                "DestinationRule",
                "d",
                "{host: forecast, subsets: [{name: v1, labels: {version: v1}}, {name: v8, labels: {version: v8}}]}"
            ),
            "IST0173"
        ),
        ["IST0173 DestinationRule weather/d spec.subsets[1].labels"]
    );
    assert_eq!(
        only(
            &istio("Sidecar", "s", "{workloadSelector: {labels: {app: nobody}}}"),
            "IST0127"
        ),
        ["IST0127 Sidecar weather/s spec.workloadSelector.labels"]
    );
    let two = format!(
        "{}\n---\n{}",
        istio("Sidecar", "s", "{egress: []}"),
        istio("Sidecar", "t", "{egress: []}")
    );
    assert_eq!(
        only(&two, "IST0111"),
        ["IST0111 Sidecar weather/t spec.workloadSelector"]
    );
    let entry = |name: &str, protocol: &str| {
        istio(
            "ServiceEntry",
            name,
            &format!("{{hosts: [a.example.com], ports: [{{number: 443, name: x, protocol: {protocol}}}]}}"),
        )
    };
    assert_eq!(
        only(&entry("e", "TCP"), "IST0134"),
        ["IST0134 ServiceEntry weather/e spec.ports[0]"]
    );
    let two = format!("{}\n---\n{}", entry("e", "TLS"), entry("f", "HTTP"));
    assert_eq!(
        only(&two, "IST0177"),
        ["IST0177 ServiceEntry weather/f spec.ports[0].protocol"]
    );
    assert_eq!(
        only(
            &vs(&format!(
                "{{hosts: [forecast], http: [{{{TO}, mirror: {{host: forecast, port: {{number: 80}}}}, mirrorPercent: 5}}]}}"
            )),
            "IST0133"
        ),
        ["IST0133 VirtualService weather/r spec.http[0].mirrorPercent"]
    );
    assert_eq!(
        only(
            &vs("{hosts: [forecast], http: [{route: [{destination: {host: forecast}}]}]}"),
            "IST0112"
        ),
        ["IST0112 VirtualService weather/r spec.http[0].route[0].destination.port"]
    );
}

#[test]
fn the_worst_comes_first() {
    let all = messages(&format!(
        "{WEATHER}\n---\n{}",
        vs("{hosts: [forecast], http: [{route: [{destination: {host: nobody}}]}]}")
    ));
    assert!(
        all.windows(2).all(|pair| pair[0].level >= pair[1].level),
        "{all:?}"
    );
    assert_eq!(all[0].level, Level::Error);
}
