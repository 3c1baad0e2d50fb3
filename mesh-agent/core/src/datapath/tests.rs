use super::*;
use crate::model::snapshot::MeshSettings;
use crate::state::State;
use crate::testing::{WEATHER, documents, list, state};
use mesh_common::verdict::{Reason, Verdict, outbound_backend, outbound_service};
use mesh_common::{backend_flags, maps, service_flags, workload_flags};
use proptest::prelude::*;
use serde_json::json;
use std::net::SocketAddr;

fn facts(snapshot: &Snapshot) -> NodeFacts {
    let local = snapshot.workloads.iter().filter(|w| &*w.node == "node-1");
    NodeFacts {
        node: "node-1".into(),
        addrs: vec!["192.0.2.1".parse().unwrap()],
        captured: local.map(|w| (w.id, u64::from(w.id) + 1_000)).collect(),
        limits: Limits::default(),
    }
}

fn fresh(yaml: &str) -> Plan {
    let snapshot = state(yaml).snapshot();
    plan(&snapshot, &facts(&snapshot), &Plan::default())
}

fn key(addr: &str) -> ServiceKey {
    addr.parse::<SocketAddr>().unwrap().into()
}

/// What the kernel does with a connection, by the functions that it runs.
fn verdict(plan: &Plan, addr: &str) -> Vec<Verdict> {
    let exact = key(addr);
    let service = plan
        .services
        .get(&exact)
        .or_else(|| plan.services.get(&ServiceKey::new(exact.ip, 0)))
        .or_else(|| plan.services.get(&ServiceKey::new(Ip::NONE, exact.port)));
    match (outbound_service(service, 0, true), service) {
        (Some(verdict), _) => vec![verdict],
        (None, Some(service)) => (0..service.backends)
            .map(|slot| {
                outbound_backend(
                    plan.backends.get(&BackendKey {
                        service: service.id,
                        slot,
                    }),
                    0,
                    true,
                )
            })
            .collect(),
        (None, None) => Vec::new(),
    }
}

#[test]
fn each_destination_gets_the_verdict_that_its_protocol_and_place_ask_for() {
    let plan = fresh(WEATHER);
    let bytes = vec![Verdict::Proxy(Reason::NeedsBytes)];
    assert_eq!(verdict(&plan, "10.96.0.1:80"), bytes, "HTTP");
    assert_eq!(
        verdict(&plan, "10.96.0.3:80"),
        bytes,
        "HTTP without endpoints is answered with 503"
    );
    let split = vec![Verdict::Direct(Reason::Spliced), Verdict::Proxy(Reason::NeedsTls)];
    assert_eq!(
        verdict(&plan, "10.96.0.2:5432"),
        split,
        "opaque: local pod, remote pod"
    );
    assert_eq!(
        verdict(&plan, "10.2.0.2:5432"),
        [Verdict::Proxy(Reason::NeedsTls)],
        "opaque port of a remote pod"
    );
    assert_eq!(
        verdict(&plan, "10.1.0.2:5432"),
        [Verdict::Direct(Reason::Spliced)],
        "opaque port of a local pod"
    );
    assert_eq!(verdict(&plan, "10.2.0.2:8080"), bytes, "any other port of a pod");
    assert_eq!(
        verdict(&plan, "10.1.0.9:80"),
        [Verdict::Pass(Reason::UnknownDestination)],
        "a pod outside"
    );
    assert_eq!(
        verdict(&plan, "10.96.0.1:9"),
        [Verdict::Pass(Reason::UnknownDestination)],
        "no such port"
    );
    assert_eq!(plan.refused, Vec::<String>::new());
}

#[test]
fn an_opaque_service_without_endpoints_is_refused_at_once() {
    let plan = fresh(&WEATHER.replace(
        "clusterIP: 10.96.0.2\n  selector: {app: forecast}",
        "clusterIP: 10.96.0.2",
    ));
    assert_eq!(
        verdict(&plan, "10.96.0.2:5432"),
        [Verdict::Deny(Reason::NoBackend)]
    );
}

