use super::*;

fn listener(index: usize, hosts: &[&str]) -> Arc<Listener> {
    let mut sites = HostMap::default();
    for host in hosts {
        sites.entry(host).or_insert(Site {
            gateway: ObjectName::new("ns", "gw"),
            port: 443,
            table: Arc::new(RouteTable {
                api: crate::model::route::RouteApi::Istio,
                object: ObjectName::new("ns", "vs"),
                rules: Vec::new(),
            }),
        });
    }
    Arc::new(Listener {
        origin: ListenerOrigin {
            kind: "Gateway",
            group: "networking.istio.io",
            object: ObjectName::new("ns", "gw"),
            list: "spec.servers",
            index,
        },
        name: "".into(),
        port: 443,
        protocol: ListenerProtocol::Https,
        hosts: hosts.iter().map(|h| Arc::from(*h)).collect(),
        tls: None,
        sites,
        connections: Vec::new(),
    })
}

fn port(listeners: &[&[&str]]) -> EdgePort {
    let listeners: Vec<_> = listeners
        .iter()
        .enumerate()
        .map(|(i, hosts)| listener(i, hosts))
        .collect();
    let mut by_host = HostMap::default();
    for (i, listener) in listeners.iter().enumerate() {
        for host in &listener.hosts {
            by_host.entry(host).or_insert(i);
        }
    }
    EdgePort {
        transport: Transport::Tls,
        listeners,
        by_host,
    }
}

#[test]
fn an_exact_host_comes_before_a_long_wildcard_and_that_before_a_short_one() {
    let mut map = HostMap::default();
    for (i, pattern) in ["*", "*.com", "*.example.com", "a.example.com"]
        .iter()
        .enumerate()
    {
        map.entry(pattern).or_insert(i);
    }
    for (host, want) in [
        ("a.example.com", Some(&3)),
        ("b.example.com", Some(&2)),
        ("x.b.example.com", Some(&2)),
        ("example.com", Some(&1)),
        ("example.org", Some(&0)),
        ("", Some(&0)),
    ] {
        assert_eq!(map.get(host), want, "{host}");
    }
    let mut only = HostMap::default();
    only.entry("*.example.com").or_insert(());
    assert_eq!(
        only.get(".example.com"),
        None,
        "a wildcard stands for at least one character"
    );
    assert_eq!(only.get("example.com"), None);
}

#[test]
fn patterns_meet_in_the_narrower_one() {
    for (a, b, want) in [
        ("*", "a.b", Some("a.b")),
        ("*.b", "a.b", Some("a.b")),
        ("*.b", "*.a.b", Some("*.a.b")),
        ("*.a.b", "*.b", Some("*.a.b")),
        ("*.b", "b", None),
        ("a.b", "a.b", Some("a.b")),
        ("a.b", "c.b", None),
        ("*.ab", "x.b", None),
    ] {
        assert_eq!(pattern_intersection(a, b), want, "{a} {b}");
        assert_eq!(pattern_intersection(b, a), want, "{b} {a}");
    }
}

/// T-50; Gateway API `GatewayHTTPSListenerDetectMisdirectedRequests`.
#[test]
fn a_host_of_another_server_on_a_shared_tls_connection_is_misdirected() {
    let port = port(&[&["a.example.com"], &["*.example.com"], &["b.other.com"]]);
    let first = &port.listener(Some("a.example.com")).unwrap().origin;
    let found = |host: &str| port.site(host, Some(first));
    assert!(matches!(found("a.example.com"), Found::Site(..)));
    assert!(matches!(found("c.example.com"), Found::Misdirected));
    assert!(matches!(found("b.other.com"), Found::Misdirected));
    assert!(matches!(found("nobody.com"), Found::Nothing));
    assert!(
        port.listener(Some("nobody.com")).is_none(),
        "an unknown SNI has no listener"
    );
    assert!(
        port.listener(None).is_none(),
        "without SNI only a server for * is meant"
    );
}
