//! Other nodes' pods, as one node's agent knows them.

use super::*;
use crate::model::workload::Workload;
use serde_json::json;
use std::net::IpAddr;

pub(super) fn namespace(name: &str, enrolled: bool) -> Value {
    let labels = if enrolled {
        json!({"heddle.io/mesh": "enabled"})
    } else {
        json!({})
    };
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
}

pub(super) fn service(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "shop"},
        "spec": {"selector": {"app": name}, "ports": [{"name": "http", "port": 80}]}})
}

pub(super) fn endpoint(pod: &str, ip: &str, conditions: Value) -> Value {
    json!({"addresses": [ip], "nodeName": "node-2", "conditions": conditions,
        "targetRef": {"kind": "Pod", "namespace": "shop", "name": pod, "uid": format!("uid-{pod}")}})
}

pub(super) fn slice(name: &str, service: &str, endpoints: &[Value]) -> Value {
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": name, "namespace": "shop", "labels": {"kubernetes.io/service-name": service}},
        "ports": [{"name": "http", "port": 8080}], "endpoints": endpoints})
}

pub(super) fn template(name: &str, prefix: &str, version: &str) -> Value {
    json!({"apiVersion": "mesh.heddle.io/v1alpha1", "kind": "WorkloadTemplate",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {"podPrefix": prefix, "serviceAccountName": "seller",
            "labels": {"app": "web", "version": version}, "owner": {"kind": "deployment", "name": "web"}}})
}

pub(super) fn local_pod(name: &str, ip: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "shop", "uid": format!("uid-{name}"),
        "labels": {"app": "web"}, "annotations": {"heddle.io/netns": "/proc/1/ns/net"}},
        "spec": {"nodeName": "node-1"}, "status": {"podIP": ip}})
}

fn ready() -> Value {
    json!({"ready": true})
}

/// What node-1 knows.
pub(super) fn node(objects: &[Value]) -> State {
    let mut state = State::for_node(MeshSettings::default(), "node-1");
    list(&mut state, objects);
    state
}

pub(super) fn put(state: &mut State, object: Value) {
    apply(state, object, "kubernetes");
}

pub(super) fn delete(state: &mut State, object: &Value) {
    let key = Head::read(object).unwrap().key;
    state.apply(Change::Delete(key));
}

/// `address pod` of each endpoint of service web.
fn endpoints(state: &mut State) -> Vec<String> {
    let snapshot = state.snapshot();
    let web = &snapshot.services_by_host["web.shop.svc.cluster.local"];
    let pod = |w: Option<&Arc<Workload>>| w.map_or("-".into(), |w| w.pod.name.to_string());
    let endpoints = web.ports[0].endpoints.iter();
    endpoints
        .map(|e| format!("{} {}", e.addr, pod(e.workload.as_ref())))
        .collect()
}

#[test]
fn a_pod_of_another_node_is_what_its_template_and_its_endpoints_say() {
    let mut state = node(&[
        namespace("shop", true),
        service("web"),
        slice("web-4", "web", &[endpoint("web-7d9-abcde", "10.2.0.1", ready())]),
        slice("web-6", "web", &[endpoint("web-7d9-abcde", "fd00:2::1", ready())]),
        template("web-7d9", "web-7d9-", "v1"),
    ]);
    assert_eq!(state.problems(), []);
    assert_eq!(
        endpoints(&mut state),
        ["10.2.0.1:8080 web-7d9-abcde", "[fd00:2::1]:8080 web-7d9-abcde"]
    );
    let snapshot = state.snapshot();
    assert_eq!((snapshot.workloads.len(), snapshot.remotes.len()), (0, 1));
    let workload = snapshot.workload_by_ip("fd00:2::1".parse().unwrap()).unwrap();
    assert_eq!(
        workload.identity.to_string(),
        "spiffe://cluster.local/ns/shop/sa/seller"
    );
    assert_eq!(
        (&*workload.node, &*workload.uid, workload.ips.len()),
        ("node-2", "uid-web-7d9-abcde", 2)
    );
    assert_eq!(
        (&*workload.names.workload, &*workload.names.kind),
        ("web", "deployment")
    );
    assert_eq!(
        (&*workload.names.version, workload.enrolled(), workload.ready),
        ("v1", true, true)
    );
}

