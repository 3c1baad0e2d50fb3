mod gateway_api;
mod kubernetes;
mod virtual_service;

use super::*;
use crate::testing::documents;
use proptest::prelude::*;
use serde_json::json;

fn read(object: &Value) -> Result<Translated, Rejected> {
    let head = Head::read(object)?;
    translate(&head, object, &MeshSettings::default())
}

fn one(yaml: &str) -> Result<Translated, Rejected> {
    read(&documents(yaml)[0])
}

fn rejected(object: &Value) -> (String, String, String) {
    let rejected = read(object).expect_err("was accepted");
    (rejected.object, rejected.field, rejected.reason)
}

const VS: &str = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: r, namespace: weather}\nspec: ";
const DR: &str = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: r, namespace: weather}\nspec: ";
const ROUTE: &str = "route: [{destination: {host: forecast}}]";

#[test]
fn a_broken_object_is_answered_with_object_field_and_reason() {
    let http = |rest: &str| format!("{VS}{{hosts: [forecast], http: [{{{rest}}}]}}");
    let matching = |block: &str| http(&format!("match: [{{{block}}}], {ROUTE}"));
    let table: Vec<(String, &str, &str)> = vec![
        (
            format!("{VS}{{hosts: 5, http: [{{{ROUTE}}}]}}"),
            "spec.hosts",
            "invalid type",
        ),
        (
            format!("{VS}{{hosts: ['*'], http: [{{{ROUTE}}}]}}"),
            "spec.hosts[0]",
            "wildcard host * is not allowed",
        ),
        (
            format!("{VS}{{hosts: [a], gatways: [mesh], http: [{{{ROUTE}}}]}}"),
            "spec.gatways",
            "unknown field",
        ),
        (
            http("timeout: 1s"),
            "spec.http[0].route",
            "HTTP route, redirect or direct_response is required",
        ),
        (
            http(&format!("{ROUTE}, timeout: soon")),
            "spec.http[0].timeout",
            "is no duration",
        ),
        (
            http(&format!("{ROUTE}, timeout: 1us")),
            "spec.http[0].timeout",
            "greater than 1ms",
        ),
        (
            matching("uri: {regex: '(a'}"),
            "spec.http[0].match[0].uri.regex",
            "invalid regular expression",
        ),
        (
            matching("uri: {regex: 'a)|(b'}"),
            "spec.http[0].match[0].uri.regex",
            "invalid regular expression",
        ),
        (
            matching("uri: {regex: '(?=a)b'}"),
            "spec.http[0].match[0].uri.regex",
            "look-around",
        ),
        (
            matching("uri: {regex: '(((a{1,200}){1,200}){1,200})'}"),
            "spec.http[0].match[0].uri.regex",
            "size limit",
        ),
        (
            matching("uri: {exact: /a, prefix: /b}"),
            "spec.http[0].match[0].uri",
            "only one of",
        ),
        (
            matching("headers: {'a b': {exact: x}}"),
            "spec.http[0].match[0].headers.a b",
            "no header name",
        ),
        (
            matching("headers: {x: {exact: 1}}"),
            "spec.http[0].match[0].headers.x.exact",
            "invalid type",
        ),
        (
            matching("headers: {x: {suffix: y}}"),
            "spec.http[0].match[0].headers.x.suffix",
            "unknown field",
        ),
        (
            matching("port: 70000"),
            "spec.http[0].match[0].port",
            "invalid value",
        ),
        (
            http("route: [{destination: {host: a}, weight: -1}]"),
            "spec.http[0].route[0].weight",
            "weight -1 < 0",
        ),
        (
            http("route: [{destination: {host: a}, weight: 0}, {destination: {host: b}, weight: 0}]"),
            "spec.http[0].route",
            "total destination weight = 0",
        ),
        (
            http("route: [{destination: {subset: a}}]"),
            "spec.http[0].route[0].destination",
            "missing field `host`",
        ),
        (
            http("route: [{destination: {host: 'a\\0b'}}]").replace('\'', "\""),
            "spec.http[0].route[0].destination.host",
            "no DNS name",
        ),
        (
            http(&format!(
                "{ROUTE}, mirror: {{host: a}}, mirrors: [{{destination: {{host: b}}}}]"
            )),
            "spec.http[0].mirrors",
            "cannot contain both mirror and mirrors",
        ),
        (
            http(&format!(
                "{ROUTE}, mirror: {{host: a}}, mirrorPercentage: {{value: 101}}"
            )),
            "spec.http[0].mirrorPercentage.value",
            "no percentage",
        ),
        (
            http(&format!("{ROUTE}, retries: {{attempts: -1}}")),
            "spec.http[0].retries.attempts",
            "cannot be negative",
        ),
        (
            http(&format!("{ROUTE}, retries: {{attempts: 1, retryOn: sometimes}}")),
            "spec.http[0].retries.retryOn",
            "no retry condition",
        ),
        (
            http(&format!(
                "{ROUTE}, headers: {{request: {{set: {{x: \"a\\r\\nb: c\"}}}}}}"
            )),
            "spec.http[0].headers.request.set.x",
            "control character",
        ),
        (
            http(&format!("{ROUTE}, headers: {{request: {{remove: [host]}}}}")),
            "spec.http[0].headers.request.remove[0]",
            "no header name that can be removed",
        ),
        (format!("{DR}{{subsets: []}}"), "spec", "missing field `host`"),
        (
            format!("{DR}{{host: a, subsets: [{{name: v1}}, {{name: v1}}]}}"),
            "spec.subsets[1].name",
            "twice",
        ),
    ];
    for (yaml, field, reason) in &table {
        let (object, at, why) = rejected(&documents(yaml)[0]);
        assert!(object.ends_with(" weather/r"), "{object}");
        assert_eq!(at, *field, "{yaml}: {why}");
        assert!(why.contains(reason), "{why:?} does not say {reason:?}\n{yaml}");
    }
}