#[test]
fn the_kernel_shares_connections_by_the_weights_of_entries() {
    let plan = fresh(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: db, namespace: weather}\n\
         spec: {hosts: [db.test], addresses: [10.96.1.1], resolution: STATIC, ports: [{number: 5432, name: tcp, protocol: TCP}], \
         endpoints: [{address: 10.9.0.1, weight: 3}, {address: 10.9.0.2}]}",
    );
    let service = plan.services[&key("10.96.1.1:5432")];
    let weights = [0, 1].map(|slot| {
        plan.backends[&BackendKey {
            service: service.id,
            slot,
        }]
            .cumulative_weight
    });
    assert_eq!((service.total_weight, weights), (4, [3, 4]));
}

#[test]
fn a_virtual_address_has_backends_of_its_own_family_only() {
    let both = WEATHER.replace("clusterIP: 10.96.0.2", "clusterIPs: [10.96.0.2, \"fd00:96::2\"]");
    let plan = fresh(&both);
    for (addr, v4) in [("10.96.0.2:5432", true), ("[fd00:96::2]:5432", false)] {
        let service = plan.services[&key(addr)];
        assert_eq!((service.backends, service.total_weight), (2, 2));
        for slot in 0..2 {
            let backend = plan.backends[&BackendKey {
                service: service.id,
                slot,
            }];
            assert_eq!(backend.ip.is_v4(), v4);
            assert_eq!(backend.cumulative_weight, slot + 1);
        }
    }
    let without = both
        .replace(", {ip: \"fd00:1::2\"}", "")
        .replace(", {ip: \"fd00:2::2\"}", "");
    assert_eq!(
        verdict(&fresh(&without), "[fd00:96::2]:5432"),
        [Verdict::Proxy(Reason::NeedsBytes)],
        "the proxy can cross"
    );
}

#[test]
fn a_captured_pod_has_all_of_its_entries_and_others_none() {
    let mut state = state(&WEATHER.replace(
        "{heddle.io/mesh: enabled}",
        "{heddle.io/mesh: enabled, heddle.io/fail-mode: open}",
    ));
    let snapshot = state.snapshot();
    let plan = plan(&snapshot, &facts(&snapshot), &Plan::default());
    let named = |name: &str| {
        snapshot
            .workloads
            .iter()
            .find(|w| &*w.pod.name == name)
            .unwrap()
            .id
    };
    let cookies: Vec<u64> = plan.workloads.keys().copied().collect();
    let mut expected = vec![
        u64::from(named("frontend")) + 1_000,
        u64::from(named("forecast-v1")) + 1_000,
    ];
    expected.sort_unstable();
    assert_eq!(
        cookies, expected,
        "the visitor is not enrolled, forecast-v2 is elsewhere"
    );
    assert!(
        plan.workloads
            .values()
            .all(|w| w.flags == workload_flags::FAIL_OPEN | workload_flags::NAMES)
    );
    assert_eq!(plan.local_pods.len(), 4, "both families of both pods");
    assert!(plan.probe_ports.contains(&PortKey {
        workload: named("forecast-v1"),
        port: 8080
    }));
    assert_eq!(plan.node_addrs.len(), 1);
}

/// A policy that the kernel cannot carry out takes the service to the proxy, and only while it is there.
#[test]
fn what_a_policy_asks_for_is_not_left_to_the_kernel() {
    let rule = |policy: &str| {
        format!(
            "{WEATHER}\n---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: db, namespace: weather}}\nspec: {{host: database, trafficPolicy: {{{policy}}}}}"
        )
    };
    let mut state = state(WEATHER);
    let mut plan = fresh(WEATHER);
    for (policy, proxied) in [
        ("loadBalancer: {simple: RANDOM}", false),
        ("connectionPool: {http: {http2MaxRequests: 1}}", false),
        ("connectionPool: {tcp: {maxConnections: 1}}", true),
        ("tls: {mode: ISTIO_MUTUAL}", false),
        ("tls: {mode: DISABLE}", true),
        ("loadBalancer: {simple: ROUND_ROBIN}", true),
        ("outlierDetection: {}", true),
        ("", false),
    ] {
        list(&mut state, &documents(&rule(policy)));
        let snapshot = state.snapshot();
        let next = super::plan(&snapshot, &facts(&snapshot), &plan);
        let needs = verdict(&next, "10.96.0.2:5432") == [Verdict::Proxy(Reason::NeedsBytes)];
        assert_eq!(needs, proxied, "{policy}");
        plan = next;
    }
}

