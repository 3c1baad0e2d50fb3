//! What a VirtualService may not say. Texts are those of Istio's own validation where it has one (mission § 4.10).

use super::*;

fn http(rest: &str) -> String {
    format!("{VS}{{hosts: [forecast], http: [{{{rest}}}]}}")
}

#[test]
fn actions_that_exclude_each_other_are_refused_in_istios_words() {
    let redirect = "redirect: {uri: /x}";
    let response = "directResponse: {status: 200}";
    for (rest, reason) in [
        (
            format!("{ROUTE}, {redirect}"),
            "cannot contain both route and redirect",
        ),
        (
            format!("{redirect}, fault: {{abort: {{httpStatus: 500}}}}"),
            "cannot contain both fault and redirect",
        ),
        (
            format!("{redirect}, rewrite: {{uri: /}}"),
            "cannot contain both rewrite and redirect",
        ),
        (
            format!("{response}, {redirect}"),
            "cannot contain both redirect and direct_response",
        ),
        (
            format!("{response}, {ROUTE}"),
            "cannot contain both route and direct_response",
        ),
        (
            format!("{response}, rewrite: {{uri: /}}"),
            "cannot contain both rewrite and direct_response",
        ),
        (
            format!("delegate: {{name: d}}, {ROUTE}"),
            "root HTTP route must not specify route",
        ),
        (
            format!("delegate: {{name: d}}, {redirect}"),
            "root HTTP route must not specify redirect",
        ),
    ] {
        let (_, field, said) = rejected(&documents(&http(&rest))[0]);
        assert_eq!(field, "spec.http[0]", "{rest}");
        assert!(said.contains(reason), "{rest}: {said}");
    }
}

#[test]
fn what_an_action_cannot_be_is_answered_with_field_and_reason() {
    let large = format!(
        "directResponse: {{status: 200, body: {{string: '{}'}}}}",
        "x".repeat(1024 * 1024 + 1)
    );
    let fault = |rest: &str| format!("{ROUTE}, fault: {{{rest}}}");
    let cors = |rest: &str| format!("{ROUTE}, corsPolicy: {{{rest}}}");
    let rewrite = |rest: &str| format!("{ROUTE}, rewrite: {{{rest}}}");
    let table: Vec<(String, &str, &str)> = vec![
        ("redirect: {}".into(), "redirect", "must specify"),
        (
            "redirect: {uri: /, redirectCode: 300}".into(),
            "redirect.redirectCode",
            "308",
        ),
        (
            "redirect: {uri: /, scheme: ftp}".into(),
            "redirect.scheme",
            "http or https",
        ),
        ("redirect: {uri: /a b}".into(), "redirect.uri", "no path"),
        (
            "redirect: {uri: /a, prefixRewrite: /b}".into(),
            "redirect.prefixRewrite",
            "both",
        ),
        (
            "redirect: {authority: 'a b'}".into(),
            "redirect.authority",
            "host:port",
        ),
        ("redirect: {port: 0}".into(), "redirect.port", "1 to 65535"),
        (
            "redirect: {port: 1, derivePort: FROM_REQUEST_PORT}".into(),
            "redirect.derivePort",
            "only one",
        ),
        (
            "redirect: {derivePort: FROM_SOMEWHERE}".into(),
            "redirect.derivePort",
            "unknown variant",
        ),
        (
            "directResponse: {status: 199}".into(),
            "directResponse.status",
            "200 to 599",
        ),
        (
            "directResponse: {status: 200, body: {string: a, bytes: YQ==}}".into(),
            "directResponse.body",
            "only one",
        ),
        (
            "directResponse: {status: 200, body: {bytes: '***'}}".into(),
            "directResponse.body.bytes",
            "base64",
        ),
        (large, "directResponse.body.string", "larger than 1 MiB"),
        ("delegate: {name: ''}".into(), "delegate.name", "no name"),
        (
            "delegate: {name: a, namespace: 'b c'}".into(),
            "delegate.namespace",
            "no namespace",
        ),
        (rewrite(""), "rewrite", "must specify"),
        (
            rewrite("uri: /a, uriRegexRewrite: {match: a, rewrite: b}"),
            "rewrite.uriRegexRewrite",
            "only contain one",
        ),
        (
            rewrite("uriRegexRewrite: {match: '(', rewrite: b}"),
            "rewrite.uriRegexRewrite.match",
            "invalid regular",
        ),
        (
            rewrite("uriRegexRewrite: {match: '(a)', rewrite: '\\2'}"),
            "rewrite.uriRegexRewrite.rewrite",
            "no group",
        ),
        (
            rewrite("uriRegexRewrite: {match: a, rewrite: '\\x'}"),
            "rewrite.uriRegexRewrite.rewrite",
            "backslash",
        ),
        (rewrite("authority: 'a:99999'"), "rewrite.authority", "host:port"),
        (fault(""), "fault", "an abort and/or a delay"),
        (
            fault("delay: {percentage: {value: 1}}"),
            "fault.delay.fixedDelay",
            "missing",
        ),
        (
            fault("delay: {fixedDelay: 0s}"),
            "fault.delay.fixedDelay",
            "greater than 1ms",
        ),
        (
            fault("delay: {exponentialDelay: 1s}"),
            "fault.delay.exponentialDelay",
            "not supported yet",
        ),
        (
            fault("delay: {fixedDelay: 1s, percent: 101}"),
            "fault.delay.percent",
            "no percentage",
        ),
        (fault("abort: {}"), "fault.abort", "httpStatus or grpcStatus"),
        (
            fault("abort: {httpStatus: 600}"),
            "fault.abort.httpStatus",
            "out of range",
        ),
        (
            fault("abort: {grpcStatus: Unavailable}"),
            "fault.abort.grpcStatus",
            "UNAVAILABLE",
        ),
        (
            fault("abort: {http2Error: x}"),
            "fault.abort.http2Error",
            "not supported yet",
        ),
        (
            fault("abort: {percent: 50, httpStatus: 500}"),
            "fault.abort.percent",
            "unknown field",
        ),
        (
            cors("allowOrigins: [{}]"),
            "corsPolicy.allowOrigins[0]",
            "exact, prefix or regex",
        ),
        (
            cors("allowMethods: ['A B']"),
            "corsPolicy.allowMethods[0]",
            "no name",
        ),
        (cors("maxAge: 1500ms"), "corsPolicy.maxAge", "seconds precision"),
        (
            cors("unmatchedPreflights: MAYBE"),
            "corsPolicy.unmatchedPreflights",
            "unknown variant",
        ),
        (
            format!("match: [{{headers: {{'@request.auth.claims.group': {{exact: a}}}}}}], {ROUTE}"),
            "match[0].headers.@request.auth.claims.group",
            "claims of tokens",
        ),
    ];
    for (rest, at, reason) in table {
        let (object, field, said) = rejected(&documents(&http(&rest))[0]);
        assert_eq!(object, "VirtualService weather/r");
        assert_eq!(field, format!("spec.http[0].{at}"), "{said}");
        assert!(said.contains(reason), "{field}: {said}");
    }
}

