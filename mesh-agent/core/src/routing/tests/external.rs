//! Hosts of ServiceEntries, and what a Sidecar lets be seen.

use crate::model::snapshot::Target;
use crate::routing::Decision;
use crate::state::{Change, State};
use crate::testing::{Dial, Request, WEATHER, addrs, state};

fn with(yaml: &str) -> State {
    state(&format!("{WEATHER}---\n{yaml}"))
}

fn entry(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {name}, namespace: weather}}\nspec: {spec}\n"
    )
}

fn endpoints(state: &mut State, to: &str, authority: &str) -> Vec<String> {
    let request = Request {
        to,
        authority,
        ..Request::default()
    };
    match request.decide(&state.snapshot()) {
        Decision::Forward(plan) => addrs(&plan.upstream.endpoints),
        other => vec![format!("{other:?}")],
    }
}

#[test]
fn a_static_host_is_reached_at_its_endpoints_by_name_and_by_address() {
    let spec = "{hosts: [pay.example.com], addresses: [203.0.113.5], resolution: STATIC, \
                ports: [{number: 80, name: http, protocol: HTTP, targetPort: 8080}], \
                endpoints: [{address: 198.51.100.1}, {address: 198.51.100.2, ports: {http: 9090}}]}";
    let mut state = with(&entry("pay", spec));
    let both = ["198.51.100.1:8080", "198.51.100.2:9090"];
    assert_eq!(endpoints(&mut state, "203.0.113.5:80", "pay.example.com"), both);
    assert_eq!(
        endpoints(&mut state, "192.0.2.77:80", "Pay.Example.com:80"),
        both,
        "by Host alone"
    );
    let Target::Service(service, _) = state.snapshot().target("203.0.113.5:80".parse().unwrap()) else {
        panic!("the address belongs to the entry");
    };
    assert_eq!(service.name.to_string(), "weather/pay.example.com");
}

#[test]
fn resolution_none_keeps_the_address_that_was_dialled_and_a_wildcard_covers_its_domain() {
    let spec = "{hosts: [\"*.wikipedia.org\"], ports: [{number: 80, name: http, protocol: HTTP}]}";
    let mut state = with(&entry("wiki", spec));
    assert_eq!(
        endpoints(&mut state, "192.0.2.77:80", "de.wikipedia.org"),
        ["192.0.2.77:80"]
    );
    let apex = Request {
        to: "192.0.2.77:80",
        authority: "wikipedia.org",
        ..Request::default()
    };
    let plan = apex.plan(&state.snapshot());
    assert!(
        plan.upstream.service.is_none(),
        "left alone: the wildcard does not cover it"
    );
}

#[test]
fn names_are_asked_for_and_their_addresses_become_endpoints() {
    let spec =
        "{hosts: [api.example.com], resolution: DNS, ports: [{number: 80, name: http, protocol: HTTP}]}";
    let mut state = with(&entry("api", spec));
    let snapshot = state.snapshot();
    assert!(snapshot.registry.names.contains("api.example.com"));
    let refused = endpoints(&mut state, "192.0.2.77:80", "api.example.com");
    assert!(refused[0].contains("UH"), "{refused:?}");
    let resolved = |ips: &[&str]| Change::Resolved {
        name: "api.example.com".into(),
        ips: ips.iter().map(|ip| ip.parse().unwrap()).collect(),
    };
    assert!(state.apply(resolved(&["198.51.100.2", "198.51.100.1"])));
    assert!(
        !state.apply(resolved(&["198.51.100.1", "198.51.100.2"])),
        "turned round is not new"
    );
    let both = ["198.51.100.1:80", "198.51.100.2:80"];
    assert_eq!(endpoints(&mut state, "192.0.2.77:80", "api.example.com"), both);
}

#[test]
fn a_tcp_port_without_addresses_takes_every_unknown_address_and_cidrs_come_first() {
    let any = entry(
        "any",
        "{hosts: [db.example.com], ports: [{number: 5432, name: tcp, protocol: TCP}]}",
    );
    let net = entry(
        "net",
        "{hosts: [near.example.com], addresses: [198.51.100.0/24], ports: [{number: 5432, name: tcp, protocol: TCP}]}",
    );
    let mut state = with(&format!("{any}---\n{net}"));
    let snapshot = state.snapshot();
    let named = |addr: &str| {
        let dial = Dial {
            to: addr,
            ..Dial::default()
        };
        let upstream = dial.decide(&snapshot).unwrap().upstream;
        assert_eq!(addrs(&upstream.endpoints), [addr], "the address is kept");
        upstream.service.unwrap().host.to_string()
    };
    assert_eq!(named("203.0.113.1:5432"), "db.example.com");
    assert_eq!(named("198.51.100.7:5432"), "near.example.com");
}

