use super::*;
use crate::model::traffic::{
    Algorithm, HashKey, HashTable, OutlierDetection, ProxyProtocol, Simple, TlsMode, TrafficPolicy,
};
use crate::testing::documents;
use std::time::Duration;

/// Source of the rows: DestinationRule in `networking.istio.io`, field by field.
fn read(spec: &str) -> Result<DestinationRuleSpec, FieldError> {
    let yaml = format!(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: r, namespace: weather}}\nspec: {spec}"
    );
    let object = &documents(&yaml)[0];
    let head = Head::read(object).unwrap();
    destination_rule(&head, object, &MeshSettings::default())
}

fn policy(policy: &str) -> TrafficPolicy {
    let rule = read(&format!("{{host: a, trafficPolicy: {{{policy}}}}}"))
        .unwrap_or_else(|e| panic!("{}: {}\n{policy}", e.field, e.reason));
    TrafficPolicy::merged(&[&rule.policy], 80, Vec::new())
}

#[test]
fn what_cannot_be_honoured_is_refused_with_its_field() {
    let of_policy = |text: &str| format!("{{host: a, trafficPolicy: {{{text}}}}}");
    let balancing = |text: &str| of_policy(&format!("loadBalancer: {{{text}}}"));
    let rows: Vec<(String, &str, &str)> = vec![
        (
            of_policy("tunnel: {protocol: CONNECT, targetHost: a, targetPort: 1}"),
            "spec.trafficPolicy.tunnel",
            "not supported",
        ),
        (
            balancing("zoneAwareLbSetting: {enabled: true}"),
            "spec.trafficPolicy.loadBalancer.zoneAwareLbSetting",
            "not supported",
        ),
        (
            balancing("simple: FASTEST"),
            "spec.trafficPolicy.loadBalancer.simple",
            "FASTEST",
        ),
        (
            balancing("simple: RANDOM, consistentHash: {useSourceIp: true}"),
            "spec.trafficPolicy.loadBalancer.consistentHash",
            "only one",
        ),
        (
            balancing("consistentHash: {}"),
            "spec.trafficPolicy.loadBalancer.consistentHash",
            "needs one",
        ),
        (
            balancing("consistentHash: {useSourceIp: true, httpHeaderName: x}"),
            "spec.trafficPolicy.loadBalancer.consistentHash",
            "only one",
        ),
        (
            balancing("consistentHash: {useSourceIp: true, maglev: {tableSize: 100}}"),
            "spec.trafficPolicy.loadBalancer.consistentHash.maglev.tableSize",
            "prime",
        ),
        (
            balancing("consistentHash: {useSourceIp: true, ringHash: {minimumRingSize: 99999999}}"),
            "spec.trafficPolicy.loadBalancer.consistentHash.ringHash.minimumRingSize",
            "more than",
        ),
        (
            balancing("consistentHash: {httpCookie: {name: 'a;b'}}"),
            "spec.trafficPolicy.loadBalancer.consistentHash.httpCookie.name",
            "cookie name",
        ),
        (
            balancing("consistentHash: {httpCookie: {name: a, path: '/;x'}}"),
            "spec.trafficPolicy.loadBalancer.consistentHash.httpCookie.path",
            "semicolon",
        ),
        (
            balancing("simple: RANDOM, warmup: {duration: 10s}"),
            "spec.trafficPolicy.loadBalancer.warmup",
            "ROUND_ROBIN",
        ),
        (
            balancing("warmup: {duration: 10s, aggression: 0.5}"),
            "spec.trafficPolicy.loadBalancer.warmup.aggression",
            "1 to",
        ),
        (
            balancing("localityLbSetting: {distribute: [{from: r1/*, to: {r1/z1: 60}}]}"),
            "spec.trafficPolicy.loadBalancer.localityLbSetting.distribute[0].to",
            "60 != 100",
        ),
        (
            balancing(
                "localityLbSetting: {distribute: [{from: r1/*, to: {r1: 100}}], failover: [{from: a, to: b}]}",
            ),
            "spec.trafficPolicy.loadBalancer.localityLbSetting.distribute",
            "simultaneously",
        ),
        (
            balancing("localityLbSetting: {failover: [{from: a, to: a}]}"),
            "spec.trafficPolicy.loadBalancer.localityLbSetting.failover[0].to",
            "itself",
        ),
        (
            of_policy("connectionPool: {tcp: {maxConnections: -1}}"),
            "spec.trafficPolicy.connectionPool.tcp.maxConnections",
            "non-negative",
        ),
        (
            of_policy("connectionPool: {tcp: {connectTimeout: 10}}"),
            "spec.trafficPolicy.connectionPool.tcp.connectTimeout",
            "expected a string",
        ),
        (
            of_policy("connectionPool: {http: {h2UpgradePolicy: UPGRADE, useClientProtocol: true}}"),
            "spec.trafficPolicy.connectionPool.http.useClientProtocol",
            "UPGRADE",
        ),
        (
            of_policy("connectionPool: {http: {http2KeepAlive: {interval: 10s}}}"),
            "spec.trafficPolicy.connectionPool.http.http2KeepAlive.timeout",
            "missing",
        ),
        (
            of_policy("outlierDetection: {maxEjectionPercent: 101}"),
            "spec.trafficPolicy.outlierDetection.maxEjectionPercent",
            "0 to 100",
        ),
        (
            of_policy("outlierDetection: {interval: 0s}"),
            "spec.trafficPolicy.outlierDetection.interval",
            "greater",
        ),
        (
            of_policy("outlierDetection: {outlierDetectionHttpErrorCodes: [99]}"),
            "spec.trafficPolicy.outlierDetection.outlierDetectionHttpErrorCodes[0]",
            "status",
        ),
        (
            of_policy("tls: {mode: TLS}"),
            "spec.trafficPolicy.tls.mode",
            "is no mode",
        ),
        (
            of_policy("tls: {mode: SIMPLE, caCertificates: /etc/ca.pem}"),
            "spec.trafficPolicy.tls.caCertificates",
            "credentialName",
        ),
        (
            of_policy("tls: {mode: MUTUAL, clientCertificate: /a, privateKey: /b}"),
            "spec.trafficPolicy.tls.clientCertificate",
            "credentialName",
        ),
        (
            of_policy("tls: {mode: MUTUAL}"),
            "spec.trafficPolicy.tls.credentialName",
            "needs a certificate",
        ),
        (
            of_policy("tls: {mode: ISTIO_MUTUAL, credentialName: a}"),
            "spec.trafficPolicy.tls.credentialName",
            "must be empty",
        ),
        (
            of_policy("tls: {mode: SIMPLE, sni: 'a b'}"),
            "spec.trafficPolicy.tls.sni",
            "DNS name",
        ),
        (
            of_policy("proxyProtocol: {version: V3}"),
            "spec.trafficPolicy.proxyProtocol.version",
            "V1 or V2",
        ),
        (
            of_policy("retryBudget: {percent: 120}"),
            "spec.trafficPolicy.retryBudget.percent",
            "0 to 100",
        ),
        (
            of_policy("portLevelSettings: [{port: {}}]"),
            "spec.trafficPolicy.portLevelSettings[0].port.number",
            "1 to 65535",
        ),
        (
            of_policy("portLevelSettings: [{port: {number: 80}, proxyProtocol: {}}]"),
            "spec.trafficPolicy.portLevelSettings[0].proxyProtocol",
            "unknown field",
        ),
        (
            "{host: a, subsets: [{name: v1, trafficPolicy: {outlierDetection: {interval: x}}}]}".into(),
            "spec.subsets[0].trafficPolicy.outlierDetection.interval",
            "no duration",
        ),
    ];
    for (spec, field, reason) in &rows {
        let error = read(spec).expect_err(spec);
        assert_eq!(error.field, *field, "{spec}: {}", error.reason);
        assert!(error.reason.contains(reason), "{spec}: {:?}", error.reason);
    }
}

