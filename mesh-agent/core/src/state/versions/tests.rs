use super::*;
use crate::model::snapshot::MeshSettings;
use crate::state::{Change, State};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const ROUTES: usize = 5_000;

fn route(n: usize, generation: i64, weight: i64) -> Value {
    json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"name": format!("r{n}"), "namespace": format!("n{}", n % 50),
            "generation": generation, "resourceVersion": (1_000 + n).to_string()},
        "spec": {"parentRefs": [{"group": "", "kind": "Service", "name": format!("s{n}")}],
            "rules": [{"backendRefs": [{"name": format!("s{n}"), "port": 80, "weight": weight}]}]}})
}

fn apply(state: &mut State, object: Value) {
    state.apply(Change::Apply {
        object,
        origin: "x".into(),
    });
}

/// What the API server says of the routes, where `changed` has another generation.
fn cluster(changed: Option<(usize, i64)>) -> BTreeMap<String, Proof> {
    let keys: Vec<(ObjectKey, Option<i64>)> = (0..ROUTES)
        .rev()
        .map(|n| {
            let key = ObjectKey {
                kind: "HTTPRoute".into(),
                group: "gateway.networking.k8s.io".into(),
                namespace: format!("n{}", n % 50),
                name: format!("r{n}"),
            };
            let generation = changed.filter(|(place, _)| *place == n).map_or(1, |(_, g)| g);
            (key, Some(generation))
        })
        .collect();
    proofs(keys.iter().map(|(key, generation)| (key, *generation)))
}

#[test]
fn five_thousand_routes_are_proved_by_a_line_and_one_that_lags_is_seen() {
    let mut state = State::for_node(MeshSettings::default(), "node-1");
    state.apply(Change::Init);
    for n in 0..ROUTES {
        apply(&mut state, route(n, 1, 1));
    }
    state.apply(Change::InitDone);
    let started = Instant::now();
    let proved = state.versions().proofs();
    let took = started.elapsed();
    assert_eq!(proved, cluster(None), "in whatever order they were read");
    let kind = &proved["HTTPRoute.gateway.networking.k8s.io"];
    assert_eq!((proved.len(), kind.objects, kind.digest().len()), (1, ROUTES, 32));
    // Unoptimised and on a busy machine; far above what it takes.
    assert!(took < Duration::from_millis(500), "{took:?}");

    // One more generation of one object, on the API server first.
    let wanted = cluster(Some((4_321, 2)));
    assert_ne!(state.versions().proofs(), wanted);
    apply(&mut state, route(4_321, 2, 2));
    assert_eq!(state.versions().proofs(), wanted);

    // One that is refused: the last good generation is in force, and nobody can say otherwise.
    apply(&mut state, route(4_321, 3, -1));
    assert_eq!(state.versions().proofs(), wanted);
    assert_ne!(state.versions().proofs(), cluster(Some((4_321, 3))));

    let gone = ObjectKey {
        kind: "HTTPRoute".into(),
        group: "gateway.networking.k8s.io".into(),
        namespace: "n0".into(),
        name: "r0".into(),
    };
    state.apply(Change::Delete(gone));
    let left = state.versions().proofs();
    assert_eq!(left["HTTPRoute.gateway.networking.k8s.io"].objects, ROUTES - 1);
}

#[test]
fn what_was_proved_is_kept_while_more_is_read() {
    let mut state = State::for_node(MeshSettings::default(), "node-1");
    apply(&mut state, route(1, 1, 1));
    let published = state.versions().clone();
    apply(&mut state, route(1, 2, 2));
    assert_ne!(published.proofs(), state.versions().proofs());
    assert_eq!(published.rules().values().next().unwrap().generation, Some(1));
}

/// Of an API server no more is kept of an object than what it means.
#[test]
fn an_ingress_that_gets_another_class_is_served_no_more_and_its_generation_is_in_force() {
    use crate::model::ObjectName;
    use crate::model::gateway::GatewayRole;
    let role = GatewayRole {
        pod: ObjectName::new("istio-system", "gw-1"),
        labels: Arc::new([("istio".into(), "ingressgateway".into())].into()),
        gateway: None,
    };
    let mut state = State::for_node(MeshSettings::default(), "-").serving(role);
    let ingress = |class: &str, generation: i64| {
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
            "metadata": {"name": "i", "namespace": "n", "generation": generation},
            "spec": {"ingressClassName": class, "rules": [{"host": "a.example.com", "http": {"paths": [
                {"path": "/", "pathType": "Prefix", "backend": {"service": {"name": "s", "port": {"number": 80}}}}]}}]}})
    };
    let class = json!({"apiVersion": "networking.k8s.io/v1", "kind": "IngressClass",
        "metadata": {"name": "heddle"}, "spec": {"controller": "heddle.io/ingress"}});
    apply(&mut state, class);
    apply(&mut state, ingress("heddle", 1));
    assert!(!state.snapshot().edge.ports.is_empty());
    apply(&mut state, ingress("nginx", 2));
    assert!(state.snapshot().edge.ports.is_empty());
    let version = state.versions().rules().values().next().unwrap();
    assert_eq!(version.generation, Some(2));
}

#[test]
fn kinds_of_one_name_in_two_groups_are_told_apart() {
    let mut state = State::new(MeshSettings::default());
    let object = |version: &str, rv: &str| {
        json!({"apiVersion": version, "kind": "Gateway",
            "metadata": {"name": "g", "namespace": "n", "generation": 1, "resourceVersion": rv},
            "spec": {"selector": {"a": "b"}, "gatewayClassName": "other", "servers": [], "listeners": []}})
    };
    for (version, rv) in [
        ("networking.istio.io/v1", "7"),
        ("gateway.networking.k8s.io/v1", "5"),
    ] {
        apply(&mut state, object(version, rv));
    }
    let newest = state.versions().newest();
    assert_eq!(newest["Gateway.networking.istio.io"], 7);
    assert_eq!(newest["Gateway.gateway.networking.k8s.io"], 5);
}