#[test]
fn a_selector_finds_workload_entries_and_pods() {
    let spec = "{hosts: [mixed.example.com], location: MESH_INTERNAL, resolution: STATIC, \
                workloadSelector: {labels: {app: forecast}}, ports: [{number: 80, name: http, protocol: HTTP, targetPort: 8080}]}";
    let machine = "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {name: vm, namespace: weather}\n\
                   spec: {address: 198.51.100.9, labels: {app: forecast}}\n";
    let mut state = with(&format!("{}---\n{machine}", entry("mixed", spec)));
    let found = endpoints(&mut state, "192.0.2.77:80", "mixed.example.com");
    assert!(found.contains(&"198.51.100.9:8080".to_owned()), "{found:?}");
    assert!(found.contains(&"10.1.0.2:8080".to_owned()), "{found:?}");
    let gone = crate::state::ObjectKey {
        kind: "WorkloadEntry".into(),
        group: "networking.istio.io".into(),
        namespace: "weather".into(),
        name: "vm".into(),
    };
    assert!(state.apply(Change::Delete(gone)));
    let left = endpoints(&mut state, "192.0.2.77:80", "mixed.example.com");
    assert!(!left.contains(&"198.51.100.9:8080".to_owned()), "{left:?}");
}

#[test]
fn an_entry_that_is_not_exported_is_unknown_elsewhere_and_the_older_of_two_has_the_host() {
    let own = "{hosts: [x.example.com], exportTo: [\".\"], resolution: STATIC, addresses: [203.0.113.6], \
               ports: [{number: 80, name: http, protocol: HTTP}], endpoints: [{address: 198.51.100.1}]}";
    let mut state = with(&entry("own", own));
    let snapshot = state.snapshot();
    let stranger = snapshot.target_for("203.0.113.6:80".parse().unwrap(), None);
    assert!(matches!(stranger, Target::Unknown), "{stranger:?}");
    assert!(
        snapshot
            .service_by_host("x.example.com", Some("elsewhere"))
            .is_none()
    );
    assert!(
        snapshot
            .service_by_host("x.example.com", Some("weather"))
            .is_some()
    );

    let public = own.replace("exportTo: [\".\"], ", "");
    let other = entry("other", &public).replace("namespace: weather", "namespace: elsewhere");
    let mut state = with(&format!("{}---\n{other}", entry("own", &public)));
    let problems = state.problems();
    let texts: Vec<String> = problems.iter().map(|p| p.rejected.to_string()).collect();
    assert_eq!(
        texts,
        [
            "ServiceEntry weather/own: spec.addresses[0]: 203.0.113.6 already belongs to service elsewhere/x.example.com",
            "ServiceEntry weather/own: spec.hosts[0]: host x.example.com already belongs to the older ServiceEntry elsewhere/other",
        ]
    );
}

#[test]
fn what_a_sidecar_does_not_list_is_not_there_for_its_workloads() {
    let sidecar = "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {name: s, namespace: weather}\n\
                   spec: {egress: [{hosts: [\"./database.weather.svc.cluster.local\"]}]}\n";
    let mut state = with(sidecar);
    let snapshot = state.snapshot();
    let frontend = snapshot.workload_by_ip("10.1.0.1".parse().unwrap());
    let target = |to: &str| snapshot.target_for(to.parse().unwrap(), frontend.map(|w| &**w));
    assert!(
        matches!(target("10.96.0.1:80"), Target::Unknown),
        "forecast is out of scope"
    );
    let plan = Request::default().plan(&snapshot);
    assert!(plan.upstream.service.is_none());
    assert_eq!(addrs(&plan.upstream.endpoints), ["10.96.0.1:80"], "left alone");
}

#[test]
fn an_entry_whose_fields_do_not_fit_is_refused_by_name() {
    let port = "ports: [{number: 80, name: http, protocol: HTTP}]";
    for (spec, field) in [
        (format!("{{hosts: [\"*\"], {port}}}"), "spec.hosts[0]"),
        (
            format!("{{hosts: [\"*.a.com\"], resolution: DNS, {port}}}"),
            "spec.hosts[0]",
        ),
        (
            format!("{{hosts: [a.com], addresses: [nonsense], {port}}}"),
            "spec.addresses[0]",
        ),
        (
            format!("{{hosts: [a.com], addresses: [10.0.0.0/8], resolution: DNS, {port}}}"),
            "spec.addresses",
        ),
        (
            format!("{{hosts: [a.com], resolution: STATIC, endpoints: [{{address: b.com}}], {port}}}"),
            "spec.endpoints[0].address",
        ),
        (
            format!("{{hosts: [a.com], endpoints: [{{address: 1.2.3.4}}], {port}}}"),
            "spec.endpoints",
        ),
        (
            "{hosts: [a.com], ports: [{number: 80, protocol: UDP}]}".to_owned(),
            "spec.ports[0].protocol",
        ),
        ("{hosts: [a.com]}".to_owned(), "spec.ports"),
        (
            format!("{{hosts: [a.com], resolution: DYNAMIC_DNS, {port}}}"),
            "spec.resolution",
        ),
    ] {
        let problems = with(&entry("e", &spec)).problems();
        let fields: Vec<_> = problems.iter().map(|p| p.rejected.field.as_str()).collect();
        assert_eq!(fields, [field], "{spec}");
    }
}