#[test]
fn nobody_is_sent_to_a_pod_of_an_enrolled_namespace_that_no_template_knows() {
    let unknown = [
        namespace("shop", true),
        service("web"),
        slice(
            "web-4",
            "web",
            &[
                endpoint("web-7d9-abcde", "10.2.0.1", ready()),
                endpoint("web-7d9-fghij", "10.2.0.2", ready()),
            ],
        ),
    ];
    let mut state = node(&unknown);
    assert_eq!(endpoints(&mut state), Vec::<String>::new());
    assert_eq!(state.snapshot().held_out, 2);
    assert!(state.held_out().all(|(_, why)| why == HeldOut::NoTemplate));
    let problems = state.problems();
    assert_eq!(
        (problems.len(), problems[0].rejected.object.as_str()),
        (1, "Namespace shop")
    );
    put(&mut state, template("web-7d9", "web-7d9-", "v1"));
    assert_eq!(endpoints(&mut state).len(), 2);
    assert_eq!((state.snapshot().held_out, state.problems()), (0, vec![]));
    delete(&mut state, &template("web-7d9", "web-7d9-", "v1"));
    assert_eq!(endpoints(&mut state), Vec::<String>::new());
}

#[test]
fn a_pod_of_a_namespace_outside_of_the_mesh_is_an_address_and_one_of_an_unknown_namespace_is_held_out() {
    let objects = [
        service("web"),
        slice("web-4", "web", &[endpoint("web-7d9-abcde", "10.2.0.1", ready())]),
    ];
    let mut state = node(&objects);
    assert_eq!(endpoints(&mut state), Vec::<String>::new());
    put(&mut state, namespace("shop", false));
    assert_eq!(endpoints(&mut state), ["10.2.0.1:8080 -"]);
    put(&mut state, namespace("shop", true));
    assert_eq!(endpoints(&mut state), Vec::<String>::new());
}

#[test]
fn an_endpoint_of_this_node_waits_for_its_pod_and_the_pods_own_object_counts() {
    let mut here = endpoint("web-0", "10.1.0.1", ready());
    here["nodeName"] = "node-1".into();
    let mut state = node(&[
        namespace("shop", true),
        service("web"),
        slice("web-4", "web", &[here]),
        template("web", "web-", "v1"),
    ]);
    assert_eq!(endpoints(&mut state), Vec::<String>::new());
    put(&mut state, local_pod("web-0", "10.1.0.1"));
    assert_eq!(endpoints(&mut state), ["10.1.0.1:8080 web-0"]);
    assert_eq!(
        &*state.snapshot().workloads[0].identity.to_string(),
        "spiffe://cluster.local/ns/shop/sa/default"
    );
    delete(&mut state, &local_pod("web-0", "10.1.0.1"));
    assert_eq!(endpoints(&mut state), Vec::<String>::new());
    assert!(state.snapshot().workloads_by_ip.is_empty());
}

#[test]
fn what_drains_is_used_only_while_nothing_is_ready() {
    let draining = json!({"ready": false, "serving": true, "terminating": true});
    let starting = json!({"ready": false, "serving": false, "terminating": false});
    let with = |first: Value| {
        let mut state = node(&[
            namespace("shop", true),
            service("web"),
            slice(
                "web-4",
                "web",
                &[
                    endpoint("web-0", "10.2.0.1", first),
                    endpoint("web-1", "10.2.0.2", draining.clone()),
                ],
            ),
            template("web", "web-", "v1"),
        ]);
        endpoints(&mut state)
    };
    assert_eq!(with(ready()), ["10.2.0.1:8080 web-0"]);
    assert_eq!(with(starting), ["10.2.0.2:8080 web-1"]);
}

