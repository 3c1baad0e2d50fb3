//! VirtualServices.

pub(super) const VIRTUAL_SERVICE: [(&str, &str); 34] = [
    (
        "",
        r#"{"hosts": ["reviews"], "http": [{"route": [{"destination": {"host": "reviews"}}]}]}"#,
    ),
    (
        "spec.http[].route[].weight",
        r#"{"hosts": ["reviews"], "http": [{"route": [{"destination": {"host": "reviews"}, "weight": 3}, {"destination": {"host": "other"}, "weight": 3}]}]}"#,
    ),
    (
        "spec.http[].match[]",
        r#"{"hosts": ["reviews"], "http": [{"match": [{"method": {"exact": "GET"}}], "route": [{"destination": {"host": "reviews"}}]}]}"#,
    ),
    (
        "spec.http[].match[].gateways",
        r#"{"hosts": ["reviews"], "gateways": ["mesh", "gw"], "http": [{"match": [{"uri": {"prefix": "/a"}, "gateways": ["mesh"]}], "route": [{"destination": {"host": "reviews"}}]}]}"#,
    ),
    (
        "spec.http[].match[].method",
        r#"{"hosts": ["reviews"], "http": [{"match": [{"uri": {"prefix": "/a"}}], "route": [{"destination": {"host": "reviews"}}]}]}"#,
    ),
    (
        "spec.http[].match[].ignoreUriCase",
        r#"{"hosts": ["reviews"], "http": [{"match": [{"uri": {"prefix": "/A"}}], "route": [{"destination": {"host": "reviews"}}]}]}"#,
    ),
    (
        "spec.http[].mirror",
        r#"{"hosts": ["reviews"], "http": [{"mirror": {"host": "copy"}, "route": [{"destination": {"host": "reviews"}}]}]}"#,
    ),
    (
        "spec.http[].mirrors",
        r#"{"hosts": ["reviews"], "http": [{"mirrors": [{"destination": {"host": "copy"}}], "route": [{"destination": {"host": "reviews"}}]}]}"#,
    ),
    (
        "spec.http[].retries",
        r#"{"hosts": ["reviews"], "http": [{"retries": {"attempts": 4}, "route": [{"destination": {"host": "reviews"}}]}]}"#,
    ),
    (
        "spec.http[].redirect",
        r#"{"hosts": ["reviews"], "http": [{"redirect": {"authority": "a.example"}}]}"#,
    ),
    (
        "spec.http[].redirect.prefixRewrite",
        r#"{"hosts": ["reviews"], "http": [{"match": [{"uri": {"prefix": "/a"}}], "redirect": {"authority": "a.example"}}]}"#,
    ),
    (
        "spec.http[].directResponse",
        r#"{"hosts": ["reviews"], "http": [{"directResponse": {"status": 418}}]}"#,
    ),
    (
        "spec.http[].delegate",
        r#"{"hosts": ["reviews"], "gateways": ["gw"], "http": [{"delegate": {"name": "other"}}]}"#,
    ),
    (
        "spec.http[].rewrite",
        r#"{"hosts": ["reviews"], "http": [{"rewrite": {"uri": "/a"}, "route": [{"destination": {"host": "reviews"}}]}]}"#,
    ),
    (
        "spec.http[].rewrite.uriRegexRewrite",
        r#"{"hosts": ["reviews"], "http": [{"rewrite": {"uriRegexRewrite": {"match": "a", "rewrite": "b"}}, "route": [{"destination": {"host": "reviews"}}]}]}"#,
    ),
    (
        "spec.http[].fault.delay",
        r#"{"hosts": ["reviews"], "http": [{"fault": {"delay": {"fixedDelay": "5s", "percentage": {"value": 40}}}, "route": [{"destination": {"host": "reviews"}}]}]}"#,
    ),
    (
        "spec.http[].fault.delay.percent",
        r#"{"hosts": ["reviews"], "http": [{"fault": {"delay": {"fixedDelay": "5s"}}, "route": [{"destination": {"host": "reviews"}}]}]}"#,
    ),
    (
        "spec.http[].fault.delay.exponentialDelay",
        r#"{"hosts": ["reviews"], "http": [{"fault": {"delay": {"percentage": {"value": 40}}}, "route": [{"destination": {"host": "reviews"}}]}]}"#,
    ),
    (
        "spec.http[].fault.abort",
        r#"{"hosts": ["reviews"], "http": [{"fault": {"abort": {"httpStatus": 500, "percentage": {"value": 40}}}, "route": [{"destination": {"host": "reviews"}}]}]}"#,
    ),
    (
        "spec.http[].fault.abort.grpcStatus",
        r#"{"hosts": ["reviews"], "http": [{"fault": {"abort": {"percentage": {"value": 40}}}, "route": [{"destination": {"host": "reviews"}}]}]}"#,
    ),
    (
        "spec.http[].fault.abort.http2Error",
        r#"{"hosts": ["reviews"], "http": [{"fault": {"abort": {"percentage": {"value": 40}}}, "route": [{"destination": {"host": "reviews"}}]}]}"#,
    ),
    (
        "spec.http[].corsPolicy",
        r#"{"hosts": ["reviews"], "http": [{"corsPolicy": {"allowOrigins": [{"exact": "http://a.example"}]}, "route": [{"destination": {"host": "reviews"}}]}]}"#,
    ),
    (
        "spec.http[].corsPolicy.allowOrigin",
        r#"{"hosts": ["reviews"], "http": [{"route": [{"destination": {"host": "reviews"}}]}]}"#,
    ),
    (
        "spec.tcp[]",
        r#"{"hosts": ["reviews"], "tcp": [{"route": [{"destination": {"host": "reviews"}}]}]}"#,
    ),
    (
        "spec.tcp[].match[]",
        r#"{"hosts": ["reviews"], "tcp": [{"match": [{"port": 9}], "route": [{"destination": {"host": "reviews"}}]}]}"#,
    ),
    (
        "spec.tcp[].match[].port",
        r#"{"hosts": ["reviews"], "tcp": [{"match": [{"destinationSubnets": ["10.8.0.0/16"]}], "route": [{"destination": {"host": "reviews"}}]}]}"#,
    ),
    (
        "spec.tcp[].match[].gateways",
        r#"{"hosts": ["reviews"], "gateways": ["mesh", "gw"], "tcp": [{"match": [{"port": 9, "gateways": ["mesh"]}], "route": [{"destination": {"host": "reviews"}}]}]}"#,
    ),
    (
        "spec.tcp[].route[].weight",
        r#"{"hosts": ["reviews"], "tcp": [{"route": [{"destination": {"host": "reviews"}, "weight": 3}, {"destination": {"host": "other"}, "weight": 3}]}]}"#,
    ),
    (
        "spec.tls[]",
        r#"{"hosts": ["a.example.com"], "tls": [{"match": [{"sniHosts": ["a.example.com"]}], "route": [{"destination": {"host": "a.example.com"}}]}]}"#,
    ),
    (
        "spec.tls[].match[].sniHosts",
        r#"{"hosts": ["a.example.com", "probe.example.com"], "tls": [{"match": [{"sniHosts": ["a.example.com"]}], "route": [{"destination": {"host": "a.example.com"}}]}]}"#,
    ),
    (
        "spec.tls[].match[].gateways",
        r#"{"hosts": ["a.example.com"], "gateways": ["mesh", "gw"], "tls": [{"match": [{"sniHosts": ["a.example.com"], "gateways": ["mesh"]}], "route": [{"destination": {"host": "a.example.com"}}]}]}"#,
    ),
    (
        "spec.tls[].route[].weight",
        r#"{"hosts": ["a.example.com"], "tls": [{"match": [{"sniHosts": ["a.example.com"]}], "route": [{"destination": {"host": "a.example.com"}, "weight": 3}, {"destination": {"host": "b.example.com"}, "weight": 3}]}]}"#,
    ),
    (
        "spec.http[].corsPolicy.allowOrigins[]",
        r#"{"hosts": ["reviews"], "http": [{"corsPolicy": {"allowMethods": ["GET"]}, "route": [{"destination": {"host": "reviews"}}]}]}"#,
    ),
    (
        "spec.http[].retries.attempts",
        r#"{"hosts": ["reviews"], "http": [{"route": [{"destination": {"host": "reviews"}}]}]}"#,
    ),
];
