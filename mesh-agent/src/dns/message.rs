//! Messages of RFC 1035, as far as the mesh answers them: one question for an address.

use hickory_resolver::proto::op::{Edns, Message, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_resolver::proto::rr::rdata::{A, AAAA};
use hickory_resolver::proto::rr::{DNSClass, RData, Record, RecordType};
use mesh_core::model::snapshot::Snapshot;
use mesh_core::model::workload::Workload;
use mesh_core::names::{TTL_SECONDS, addresses, known};
use std::net::IpAddr;

/// What every client takes over UDP (RFC 1035 § 4.2.1).
const UDP_BYTES: u16 = 512;
/// What we say that we take: no datagram of this size is fragmented (DNS flag day 2020).
const EDNS_BYTES: u16 = 1_232;

/// The answer to a question that is the mesh's to answer. What cannot be read, or is no plain question, is not: it goes to
/// the name server as it is.
pub(super) fn answer(
    snapshot: &Snapshot,
    client: &Workload,
    question: &[u8],
    over_udp: bool,
) -> Option<Vec<u8>> {
    let asked = Message::from_vec(question).ok()?;
    let query = only_question(&asked)?;
    let v4 = match query.query_type() {
        RecordType::A => true,
        RecordType::AAAA => false,
        _ => return None,
    };
    let service = known(snapshot, client, &query.name().to_ascii())?;
    let mut reply = reply_to(&asked, query);
    reply.add_answers(addresses(service, client, v4).map(|ip| {
        let data = match ip {
            IpAddr::V4(ip) => RData::A(A(ip)),
            IpAddr::V6(ip) => RData::AAAA(AAAA(ip)),
        };
        Record::from_rdata(query.name().clone(), TTL_SECONDS, data)
    }));
    let bytes = reply.to_vec().ok()?;
    let most = asked
        .edns
        .as_ref()
        .map_or(UDP_BYTES, |e| e.max_payload().max(UDP_BYTES));
    if !over_udp || bytes.len() <= usize::from(most) {
        return Some(bytes);
    }
    // The client comes again over TCP.
    reply.answers.clear();
    reply.metadata.truncation = true;
    reply.to_vec().ok()
}

/// What tells a client at once that its name server cannot be reached, so that it asks the next one.
pub(super) fn failure(question: &[u8]) -> Option<Vec<u8>> {
    let asked = Message::from_vec(question).ok()?;
    let mut reply = reply_to(&asked, only_question(&asked)?);
    reply.metadata.authoritative = false;
    reply.metadata.response_code = ResponseCode::ServFail;
    reply.to_vec().ok()
}

fn only_question(message: &Message) -> Option<&Query> {
    let head = &message.metadata;
    let plain = head.message_type == MessageType::Query && head.op_code == OpCode::Query;
    match message.queries.as_slice() {
        // A signed message wants a signed answer.
        [query] if plain && query.query_class() == DNSClass::IN && message.signature.is_none() => Some(query),
        _ => None,
    }
}

fn reply_to(asked: &Message, query: &Query) -> Message {
    let mut reply = Message::new(asked.metadata.id, MessageType::Response, OpCode::Query);
    reply.metadata = Metadata::response_from_request(&asked.metadata);
    reply.metadata.authoritative = true;
    reply.metadata.recursion_available = true;
    reply.add_query(query.clone());
    if asked.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(EDNS_BYTES);
        reply.set_edns(edns);
    }
    reply
}

#[cfg(test)]
mod tests;
