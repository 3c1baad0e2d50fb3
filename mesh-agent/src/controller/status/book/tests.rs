use super::*;
use mesh_core::model::snapshot::MeshSettings;
use mesh_core::state::Change;

fn service(ports: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "echo", "namespace": "a"},
        "spec": {"clusterIP": "10.96.0.1", "ports": ports}})
}

fn route(spec: Value) -> Value {
    json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"name": "r", "namespace": "a", "generation": 3, "resourceVersion": "7"}, "spec": spec})
}

fn apply(state: &mut State, book: &mut Book, object: Value) {
    book.put(&object);
    let origin = String::new();
    state.apply(Change::Apply { object, origin });
    book.review();
}

fn conditions(write: &Write) -> Vec<(String, String, String)> {
    let text = |c: &Value, field: &str| c[field].as_str().unwrap().to_owned();
    let list = write.patch["status"]["parents"][0]["conditions"]
        .as_array()
        .unwrap();
    list.iter()
        .map(|c| {
            assert_eq!(c["observedGeneration"], 3);
            (text(c, "type"), text(c, "status"), text(c, "reason"))
        })
        .collect()
}

#[test]
fn a_status_says_what_becomes_of_the_route_and_is_written_only_when_it_changes() {
    let (mut state, mut book) = (State::for_node(MeshSettings::default(), ""), Book::default());
    let parent = json!({"group": "", "kind": "Service", "name": "echo", "port": 80});
    let to = |name: &str, port: u16| json!([{"backendRefs": [{"name": name, "port": port}]}]);
    let spec = |rules: Value| json!({"parentRefs": [parent], "rules": rules});
    apply(&mut state, &mut book, service(json!([{"port": 80}])));
    // RouteConditionAccepted, RouteConditionResolvedRefs and their reasons.
    for (rules, accepted, resolved) in [
        (
            to("echo", 80),
            ("True", "Accepted"),
            Some(("True", "ResolvedRefs")),
        ),
        (
            to("nobody", 80),
            ("True", "Accepted"),
            Some(("False", "BackendNotFound")),
        ),
        (
            to("echo", 81),
            ("True", "Accepted"),
            Some(("False", "BackendNotFound")),
        ),
        (
            json!([{"backendRefs": [{"kind": "Bucket", "name": "b"}]}]),
            ("True", "Accepted"),
            Some(("False", "InvalidKind")),
        ),
        (
            json!([{"matches": [{"path": {"type": "Glob", "value": "/*"}}]}]),
            ("False", "UnsupportedValue"),
            None,
        ),
    ] {
        let object = route(spec(rules.clone()));
        book.objects.clear();
        apply(&mut state, &mut book, object.clone());
        let write = book
            .next(&mut state, true, "2026-01-01T00:00:00Z", 0)
            .expect("a write");
        assert_eq!(write.patch["metadata"]["resourceVersion"], "7");
        let row = |kind: &str, (status, reason): (&str, &str)| (kind.into(), status.into(), reason.into());
        let mut expected = vec![row("Accepted", accepted)];
        expected.extend(resolved.map(|r| row("ResolvedRefs", r)));
        assert_eq!(conditions(&write), expected, "{rules}");
        book.review();
        assert_eq!(
            book.next(&mut state, true, "", 1),
            None,
            "the write is on its way"
        );
        book.review();
        assert!(
            book.next(&mut state, true, "", AGAIN_MS + 1).is_some(),
            "it never arrived"
        );
        let mut object = object;
        object["status"] = write.patch["status"].clone();
        object["metadata"]["resourceVersion"] = "8".into();
        apply(&mut state, &mut book, object);
        assert_eq!(
            book.next(&mut state, true, "2027-01-01T00:00:00Z", 2),
            None,
            "as wanted"
        );
    }
}

#[test]
fn a_parent_that_is_not_there_or_has_no_such_port_is_no_match_and_other_parents_are_not_ours() {
    let (mut state, mut book) = (State::for_node(MeshSettings::default(), ""), Book::default());
    for (parent, ports, reason) in [
        (
            json!({"group": "", "kind": "Service", "name": "echo", "port": 81}),
            Some(80),
            Some("NoMatchingParent"),
        ),
        (
            json!({"group": "", "kind": "Service", "name": "gone"}),
            Some(80),
            Some("NoMatchingParent"),
        ),
        (json!({"name": "some-gateway"}), Some(80), None),
    ] {
        apply(&mut state, &mut book, service(json!([{"port": ports}])));
        apply(
            &mut state,
            &mut book,
            route(json!({"parentRefs": [parent], "rules": [{}]})),
        );
        let write = book.next(&mut state, true, "", 0);
        assert_eq!(
            write.map(|w| conditions(&w)[0].2.clone()).as_deref(),
            reason,
            "{parent}"
        );
        book.objects.clear();
    }
}