#[test]
fn pods_of_one_template_share_its_labels_and_a_change_of_it_leaves_others_alone() {
    let mut state = node(&[
        namespace("shop", true),
        service("web"),
        service("other"),
        slice(
            "web-4",
            "web",
            &[
                endpoint("web-7d9-abcde", "10.2.0.1", ready()),
                endpoint("web-7d9-fghij", "10.2.0.2", ready()),
            ],
        ),
        slice("other-4", "other", &[endpoint("other-0", "10.2.0.3", ready())]),
        template("web-7d9", "web-7d9-", "v1"),
        template("other", "other-", "v1"),
    ]);
    let before = state.snapshot();
    let labels = |s: &Snapshot, ip: &str| Arc::clone(&s.workload_by_ip(ip.parse().unwrap()).unwrap().labels);
    assert!(Arc::ptr_eq(
        &labels(&before, "10.2.0.1"),
        &labels(&before, "10.2.0.2")
    ));
    put(&mut state, template("web-7d9", "web-7d9-", "v2"));
    let after = state.snapshot();
    assert_eq!(&*labels(&after, "10.2.0.2")["version"], "v2");
    let same = |host: &str| Arc::ptr_eq(&before.services_by_host[host], &after.services_by_host[host]);
    assert!(same("other.shop.svc.cluster.local") && !same("web.shop.svc.cluster.local"));
    let id = |s: &Snapshot| s.workload_by_ip("10.2.0.2".parse().unwrap()).unwrap().id;
    assert_eq!(id(&before), id(&after));
}

#[test]
fn a_template_that_cannot_be_read_leaves_the_last_good_one_in_force() {
    let mut state = node(&[
        namespace("shop", true),
        service("web"),
        slice("web-4", "web", &[endpoint("web-0", "10.2.0.1", ready())]),
        template("web", "web-", "v1"),
    ]);
    let before = state.snapshot();
    for (field, value, at) in [
        (
            "serviceAccountName",
            json!("Not A Name"),
            "spec.serviceAccountName",
        ),
        ("podName", json!("web-0"), "spec"),
        (
            "labels",
            json!({"heddle.io/mesh": "perhaps"}),
            "spec.labels.heddle.io/mesh",
        ),
        ("labels", json!(7), "spec.labels"),
    ] {
        let mut broken = template("web", "web-", "v1");
        broken["spec"][field] = value;
        put(&mut state, broken);
        let problems = state.problems();
        assert_eq!((problems.len(), problems[0].rejected.field.as_str()), (1, at));
        assert!(problems[0].last_good_in_force);
        assert!(Arc::ptr_eq(&before, &state.snapshot()));
    }
}

#[test]
fn a_slice_cannot_give_an_address_of_a_pod_of_this_node_away() {
    let mut state = node(&[
        namespace("shop", true),
        service("web"),
        local_pod("victim", "10.1.0.1"),
        slice("web-4", "web", &[endpoint("web-0", "10.1.0.1", ready())]),
        template("web", "web-", "v1"),
    ]);
    let snapshot = state.snapshot();
    let holder = snapshot.workload_by_ip("10.1.0.1".parse().unwrap()).unwrap();
    assert_eq!(&*holder.pod.name, "victim");
}

#[test]
fn the_sandbox_says_where_a_pod_of_this_node_runs_and_its_annotation_does_not() {
    let mut state = node(&[namespace("shop", true), local_pod("web-0", "")]);
    let web = |state: &mut State| Arc::clone(&state.snapshot().workloads[0]);
    assert_eq!(
        (web(&mut state).netns.clone(), web(&mut state).enrollment),
        (None, Enrollment::NoAddress)
    );
    let sandbox = |ips: &[&str]| {
        Some(Sandbox {
            netns: "/var/run/netns/cni-1".into(),
            ips: ips.iter().map(|ip| ip.parse().unwrap()).collect(),
        })
    };
    let told = |sandbox| Change::Sandbox {
        uid: "uid-web-0".into(),
        sandbox,
    };
    assert!(state.apply(told(sandbox(&["10.1.0.7"]))));
    assert!(!state.apply(told(sandbox(&["10.1.0.7"]))), "nothing new");
    assert_eq!(web(&mut state).netns.as_deref(), Some("/var/run/netns/cni-1"));
    assert!(web(&mut state).enrolled());
    put(&mut state, local_pod("web-0", "10.1.0.8"));
    assert_eq!(
        web(&mut state).ips,
        ["10.1.0.8".parse::<IpAddr>().unwrap()],
        "the status is stronger"
    );
    assert!(state.apply(told(None)));
    assert_eq!(web(&mut state).netns, None);
    assert!(!state.apply(told(None)));
}

