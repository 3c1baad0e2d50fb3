mod history;
mod hostile;
mod peers;
mod remote;
mod traffic;
mod virtual_services;

use super::*;
use crate::model::workload::Enrollment;
use crate::testing::{WEATHER, addrs, documents, list, state, virtual_service};
use proptest::prelude::*;

const ROUTE: &str = "[{name: r, route: [{destination: {host: forecast, subset: v1}}]}]";

fn broken() -> Value {
    documents(&virtual_service(
        "routes",
        "[{route: [{destination: {host: forecast}, weight: -1}]}]",
    ))
    .remove(0)
}

fn apply(state: &mut State, object: Value, origin: &str) -> bool {
    state.apply(Change::Apply {
        object,
        origin: origin.into(),
    })
}

fn pod(state: &mut State, name: &str) -> Arc<crate::model::workload::Workload> {
    let snapshot = state.snapshot();
    Arc::clone(snapshot.workloads.iter().find(|w| &*w.pod.name == name).unwrap())
}

#[test]
fn a_broken_version_leaves_the_last_good_one_in_force_and_is_reported() {
    let mut state = state(&format!("{WEATHER}\n---\n{}", virtual_service("routes", ROUTE)));
    let before = state.snapshot();
    assert!(apply(&mut state, broken(), "broken.yaml:1"));
    assert!(
        Arc::ptr_eq(&before, &state.snapshot()),
        "a broken object never changes the snapshot"
    );
    let problems = state.problems();
    assert_eq!(problems.len(), 1);
    assert_eq!(problems[0].origin, "broken.yaml:1");
    assert_eq!(
        problems[0].rejected.to_string(),
        "VirtualService weather/routes: spec.http[0].route[0].weight: weight -1 < 0"
    );
    assert!(problems[0].last_good_in_force);
    assert!(!apply(&mut state, broken(), "broken.yaml:1"), "nothing new");
    assert!(apply(
        &mut state,
        documents(&virtual_service("routes", ROUTE)).remove(0),
        "fixed.yaml"
    ));
    assert_eq!(state.problems(), []);
}

#[test]
fn a_new_broken_object_stays_out_and_others_go_on() {
    let mut state = State::new(MeshSettings::default());
    let mut objects = documents(WEATHER);
    objects.insert(0, broken());
    list(&mut state, &objects);
    assert!(state.snapshot().routes.is_empty());
    assert_eq!(state.snapshot().services.len(), 4);
    assert_eq!(state.problems().len(), 1);
    assert!(!state.problems()[0].last_good_in_force);
}

#[test]
fn what_a_listing_does_not_mention_is_gone_but_not_what_could_not_be_read() {
    let mut state = state(WEATHER);
    let snapshot = state.snapshot();
    state.apply(Change::Init);
    state.apply(Change::Unreadable {
        origin: "file.yaml".into(),
        reason: "line 3: not YAML".into(),
    });
    state.apply(Change::InitDone);
    assert!(
        Arc::ptr_eq(&snapshot, &state.snapshot()),
        "everything came from that file"
    );
    assert_eq!(state.problems()[0].rejected.reason, "line 3: not YAML");
    assert!(state.problems()[0].last_good_in_force);
    state.apply(Change::Init);
    state.apply(Change::Unreadable {
        origin: "file.yaml:7".into(),
        reason: "later in the same file".into(),
    });
    state.apply(Change::InitDone);
    assert!(Arc::ptr_eq(&snapshot, &state.snapshot()));
    state.apply(Change::Init);
    state.apply(Change::Unreadable {
        origin: "other.yaml".into(),
        reason: "not YAML".into(),
    });
    state.apply(Change::InitDone);
    assert!(state.snapshot().workloads.is_empty() && state.snapshot().services.is_empty());
}

#[test]
fn an_object_without_a_name_counts_as_unreadable() {
    let mut state = state(WEATHER);
    let before = state.snapshot();
    state.apply(Change::Init);
    apply(
        &mut state,
        serde_json::json!({"apiVersion": "v1", "kind": "Pod", "metadata": {}}),
        "file.yaml:0",
    );
    state.apply(Change::InitDone);
    assert!(Arc::ptr_eq(&before, &state.snapshot()));
    assert_eq!(state.problems()[0].rejected.field, "metadata.name");
}

