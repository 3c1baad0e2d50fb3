//! Routes of Gateway API: what is refused, and with which words.

use super::{Head, in_place_of, one, rejected};
use crate::model::route::{Outcome, PathChange, StringMatch};
use crate::testing::documents;
use crate::translate::{ApiRouteSpec, Translated};

fn route(kind: &str, spec: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{name: r, namespace: weather}}\nspec: {spec}"
    )
}

fn rule(rule: &str) -> String {
    route("HTTPRoute", &format!("{{rules: [{{{rule}}}]}}"))
}

fn read(yaml: &str) -> ApiRouteSpec {
    match one(yaml) {
        Ok(Translated::ApiRoute(spec)) => spec,
        other => panic!("{yaml}\n{other:?}"),
    }
}

const TO: &str = "backendRefs: [{name: a, port: 80}]";

#[test]
fn what_is_not_supported_is_refused_by_its_field() {
    let matching = |m: &str| rule(&format!("matches: [{{{m}}}], {TO}"));
    let filter = |f: &str| rule(&format!("filters: [{{{f}}}], {TO}"));
    let at_backend = |f: &str| {
        rule(&format!(
            "backendRefs: [{{name: a, port: 80, filters: [{{{f}}}]}}]"
        ))
    };
    let grpc = |r: &str| route("GRPCRoute", &format!("{{rules: [{{{r}}}]}}"));
    let clients = |validation: &str| {
        let tls = format!("{{frontend: {{default: {{validation: {{{validation}}}}}}}}}");
        route("Gateway", &format!("{{gatewayClassName: heddle, tls: {tls}}}"))
    };
    let table = [
        (
            route("HTTPRoute", "{parentRefs: [{name: A_b}]}"),
            "spec.parentRefs[0].name",
            "no name",
        ),
        (
            route("HTTPRoute", "{parentRefs: [{name: a, port: 0}]}"),
            "spec.parentRefs[0].port",
            "1 to 65535",
        ),
        (
            route("HTTPRoute", "{hostnames: ['10.0.0.1']}"),
            "spec.hostnames[0]",
            "IP address",
        ),
        (
            route("HTTPRoute", "{hostnames: ['a.*.b']}"),
            "spec.hostnames[0]",
            "DNS name",
        ),
        (
            route("HTTPRoute", "{useDefaultGateways: All}"),
            "spec.useDefaultGateways",
            "only None",
        ),
        (route("HTTPRoute", "{rulez: []}"), "spec.rulez", "unknown field"),
        (
            matching("path: {type: Glob, value: /a}"),
            "spec.rules[0].matches[0].path.type",
            "not known",
        ),
        (
            matching("path: {value: a}"),
            "spec.rules[0].matches[0].path.value",
            "begin with /",
        ),
        (
            matching("path: {value: /a//b}"),
            "spec.rules[0].matches[0].path.value",
            "//",
        ),
        (
            matching("path: {type: RegularExpression, value: '('}"),
            "spec.rules[0].matches[0].path",
            "regular expression",
        ),
        (
            matching("method: get"),
            "spec.rules[0].matches[0].method",
            "no method",
        ),
        (
            matching("headers: [{name: 'a b', value: c}]"),
            "spec.rules[0].matches[0].headers[0].name",
            "no header name",
        ),
        (
            matching("headers: [{type: Is, name: a, value: c}]"),
            "spec.rules[0].matches[0].headers[0].type",
            "not known",
        ),
        (
            filter("type: ExtensionRef, extensionRef: {group: x.io, kind: F, name: f}"),
            "spec.rules[0].filters[0].extensionRef",
            "not supported",
        ),
        (
            filter("type: ExternalAuth, externalAuth: {protocol: GRPC}"),
            "spec.rules[0].filters[0].externalAuth",
            "not supported",
        ),
        (
            filter("type: Magic"),
            "spec.rules[0].filters[0].type",
            "no filter",
        ),
        (
            filter("type: URLRewrite"),
            "spec.rules[0].filters[0].urlRewrite",
            "missing",
        ),
        (
            filter("type: RequestRedirect, requestRedirect: {}"),
            "spec.rules[0].backendRefs",
            "no backends",
        ),
        (
            rule("filters: [{type: RequestRedirect, requestRedirect: {statusCode: 300}}]"),
            "spec.rules[0].filters[0].requestRedirect.statusCode",
            "301",
        ),
        (
            rule("filters: [{type: RequestRedirect, requestRedirect: {scheme: ftp}}]"),
            "spec.rules[0].filters[0].requestRedirect.scheme",
            "http or https",
        ),
        (
            rule(
                "matches: [{path: {type: Exact, value: /a}}], filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /b}}}]",
            ),
            "spec.rules[0].filters",
            "PathPrefix",
        ),
        (
            filter(
                "type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: \"/a b\"}}",
            ),
            "spec.rules[0].filters[0].urlRewrite.path.replaceFullPath",
            "space",
        ),
        (
            filter("type: RequestMirror, requestMirror: {backendRef: {name: a, port: 80}, percent: 101}"),
            "spec.rules[0].filters[0].requestMirror.percent",
            "0 to 100",
        ),
        (
            filter(
                "type: RequestMirror, requestMirror: {backendRef: {name: a, port: 80}, fraction: {numerator: 3, denominator: 2}}",
            ),
            "spec.rules[0].filters[0].requestMirror.fraction",
            "denominator",
        ),
        (
            filter("type: CORS, cors: {allowOrigins: [example.com]}"),
            "spec.rules[0].filters[0].cors.allowOrigins[0]",
            "no origin",
        ),
        (
            at_backend("type: URLRewrite, urlRewrite: {hostname: a.b}"),
            "spec.rules[0].backendRefs[0].filters[0].type",
            "not supported on a backend",
        ),
        (
            rule("backendRefs: [{name: a}]"),
            "spec.rules[0].backendRefs[0].port",
            "needs a port",
        ),
        (
            rule("backendRefs: [{name: a, port: 80, weight: 1000001}]"),
            "spec.rules[0].backendRefs[0].weight",
            "0 to 1000000",
        ),
        (
            rule("sessionPersistence: {cookieConfig: {lifetimeType: Permanent}}"),
            "spec.rules[0].sessionPersistence.absoluteTimeout",
            "is missing",
        ),
        (
            rule("sessionPersistence: {type: Header, cookieConfig: {}}"),
            "spec.rules[0].sessionPersistence.cookieConfig",
            "type Cookie only",
        ),
        (
            rule("sessionPersistence: {sessionName: 'a; b'}"),
            "spec.rules[0].sessionPersistence.sessionName",
            "token",
        ),
        (
            rule("sessionPersistence: {type: Header, sessionName: Content-Length}"),
            "spec.rules[0].sessionPersistence.sessionName",
            "another meaning",
        ),
        (
            rule("timeouts: {request: 1s, backendRequest: 2s}"),
            "spec.rules[0].timeouts.backendRequest",
            "longer",
        ),
        (
            rule("retry: {codes: [200]}"),
            "spec.rules[0].retry.codes[0]",
            "400 to 599",
        ),
        (
            route("HTTPRoute", "{rules: [{name: x}, {name: x}]}"),
            "spec.rules[1].name",
            "twice",
        ),
        (
            grpc("matches: [{method: {type: Exact}}]"),
            "spec.rules[0].matches[0].method",
            "service or method",
        ),
        (
            grpc("filters: [{type: URLRewrite, urlRewrite: {}}]"),
            "spec.rules[0].filters[0].type",
            "no filter of this kind",
        ),
        (
            grpc("timeouts: {request: 1s}"),
            "spec.rules[0].timeouts",
            "unknown field",
        ),
        (route("TCPRoute", "{rules: []}"), "spec.rules", "at least one"),
        (
            route(
                "TCPRoute",
                "{rules: [{backendRefs: [{name: a, port: 1, filters: [{type: CORS}]}]}]}",
            ),
            "spec.rules[0].backendRefs[0].filters",
            "unknown field",
        ),
        (
            route(
                "Gateway",
                "{gatewayClassName: heddle, listeners: [{name: a, port: 80, protocol: HTTP}, {name: a, port: 81, protocol: HTTP}]}",
            ),
            "spec.listeners[1].name",
            "twice",
        ),
        (
            clients("mode: Sometimes, caCertificateRefs: [{name: a}]"),
            "spec.tls.frontend.default.validation.mode",
            "AllowValidOnly",
        ),
        (
            clients("caCertificateRefs: []"),
            "spec.tls.frontend.default.validation.caCertificateRefs",
            "empty",
        ),
        (
            route(
                "Gateway",
                "{gatewayClassName: heddle, tls: {frontend: {default: {}, perPort: [{port: 443, tls: {}}, {port: 443, tls: {}}]}}}",
            ),
            "spec.tls.frontend.perPort[1].port",
            "twice",
        ),
        (
            route(
                "Gateway",
                "{gatewayClassName: heddle, tls: {backend: {clientCertificateRef: {name: A_b}}}}",
            ),
            "spec.tls.backend.clientCertificateRef.name",
            "no name",
        ),
        (
            route(
                "Gateway",
                "{gatewayClassName: heddle, listeners: [{name: a, port: 80, protocol: HTTP, allowedRoutes: {namespaces: {from: Selector}}}]}",
            ),
            "spec.listeners[0].allowedRoutes.namespaces.selector",
            "missing",
        ),
        (rule(TO).replace("/v1\n", "/v9\n"), "apiVersion", "v9"),
    ];
    for (yaml, field, reason) in table {
        let (object, at, why) = rejected(&documents(&yaml)[0]);
        assert_eq!(at, field, "{yaml}: {why}");
        assert!(why.contains(reason), "{yaml}: {why}");
        assert!(object.ends_with(" weather/r"), "{object}");
    }
}

