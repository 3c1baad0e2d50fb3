//! A name server that knows a few addresses, and says exactly what it was sent.

use crate::say;
use anyhow::{Context, Result};
use hickory_resolver::proto::op::{Message, MessageType, Metadata, OpCode, ResponseCode};
use hickory_resolver::proto::rr::rdata::{A, AAAA, TXT};
use hickory_resolver::proto::rr::{RData, Record, RecordType};
use serde_json::json;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};

#[derive(clap::Args)]
pub(crate) struct Options {
    #[arg(long, default_value = "[::]:53")]
    listen: SocketAddr,
    /// `name=address`; each of these names also has a TXT record, `real`. Others are NXDOMAIN.
    #[arg(long)]
    record: Vec<String>,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let records = options.record.iter().map(|text| parse(text));
    let records: Vec<(String, IpAddr)> = records.collect::<Result<_>>()?;
    let datagrams = UdpSocket::bind(options.listen)?;
    let listener = TcpListener::bind(options.listen)?;
    say(&json!({"event": "listening", "address": options.listen.to_string()}));
    std::thread::scope(|scope| {
        scope.spawn(|| -> Result<()> {
            for stream in listener.incoming() {
                // One client after the other: tests ask few questions. Its errors are its own.
                let _ended = stream.map_err(Into::into).and_then(|s| converse(s, &records));
            }
            Ok(())
        });
        let mut buffer = vec![0; 65_535];
        loop {
            let (length, client) = datagrams.recv_from(&mut buffer)?;
            if let Some(reply) = answer(&buffer[..length], &records, client, "udp")? {
                datagrams.send_to(&reply, client)?;
            }
        }
    })
}

fn parse(text: &str) -> Result<(String, IpAddr)> {
    let (name, ip) = text.split_once('=').context("expected name=address")?;
    Ok((format!("{}.", name.to_ascii_lowercase()), ip.parse()?))
}

fn converse(mut stream: TcpStream, records: &[(String, IpAddr)]) -> Result<()> {
    let client = stream.peer_addr()?;
    loop {
        let mut length = [0; 2];
        stream.read_exact(&mut length)?;
        let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut message)?;
        if let Some(reply) = answer(&message, records, client, "tcp")? {
            stream.write_all(&u16::try_from(reply.len())?.to_be_bytes())?;
            stream.write_all(&reply)?;
        }
    }
}

fn answer(
    bytes: &[u8],
    records: &[(String, IpAddr)],
    client: SocketAddr,
    over: &str,
) -> Result<Option<Vec<u8>>> {
    let asked = Message::from_vec(bytes);
    let query = asked.as_ref().ok().and_then(|m| m.queries.first());
    say(&json!({
        "event": "asked", "from": client.ip().to_canonical().to_string(), "over": over,
        "name": query.map(|q| q.name().to_ascii()), "hex": hex(bytes),
    }));
    let (Ok(asked), Some(query)) = (&asked, query) else {
        return Ok(None);
    };
    let mut reply = Message::new(asked.metadata.id, MessageType::Response, asked.metadata.op_code);
    reply.metadata = Metadata::response_from_request(&asked.metadata);
    reply.add_query(query.clone());
    let name = query.name().to_ascii().to_ascii_lowercase();
    let of_name: Vec<IpAddr> = records
        .iter()
        .filter(|(n, _)| *n == name)
        .map(|(_, ip)| *ip)
        .collect();
    if of_name.is_empty() && asked.metadata.op_code == OpCode::Query {
        reply.metadata.response_code = ResponseCode::NXDomain;
    }
    let mut push = |data| _ = reply.add_answer(Record::from_rdata(query.name().clone(), 5, data));
    for ip in &of_name {
        match (query.query_type(), ip) {
            (RecordType::A, IpAddr::V4(ip)) => push(RData::A(A(*ip))),
            (RecordType::AAAA, IpAddr::V6(ip)) => push(RData::AAAA(AAAA(*ip))),
            (RecordType::TXT, _) => push(RData::TXT(TXT::new(vec!["real".to_owned()]))),
            _ => {}
        }
    }
    Ok(Some(reply.to_vec()?))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