#[test]
fn the_first_of_two_equal_names_wins_and_both_places_are_named() {
    let second = virtual_service("routes", ROUTE).replace("{name: r,", "{name: second,");
    let mut state = state(&format!(
        "{WEATHER}\n---\n{}\n---\n{second}",
        virtual_service("routes", ROUTE)
    ));
    assert_eq!(
        &*state.snapshot().routes["forecast.weather.svc.cluster.local"].rules[0].name,
        "r"
    );
    let problems = state.problems();
    assert_eq!((problems.len(), problems[0].origin.as_str()), (1, "file.yaml:11"));
    assert!(
        problems[0].rejected.reason.contains("file.yaml:10"),
        "{}",
        problems[0].rejected
    );
}

#[test]
fn of_two_virtual_services_for_one_host_the_older_wins_and_the_loser_is_told() {
    let dated = |name: &str, year: u32| {
        virtual_service(name, ROUTE).replace(
            "namespace: weather",
            &format!("namespace: weather, creationTimestamp: '{year}-01-01T00:00:00Z'"),
        )
    };
    for (a, b) in [
        (dated("a", 2025), dated("b", 2024)),
        (dated("b", 2024), dated("a", 2025)),
    ] {
        let mut state = state(&format!("{WEATHER}\n---\n{a}\n---\n{b}"));
        assert_eq!(
            &*state.snapshot().routes["forecast.weather.svc.cluster.local"]
                .object
                .name,
            "b"
        );
        let problems = state.problems();
        assert_eq!(problems.len(), 1);
        assert_eq!(problems[0].rejected.object, "VirtualService weather/a");
        assert_eq!(problems[0].rejected.field, "spec.hosts[0]");
        assert!(problems[0].rejected.reason.contains("weather/b"));
    }
}

#[test]
fn a_destination_that_is_not_there_is_told_while_the_rule_applies() {
    let http = "[{route: [{destination: {host: nowhere}, weight: 1}, {destination: {host: forecast, subset: v9}, weight: 1}], mirror: {host: forecast, port: {number: 9}}}]";
    let mut state = state(&format!("{WEATHER}\n---\n{}", virtual_service("routes", http)));
    let fields: Vec<String> = state.problems().into_iter().map(|p| p.rejected.field).collect();
    assert_eq!(
        fields,
        [
            "spec.http[0].mirror.port.number",
            "spec.http[0].route[0].destination.host",
            "spec.http[0].route[1].destination.subset"
        ]
    );
    assert_eq!(state.snapshot().routes.len(), 1);
}

#[test]
fn a_change_of_one_object_leaves_everything_else_the_same_allocation() {
    let mut state = state(WEATHER);
    let before = state.snapshot();
    apply(
        &mut state,
        documents(&virtual_service("routes", ROUTE)).remove(0),
        "x",
    );
    let routed = state.snapshot();
    assert_eq!(routed.version, before.version + 1);
    assert!(
        before
            .services
            .iter()
            .zip(&routed.services)
            .all(|(a, b)| Arc::ptr_eq(a, b))
    );
    assert!(
        before
            .workloads
            .iter()
            .zip(&routed.workloads)
            .all(|(a, b)| Arc::ptr_eq(a, b))
    );
    let newcomer = documents(WEATHER)[2]
        .to_string()
        .replace("forecast-v1", "forecast-x")
        .replace("10.1.0.2", "10.1.0.3");
    apply(
        &mut state,
        serde_json::from_str(&newcomer.replace("fd00:1::2", "fd00:1::3")).unwrap(),
        "y",
    );
    let grown = state.snapshot();
    let same = |name: &str| {
        let find = |s: &Snapshot| Arc::clone(s.services.iter().find(|s| &*s.name.name == name).unwrap());
        Arc::ptr_eq(&find(&routed), &find(&grown))
    };
    assert!(same("empty") && !same("forecast"));
    assert!(Arc::ptr_eq(&routed.workloads[0], &grown.workloads[0]));
}

#[test]
fn numbers_are_kept_while_a_pod_lives_and_another_pod_of_the_same_name_gets_another() {
    let mut state = state(WEATHER);
    let (first, frontend) = (pod(&mut state, "forecast-v1").id, pod(&mut state, "frontend").id);
    let mut reborn = documents(WEATHER)[2].clone();
    reborn["metadata"]["uid"] = "another".into();
    apply(&mut state, reborn, "x");
    assert_ne!(pod(&mut state, "forecast-v1").id, first);
    assert_eq!(pod(&mut state, "frontend").id, frontend);
    assert!(state.snapshot().workloads.iter().all(|w| w.id != 0));
}