#[test]
fn a_namespace_that_is_l4_only_needs_no_proxy_on_one_node() {
    let plan = fresh(&WEATHER.replace(
        "heddle.io/mesh: enabled",
        "heddle.io/mesh: enabled, heddle.io/l7: disabled",
    ));
    assert_eq!(
        verdict(&plan, "10.1.0.1:7777"),
        [Verdict::Direct(Reason::Spliced)]
    );
    let any_port = plan.services[&key("10.1.0.1:0")];
    let backend = plan.backends[&BackendKey {
        service: any_port.id,
        slot: 0,
    }];
    assert_eq!(
        (backend.port, backend.flags),
        (0, backend_flags::LOCAL | backend_flags::MESH)
    );
    assert_eq!(
        verdict(&plan, "10.96.0.1:80")[0],
        Verdict::Direct(Reason::Spliced)
    );
}

#[test]
fn a_generation_changes_with_the_backends_and_only_then() {
    let mut state = state(WEATHER);
    let first_snapshot = state.snapshot();
    let first = plan(&first_snapshot, &facts(&first_snapshot), &Plan::default());
    let again = plan(&first_snapshot, &facts(&first_snapshot), &first);
    assert_eq!(first, again);
    assert_eq!(diff(&first, &again), []);
    let mut objects = documents(WEATHER);
    objects.remove(3);
    list(&mut state, &objects);
    let snapshot = state.snapshot();
    let second = plan(&snapshot, &facts(&snapshot), &first);
    let database = key("10.96.0.2:5432");
    let used: Vec<u32> = first.services.values().map(|s| s.id).collect();
    assert!(!used.contains(&second.services[&database].id));
    let forecast = key("10.96.0.1:80");
    assert_eq!(first.services[&forecast].id, second.services[&forecast].id);
}

#[test]
fn more_backends_than_the_kernel_takes_go_to_the_proxy() {
    let mut objects = documents(WEATHER);
    let addresses: Vec<String> = (0..=maps::MAX_BACKENDS_PER_SERVICE)
        .map(|i| format!("10.50.{}.{}", i >> 8, i & 0xff))
        .collect();
    objects.push(json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "s", "namespace": "weather", "labels": {"kubernetes.io/service-name": "database"}},
        "ports": [{"name": "tcp", "port": 5432}], "endpoints": [{"addresses": addresses}]}));
    let mut state = State::new(MeshSettings::default());
    list(&mut state, &objects);
    let snapshot = state.snapshot();
    let plan = plan(&snapshot, &facts(&snapshot), &Plan::default());
    assert_eq!(plan.services[&key("10.96.0.2:5432")].flags, service_flags::L7);
}

#[test]
fn what_does_not_fit_is_refused_by_name_and_not_half_there() {
    let mut snapshot = (*state(WEATHER).snapshot()).clone();
    let local = snapshot
        .workloads
        .iter()
        .find(|w| &*w.pod.name == "frontend")
        .unwrap()
        .clone();
    let mut facts = facts(&snapshot);
    for i in 0..maps::MAX_WORKLOADS {
        let mut copy = (*local).clone();
        copy.id = 10_000 + i;
        copy.ips = vec![std::net::Ipv4Addr::from(0x0b00_0000 + i).into()];
        facts.captured.insert(copy.id, u64::from(copy.id));
        snapshot.workloads.push(copy.into());
    }
    let plan = plan(&snapshot, &facts, &Plan::default());
    assert_eq!(plan.workloads.len(), maps::MAX_WORKLOADS as usize);
    assert_eq!(plan.refused.len(), 2);
    assert!(
        plan.refused[0].contains("pod weather/frontend: WORKLOADS holds 1024"),
        "{:?}",
        plan.refused
    );
    let known: Vec<u32> = plan.workloads.values().map(|w| w.id).collect();
    assert!(plan.local_pods.values().all(|p| known.contains(&p.id)));
}

