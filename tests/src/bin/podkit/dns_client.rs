//! A resolver as C libraries, musl and Go have them: a connected socket, an unconnected one, or a stream.

use crate::dns_server::hex;
use crate::say;
use anyhow::{Context, Result};
use hickory_resolver::proto::op::{Edns, Message, MessageType, OpCode, Query};
use hickory_resolver::proto::rr::{Name, RecordType};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::str::FromStr;
use std::time::{Duration, Instant};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Name servers; `sendto` asks all of them by one socket.
    #[arg(long, required = true)]
    server: Vec<SocketAddr>,
    #[arg(long, required = true)]
    name: Vec<String>,
    #[arg(long = "type", default_value = "A")]
    kind: String,
    #[arg(long, default_value = "connect")]
    via: Via,
    /// Asks IPv4 servers by an IPv6 socket.
    #[arg(long)]
    v4_mapped: bool,
    /// Says by EDNS(0) how much it takes, bytes.
    #[arg(long)]
    edns: Option<u16>,
    /// Sends an UPDATE (RFC 2136) in place of a question.
    #[arg(long)]
    update: bool,
    #[arg(long, default_value_t = 1000)]
    timeout_ms: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Via {
    Connect,
    Sendto,
    Tcp,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let mut answers = Vec::new();
    for (id, name) in (7_u16..).zip(&options.name) {
        let message = message(options, name, id)?;
        let asked = match options.via {
            Via::Connect => connected(options, &message),
            Via::Sendto => unconnected(options, &message),
            Via::Tcp => continue,
        };
        answers.extend(asked.unwrap_or_else(|error| vec![failed(&error)]));
    }
    if options.via == Via::Tcp {
        let streamed = stream(options);
        answers.extend(streamed.unwrap_or_else(|error| vec![failed(&error)]));
    }
    say(&json!({"answers": answers}));
    Ok(())
}

fn failed(error: &anyhow::Error) -> Value {
    let errno = error
        .downcast_ref::<std::io::Error>()
        .and_then(std::io::Error::raw_os_error);
    let name = errno.map(|number| format!("{:?}", nix::errno::Errno::from_raw(number)));
    json!({"error": error.to_string(), "errno_name": name})
}

fn message(options: &Options, name: &str, id: u16) -> Result<Vec<u8>> {
    let code = if options.update {
        OpCode::Update
    } else {
        OpCode::Query
    };
    let mut message = Message::new(id, MessageType::Query, code);
    message.metadata.recursion_desired = true;
    let kind = RecordType::from_str(&options.kind).context("record type")?;
    message.add_query(Query::query(Name::from_ascii(name)?, kind));
    if let Some(most) = options.edns {
        let mut edns = Edns::new();
        edns.set_max_payload(most);
        message.set_edns(edns);
    }
    Ok(message.to_vec()?)
}

fn socket(options: &Options, server: SocketAddr) -> Result<UdpSocket> {
    let v6 = server.is_ipv6() || options.v4_mapped;
    let any = if v6 {
        IpAddr::from(Ipv6Addr::UNSPECIFIED)
    } else {
        Ipv4Addr::UNSPECIFIED.into()
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_read_timeout(Some(Duration::from_millis(options.timeout_ms)))?;
    Ok(socket)
}

fn dialled(options: &Options, server: SocketAddr) -> SocketAddr {
    match server {
        SocketAddr::V4(v4) if options.v4_mapped => (v4.ip().to_ipv6_mapped(), v4.port()).into(),
        other => other,
    }
}

fn connected(options: &Options, message: &[u8]) -> Result<Vec<Value>> {
    let mut answers = Vec::new();
    for server in &options.server {
        let socket = socket(options, *server)?;
        socket.connect(dialled(options, *server))?;
        let peer = socket.peer_addr()?;
        let mut buffer = vec![0; 65_535];
        let (length, from) = insist(|| {
            socket.send(message)?;
            socket.recv_from(&mut buffer)
        })?;
        let mut answer = read(message, &buffer[..length], from)?;
        answer["peer"] = json!(peer.to_string());
        answers.push(answer);
    }
    Ok(answers)
}

fn unconnected(options: &Options, message: &[u8]) -> Result<Vec<Value>> {
    let first = *options.server.first().context("no server")?;
    let socket = socket(options, first)?;
    for server in &options.server {
        socket.send_to(message, dialled(options, *server))?;
    }
    let mut answers = Vec::new();
    let end = Instant::now() + Duration::from_millis(options.timeout_ms) * 3;
    while answers.len() < options.server.len() && Instant::now() < end {
        let mut buffer = vec![0; 65_535];
        let received = insist(|| {
            let received = socket.recv_from(&mut buffer);
            if received.is_err() {
                socket.send_to(message, dialled(options, first))?;
            }
            received
        });
        let (length, from) = received?;
        answers.push(read(message, &buffer[..length], from)?);
    }
    Ok(answers)
}

/// Asks again after silence, as every resolver does: the first datagram to a neighbour may be lost while it is looked for.
fn insist<T>(mut ask: impl FnMut() -> std::io::Result<T>) -> std::io::Result<T> {
    for _ in 1..TRIES {
        match ask() {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            answered => return answered,
        }
    }
    ask()
}

const TRIES: usize = 3;

/// All questions on one connection.
fn stream(options: &Options) -> Result<Vec<Value>> {
    let first = *options.server.first().context("no server")?;
    let mut stream = TcpStream::connect(first)?;
    stream.set_read_timeout(Some(Duration::from_millis(options.timeout_ms)))?;
    let peer = stream.peer_addr()?;
    let mut answers = Vec::new();
    for (id, name) in (7_u16..).zip(&options.name) {
        let message = message(options, name, id)?;
        stream.write_all(&[&u16::try_from(message.len())?.to_be_bytes(), message.as_slice()].concat())?;
        let mut length = [0; 2];
        stream.read_exact(&mut length)?;
        let mut reply = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut reply)?;
        answers.push(read(&message, &reply, peer)?);
    }
    Ok(answers)
}

fn read(sent: &[u8], bytes: &[u8], from: SocketAddr) -> Result<Value> {
    let reply = Message::from_vec(bytes)?;
    let records: Vec<String> = reply
        .answers
        .iter()
        .map(|record| record.data.to_string())
        .collect();
    Ok(json!({
        "from": from.to_string(),
        "code": reply.metadata.response_code.to_string(),
        "id": reply.metadata.id,
        "truncated": reply.metadata.truncation,
        "edns": reply.edns.is_some(),
        "name": reply.queries.first().map(|q| q.name().to_ascii()),
        "records": records,
        "ttl": reply.answers.first().map(|record| record.ttl),
        "sent": hex(sent),
    }))
}