fn object(group: &str, version: &str, kind: &str, name: &str, spec: Value) -> Value {
    json!({"apiVersion": format!("{group}/{version}"), "kind": kind,
        "metadata": {"name": name, "namespace": "a", "generation": 3, "resourceVersion": "7", "uid": name}, "spec": spec})
}

/// What is to be written, by kind and name.
fn writes(state: &mut State, book: &mut Book) -> BTreeMap<(String, String), Value> {
    let mut writes = BTreeMap::new();
    while let Some(write) = book.next(state, true, "2026-01-01T00:00:00Z", 0) {
        let status = write.patch["status"].clone();
        writes.insert((write.key.kind, write.key.name), status);
    }
    writes
}

fn reasons(conditions: &Value) -> Vec<(&str, &str, &str, i64)> {
    let list = conditions.as_array().map_or(&[][..], Vec::as_slice);
    list.iter()
        .map(|c| {
            (
                c["type"].as_str().unwrap_or_default(),
                c["status"].as_str().unwrap_or_default(),
                c["reason"].as_str().unwrap_or_default(),
                c["observedGeneration"].as_i64().unwrap_or_default(),
            )
        })
        .collect()
}

/// ListenerSetStatus, GatewayStatus.attachedListenerSets, RouteParentStatus of a ListenerSet.
#[test]
fn a_listener_set_its_gateway_and_its_routes_are_told_what_becomes_of_them() {
    let (mut state, mut book) = (
        State::for_controller(MeshSettings::default()).reading_secrets(),
        Book::default(),
    );
    let class = json!({"apiVersion": format!("{GROUP}/v1"), "kind": "GatewayClass",
        "metadata": {"name": "heddle", "generation": 1}, "spec": {"controllerName": "heddle.io/gateway-controller"}});
    let listener = |name: &str, port: u16| json!({"name": name, "port": port, "protocol": "HTTP"});
    let gateway = json!({"gatewayClassName": "heddle", "allowedListeners": {"namespaces": {"from": "Same"}},
        "listeners": [listener("own", 80)]});
    let set =
        json!({"parentRef": {"name": "gw"}, "listeners": [listener("more", 81), listener("taken", 80)]});
    let to_set = json!({"parentRefs": [{"kind": "ListenerSet", "name": "s"}], "rules": [{}]});
    let datagrams =
        json!({"parentRefs": [{"name": "gw"}], "rules": [{"backendRefs": [{"name": "dns", "port": 53}]}]});
    for object in [
        class,
        object(GROUP, "v1", "Gateway", "gw", gateway),
        object(GROUP, "v1", "ListenerSet", "s", set),
        object(GROUP, "v1", "HTTPRoute", "r", to_set),
        object(GROUP, "v1", "UDPRoute", "u", datagrams),
    ] {
        apply(&mut state, &mut book, object);
    }
    book.running = Some(BTreeMap::from([(
        ObjectName::new("a", "gw"),
        Running {
            addresses: vec![("IPAddress", "10.0.0.1".into())],
            ready: true,
            problem: None,
        },
    )]));
    book.review();
    let said = writes(&mut state, &mut book);
    let of = |kind: &str, name: &str| &said[&(kind.to_owned(), name.to_owned())];
    assert_eq!(of("Gateway", "gw")["attachedListenerSets"], 1);
    let set = of("ListenerSet", "s");
    assert_eq!(
        reasons(&set["conditions"]),
        [
            ("Accepted", "True", "ListenersNotValid", 3),
            ("Programmed", "True", "Programmed", 3)
        ]
    );
    assert_eq!(set["listeners"][0]["attachedRoutes"], 1);
    assert_eq!(
        reasons(&set["listeners"][1]["conditions"])[0],
        ("Accepted", "False", "HostnameConflict", 3)
    );
    let route = &of("HTTPRoute", "r")["parents"][0];
    assert_eq!(route["controllerName"], "heddle.io/gateway-controller");
    assert_eq!(
        reasons(&route["conditions"])[0],
        ("Accepted", "True", "Accepted", 3)
    );
    let udp = &of("UDPRoute", "u")["parents"][0];
    assert_eq!(
        reasons(&udp["conditions"]),
        [("Accepted", "False", "UnsupportedValue", 3)]
    );
    assert!(
        udp["conditions"][0]["message"]
            .as_str()
            .unwrap()
            .contains("no datagram")
    );
}

