//! What Gateways are made of, and when it is written.

use super::ledger::{Kind, Ledger, Write};
use super::names::{GATEWAY_NAME, MANAGED_BY, MANAGER, labelled, object_name};
use super::objects::{Template, objects};
use super::plan::Plan;
use super::rights::Account;
use mesh_core::model::ObjectName;
use mesh_core::model::snapshot::MeshSettings;
use mesh_core::state::{Change, State};
use serde_json::{Value, json};
use std::collections::BTreeSet;

fn template() -> Template {
    let text = json!({
        "podTemplate": {
            "metadata": {"labels": {"heddle.io/mesh": "disabled"}, "annotations": {"a": "chart"}},
            "spec": {"containers": [{"name": "istio-proxy", "image": "i", "args": ["gateway"]}]},
        },
        "service": {"type": "LoadBalancer"},
    });
    Template::parse(&text.to_string()).unwrap()
}

fn apply(state: &mut State, object: Value) {
    let origin = String::new();
    state.apply(Change::Apply { object, origin });
}

fn class(controller: &str) -> Value {
    json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "GatewayClass",
        "metadata": {"name": "heddle"}, "spec": {"controllerName": controller}})
}

fn gateway(spec: Value) -> Value {
    let mut object = json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
        "metadata": {"name": "shop", "namespace": "apps", "uid": "u-1"}, "spec": spec});
    object["spec"]["gatewayClassName"] = "heddle".into();
    object
}

fn state(spec: Value) -> State {
    let mut state = State::for_controller(MeshSettings::default()).reading_secrets();
    apply(&mut state, class("heddle.io/gateway-controller"));
    apply(&mut state, gateway(spec));
    state
}

fn shop() -> ObjectName {
    ObjectName::new("apps", "shop")
}

fn made_of(spec: Value) -> Vec<Value> {
    let needs = state(spec).gateway_needs(&shop()).expect("ours");
    objects(&template(), &shop(), "u-1", &needs)
}

