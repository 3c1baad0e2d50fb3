//! Other nodes' pods, as one node's agent knows them.

use super::*;
use crate::datapath::{Basis, NodeFacts, Plan, plan};
use crate::model::workload::Workload;
use serde_json::json;

fn namespace(name: &str, enrolled: bool) -> Value {
    let labels = if enrolled {
        json!({"heddle.io/mesh": "enabled"})
    } else {
        json!({})
    };
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
}

fn service(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "shop"},
        "spec": {"selector": {"app": name}, "ports": [{"name": "http", "port": 80}]}})
}

fn endpoint(pod: &str, ip: &str, conditions: Value) -> Value {
    json!({"addresses": [ip], "nodeName": "node-2", "conditions": conditions,
        "targetRef": {"kind": "Pod", "namespace": "shop", "name": pod, "uid": format!("uid-{pod}")}})
}

fn slice(name: &str, service: &str, endpoints: &[Value]) -> Value {
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": name, "namespace": "shop", "labels": {"kubernetes.io/service-name": service}},
        "ports": [{"name": "http", "port": 8080}], "endpoints": endpoints})
}

fn template(name: &str, prefix: &str, version: &str) -> Value {
    json!({"apiVersion": "mesh.heddle.io/v1alpha1", "kind": "WorkloadTemplate",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {"podPrefix": prefix, "serviceAccountName": "seller",
            "labels": {"app": "web", "version": version}, "owner": {"kind": "deployment", "name": "web"}}})
}

fn local_pod(name: &str, ip: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "shop", "uid": format!("uid-{name}"),
        "labels": {"app": "web"}, "annotations": {"heddle.io/netns": "/proc/1/ns/net"}},
        "spec": {"nodeName": "node-1"}, "status": {"podIP": ip}})
}

fn ready() -> Value {
    json!({"ready": true})
}

/// What node-1 knows.
fn node(objects: &[Value]) -> State {
    let mut state = State::for_node(MeshSettings::default(), "node-1");
    list(&mut state, objects);
    state
}

fn put(state: &mut State, object: Value) {
    apply(state, object, "kubernetes");
}

fn delete(state: &mut State, object: &Value) {
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
    assert_eq!(state.versions().newest()["VirtualService"], 9);
    put(&mut state, versioned(3, "11", ROUTE));
    assert_eq!(state.versions().rules()[&key].generation, Some(3));
    state.apply(Change::Delete(key));
    assert!(state.versions().rules().is_empty());
}

/// One object of a small mesh, there or not.
#[derive(Clone, Debug)]
enum Step {
    Namespace(Option<bool>),
    Service(u8, bool),
    Slice(u8, Option<Vec<(u8, u8, u8)>>),
    Template(u8, Option<u8>),
    Local(u8, Option<u8>),
}

fn step() -> impl Strategy<Value = Step> {
    let endpoints = prop::collection::vec((0..5_u8, 0..6_u8, 0..3_u8), 0..4);
    prop_oneof![
        prop::option::of(any::<bool>()).prop_map(Step::Namespace),
        (0..2_u8, any::<bool>()).prop_map(|(s, there)| Step::Service(s, there)),
        (0..4_u8, prop::option::of(endpoints)).prop_map(|(s, e)| Step::Slice(s, e)),
        (0..4_u8, prop::option::of(0..3_u8)).prop_map(|(t, v)| Step::Template(t, v)),
        (0..5_u8, prop::option::of(0..6_u8)).prop_map(|(p, ip)| Step::Local(p, ip)),
    ]
}

const PODS: [&str; 5] = ["web-a", "web-b", "web-x-a", "other-0", "lone"];
const PREFIXES: [&str; 4] = ["web-", "web-x-", "other-", "web-"];

