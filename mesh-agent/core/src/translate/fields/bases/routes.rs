//! Routes of the Gateway API.

use super::matching;
use serde_json::{Value, json};

pub(super) const HTTP_ROUTE: [(&str, &str); 5] = [
    (
        "",
        r#"{"parentRefs": [{"group": "", "kind": "Service", "name": "reviews"}], "rules": [{"backendRefs": [{"name": "reviews", "port": 80}]}]}"#,
    ),
    (
        "spec.rules[].backendRefs[].weight",
        r#"{"parentRefs": [{"group": "", "kind": "Service", "name": "reviews"}], "rules": [{"backendRefs": [{"name": "reviews", "port": 80, "weight": 3}, {"name": "other", "port": 80, "weight": 3}]}]}"#,
    ),
    (
        "spec.rules[].matches[].headers",
        r#"{"parentRefs": [{"group": "", "kind": "Service", "name": "reviews"}], "rules": [{"matches": [{"headers": [{"name": "a", "value": "b"}]}], "backendRefs": [{"name": "reviews", "port": 80}]}]}"#,
    ),
    (
        "spec.rules[].matches[].queryParams",
        r#"{"parentRefs": [{"group": "", "kind": "Service", "name": "reviews"}], "rules": [{"matches": [{"queryParams": [{"name": "a", "value": "b"}]}], "backendRefs": [{"name": "reviews", "port": 80}]}]}"#,
    ),
    (
        "spec.rules[].matches[].path",
        r#"{"parentRefs": [{"group": "", "kind": "Service", "name": "reviews"}], "rules": [{"matches": [{"path": {"type": "PathPrefix", "value": "/a"}}], "backendRefs": [{"name": "reviews", "port": 80}]}]}"#,
    ),
];

pub(super) const GRPC_ROUTE: [(&str, &str); 4] = [
    (
        "",
        r#"{"parentRefs": [{"group": "", "kind": "Service", "name": "reviews"}], "rules": [{"backendRefs": [{"name": "reviews", "port": 80}]}]}"#,
    ),
    (
        "spec.rules[].backendRefs[].weight",
        r#"{"parentRefs": [{"group": "", "kind": "Service", "name": "reviews"}], "rules": [{"backendRefs": [{"name": "reviews", "port": 80, "weight": 3}, {"name": "other", "port": 80, "weight": 3}]}]}"#,
    ),
    (
        "spec.rules[].matches[].headers",
        r#"{"parentRefs": [{"group": "", "kind": "Service", "name": "reviews"}], "rules": [{"matches": [{"headers": [{"name": "a", "value": "b"}]}], "backendRefs": [{"name": "reviews", "port": 80}]}]}"#,
    ),
    (
        "spec.rules[].matches[].method",
        r#"{"parentRefs": [{"group": "", "kind": "Service", "name": "reviews"}], "rules": [{"matches": [{"method": {"service": "a.B", "method": "C"}}], "backendRefs": [{"name": "reviews", "port": 80}]}]}"#,
    ),
];

/// `filters` of HTTPRoutes and GRPCRoutes stand in two places; the rule's own may do without a backend.
pub(super) fn route_filter(kind: &str, path: &str) -> Option<Vec<Value>> {
    if !matches!(kind, "HTTPRoute" | "GRPCRoute") {
        return None;
    }
    let (place, rest) = path.split_once("filters[].")?;
    let of_backend = place.ends_with("backendRefs[].");
    let spec = |filter: Value| {
        let answers = filter["type"] == "RequestRedirect";
        let mut rule = json!({});
        if kind == "HTTPRoute" {
            rule["matches"] = json!([{"path": {"type": "PathPrefix", "value": "/a"}}]);
        }
        if of_backend {
            rule["backendRefs"] = json!([{"name": "reviews", "port": 80, "filters": [filter]}]);
        } else {
            if !answers {
                rule["backendRefs"] = json!([{"name": "reviews", "port": 80}]);
            }
            rule["filters"] = json!([filter]);
        }
        json!({"parentRefs": [{"group": "", "kind": "Service", "name": "reviews"}], "rules": [rule]})
    };
    Some(matching(&FILTERS, rest).into_iter().map(spec).collect())
}

const FILTERS: [(&str, &str); 13] = [
    (
        "",
        r#"{"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [{"name": "a", "value": "b"}]}}"#,
    ),
    (
        "requestHeaderModifier",
        r#"{"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [{"name": "a", "value": "b"}], "add": [{"name": "c", "value": "d"}]}}"#,
    ),
    (
        "responseHeaderModifier",
        r#"{"type": "ResponseHeaderModifier", "responseHeaderModifier": {"set": [{"name": "a", "value": "b"}], "add": [{"name": "c", "value": "d"}]}}"#,
    ),
    (
        "requestMirror",
        r#"{"type": "RequestMirror", "requestMirror": {"backendRef": {"name": "copy", "port": 80}}}"#,
    ),
    (
        "requestMirror.fraction",
        r#"{"type": "RequestMirror", "requestMirror": {"backendRef": {"name": "copy", "port": 80}, "fraction": {"numerator": 3, "denominator": 90}}}"#,
    ),
    (
        "requestRedirect",
        r#"{"type": "RequestRedirect", "requestRedirect": {"hostname": "a.example.com"}}"#,
    ),
    (
        "requestRedirect.path",
        r#"{"type": "RequestRedirect", "requestRedirect": {"path": {"type": "ReplaceFullPath", "replaceFullPath": "/b"}}}"#,
    ),
    (
        "requestRedirect.path.replacePrefixMatch",
        r#"{"type": "RequestRedirect", "requestRedirect": {"path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/b"}}}"#,
    ),
    (
        "urlRewrite",
        r#"{"type": "URLRewrite", "urlRewrite": {"hostname": "a.example.com"}}"#,
    ),
    (
        "urlRewrite.path",
        r#"{"type": "URLRewrite", "urlRewrite": {"path": {"type": "ReplaceFullPath", "replaceFullPath": "/b"}}}"#,
    ),
    (
        "urlRewrite.path.replacePrefixMatch",
        r#"{"type": "URLRewrite", "urlRewrite": {"path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/b"}}}"#,
    ),
    (
        "cors",
        r#"{"type": "CORS", "cors": {"allowOrigins": ["http://a.example"]}}"#,
    ),
    (
        "extensionRef",
        r#"{"type": "ExtensionRef", "extensionRef": {"group": "a.b", "kind": "C", "name": "d"}}"#,
    ),
];

pub(super) const TLS_ROUTE: &str = r#"{"parentRefs": [{"name": "gw"}], "hostnames": ["a.example.com"], "rules": [{"backendRefs": [{"name": "reviews", "port": 80, "weight": 3}, {"name": "other", "port": 80, "weight": 3}]}]}"#;

pub(super) const L4_ROUTE: &str = r#"{"parentRefs": [{"name": "gw"}], "rules": [{"backendRefs": [{"name": "reviews", "port": 80, "weight": 3}, {"name": "other", "port": 80, "weight": 3}]}]}"#;