#[test]
fn services_and_backends_beyond_the_size_that_was_set_are_refused_by_name() {
    let snapshot = state(WEATHER).snapshot();
    let mut facts = facts(&snapshot);
    let whole = plan(&snapshot, &facts, &Plan::default());
    assert!(whole.refused.is_empty() && whole.services.len() > 3);
    facts.limits.services = 3;
    let cut = plan(&snapshot, &facts, &Plan::default());
    assert_eq!(
        (cut.services.len(), cut.refused.len()),
        (3, whole.services.len() - 3)
    );
    assert!(cut.refused[0].ends_with("SERVICES holds 3"), "{:?}", cut.refused);
    facts.limits = Limits {
        backends: 0,
        ..Limits::default()
    };
    let proxied = plan(&snapshot, &facts, &Plan::default());
    assert!(proxied.backends.is_empty() && !whole.backends.is_empty());
    assert!(
        proxied
            .refused
            .iter()
            .all(|why| why.ends_with("BACKENDS holds 0; the proxy serves it"))
    );
    assert_eq!(proxied.services.len(), whole.services.len());
}

/// The maps while operations are carried out.
#[derive(Clone, Default, PartialEq, Debug)]
struct Maps(Plan);

impl Maps {
    fn run(&mut self, op: &Op) {
        let m = &mut self.0;
        match op {
            Op::PutWorkload(k, v) => _ = m.workloads.insert(*k, *v),
            Op::PutLocalPod(k, v) => _ = m.local_pods.insert(*k, *v),
            Op::PutProbePort(k) => _ = m.probe_ports.insert(*k),
            Op::PutNodeAddr(k) => _ = m.node_addrs.insert(*k),
            Op::PutService(k, v) => _ = m.services.insert(*k, *v),
            Op::PutBackend(k, v) => _ = m.backends.insert(*k, *v),
            Op::DeleteWorkload(k) => assert!(m.workloads.remove(k).is_some()),
            Op::DeleteLocalPod(k) => assert!(m.local_pods.remove(k).is_some()),
            Op::DeleteProbePort(k) => assert!(m.probe_ports.remove(k)),
            Op::DeleteNodeAddr(k) => assert!(m.node_addrs.remove(k)),
            Op::DeleteService(k) => assert!(m.services.remove(k).is_some()),
            Op::DeleteBackend(k) => assert!(m.backends.remove(k).is_some()),
        }
    }

    /// Every service has exactly the backends that it counts; every captured pod has its addresses.
    fn consistent(&self) -> Result<(), TestCaseError> {
        for service in self.0.services.values() {
            let mut sum = 0;
            for slot in 0..service.backends {
                let backend = self.0.backends.get(&BackendKey {
                    service: service.id,
                    slot,
                });
                let backend = backend.ok_or_else(|| TestCaseError::fail("a backend is missing"))?;
                prop_assert!(backend.cumulative_weight > sum);
                sum = backend.cumulative_weight;
            }
            prop_assert_eq!(sum, service.total_weight);
        }
        for workload in self.0.workloads.values() {
            for ip in [workload.ip4, workload.ip6]
                .into_iter()
                .filter(|ip| *ip != Ip::NONE)
            {
                prop_assert!(self.0.local_pods.contains_key(&ip));
            }
        }
        Ok(())
    }
}

#[derive(Clone, Debug)]
struct World {
    pods: Vec<(bool, bool, u8)>,
    services: Vec<(bool, u8)>,
    fail_open: bool,
}

fn world() -> impl Strategy<Value = World> {
    let pods = prop::collection::vec((any::<bool>(), any::<bool>(), 0..3_u8), 0..8);
    let services = prop::collection::vec((any::<bool>(), 0..3_u8), 0..5);
    (pods, services, any::<bool>()).prop_map(|(pods, services, fail_open)| World {
        pods,
        services,
        fail_open,
    })
}