#[test]
fn enrollment_follows_namespace_and_pod() {
    let with = |extra: &str| {
        let yaml = format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: p, namespace: weather}}\n{extra}");
        let mut state = state(&format!("{WEATHER}\n---\n{yaml}"));
        pod(&mut state, "p").enrollment
    };
    assert_eq!(with("status: {podIP: 10.9.0.1}"), Enrollment::Enrolled);
    assert_eq!(with("status: {}"), Enrollment::NoAddress);
    assert_eq!(
        with("spec: {hostNetwork: true}\nstatus: {podIP: 10.9.0.1}"),
        Enrollment::HostNetwork
    );
    assert_eq!(
        with("spec: {runtimeClassName: kata-qemu}\nstatus: {podIP: 10.9.0.1}"),
        Enrollment::SandboxedRuntime
    );
    assert_eq!(
        with("status: {phase: Failed, podIP: 10.9.0.1}"),
        Enrollment::Ended
    );
    let mut state = state(WEATHER);
    assert_eq!(pod(&mut state, "visitor").enrollment, Enrollment::NotAsked);
    let mut out = documents(WEATHER)[1].clone();
    out["metadata"]["labels"]["istio.io/dataplane-mode"] = "none".into();
    apply(&mut state, out, "x");
    assert_eq!(pod(&mut state, "frontend").enrollment, Enrollment::OptedOut);
    let namespace = ObjectKey {
        kind: "Namespace".into(),
        group: String::new(),
        namespace: String::new(),
        name: "weather".into(),
    };
    assert!(state.apply(Change::Delete(namespace)));
    assert_eq!(pod(&mut state, "forecast-v1").enrollment, Enrollment::NotAsked);
}

#[test]
fn endpoint_slices_replace_what_the_selector_would_find() {
    let mut state = state(WEATHER);
    let endpoints = |state: &mut State| {
        let snapshot = state.snapshot();
        let service = &snapshot.services_by_host["forecast.weather.svc.cluster.local"];
        addrs(&service.ports[0].endpoints)
    };
    assert_eq!(
        endpoints(&mut state),
        [
            "10.1.0.2:8080",
            "10.2.0.2:8080",
            "[fd00:1::2]:8080",
            "[fd00:2::2]:8080"
        ]
    );
    let slice = "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: s, namespace: weather, labels: {kubernetes.io/service-name: forecast}}\naddressType: IPv4\nports: [{name: http, port: 8080}]\nendpoints: [{addresses: [10.2.0.2], conditions: {ready: true}}, {addresses: [10.1.0.2], conditions: {ready: false}}]";
    apply(&mut state, documents(slice).remove(0), "x");
    assert_eq!(endpoints(&mut state), ["10.2.0.2:8080"]);
    let snapshot = state.snapshot();
    let endpoint = &snapshot.services_by_host["forecast.weather.svc.cluster.local"].ports[0].endpoints[0];
    assert_eq!(&*endpoint.workload.as_ref().unwrap().pod.name, "forecast-v2");
    let key = ObjectKey {
        kind: "EndpointSlice".into(),
        group: "discovery.k8s.io".into(),
        namespace: "weather".into(),
        name: "s".into(),
    };
    state.apply(Change::Delete(key));
    assert_eq!(endpoints(&mut state).len(), 4);
}

#[test]
fn a_slice_names_pods_that_arrive_later_and_in_other_namespaces() {
    let slice = "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: s, namespace: weather, labels: {kubernetes.io/service-name: forecast}}\nports: [{name: http, port: 1}]\nendpoints: [{addresses: [10.1.0.9]}]";
    let visitor = documents(WEATHER).pop().unwrap();
    let mut state = State::new(MeshSettings::default());
    let mut objects = documents(WEATHER);
    objects.pop();
    objects.extend(documents(slice));
    list(&mut state, &objects);
    let pod = |state: &mut State| {
        let snapshot = state.snapshot();
        let service = &snapshot.services_by_host["forecast.weather.svc.cluster.local"];
        service.ports[0].endpoints[0]
            .workload
            .as_ref()
            .map(|w| w.pod.to_string())
    };
    assert_eq!(pod(&mut state), None);
    apply(&mut state, visitor, "x");
    assert_eq!(pod(&mut state).as_deref(), Some("other/visitor"));
}

#[test]
fn a_kubernetes_list_is_its_items() {
    let mut state = State::new(MeshSettings::default());
    let items = Value::from(documents(WEATHER));
    list(
        &mut state,
        &[serde_json::json!({"apiVersion": "v1", "kind": "List", "items": items})],
    );
    assert_eq!((state.snapshot().services.len(), state.problems()), (4, vec![]));
}