#[test]
fn every_version_and_default_of_the_crds_is_read_alike() {
    for version in ["v1", "v1beta1", "v1alpha2"] {
        let spec = read(&rule(TO).replace("/v1\n", &format!("/{version}\n")));
        assert_eq!(spec.rules.len(), 1, "{version}");
    }
    // The CRD's default: one rule for everything, with nowhere to send it.
    let empty = read(&route("HTTPRoute", "{hostnames: [A.example.com.]}"));
    assert!(matches!(
        empty.rules[0].rule.action.outcome,
        Outcome::Fail { status: 500, .. }
    ));
    assert_eq!(*empty.hostnames, ["a.example.com".into()]);
}

#[test]
fn timeouts_retries_mirrors_and_headers_come_to_the_common_model() {
    let spec = read(&rule(
        "timeouts: {request: 2s, backendRequest: 500ms}, retry: {codes: [503], attempts: 3, backoff: 100ms}, \
         filters: [{type: RequestMirror, requestMirror: {backendRef: {name: m, namespace: other, port: 81}, fraction: {numerator: 1, denominator: 4}}}, \
         {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X, value: a}, {name: x, value: b}], remove: [Gone]}}, \
         {type: URLRewrite, urlRewrite: {hostname: h.example.com, path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}], \
         backendRefs: [{name: a, port: 80, filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {add: [{name: Z, value: c}]}}]}]",
    ));
    let action = &spec.rules[0].rule.action;
    let millis = |t: Option<std::time::Duration>| t.map(|t| t.as_millis());
    assert_eq!(millis(action.timeout), Some(2_000));
    assert_eq!(millis(action.retries.per_try_timeout), Some(500));
    assert_eq!(
        (action.retries.attempts, &*action.retries.on.statuses),
        (3, &[503][..])
    );
    // HTTPRouteRetry: connection errors and timeouts too.
    assert!(action.retries.on.reset && action.retries.on.connect_failure && action.retries.on.try_timeout);
    assert_eq!(action.retries.backoff.as_millis(), 100);
    assert_eq!(&*action.mirrors[0].destination.host, "m.other.svc.cluster.local");
    assert_eq!(action.mirrors[0].per_million, 250_000);
    assert_eq!(
        action.headers.as_ref().unwrap().request.set,
        [("x".into(), "a".into())],
        "the first of equivalent names"
    );
    assert_eq!(
        action.destinations()[0].headers.as_ref().unwrap().response.add,
        [("z".into(), "c".into())]
    );
    let rewrite = action.rewrite.as_ref().unwrap();
    assert_eq!(rewrite.path, Some(PathChange::PrefixSegments("/".into())));
    assert_eq!(spec.references.len(), 2);
}