impl Step {
    /// The object, and whether it is there.
    fn object(&self) -> (Value, bool) {
        match self {
            Self::Namespace(enrolled) => (
                namespace("shop", enrolled.unwrap_or_default()),
                enrolled.is_some(),
            ),
            Self::Service(s, there) => {
                let mut service = service(&format!("s{s}"));
                service["spec"]["clusterIP"] = format!("10.96.0.{}", s + 1).into();
                service["spec"]["ports"][0]["name"] = if *s == 0 { "http" } else { "tcp" }.into();
                (service, *there)
            }
            Self::Slice(s, endpoints) => {
                let listed = endpoints.iter().flatten().map(|(pod, ip, state)| {
                    let conditions =
                        json!({"ready": *state == 0, "serving": *state < 2, "terminating": *state == 1});
                    endpoint(PODS[usize::from(*pod)], &format!("10.2.0.{}", ip + 1), conditions)
                });
                let mut object = slice(
                    &format!("slice-{s}"),
                    &format!("s{}", s % 2),
                    &listed.collect::<Vec<_>>(),
                );
                object["ports"][0]["name"] = if s % 2 == 0 { "http" } else { "tcp" }.into();
                (object, endpoints.is_some())
            }
            Self::Template(t, version) => {
                let version = format!("v{}", version.unwrap_or_default());
                let prefix = PREFIXES[usize::from(*t)];
                (template(&format!("t{t}"), prefix, &version), version != "v0")
            }
            Self::Local(pod, ip) => {
                let address = format!("10.2.0.{}", ip.unwrap_or_default() + 1);
                (local_pod(PODS[usize::from(*pod)], &address), ip.is_some())
            }
        }
    }
}

/// Everything in a snapshot but the numbers.
fn meaning(state: &mut State) -> String {
    let snapshot = state.snapshot();
    let workload = |w: &Arc<Workload>| {
        let mut w = Workload::clone(w);
        w.id = 0;
        w
    };
    let all: Vec<_> = snapshot
        .workloads
        .iter()
        .chain(snapshot.remotes.values())
        .map(workload)
        .collect();
    let mut by_ip: Vec<_> = snapshot
        .workloads_by_ip
        .iter()
        .map(|(ip, w)| (*ip, workload(w)))
        .collect();
    by_ip.sort_by_key(|(ip, _)| *ip);
    let services: Vec<_> = snapshot
        .services
        .iter()
        .map(|s| {
            let ports = s.ports.iter().map(|p| {
                let endpoints = p
                    .endpoints
                    .iter()
                    .map(|e| (e.addr, e.workload.as_ref().map(workload)));
                (p.number, endpoints.collect::<Vec<_>>())
            });
            (s.name.clone(), ports.collect::<Vec<_>>())
        })
        .collect();
    let held: Vec<_> = state.held_out().map(|(pod, why)| (pod.clone(), why)).collect();
    let problems: Vec<_> = state.problems().into_iter().map(|p| p.rejected).collect();
    format!("{all:?}\n{by_ip:?}\n{services:?}\n{held:?}\n{problems:?}")
}

proptest! {
    #[test]
    fn any_history_leads_to_what_its_last_objects_mean(steps in prop::collection::vec(step(), 1..40)) {
        let mut state = node(&[]);
        let mut now: BTreeMap<String, Value> = BTreeMap::new();
        let facts = NodeFacts { node: "node-1".into(), ..NodeFacts::default() };
        let mut held = Plan::default();
        for step in &steps {
            let (object, there) = step.object();
            let name = format!("{} {}", object["kind"], object["metadata"]["name"]);
            if there {
                now.insert(name, object.clone());
                put(&mut state, object);
            } else {
                now.remove(&name);
                delete(&mut state, &object);
            }
            let snapshot = state.snapshot();
            let next = plan(&snapshot, &facts, &held);
            let from_nothing = Plan { basis: Basis::default(), ..held.clone() };
            prop_assert_eq!(&plan(&snapshot, &facts, &from_nothing), &next);
            held = next;
            let enrolled = now.get("\"Namespace\" \"shop\"") == Some(&namespace("shop", true));
            for endpoint in snapshot.services.iter().flat_map(|s| &s.ports).flat_map(|p| p.endpoints.iter()) {
                prop_assert!(endpoint.workload.is_some() || !enrolled, "never in plaintext to who may be in the mesh");
            }
        }
        let objects: Vec<Value> = now.into_values().collect();
        let mut fresh = node(&objects);
        prop_assert_eq!(meaning(&mut state), meaning(&mut fresh));
    }
}