#[test]
fn a_gateway_is_made_of_account_service_and_deployment_that_go_with_it() {
    let http = json!({"name": "a", "port": 80, "protocol": "HTTP"});
    let made = made_of(json!({"listeners": [http]}));
    let kinds: Vec<_> = made.iter().map(|o| o["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["ServiceAccount", "Service", "Deployment"]);
    for object in &made {
        let meta = &object["metadata"];
        assert_eq!(
            (&meta["name"], &meta["namespace"]),
            (&json!("shop-heddle"), &json!("apps"))
        );
        assert_eq!(meta["ownerReferences"][0]["uid"], "u-1");
        assert_eq!(meta["labels"][GATEWAY_NAME], "shop");
        assert_eq!(meta["labels"][MANAGED_BY], MANAGER);
    }
    let pod = &made[2]["spec"]["template"];
    assert_eq!(pod["spec"]["serviceAccountName"], "shop-heddle");
    let args = &pod["spec"]["containers"][0]["args"];
    assert_eq!(
        *args,
        json!(["gateway", "--gateway=apps/shop", "--workload=shop-heddle"])
    );
    assert_eq!(
        made[2]["spec"]["selector"]["matchLabels"],
        made[1]["spec"]["selector"]
    );
    assert_eq!(pod["metadata"]["labels"][GATEWAY_NAME], "shop");
    assert!(
        made[2]["spec"].get("replicas").is_none(),
        "whoever scales it has the say"
    );
}

#[test]
fn labels_and_annotations_of_the_gateway_are_on_everything_but_change_nothing_of_what_it_is() {
    let made = made_of(json!({
        "listeners": [{"name": "a", "port": 80, "protocol": "HTTP"}],
        "infrastructure": {
            "labels": {"team": "x", "heddle.io/mesh": "enabled", (MANAGED_BY): "me", (GATEWAY_NAME): "other"},
            "annotations": {"a": "gateway"},
        },
    }));
    for object in made.iter().chain([&made[2]["spec"]["template"]]) {
        let meta = &object["metadata"];
        assert_eq!(meta["labels"]["team"], "x");
        assert_eq!(meta["labels"][GATEWAY_NAME], "shop");
        assert_eq!(meta["annotations"]["a"], "gateway");
    }
    assert_eq!(made[0]["metadata"]["labels"][MANAGED_BY], MANAGER);
    let pod = &made[2]["spec"]["template"]["metadata"]["labels"];
    assert_eq!(pod["heddle.io/mesh"], "disabled");
}

#[test]
fn a_service_has_each_port_once_and_moves_those_that_the_program_has_itself() {
    let made = made_of(json!({
        "listeners": [
            {"name": "a", "port": 80, "protocol": "HTTP", "hostname": "a.example"},
            {"name": "b", "port": 80, "protocol": "HTTP", "hostname": "b.example"},
            {"name": "c", "port": 15021, "protocol": "TCP"},
            {"name": "d", "port": 20000, "protocol": "TCP"},
            {"name": "e", "port": 9, "protocol": "SCTP"},
        ],
        "addresses": [{"value": "192.0.2.9"}],
    }));
    let port = |name: &str, port: u16, target: u16| json!({"name": name, "port": port, "targetPort": target, "protocol": "TCP"});
    let expected = json!([
        port("http-80", 80, 80),
        port("tcp-15021", 15021, 20001),
        port("tcp-20000", 20000, 20000),
    ]);
    assert_eq!(made[1]["spec"]["ports"], expected);
    assert_eq!(made[1]["spec"]["loadBalancerIP"], "192.0.2.9");
}

#[test]
fn names_are_labels_of_dns_and_distinct() {
    let name = |name: &str| object_name(&ObjectName::new("n", name));
    assert_eq!(name("a"), "a-heddle");
    let long = "a".repeat(200);
    let odd = ["1a", "g-1a", "a.b", "a-b", long.as_str(), &long[1..]];
    let made: BTreeSet<String> = odd.iter().map(|n| name(n)).collect();
    assert_eq!(made.len(), odd.len());
    for made in made {
        assert!(
            made.len() <= 63 && made.starts_with(|c: char| c.is_ascii_lowercase()),
            "{made}"
        );
        assert!(!made.contains('.'), "{made}");
    }
    let label = labelled(&ObjectName::new("n", long.as_str()));
    assert!(label[GATEWAY_NAME].as_str().unwrap().len() <= 63);
}

#[test]
fn secrets_are_read_where_a_gateway_may_name_them_and_by_those_that_do() {
    let listener = |namespace: &str| {
        json!({"name": "a", "port": 443, "protocol": "HTTPS",
            "tls": {"certificateRefs": [{"name": "c", "namespace": namespace}]}})
    };
    let mut state = state(json!({"listeners": [listener("certs")]}));
    let account = Account {
        namespace: "sys".into(),
        name: MANAGER.into(),
    };
    let bindings = |state: &State| {
        let plan = Plan::of(state, |_| Some("u-1".into()));
        let objects = plan.objects(&template(), &account, "role");
        objects
            .into_iter()
            .filter(|o| o.get("roleRef").is_some())
            .collect::<Vec<_>>()
    };
    let own = json!({"kind": "ServiceAccount", "namespace": "apps", "name": "shop-heddle"});
    let before = bindings(&state);
    assert_eq!(before.len(), 1, "without a grant no Secret is read: {before:?}");
    assert_eq!(before[0]["subjects"], json!([own]));
    let grant = json!({"apiVersion": "gateway.networking.k8s.io/v1beta1", "kind": "ReferenceGrant",
        "metadata": {"name": "g", "namespace": "certs"}, "spec": {
            "from": [{"group": "gateway.networking.k8s.io", "kind": "Gateway", "namespace": "apps"}],
            "to": [{"group": "", "kind": "Secret"}]}});
    apply(&mut state, grant);
    let after = bindings(&state);
    assert_eq!(after[1]["metadata"]["namespace"], "certs");
    let controller = json!({"kind": "ServiceAccount", "namespace": "sys", "name": MANAGER});
    assert_eq!(after[1]["subjects"], json!([controller, own]));
    // Plain HTTP needs no Secret, whatever is written there.
    apply(
        &mut state,
        gateway(json!({"listeners": [{"name": "a", "port": 80, "protocol": "HTTP"}]})),
    );
    assert_eq!(bindings(&state).len(), 1);
}

#[test]
fn config_maps_with_the_cas_of_servers_are_read_by_whoever_connects_to_them_and_by_nobody_else() {
    let mut state = state(
        json!({"listeners": [{"name": "a", "port": 80, "protocol": "HTTP"}],
        "tls": {"frontend": {"default": {"validation": {"caCertificateRefs": [
            {"group": "", "kind": "ConfigMap", "name": "clients"}]}}}}}),
    );
    let object = |kind: &str, spec: Value| {
        json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": kind,
            "metadata": {"name": "x", "namespace": "backends"}, "spec": spec})
    };
    let policy = json!({"targetRefs": [{"group": "", "kind": "Service", "name": "web"}],
        "validation": {"hostname": "web.example.com", "caCertificateRefs": [
            {"group": "", "kind": "ConfigMap", "name": "ca"}]}});
    apply(&mut state, object("BackendTLSPolicy", policy));
    let account = Account {
        namespace: "sys".into(),
        name: MANAGER.into(),
    };
    let bound = |state: &mut State| -> Vec<(String, String, Vec<String>)> {
        state.snapshot();
        let objects = Plan::of(state, |_| Some("u-1".into())).objects(&template(), &account, "role");
        let bindings = objects.iter().filter(|o| o["kind"] == "RoleBinding");
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        bindings
            .map(|o| {
                let subjects = o["subjects"].as_array().unwrap().iter();
                let subjects = subjects.map(|s| text(&s["namespace"]) + "/" + s["name"].as_str().unwrap());
                let meta = &o["metadata"];
                (text(&meta["name"]), text(&meta["namespace"]), subjects.collect())
            })
            .collect()
    };
    let role = "heddle-gateway-configmaps".to_owned();
    let strings = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
    let mesh = [
        "sys/heddle-controller",
        "sys/heddle-agent",
        "sys/istio-egressgateway",
        "sys/istio-ingressgateway",
    ];
    let own = strings(&["sys/heddle-controller", "apps/shop-heddle"]);
    let without_route = [
        (role.clone(), "apps".into(), own.clone()),
        (role.clone(), "backends".into(), strings(&mesh)),
    ];
    assert_eq!(bound(&mut state), without_route);
    let route = json!({"parentRefs": [{"name": "shop", "namespace": "apps"}],
        "rules": [{"backendRefs": [{"name": "web", "port": 443}]}]});
    apply(&mut state, object("HTTPRoute", route));
    let with_gateway = strings(&[&mesh[..], &["apps/shop-heddle"]].concat());
    let with_route = [
        (role.clone(), "apps".into(), own),
        (role, "backends".into(), with_gateway),
    ];
    assert_eq!(bound(&mut state), with_route);
}

