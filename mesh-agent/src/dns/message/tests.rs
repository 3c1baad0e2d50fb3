use super::*;
use hickory_resolver::proto::rr::Name;
use mesh_core::model::snapshot::{MeshSettings, Snapshot};
use mesh_core::state::{Change, State};
use proptest::prelude::*;
use serde_json::json;
use std::sync::Arc;

/// A client of both families and two entries: one of its own addresses, one of 60 addresses.
fn mesh() -> (Arc<Snapshot>, Arc<Workload>) {
    let entry = |name: &str, host: &str, addresses: Vec<String>| {
        json!({"apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry",
            "metadata": {"name": name, "namespace": "app"},
            "spec": {"hosts": [host], "addresses": addresses, "resolution": "STATIC",
                "ports": [{"number": 5432, "name": "tcp", "protocol": "TCP"}],
                "endpoints": [{"address": "192.0.2.1"}]}})
    };
    let objects = [
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "client", "namespace": "app"},
            "spec": {"nodeName": "n"}, "status": {"podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]}}),
        entry("given", "given.example.com", vec!["203.0.113.1".into()]),
        entry(
            "many",
            "many.example.com",
            (1..=60).map(|i| format!("203.0.113.{}", i + 100)).collect(),
        ),
        entry("own", "own.example.com", Vec::new()),
    ];
    let mut state = State::new(MeshSettings::default());
    for object in objects {
        let origin = "test".to_owned();
        state.apply(Change::Apply { object, origin });
    }
    assert_eq!(state.problems(), []);
    let snapshot = state.snapshot();
    let client = Arc::clone(&snapshot.workloads[0]);
    (snapshot, client)
}

fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(4_711, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

fn ask(message: &Message, over_udp: bool) -> Option<Message> {
    let (snapshot, client) = mesh();
    let bytes = answer(&snapshot, &client, &message.to_vec().unwrap(), over_udp)?;
    Some(Message::from_vec(&bytes).unwrap())
}

#[test]
fn an_address_is_answered_in_the_letters_of_the_question_and_a_family_without_one_by_nothing() {
    let reply = ask(&question("GiVeN.example.com.", RecordType::A), true).unwrap();
    assert_eq!(reply.metadata.id, 4_711);
    assert_eq!(reply.metadata.message_type, MessageType::Response);
    assert!(reply.metadata.recursion_desired && reply.metadata.recursion_available);
    assert_eq!(reply.queries[0].name().to_ascii(), "GiVeN.example.com.");
    assert_eq!(reply.answers.len(), 1);
    assert_eq!(reply.answers[0].ttl, 30);
    assert_eq!(reply.answers[0].data.to_string(), "203.0.113.1");
    assert!(reply.edns.is_none());
    let none = ask(&question("given.example.com.", RecordType::AAAA), true).unwrap();
    assert_eq!(none.metadata.response_code, ResponseCode::NoError);
    assert!(none.answers.is_empty());
    let own = ask(&question("own.example.com.", RecordType::AAAA), true).unwrap();
    assert!(own.answers[0].data.to_string().starts_with("2001:2::f0f0:"));
}

#[test]
fn what_is_no_plain_question_for_an_address_is_left_to_the_name_server() {
    let plain = || question("given.example.com.", RecordType::A);
    assert!(ask(&question("given.example.com.", RecordType::TXT), true).is_none());
    assert!(ask(&question("given.example.com.", RecordType::SRV), true).is_none());
    assert!(ask(&question("other.example.com.", RecordType::A), true).is_none());
    let mut update = plain();
    update.metadata.op_code = OpCode::Update;
    assert!(ask(&update, true).is_none());
    let mut reply = plain();
    reply.metadata.message_type = MessageType::Response;
    assert!(ask(&reply, true).is_none(), "two agents would never end");
    let mut two = plain();
    two.add_query(plain().queries[0].clone());
    assert!(ask(&two, true).is_none());
    let mut chaos = plain();
    chaos.queries[0].set_query_class(DNSClass::CH);
    assert!(ask(&chaos, true).is_none());
}

#[test]
fn an_answer_that_does_not_fit_sends_the_client_to_tcp() {
    let mut message = question("many.example.com.", RecordType::A);
    let cut = ask(&message, true).unwrap();
    assert!(cut.metadata.truncation && cut.answers.is_empty());
    assert_eq!(ask(&message, false).unwrap().answers.len(), 60);
    let mut edns = Edns::new();
    edns.set_max_payload(4_096);
    message.set_edns(edns);
    let whole = ask(&message, true).unwrap();
    assert!(!whole.metadata.truncation && whole.edns.is_some());
    assert_eq!(whole.answers.len(), 60);
}

#[test]
fn a_failure_is_told_with_the_question_it_is_of() {
    let bytes = question("x.example.com.", RecordType::A).to_vec().unwrap();
    let reply = Message::from_vec(&failure(&bytes).unwrap()).unwrap();
    assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
    assert_eq!((reply.metadata.id, reply.queries.len()), (4_711, 1));
}

proptest! {
    #[test]
    fn no_bytes_are_too_strange(bytes in proptest::collection::vec(any::<u8>(), 0..80), at in 0_usize..40, with: u8) {
        let (snapshot, client) = mesh();
        answer(&snapshot, &client, &bytes, true);
        failure(&bytes);
        let mut damaged = question("given.example.com.", RecordType::A).to_vec().unwrap();
        let place = at % damaged.len();
        damaged[place] = with;
        answer(&snapshot, &client, &damaged, true);
        failure(&damaged);
    }
}
