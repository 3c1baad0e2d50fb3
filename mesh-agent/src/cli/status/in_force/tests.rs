use super::*;

const API: &str = "gateway.networking.k8s.io";

fn cluster() -> Live {
    let route = |n: i64| (key(API, "HTTPRoute", "shop", &format!("r{n}")), 1 + n % 3);
    let mut live: Live = (0..5_000).map(route).collect();
    live.insert(key(API, "Gateway", "shop", "edge"), 4);
    live
}

/// What an agent or a gateway with these objects answers.
fn answer(role: Role, in_force: &Live, objects: bool) -> Value {
    let who = if role == Role::Agent { "agent" } else { "gateway" };
    let proofs: serde_json::Map<String, Value> = proofs(in_force.iter().map(|(k, g)| (k, Some(*g))))
        .into_iter()
        .map(|(kind, proof)| (kind, json!({"objects": proof.objects, "digest": proof.digest()})))
        .collect();
    let mut answer = json!({who: {"settled": true}, "in_force": proofs});
    if objects {
        answer["objects"] = in_force
            .iter()
            .map(|(k, g)| {
                json!({"kind": kind_of(k), "namespace": k.namespace, "name": k.name, "generation": g})
            })
            .collect();
    }
    answer
}

#[test]
fn who_has_every_generation_proves_it_in_a_few_hundred_bytes() {
    let live = cluster();
    for role in [Role::Agent, Role::Gateway] {
        let own = of_role(&live, role);
        // Agents read no Gateway.
        assert_eq!(own.len(), if role == Role::Agent { 5_000 } else { 5_001 });
        let said = answer(role, &own, false);
        assert!(said.to_string().len() < 500, "{said}");
        assert!(proves(&own, role, &said));
        assert!(lags(&own, role, &answer(role, &own, true)).is_empty());
    }
}

#[test]
fn each_object_that_lags_is_named_with_both_generations_and_the_reason() {
    let live = of_role(&cluster(), Role::Agent);
    let mut old = live.clone();
    old.insert(key(API, "HTTPRoute", "shop", "r7"), 1);
    old.remove(&key(API, "HTTPRoute", "shop", "r8"));
    old.insert(key(API, "HTTPRoute", "shop", "gone"), 9);
    assert!(!proves(&live, Role::Agent, &answer(Role::Agent, &old, false)));
    let mut said = answer(Role::Agent, &old, true);
    said["problems"] = json!([{"object": "HTTPRoute shop/r7", "field": "spec.rules", "reason": "is wrong"}]);
    let lag = |name: &str, generation, in_force, reason: Option<&str>| Lag {
        object: format!("HTTPRoute shop/{name}"),
        generation,
        in_force,
        reason: reason.map(str::to_owned),
    };
    assert_eq!(
        lags(&live, Role::Agent, &said),
        [
            lag("gone", None, Some(9), None),
            lag("r7", Some(2), Some(1), Some("spec.rules: is wrong")),
            lag("r8", Some(3), None, None),
        ]
    );
}

#[test]
fn who_is_not_settled_proves_nothing() {
    let live = of_role(&cluster(), Role::Agent);
    let mut said = answer(Role::Agent, &live, true);
    said["agent"]["settled"] = false.into();
    assert!(!proves(&live, Role::Agent, &said));
    assert_eq!(lags(&live, Role::Agent, &said).len(), 1);
    // Nor who says nothing of a kind.
    assert!(!proves(
        &live,
        Role::Agent,
        &json!({"agent": {"settled": true}, "in_force": {}})
    ));
    assert!(proves(
        &Live::new(),
        Role::Agent,
        &json!({"agent": {"settled": true}, "in_force": {}})
    ));
}