impl World {
    fn objects(&self) -> Vec<serde_json::Value> {
        let mode = if self.fail_open { "open" } else { "closed" };
        let mut objects = vec![json!({"apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": "n", "labels": {"heddle.io/mesh": "enabled", "heddle.io/fail-mode": mode}}})];
        for (i, (local, v6, app)) in self.pods.iter().enumerate() {
            let mut ips = vec![json!({"ip": format!("10.0.0.{}", i + 1)})];
            ips.extend(v6.then(|| json!({"ip": format!("fd00::{}", i + 1)})));
            objects.push(json!({"apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": format!("p{i}"), "namespace": "n", "labels": {"app": app.to_string()}},
                "spec": {"nodeName": if *local { "node-1" } else { "node-2" },
                    "containers": [{"livenessProbe": {"tcpSocket": {"port": 80}}}]},
                "status": {"podIPs": ips}}));
        }
        for (i, (tcp, app)) in self.services.iter().enumerate() {
            objects.push(json!({"apiVersion": "v1", "kind": "Service",
                "metadata": {"name": format!("s{i}"), "namespace": "n"},
                "spec": {"clusterIPs": [format!("10.9.0.{}", i + 1), format!("fd09::{}", i + 1)],
                    "selector": {"app": app.to_string()},
                    "ports": [{"name": if *tcp { "tcp" } else { "http" }, "port": 80}]}}));
        }
        objects
    }
}

proptest! {
    #[test]
    fn a_diff_leads_from_old_to_new_and_is_consistent_at_every_step(worlds in prop::collection::vec(world(), 1..5)) {
        let mut state = State::new(MeshSettings::default());
        let (mut old, mut maps) = (Plan::default(), Maps::default());
        for world in worlds {
            list(&mut state, &world.objects());
            let snapshot = state.snapshot();
            let new = plan(&snapshot, &facts(&snapshot), &old);
            let from_nothing = Plan { basis: Basis::default(), ..old.clone() };
            prop_assert_eq!(&plan(&snapshot, &facts(&snapshot), &from_nothing), &new);
            for op in diff(&old, &new) {
                maps.run(&op);
                maps.consistent()?;
                for (key, service) in &maps.0.services {
                    prop_assert!(old.services.get(key) == Some(service) || new.services.get(key) == Some(service));
                }
            }
            let held = Plan { refused: new.refused.clone(), last_generation: new.last_generation, ..maps.0.clone() };
            prop_assert_eq!(&held, &new);
            prop_assert!(new.services.values().all(|s| s.id != 0));
            old = new;
        }
    }
}

#[test]
fn a_port_of_a_host_without_an_address_is_looked_into_wherever_it_leads() {
    let entry = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: e, namespace: weather}\n\
                 spec: {hosts: [www.example.com], ports: [{number: 8443, name: tls, protocol: TLS}]}";
    let plan = fresh(&format!("{WEATHER}---\n{entry}"));
    assert_eq!(
        verdict(&plan, "203.0.113.9:8443"),
        [Verdict::Proxy(Reason::NeedsBytes)]
    );
    assert_eq!(
        verdict(&plan, "203.0.113.9:8444"),
        [Verdict::Pass(Reason::UnknownDestination)]
    );
    let without = fresh(WEATHER);
    assert_eq!(
        verdict(&without, "203.0.113.9:8443"),
        [Verdict::Pass(Reason::UnknownDestination)]
    );
}

#[test]
fn a_sidecar_sets_what_becomes_of_unknown_addresses_and_who_judges_known_ones() {
    let sidecar = "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {name: s, namespace: weather}\n\
                   spec: {workloadSelector: {labels: {app: frontend}}, egress: [{hosts: [\"./*\"]}], \
                   outboundTrafficPolicy: {mode: REGISTRY_ONLY}}";
    let snapshot = state(&format!("{WEATHER}---\n{sidecar}")).snapshot();
    let plan = plan(&snapshot, &facts(&snapshot), &Plan::default());
    let flags = |pod: &str| {
        let workload = snapshot.workloads.iter().find(|w| &*w.pod.name == pod).unwrap();
        plan.workloads[&(u64::from(workload.id) + 1_000)].flags
    };
    assert_eq!(
        flags("frontend"),
        workload_flags::REGISTRY_ONLY | workload_flags::SCOPED | workload_flags::NAMES
    );
    assert_eq!(flags("forecast-v1"), workload_flags::NAMES);
}
