//! Every way in which a token or a wish can be wrong, and the two that are right.

use super::*;
use crate::controller::pods::{PodObject, PodRecord};
use serde_json::json;

const AGENT: &str = "system:serviceaccount:heddle-system:heddle-agent";
const FORECAST: &str = "spiffe://cluster.local/ns/weather/sa/forecast";

fn review(user: &str, audiences: &[&str], extra: serde_json::Value) -> TokenReviewStatus {
    serde_json::from_value(json!({
        "authenticated": true,
        "audiences": audiences,
        "user": {"username": user, "extra": extra},
    }))
    .unwrap()
}

fn policy() -> Policy {
    Policy {
        trust_domain: "cluster.local".to_owned(),
        trusted: BTreeSet::from([("heddle-system".to_owned(), "heddle-agent".to_owned())]),
        max_ttl: 90 * 24 * 3600,
    }
}

fn pod(namespace: &str, name: &str, account: &str, node: &str, phase: &str) -> PodRecord {
    let object: PodObject = serde_json::from_value(json!({
        "metadata": {"namespace": namespace, "name": name, "uid": format!("uid-{name}")},
        "spec": {"nodeName": node, "serviceAccountName": account},
        "status": {"phase": phase},
    }))
    .unwrap();
    PodRecord::read(&object).unwrap()
}

fn pods() -> PodIndex {
    let mut pods = PodIndex::default();
    pods.begin();
    pods.put(pod("heddle-system", "agent-1", "heddle-agent", "n1", "Running"));
    pods.put(pod("weather", "forecast-1", "forecast", "n1", "Running"));
    pods.put(pod("weather", "frontend-1", "frontend", "n2", "Pending"));
    pods.put(pod("weather", "job-1", "job", "n1", "Succeeded"));
    pods.end();
    pods
}

fn agent(extra: serde_json::Value) -> Caller {
    caller(&review(AGENT, &["istio-ca"], extra), "istio-ca").unwrap()
}

#[test]
fn a_token_counts_for_a_service_account_and_for_this_audience_only() {
    let ok = review(AGENT, &["istio-ca"], json!({NODE_NAME: ["n1"]}));
    let who = caller(&ok, "istio-ca").unwrap();
    assert_eq!(
        (&*who.namespace, &*who.service_account),
        ("heddle-system", "heddle-agent")
    );
    assert_eq!(who.node.as_deref(), Some("n1"));
    let unauthenticated: TokenReviewStatus =
        serde_json::from_value(json!({"authenticated": false, "error": "expired"})).unwrap();
    for (what, status) in [
        ("not authenticated", unauthenticated),
        ("nothing said", TokenReviewStatus::default()),
        ("other audience", review(AGENT, &["api"], json!({}))),
        ("no audience", review(AGENT, &[], json!({}))),
        ("a user", review("admin", &["istio-ca"], json!({}))),
        ("a node", review("system:node:n1", &["istio-ca"], json!({}))),
        (
            "no name",
            review("system:serviceaccount:a:", &["istio-ca"], json!({})),
        ),
        (
            "too many names",
            review("system:serviceaccount:a:b:c", &["istio-ca"], json!({})),
        ),
    ] {
        assert!(
            matches!(caller(&status, "istio-ca"), Err(Denial::Token(_))),
            "{what}"
        );
    }
}

#[test]
fn an_agent_gets_certificates_of_the_pods_on_its_own_node() {
    let pods = pods();
    let by_node = agent(json!({NODE_NAME: ["n1"]}));
    assert_eq!(
        identity(&by_node, Some(FORECAST), &policy(), &pods)
            .unwrap()
            .to_string(),
        FORECAST
    );
    let by_pod = agent(json!({POD_NAME: ["agent-1"], POD_UID: ["uid-agent-1"]}));
    assert_eq!(
        identity(&by_pod, Some(FORECAST), &policy(), &pods)
            .unwrap()
            .to_string(),
        FORECAST
    );
    // Scheduled, not yet running: the certificate is there before the first packet.
    let other = agent(json!({NODE_NAME: ["n2"]}));
    let frontend = "spiffe://cluster.local/ns/weather/sa/frontend";
    assert!(identity(&other, Some(frontend), &policy(), &pods).is_ok());
}

#[test]
fn nobody_gets_another_nodes_or_another_meshs_certificate() {
    let pods = pods();
    let n1 = || agent(json!({NODE_NAME: ["n1"]}));
    let app = caller(
        &review(
            "system:serviceaccount:weather:forecast",
            &["istio-ca"],
            json!({NODE_NAME: ["n1"]}),
        ),
        "istio-ca",
    )
    .unwrap();
    for (what, who, wanted) in [
        ("another node", agent(json!({NODE_NAME: ["n2"]})), FORECAST),
        ("unbound token", agent(json!({})), FORECAST),
        (
            "two nodes in one token",
            agent(json!({NODE_NAME: ["n1", "n2"]})),
            FORECAST,
        ),
        (
            "pod replaced",
            agent(json!({POD_NAME: ["agent-1"], POD_UID: ["old"]})),
            FORECAST,
        ),
        ("pod without UID", agent(json!({POD_NAME: ["agent-1"]})), FORECAST),
        (
            "foreign trust domain",
            n1(),
            "spiffe://evil.example/ns/weather/sa/forecast",
        ),
        ("ended pod", n1(), "spiffe://cluster.local/ns/weather/sa/job"),
        (
            "no such account",
            n1(),
            "spiffe://cluster.local/ns/weather/sa/nobody",
        ),
        (
            "account of another namespace",
            n1(),
            "spiffe://cluster.local/ns/other/sa/forecast",
        ),
        (
            "not trusted",
            app.clone(),
            "spiffe://cluster.local/ns/heddle-system/sa/heddle-agent",
        ),
    ] {
        let denied = identity(&who, Some(wanted), &policy(), &pods);
        assert!(
            matches!(denied, Err(Denial::Impersonation(_))),
            "{what}: {denied:?}"
        );
    }
    assert!(matches!(
        identity(&n1(), Some("x"), &policy(), &pods),
        Err(Denial::Invalid(_))
    ));
    assert_eq!(
        identity(&app, None, &policy(), &pods).unwrap().to_string(),
        FORECAST
    );
    assert!(identity(&app, Some(FORECAST), &policy(), &pods).is_ok());
}

#[test]
fn before_the_pods_are_listed_nobody_is_refused_for_good() {
    let empty = PodIndex::default();
    let early = identity(
        &agent(json!({NODE_NAME: ["n1"]})),
        Some(FORECAST),
        &policy(),
        &empty,
    );
    assert!(matches!(early, Err(Denial::NotReady(_))));
}

#[test]
fn a_life_beyond_the_limit_is_an_error_and_none_is_a_day() {
    let policy = policy();
    assert_eq!(ttl(0, &policy), Ok(DEFAULT_TTL));
    assert_eq!(ttl(-5, &policy), Ok(DEFAULT_TTL));
    assert_eq!(ttl(600, &policy), Ok(600));
    assert!(matches!(ttl(i64::MAX, &policy), Err(Denial::Invalid(_))));
}
