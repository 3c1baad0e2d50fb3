//! What a connection speaks, where the port does not say.
//!
//! The client's first bytes tell. A server-first protocol has none, so that the wait for them is short, and what was
//! learned is kept per destination: later connections of a server-first port do not wait at all.

use bytes::{Bytes, BytesMut};
use mesh_core::model::service::Protocol;
use parking_lot::RwLock;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt};

/// What the bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Detected {
    /// HTTP/1.x.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// Not HTTP, or not known: bytes are carried as they are.
    Opaque,
}

/// What was learned of destinations, shared by all workers. Bounded: it is emptied when full, and learned anew.
#[derive(Debug, Default)]
pub struct Learned {
    server_first: RwLock<HashMap<SocketAddr, ()>>,
}

/// Outcome of [`detect`]: the protocol and the bytes that told it.
#[derive(Debug)]
pub struct Detection {
    /// What it is.
    pub protocol: Detected,
    /// What was read; comes first in what is forwarded.
    pub prefix: Bytes,
    /// Label of the metric.
    pub outcome: &'static str,
}

impl Learned {
    fn is_server_first(&self, dst: SocketAddr) -> bool {
        self.server_first.read().contains_key(&dst)
    }

    /// The client of `dst` said nothing and the server spoke: no later connection waits.
    pub fn server_first(&self, dst: SocketAddr) {
        let mut map = self.server_first.write();
        if map.len() >= REMEMBERED {
            map.clear();
        }
        map.insert(dst, ());
    }
}

/// What a port's declaration says, if that is enough.
#[must_use]
pub const fn declared(protocol: Protocol) -> Option<Detected> {
    match protocol {
        Protocol::Tls | Protocol::Tcp => Some(Detected::Opaque),
        // Which version is known from the client's first bytes only (T-54).
        Protocol::Auto | Protocol::Http | Protocol::Http2 | Protocol::Grpc => None,
    }
}

/// Reads the client's first bytes until they tell. A port that is declared HTTP gets a longer wait, and no silent
/// turn into opaque bytes by silence; one that is not, `patience`. Not cancel safe.
pub async fn detect<T: AsyncRead + Unpin>(
    io: &mut T,
    protocol: Protocol,
    dst: SocketAddr,
    learned: &Learned,
    patience: Duration,
) -> Detection {
    if protocol == Protocol::Auto && learned.is_server_first(dst) {
        return Detection {
            protocol: Detected::Opaque,
            prefix: Bytes::new(),
            outcome: "remembered",
        };
    }
    let mut buf = BytesMut::with_capacity(FIRST_READ);
    let first = if protocol == Protocol::Auto {
        patience
    } else {
        DECLARED_PATIENCE
    };
    let (detected, outcome) = match read_first(io, &mut buf, first).await {
        Some(Detected::Http1) => (Detected::Http1, "http1"),
        Some(Detected::Http2) => (Detected::Http2, "http2"),
        Some(Detected::Opaque) => (Detected::Opaque, "opaque"),
        None => (Detected::Opaque, "silent"),
    };
    Detection {
        protocol: detected,
        prefix: buf.freeze(),
        outcome,
    }
}

/// `None` if the first byte takes longer than `first`, or the rest too long.
async fn read_first<T: AsyncRead + Unpin>(
    io: &mut T,
    buf: &mut BytesMut,
    first: Duration,
) -> Option<Detected> {
    loop {
        let limit = if buf.is_empty() { first } else { REST };
        match tokio::time::timeout(limit, io.read_buf(buf)).await.ok()? {
            Ok(0) | Err(_) => return Some(Detected::Opaque),
            Ok(_) => {}
        }
        if let Some(detected) = classify(buf) {
            return Some(detected);
        }
    }
}

/// What a connection that begins with `bytes` speaks; `None` if more of it is needed.
#[must_use]
pub fn classify(bytes: &[u8]) -> Option<Detected> {
    let n = bytes.len().min(PREFACE.len());
    if n > 0 && bytes[..n] == PREFACE[..n] {
        // "PRI" is no method that anybody uses for anything else (RFC 9113 § 3.4).
        return (n == PREFACE.len()).then_some(Detected::Http2);
    }
    let Some(space) = bytes.iter().take(LONGEST_METHOD + 1).position(|b| *b == b' ') else {
        let token = bytes
            .iter()
            .take(LONGEST_METHOD + 1)
            .all(|b| b.is_ascii_uppercase() || *b == b'-');
        return (!token || bytes.len() > LONGEST_METHOD).then_some(Detected::Opaque);
    };
    if !METHODS.contains(&&bytes[..space]) {
        return Some(request_line(&bytes[..space], &bytes[space + 1..]));
    }
    Some(Detected::Http1)
}

/// A method that is not in the table: HTTP only if the whole line says so.
fn request_line(method: &[u8], rest: &[u8]) -> Detected {
    let line = rest.split(|b| *b == b'\n').next().unwrap_or_default();
    let version = line.strip_suffix(b"\r").unwrap_or(line);
    let http = version.ends_with(b" HTTP/1.1") || version.ends_with(b" HTTP/1.0");
    if http && !method.is_empty() && method.iter().all(|b| b.is_ascii_uppercase() || *b == b'-') {
        Detected::Http1
    } else {
        Detected::Opaque
    }
}

/// Whether what a server said to a silent client is a greeting. An HTTP server's 408 is none.
#[must_use]
pub fn speaks_first(bytes: &[u8]) -> bool {
    !bytes.starts_with(b"HTTP/")
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n";
const METHODS: [&[u8]; 9] = [
    b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"PATCH", b"OPTIONS", b"CONNECT", b"TRACE",
];
const LONGEST_METHOD: usize = 24;
const FIRST_READ: usize = 4_096;
/// How long the first byte may take on a port that is declared HTTP: clients open connections ahead of need.
const DECLARED_PATIENCE: Duration = Duration::from_secs(3_600);
/// How long each later byte may take until the protocol is told.
const REST: Duration = Duration::from_secs(1);
const REMEMBERED: usize = 16_384;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_bytes_tell_the_protocol() {
        for (bytes, want) in [
            (&b"GET / HTTP/1.1\r\n"[..], Some(Detected::Http1)),
            (b"POST /x", Some(Detected::Http1)),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Some(Detected::Http2)),
            (b"P", None),
            (b"PR", None),
            (b"PRI * HT", None),
            (b"PROPFIND / HTTP/1.1\r\n", Some(Detected::Http1)),
            (b"HELO example.org\r\n", Some(Detected::Opaque)),
            (b"\x16\x03\x01\x02\x00", Some(Detected::Opaque)),
            (b"*1\r\n$4\r\nPING\r\n", Some(Detected::Opaque)),
            (b"SSH-2.0-OpenSSH", Some(Detected::Opaque)),
            (b"", None),
        ] {
            assert_eq!(classify(bytes), want, "{:?}", String::from_utf8_lossy(bytes));
        }
    }

    #[tokio::test]
    async fn silence_is_remembered_only_when_the_server_spoke() {
        let dst = SocketAddr::from(([10, 0, 0, 1], 25));
        let learned = Learned::default();
        let (mut near, _far) = tokio::io::duplex(64);
        let patience = Duration::from_millis(20);
        let first = detect(&mut near, Protocol::Auto, dst, &learned, patience).await;
        assert_eq!(first.outcome, "silent");
        learned.server_first(dst);
        let second = detect(&mut near, Protocol::Auto, dst, &learned, patience).await;
        assert_eq!(second.outcome, "remembered");
    }
}