#[test]
fn what_a_delegate_or_a_rule_for_connections_cannot_be_is_answered_with_field_and_reason() {
    let tls = |rest: &str| format!("{{hosts: [a.com, '*.b.com'], tls: [{{{rest}}}]}}");
    let tcp = |rest: &str| format!("{{hosts: [a.com], tcp: [{{{rest}}}]}}");
    let table: Vec<(String, &str, &str)> = vec![
        (
            format!("{{gateways: [mesh], http: [{{{ROUTE}}}]}}"),
            "spec.gateways",
            "delegate virtual service",
        ),
        (
            "{http: [{delegate: {name: b}}]}".into(),
            "spec.http[0].delegate",
            "cannot contain delegate",
        ),
        (format!("{{tcp: [{{{ROUTE}}}]}}"), "spec.tcp", "no tcp route"),
        ("{hosts: [a.com]}".into(), "spec.http", "must be provided"),
        (tls(ROUTE), "spec.tls[0].match", "at least one match condition"),
        (
            tls(&format!("match: [{{port: 443}}], {ROUTE}")),
            "spec.tls[0].match[0].sniHosts",
            "at least one SNI host",
        ),
        (
            tls(&format!("match: [{{sniHosts: [c.com]}}], {ROUTE}")),
            "spec.tls[0].match[0].sniHosts[0]",
            "not a compatible subset",
        ),
        (
            tls(&format!("match: [{{sniHosts: ['*.b.com', '*.com']}}], {ROUTE}")),
            "spec.tls[0].match[0].sniHosts[1]",
            "not a compatible subset",
        ),
        (
            tls(&format!("match: [{{sniHosts: [10.0.0.1]}}], {ROUTE}")),
            "spec.tls[0].match[0].sniHosts[0]",
            "against SNI spec",
        ),
        (
            tls("match: [{sniHosts: [a.com]}]"),
            "spec.tls[0].route",
            "required",
        ),
        (tcp("match: [{port: 1}]"), "spec.tcp[0].route", "required"),
        (
            tcp(&format!("match: [{{port: 0}}], {ROUTE}")),
            "spec.tcp[0].match[0].port",
            "1 to 65535",
        ),
        (
            tcp(&format!(
                "match: [{{destinationSubnets: [10.0.0.0/40]}}], {ROUTE}"
            )),
            "spec.tcp[0].match[0].destinationSubnets[0]",
            "CIDR",
        ),
        (
            tcp(&format!("match: [{{sourceSubnet: here}}], {ROUTE}")),
            "spec.tcp[0].match[0].sourceSubnet",
            "CIDR",
        ),
        (
            tcp("route: [{destination: {host: a}, weight: 0}, {destination: {host: b}}]"),
            "spec.tcp[0].route",
            "total destination weight = 0",
        ),
        (
            tcp("route: [{destination: {host: a}, headers: {}}]"),
            "spec.tcp[0].route[0].headers",
            "unknown field",
        ),
    ];
    for (spec, at, reason) in table {
        let (_, field, said) = rejected(&documents(&format!("{VS}{spec}"))[0]);
        assert_eq!(field, at, "{said}");
        assert!(said.contains(reason), "{field}: {said}");
    }
}

#[test]
fn what_is_accepted_without_effect_is_told() {
    let spec = format!(
        "match: [{{statPrefix: p}}], {ROUTE}, retries: {{attempts: 1, retryOn: 'retriable-headers,5xx'}}"
    );
    let Ok(Translated::VirtualService(spec)) = one(&http(&spec)) else {
        panic!("refused");
    };
    let fields: Vec<&str> = spec.notes.iter().map(|(field, _)| field.as_str()).collect();
    assert_eq!(
        fields,
        ["spec.http[0].match[0].statPrefix", "spec.http[0].retries.retryOn"]
    );
}