/// PolicyStatus.ancestors: one for each Service, and none where another controller's kinds are named.
#[test]
fn a_traffic_policy_is_told_for_each_service_and_what_others_say_stays() {
    let (mut state, mut book) = (State::for_controller(MeshSettings::default()), Book::default());
    apply(&mut state, &mut book, service(json!([{"port": 80}])));
    let target = |kind: &str, name: &str| json!({"group": "", "kind": kind, "name": name});
    let spec = json!({"targetRefs": [target("Service", "echo"), target("Service", "gone")]});
    let mut policy = object(EXPERIMENTAL_GROUP, "v1alpha1", BACKEND_TRAFFIC, "p", spec);
    let foreign = json!({"ancestorRef": {"name": "x"}, "controllerName": "other.io/c", "conditions": []});
    policy["status"] = json!({"ancestors": [foreign]});
    apply(&mut state, &mut book, policy.clone());
    let other = json!({"targetRefs": [{"group": "other.io", "kind": "Bucket", "name": "b"}]});
    apply(
        &mut state,
        &mut book,
        object(EXPERIMENTAL_GROUP, "v1alpha1", BACKEND_TRAFFIC, "theirs", other),
    );
    let said = writes(&mut state, &mut book);
    assert_eq!(said.len(), 1, "{said:?}");
    let ancestors = &said[&(BACKEND_TRAFFIC.to_owned(), "p".to_owned())]["ancestors"];
    assert_eq!(ancestors[0], foreign);
    for (n, name, wanted) in [
        (1, "echo", ("Accepted", "True", "Accepted", 3)),
        (2, "gone", ("Accepted", "False", "TargetNotFound", 3)),
    ] {
        assert_eq!(ancestors[n]["ancestorRef"]["name"], name);
        assert_eq!(ancestors[n]["controllerName"], "heddle.io/controller");
        assert_eq!(reasons(&ancestors[n]["conditions"]), [wanted]);
    }
    policy["status"] = json!({"ancestors": ancestors});
    apply(&mut state, &mut book, policy);
    assert!(writes(&mut state, &mut book).is_empty(), "it says what it should");
}

#[test]
fn a_policy_of_backends_is_told_of_its_service_once_what_it_refers_to_is_known() {
    let mut state = State::for_controller(MeshSettings::default()).reading_secrets();
    let mut book = Book::default();
    apply(
        &mut state,
        &mut book,
        service(json!([{"name": "https", "port": 443}])),
    );
    let policy = json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "BackendTLSPolicy",
        "metadata": {"name": "p", "namespace": "a", "generation": 4, "resourceVersion": "7"},
        "spec": {"targetRefs": [{"group": "", "kind": "Service", "name": "echo"}],
            "validation": {"hostname": "e.example.com", "wellKnownCACertificates": "System"}}});
    apply(&mut state, &mut book, policy.clone());
    assert_eq!(book.next(&mut state, false, "then", 0), None);
    book.review();
    let write = book.next(&mut state, true, "then", 0).expect("a write");
    let ancestors = write.patch["status"]["ancestors"].as_array().unwrap();
    assert_eq!(ancestors.len(), 1, "{ancestors:?}");
    assert_eq!(ancestors[0]["ancestorRef"]["name"], "echo");
    let accepted = &ancestors[0]["conditions"][0];
    assert_eq!(
        (accepted["reason"].as_str(), &accepted["observedGeneration"]),
        (Some("Accepted"), &json!(4))
    );
    let mut told = policy;
    told["status"] = write.patch["status"].clone();
    told["metadata"]["resourceVersion"] = "8".into();
    apply(&mut state, &mut book, told);
    assert_eq!(book.next(&mut state, true, "now", 1), None, "as wanted");
}