#[test]
fn an_origin_of_cors_matches_with_and_without_its_schemes_port() {
    let spec = read(&rule(
        "filters: [{type: CORS, cors: {allowOrigins: ['https://*.example.com', 'http://a.com:8080', 'https://b.com:443']}}]",
    ));
    let cors = spec.rules[0].rule.action.cors.clone().unwrap();
    assert_eq!(cors.max_age.unwrap().as_secs(), 5);
    let allowed = |origin: &str| {
        cors.allow_origins.iter().any(|m| match m {
            StringMatch::Regex(regex) => regex.is_match(origin),
            other => panic!("{other:?}"),
        })
    };
    for (origin, expected) in [
        ("https://x.example.com", true),
        ("https://x.y.example.com:443", true),
        ("https://x.example.com:8443", false),
        ("https://example.com", false),
        ("http://x.example.com", false),
        ("http://a.com:8080", true),
        ("http://a.com", false),
        ("https://b.com", true),
        ("https://evil.com/?.example.com", false),
    ] {
        assert_eq!(allowed(origin), expected, "{origin}");
    }
}

#[test]
fn a_policy_of_backends_that_cannot_be_carried_out_is_refused_by_its_field_and_lets_nobody_through() {
    let policy = |target: &str, validation: &str, rest: &str| {
        let spec = format!("{{targetRefs: [{{{target}}}], validation: {{{validation}}}{rest}}}");
        route("BackendTLSPolicy", &spec)
    };
    let target = "group: '', kind: Service, name: a";
    let name = "hostname: a.example.com, wellKnownCACertificates: System";
    let validation = "spec.validation";
    let named = |names: &str| policy(target, &format!("{name}, subjectAltNames: [{names}]"), "");
    for (yaml, field, reason) in [
        (
            policy("group: x, kind: Service, name: a", name, ""),
            "spec.targetRefs[0].group",
            "supported",
        ),
        (
            policy("group: '', kind: Pod, name: a", name, ""),
            "spec.targetRefs[0].kind",
            "supported",
        ),
        (
            policy("group: '', kind: Service, name: A_", name, ""),
            "spec.targetRefs[0].name",
            "no name",
        ),
        (
            policy(target, name, ", options: {a.io/b: c}"),
            "spec.options",
            "not supported",
        ),
        (
            policy(target, "hostname: '*.a.com', wellKnownCACertificates: System", ""),
            "spec.validation.hostname",
            "wildcard",
        ),
        (
            policy(target, "wellKnownCACertificates: System", ""),
            validation,
            "hostname",
        ),
        (
            policy(target, "hostname: a.com", ""),
            "spec.validation.caCertificateRefs",
            "missing",
        ),
        (
            policy(target, "hostname: a.com, wellKnownCACertificates: a.io/b", ""),
            "spec.validation.wellKnownCACertificates",
            "only System",
        ),
        (
            policy(
                target,
                &format!("{name}, caCertificateRefs: [{{group: '', kind: ConfigMap, name: b}}]"),
                "",
            ),
            "spec.validation.caCertificateRefs",
            "must be empty",
        ),
        (
            named("{type: Email}"),
            "spec.validation.subjectAltNames[0].type",
            "expected",
        ),
        (
            named("{type: URI, uri: nothing}"),
            "spec.validation.subjectAltNames[0].uri",
            "scheme",
        ),
        (
            named("{type: URI, hostname: a.com}"),
            "spec.validation.subjectAltNames[0].uri",
            "missing",
        ),
        (
            named("{type: Hostname, hostname: a.com, uri: 'a:b'}"),
            "spec.validation.subjectAltNames[0].uri",
            "empty",
        ),
    ] {
        let object = &documents(&yaml)[0];
        let (_, at, why) = rejected(object);
        assert_eq!(at, field, "{yaml}: {why}");
        assert!(why.contains(reason), "{yaml}: {why}");
        let head = Head::read(object).unwrap();
        let Some(Translated::BackendTls(guard)) = in_place_of(&head, object) else {
            panic!("{yaml}: nothing in its place");
        };
        assert!(guard.authorities.is_err(), "{yaml}");
        assert_eq!(guard.targets.len(), usize::from(yaml.contains(target)), "{yaml}");
    }
}