#[test]
fn the_version_in_force_is_the_last_good_one() {
    let versioned = |generation: i64, version: &str, http: &str| {
        let mut object = documents(&virtual_service("routes", http)).remove(0);
        object["metadata"]["generation"] = generation.into();
        object["metadata"]["resourceVersion"] = version.into();
        object
    };
    let mut state = node(&[versioned(1, "7", ROUTE)]);
    put(
        &mut state,
        versioned(2, "9", "[{route: [{destination: {host: x}, weight: -1}]}]"),
    );
    let (key, version) = state
        .versions()
        .rules()
        .iter()
        .next()
        .map(|(k, v)| (k.clone(), v.clone()))
        .unwrap();
    assert_eq!(
        (version.generation, version.resource_version.as_deref()),
        (Some(1), Some("7"))
    );
    assert_eq!(state.versions().newest()["VirtualService.networking.istio.io"], 9);
    put(&mut state, versioned(3, "11", ROUTE));
    assert_eq!(state.versions().rules()[&key].generation, Some(3));
    state.apply(Change::Delete(key));
    assert!(state.versions().rules().is_empty());
}

#[test]
fn what_an_api_server_sends_is_kept_whole_until_it_is_right_again_or_gone() {
    let mut state = node(&[namespace("shop", true), service("web")]);
    let mut wrong = service("web");
    wrong["spec"]["ports"][0]["port"] = json!(0);
    put(&mut state, wrong);
    let problems = state.problems();
    assert_eq!((problems.len(), problems[0].last_good_in_force), (1, true));
    assert_eq!(state.snapshot().services.len(), 1);
    put(&mut state, service("web"));
    assert!(state.problems().is_empty());
    let mut headless = service("web");
    headless["metadata"]["labels"] = json!({"a": 7});
    put(&mut state, headless);
    let problems = state.problems();
    assert_eq!(
        (problems.len(), problems[0].last_good_in_force),
        (1, true),
        "{problems:?}"
    );
    delete(&mut state, &service("web"));
    assert!(state.problems().is_empty() && state.snapshot().services.is_empty());
}

/// Of an API server the tables alone know what was there: what they forget to tell of is served until something else changes.
#[test]
fn whatever_a_gateway_reads_is_gone_at_once_when_it_is_deleted() {
    use crate::model::gateway::GatewayRole;
    let kinds = [
        (
            "networking.istio.io/v1",
            "Gateway",
            json!({"selector": {"a": "b"}, "servers": []}),
        ),
        (
            "networking.k8s.io/v1",
            "Ingress",
            json!({"ingressClassName": "heddle", "rules": [{"host": "a.example.com", "http": {"paths": []}}]}),
        ),
        (
            "gateway.networking.k8s.io/v1",
            "Gateway",
            json!({"gatewayClassName": "heddle", "listeners": [{"name": "http", "port": 80, "protocol": "HTTP"}]}),
        ),
        (
            "gateway.networking.k8s.io/v1",
            "GatewayClass",
            json!({"controllerName": "heddle.io/gateway-controller"}),
        ),
        ("v1", "Node", json!({})),
    ];
    let role = GatewayRole {
        pod: ObjectName::new("n", "gw-1"),
        labels: Arc::new([("a".into(), "b".into())].into()),
        gateway: None,
    };
    for (version, kind, spec) in kinds {
        let mut state = State::for_node(MeshSettings::default(), "-").serving(role.clone());
        let object = json!({"apiVersion": version, "kind": kind, "spec": spec,
            "metadata": {"name": "x", "namespace": "n", "labels": {"topology.kubernetes.io/region": "r"}}});
        let (group, _) = version.split_once('/').unwrap_or_default();
        let key = ObjectKey {
            kind: kind.to_owned(),
            group: group.to_owned(),
            namespace: "n".to_owned(),
            name: "x".to_owned(),
        };
        let apply = Change::Apply {
            object,
            origin: "x".to_owned(),
        };
        assert!(state.apply(apply), "{kind}: {:?}", state.problems());
        state.snapshot();
        assert!(state.apply(Change::Delete(key.clone())), "{version} {kind}");
        assert!(!state.apply(Change::Delete(key)), "{version} {kind}: twice");
    }
    let mut state = State::for_node(MeshSettings::default(), "-").serving(role);
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "x", "namespace": "n"},
        "stringData": {"tls.crt": "c", "tls.key": "k"}});
    put(&mut state, secret);
    let key = ObjectKey {
        kind: "Secret".to_owned(),
        group: String::new(),
        namespace: "n".to_owned(),
        name: "x".to_owned(),
    };
    assert!(state.apply(Change::Delete(key)));
}