#[test]
fn every_block_of_a_policy_is_read() {
    let default = TrafficPolicy::default();
    assert_eq!(policy(""), default);
    for (simple, want) in [
        ("UNSPECIFIED", Simple::LeastRequest),
        ("LEAST_CONN", Simple::LeastRequest),
        ("LEAST_REQUEST", Simple::LeastRequest),
        ("ROUND_ROBIN", Simple::RoundRobin),
        ("RANDOM", Simple::Random),
        ("PASSTHROUGH", Simple::Passthrough),
    ] {
        let read = policy(&format!("loadBalancer: {{simple: {simple}}}"));
        assert_eq!(read.load_balancer.algorithm, Algorithm::Simple(want));
    }
    let hash = |text: &str| match policy(&format!("loadBalancer: {{consistentHash: {{{text}}}}}"))
        .load_balancer
        .algorithm
    {
        Algorithm::Hash(hash) => hash,
        other => panic!("{other:?}"),
    };
    assert_eq!(
        hash("httpHeaderName: X-User").key,
        HashKey::Header("x-user".into())
    );
    assert_eq!(hash("useSourceIp: true").table, HashTable::Ring(1024));
    assert_eq!(
        hash("useSourceIp: true, minimumRingSize: 9").table,
        HashTable::Ring(9)
    );
    assert_eq!(
        hash("httpQueryParameterName: q, maglev: {}").table,
        HashTable::Maglev(65_537)
    );
    let HashKey::Cookie(cookie) = hash("httpCookie: {name: u, path: /a, ttl: 0s, attributes: [{name: SameSite, value: Lax}, {name: Secure}]}").key
    else {
        panic!("no cookie")
    };
    assert_eq!((cookie.ttl, &*cookie.path), (Some(Duration::ZERO), "/a"));
    assert_eq!(cookie.attributes.len(), 2);
    let pool = policy(
        "connectionPool: {tcp: {maxConnections: 3, connectTimeout: 30ms, tcpKeepalive: {time: 7200s, interval: 75s, probes: 9}, \
         maxConnectionDuration: 1h, idleTimeout: 5s}, http: {http1MaxPendingRequests: 1, http2MaxRequests: 2, maxRequestsPerConnection: 4, \
         maxRetries: 5, h2UpgradePolicy: UPGRADE, maxConcurrentStreams: 6, http2KeepAlive: {interval: 1s, timeout: 2s}}}",
    )
    .connection_pool;
    assert_eq!(pool.tcp.max_connections, Some(3));
    assert_eq!(pool.tcp.connect_timeout, Some(Duration::from_millis(30)));
    assert_eq!(pool.tcp.keepalive.as_ref().unwrap().probes, Some(9));
    assert_eq!(
        pool.http_idle(),
        Some(Some(Duration::from_secs(5))),
        "tcp's serves http"
    );
    assert_eq!(
        (pool.http.max_pending, pool.http.max_requests),
        (Some(1), Some(2))
    );
    assert_eq!(
        (pool.http.max_requests_per_connection, pool.http.max_retries),
        (Some(4), Some(5))
    );
    assert!(pool.http.upgrade);
    assert_eq!(
        pool.http.ping,
        Some((Duration::from_secs(1), Duration::from_secs(2)))
    );
    assert_eq!(
        policy("outlierDetection: {}").outlier_detection,
        Some(OutlierDetection::default())
    );
    let outliers = policy("outlierDetection: {consecutive5xxErrors: 0, consecutiveGatewayErrors: 1, splitExternalLocalOriginErrors: true, consecutiveLocalOriginFailures: 2, interval: 1s, baseEjectionTime: 3m, maxEjectionPercent: 100, minHealthPercent: 50}").outlier_detection.unwrap();
    assert_eq!(
        (
            outliers.server_errors,
            outliers.gateway_errors,
            outliers.local_failures
        ),
        (0, 1, 2)
    );
    assert_eq!(
        (outliers.max_ejection_percent, outliers.min_health_percent),
        (100, 50)
    );
    let legacy = policy("outlierDetection: {consecutiveErrors: 7}")
        .outlier_detection
        .unwrap();
    assert_eq!(
        (legacy.server_errors, legacy.gateway_errors),
        (0, 7),
        "was 502, 503 and 504"
    );
    assert_eq!(
        policy("proxyProtocol: {}").proxy_protocol,
        Some(ProxyProtocol::V1)
    );
    let budget = policy("retryBudget: {}").retry_budget.unwrap();
    assert_eq!((budget.retries(100), budget.retries(5)), (20, 3));
    assert_eq!(
        policy("tls: {}").tls.unwrap().mode,
        TlsMode::Disable,
        "the enum's zero"
    );
    let tls = policy("tls: {mode: SIMPLE, sni: Example.org, caCertificates: system, subjectAltNames: [a]}")
        .tls
        .unwrap();
    assert_eq!(
        (tls.mode, tls.sni.as_deref()),
        (TlsMode::Simple, Some("example.org"))
    );
}

#[test]
fn a_secret_is_a_must_for_rules_that_select_their_clients() {
    let read = |spec: &str| {
        let tls = read(spec).unwrap().policy.blocks.tls.unwrap();
        assert_eq!(tls.credential.as_deref(), Some("ca"));
        tls.credential_optional
    };
    let tls = "trafficPolicy: {tls: {mode: SIMPLE, credentialName: ca}}";
    assert!(read(&format!("{{host: a, {tls}}}")));
    let selected = format!("{{host: a, workloadSelector: {{matchLabels: {{app: a}}}}, {tls}}}");
    assert!(!read(&selected));
}