#[test]
fn a_broken_kubernetes_object_is_answered_with_object_field_and_reason() {
    let meta = json!({"name": "x", "namespace": "weather"});
    let table = [
        (
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": meta, "status": {"podIPs": [{"ip": "10.0.0"}]}}),
            "status.podIPs[0].ip",
        ),
        (
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": meta, "status": {"podIP": "127.0.0.1"}}),
            "status.podIP",
        ),
        (
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": {"containers": {}}}),
            "spec.containers",
        ),
        (
            json!({"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": {"ports": [{"port": "80"}]}}),
            "spec.ports[0].port",
        ),
        (
            json!({"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": {"ports": [{"port": 0}]}}),
            "spec.ports[0].port",
        ),
        (
            json!({"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": {"clusterIP": "x"}}),
            "spec.clusterIP",
        ),
        (
            json!({"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": {"type": "ExternalName"}}),
            "spec.type",
        ),
        (
            json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": meta, "endpoints": [{"addresses": [""]}]}),
            "endpoints[0].addresses[0]",
        ),
        (
            json!({"apiVersion": "networking.istio.io/v9", "kind": "VirtualService", "metadata": meta}),
            "apiVersion",
        ),
        (
            json!({"apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": meta}),
            "spec",
        ),
        (
            json!({"apiVersion": "networking.istio.io/v1", "kind": "EnvoyFilter", "metadata": meta}),
            "kind",
        ),
        (
            json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "UDPRoute", "metadata": meta}),
            "kind",
        ),
        (
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x\0y", "namespace": "weather"}}),
            "metadata.name",
        ),
        (
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a".repeat(1 << 20), "namespace": "weather"}}),
            "metadata.name",
        ),
        (
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x", "namespace": "We"}}),
            "metadata.namespace",
        ),
        (
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x", "labels": {"a": "b".repeat(1 << 20)}}}),
            "metadata.labels.a",
        ),
        (json!({"apiVersion": "v1", "kind": "Pod"}), "metadata"),
        (json!({"apiVersion": "v1", "metadata": meta}), "kind"),
        (json!({"kind": "Pod", "metadata": meta}), "apiVersion"),
        (json!([]), ""),
        (json!("text"), ""),
    ];
    for (object, field) in &table {
        let (_, at, reason) = rejected(object);
        assert_eq!(at, *field, "{reason}");
        assert!(!reason.is_empty() && reason.len() < 400);
    }
}

#[test]
fn an_object_too_deep_to_walk_is_refused_and_long_texts_are_not_repeated() {
    let mut deep = json!({});
    for _ in 0..127 {
        deep = json!({ "spec": deep });
    }
    deep["apiVersion"] = "v1".into();
    deep["kind"] = "Pod".into();
    deep["metadata"] = json!({"name": "deep"});
    assert!(rejected(&deep).2.contains("64 levels"));
    let long = "x".repeat(1 << 20);
    let object = json!({"apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": {"name": "r"},
        "spec": {"hosts": ["a"], "http": [{"timeout": long, &long: 1}]}});
    let (_, field, reason) = rejected(&object);
    assert!(field.len() < 400 && reason.len() < 400);
}

#[test]
fn durations_are_read_as_go_and_protobuf_write_them() {
    use std::time::Duration;
    for (text, millis) in [
        ("10s", 10_000),
        ("1.5s", 1_500),
        ("0s", 0),
        ("0", 0),
        ("250ms", 250),
        ("1h2m", 3_720_000),
    ] {
        assert_eq!(value::duration(text), Ok(Duration::from_millis(millis)), "{text}");
    }
    for text in [
        "",
        "s",
        "5",
        "-1s",
        "1d",
        "1.2.3s",
        "1s2",
        "9999999999999999999999h",
        "NaNs",
        "infs",
        "é",
    ] {
        assert!(value::duration(text).is_err(), "{text}");
    }
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,8}".prop_map(Value::from),
    ];
    let keys = prop_oneof![
        Just("hosts"),
        Just("http"),
        Just("match"),
        Just("route"),
        Just("destination"),
        Just("host"),
        Just("uri"),
        Just("regex"),
        Just("timeout"),
        Just("weight"),
        Just("podIPs"),
        Just("ip"),
        Just("ports"),
        Just("port"),
        Just("subsets"),
        Just("labels"),
        Just("retries"),
        Just("mirror"),
        Just("headers"),
    ];
    leaf.prop_recursive(6, 64, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(keys.clone(), inner, 0..5)
                .prop_map(|m| Value::Object(m.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())),
        ]
    })
}

proptest! {
    #[test]
    fn no_object_makes_the_translation_panic(spec in any_json(), status in any_json(), kind in 0..6_usize) {
        let (version, kind) = [
            ("v1", "Pod"), ("v1", "Service"), ("v1", "Namespace"), ("discovery.k8s.io/v1", "EndpointSlice"),
            ("networking.istio.io/v1", "VirtualService"), ("networking.istio.io/v1", "DestinationRule"),
        ][kind];
        let object = json!({"apiVersion": version, "kind": kind, "metadata": {"name": "x"}, "spec": spec, "status": status});
        if let Err(rejected) = read(&object) {
            prop_assert!(rejected.object.contains("/x") || kind == "Namespace");
        }
    }
}