fn listed(ledger: &mut Ledger) {
    for kind in Kind::ALL {
        ledger.begin(kind);
        ledger.end(kind);
    }
}

fn account(labels: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": {"name": "shop-heddle", "namespace": "apps", "uid": "x", "labels": labels}})
}

#[test]
fn what_is_as_wanted_is_not_written_again_and_what_another_hand_changes_is_put_back() {
    let mut ledger = Ledger::default();
    let ours = account(&json!({(MANAGED_BY): MANAGER}));
    ledger.want(vec![ours.clone()], BTreeSet::new());
    assert_eq!(ledger.next(0), None, "nothing is known yet");
    listed(&mut ledger);
    let Some(write @ Write::Apply { known: false, .. }) = ledger.next(0) else {
        panic!("an apply of an object that was not seen");
    };
    assert_eq!(ledger.next(0), None, "it is under way");
    let as_made = |version: &str, more: Value| {
        let mut object = ours.clone();
        object["metadata"]["resourceVersion"] = version.into();
        object["status"] = more;
        object
    };
    ledger.done(write, Ok(Some(as_made("1", Value::Null))), 0);
    ledger.see(as_made("2", json!({"more": 1})));
    assert_eq!(
        ledger.next(10_000),
        None,
        "what it reports of itself is no change"
    );
    let mut other = as_made("3", Value::Null);
    other["metadata"]["labels"]["x"] = "y".into();
    ledger.see(other);
    let Some(write @ Write::Apply { known: true, .. }) = ledger.next(10_000) else {
        panic!("an apply");
    };
    ledger.done(write, Err("away".into()), 10_000);
    assert_eq!(ledger.next(10_500), None, "after an error there is a pause");
    let key = super::ledger::Key::of(&ours).unwrap();
    assert_eq!(ledger.problem(&key), Some("away"));
    assert!(ledger.next(11_000).is_some());
}

#[test]
fn an_answer_to_a_write_does_not_undo_what_was_seen_since() {
    let mut ledger = Ledger::default();
    let ours = account(&json!({(MANAGED_BY): MANAGER}));
    let key = super::ledger::Key::of(&ours).unwrap();
    ledger.want(vec![ours.clone()], BTreeSet::new());
    listed(&mut ledger);
    let write = ledger.next(0).unwrap();
    let mut newer = ours.clone();
    newer["status"] = json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}});
    ledger.see(newer.clone());
    ledger.done(write, Ok(Some(ours.clone())), 0);
    assert_eq!(ledger.seen(&key), Some(&newer));
    assert_eq!(ledger.next(10_000), None);
    ledger.lose(&key);
    let write = ledger.next(20_000).unwrap();
    ledger.lose(&key);
    ledger.done(write, Ok(Some(ours)), 20_000);
    assert!(
        ledger.next(30_000).is_some(),
        "it was deleted before the answer came"
    );
}

#[test]
fn objects_go_when_their_gateway_is_anothers_and_never_for_anything_else() {
    let mut ledger = Ledger::default();
    listed(&mut ledger);
    ledger.see(account(&json!({(MANAGED_BY): MANAGER, (GATEWAY_NAME): "shop"})));
    ledger.want(Vec::new(), BTreeSet::new());
    assert_eq!(ledger.next(0), None, "the Gateway is gone, or its class is");
    let leaving = BTreeSet::from([("apps".to_owned(), "shop".to_owned())]);
    ledger.see(account(&json!({(GATEWAY_NAME): "shop"})));
    ledger.want(Vec::new(), leaving.clone());
    assert_eq!(ledger.next(0), None, "it is a user's");
    ledger.see(account(&json!({(MANAGED_BY): MANAGER, (GATEWAY_NAME): "shop"})));
    ledger.want(Vec::new(), leaving);
    assert!(matches!(ledger.next(0), Some(Write::Delete { uid, .. }) if uid == "x"));
    // Which Gateways that are is known by their class.
    let mut state = state(json!({"listeners": []}));
    assert!(state.gateways_of_others().is_empty());
    apply(&mut state, class("someone.else/controller"));
    assert_eq!(state.gateways_of_others(), BTreeSet::from([shop()]));
}