#[test]
fn l4_only_turns_everything_but_tls_into_tcp() {
    use crate::model::service::Protocol;
    let mut state = state(&WEATHER.replace(
        "heddle.io/mesh: enabled",
        "heddle.io/mesh: enabled, heddle.io/l7: disabled",
    ));
    let snapshot = state.snapshot();
    assert!(
        snapshot
            .services
            .iter()
            .flat_map(|s| &s.ports)
            .all(|p| p.protocol == Protocol::Tcp)
    );
    assert!(snapshot.l4_only.contains("weather"));
}

#[test]
fn a_change_leaves_what_is_said_of_other_services_as_it_is() {
    let rule = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: data, namespace: weather}\nspec: {host: database}";
    let mut state = state(&format!(
        "{WEATHER}\n---\n{}\n---\n{rule}",
        virtual_service("routes", ROUTE)
    ));
    let before = state.snapshot();
    let (forecast, database) = (
        "forecast.weather.svc.cluster.local",
        "database.weather.svc.cluster.local",
    );
    let changed = rule.replace(
        "{host: database}",
        "{host: database, trafficPolicy: {tls: {mode: DISABLE}}}",
    );
    assert!(apply(&mut state, documents(&changed).remove(0), "x"));
    let after = state.snapshot();
    assert!(!Arc::ptr_eq(&before.subsets[database], &after.subsets[database]));
    assert!(Arc::ptr_eq(&before.subsets[forecast], &after.subsets[forecast]));
    assert!(Arc::ptr_eq(&before.routes[forecast], &after.routes[forecast]));
}

/// Everything in a snapshot that has an order of its own.
fn text(state: &mut State) -> String {
    let snapshot = state.snapshot();
    let mut hosts: Vec<_> = snapshot
        .routes
        .iter()
        .map(|(h, t)| format!("{h} {}", t.object))
        .collect();
    hosts.sort();
    let mut subsets: Vec<_> = snapshot.subsets.iter().collect();
    subsets.sort_by_key(|(host, _)| *host);
    let mut ips: Vec<_> = snapshot
        .workloads_by_ip
        .iter()
        .map(|(ip, w)| (*ip, w.id))
        .collect();
    ips.sort();
    let problems: Vec<_> = state.problems().into_iter().map(|p| p.rejected).collect();
    format!(
        "{:?}\n{:?}\n{hosts:?}\n{subsets:?}\n{ips:?}\n{problems:?}",
        snapshot.workloads, snapshot.services
    )
}

proptest! {
    #[test]
    fn the_order_in_which_objects_arrive_does_not_matter(seed in any::<u64>(), in_steps in any::<bool>()) {
        let yaml = format!(
            "{WEATHER}\n---\n{}\n---\n{}",
            virtual_service("a", ROUTE),
            virtual_service("b", "[{route: [{destination: {host: nowhere}}]}]")
        );
        let mut objects = documents(&yaml);
        objects.push(documents(&WEATHER.replace("name: forecast, namespace: weather}\nspec:\n  host", "name: again, namespace: weather}\nspec:\n  host").replace("version: v1", "version: v2"))[8].clone());
        let mut expected = State::new(MeshSettings::default());
        list(&mut expected, &objects);
        let mut rng = seed;
        for i in (1..objects.len()).rev() {
            rng = rng.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            objects.swap(i, (rng >> 33) as usize % (i + 1));
        }
        let mut shuffled = State::new(MeshSettings::default());
        list(&mut shuffled, &objects);
        prop_assert_eq!(text(&mut expected), text(&mut shuffled));
        if in_steps {
            // A state that has seen everything before and is listed again is where it was.
            let before = shuffled.snapshot();
            list(&mut shuffled, &objects);
            prop_assert!(Arc::ptr_eq(&before, &shuffled.snapshot()));
        }
    }

    #[test]
    fn a_broken_object_never_changes_the_snapshot(junk in "\\PC{0,12}", which in 0..10_usize) {
        let mut state = state(&format!("{WEATHER}\n---\n{}", virtual_service("routes", ROUTE)));
        let before = state.snapshot();
        let mut object = documents(&format!("{WEATHER}\n---\n{}", virtual_service("routes", ROUTE)))[which].clone();
        object["spec"] = Value::from(junk);
        object["metadata"]["labels"] = Value::from(1);
        apply(&mut state, object, "x");
        prop_assert!(Arc::ptr_eq(&before, &state.snapshot()));
        prop_assert_eq!(state.problems().len(), 1);
    }
}
