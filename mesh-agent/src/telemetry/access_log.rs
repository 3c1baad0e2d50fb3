//! The access log: one line per request or connection, through tracing's target `access`, with ztunnel's keys so
//! that existing queries go on working. What a peer said is escaped and cut; query strings are left out.

use super::labels::Reporter;
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

/// Switch and sampling, changeable while traffic runs.
#[derive(Debug)]
pub struct AccessLog {
    on: AtomicBool,
    per_million: AtomicU32,
}

impl Default for AccessLog {
    fn default() -> Self {
        Self {
            on: AtomicBool::new(true),
            per_million: AtomicU32::new(ALL),
        }
    }
}

/// One end in a line.
#[derive(Clone, Debug, Default)]
pub struct Side<'a> {
    /// Address.
    pub addr: Option<SocketAddr>,
    /// Workload.
    pub workload: &'a str,
    /// Namespace.
    pub namespace: &'a str,
    /// Verified SPIFFE ID.
    pub identity: &'a str,
}

/// What both kinds of line hold.
#[derive(Clone, Debug)]
pub struct Line<'a> {
    /// Who tells: `inbound` is the destination's.
    pub reporter: Reporter,
    /// Client.
    pub src: Side<'a>,
    /// Server.
    pub dst: Side<'a>,
    /// Address of the tunnel, if there is one.
    pub hbone_addr: Option<SocketAddr>,
    /// Host of the service.
    pub service: &'a str,
    /// `http`, `grpc` or `tcp`.
    pub protocol: &'a str,
    /// Towards the client.
    pub bytes_sent: u64,
    /// From the client.
    pub bytes_recv: u64,
    /// From the first byte to the last.
    pub duration: Duration,
    /// Response flags, empty if none.
    pub flags: &'a str,
    /// What went wrong, empty if nothing.
    pub error: &'a str,
}

/// What a request adds.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// Method as sent.
    pub method: &'a str,
    /// Path without query, as sent.
    pub path: &'a str,
    /// Host or `:authority`, as sent.
    pub authority: &'a str,
    /// `x-request-id`.
    pub request_id: &'a str,
    /// Status.
    pub code: u16,
    /// `namespace/name` of the VirtualService and its rule, empty for the default route.
    pub route: &'a str,
    /// Tries.
    pub attempts: u32,
}

impl AccessLog {
    /// Turns the log on or off.
    pub fn set_on(&self, on: bool) {
        self.on.store(on, Ordering::Relaxed);
    }

    /// Share of lines that are written, in millionths.
    pub fn set_sampling(&self, per_million: u32) {
        self.per_million.store(per_million.min(ALL), Ordering::Relaxed);
    }

    /// Whether the next line is wanted. To be asked before anything is made for it.
    #[must_use]
    pub fn wanted(&self) -> bool {
        if !self.on.load(Ordering::Relaxed) || !tracing::enabled!(target: "access", tracing::Level::INFO) {
            return false;
        }
        let share = self.per_million.load(Ordering::Relaxed);
        share >= ALL || fastrand::u32(..ALL) < share
    }

    /// Writes a line for a connection.
    pub fn connection(&self, line: &Line<'_>) {
        tracing::event!(
            target: "access",
            tracing::Level::INFO,
            src.addr = %Addr(line.src.addr),
            src.workload = line.src.workload,
            src.namespace = line.src.namespace,
            src.identity = line.src.identity,
            dst.addr = %Addr(line.dst.addr),
            dst.hbone_addr = %Addr(line.hbone_addr),
            dst.service = line.service,
            dst.workload = line.dst.workload,
            dst.namespace = line.dst.namespace,
            dst.identity = line.dst.identity,
            direction = direction(line.reporter),
            protocol = line.protocol,
            bytes_sent = line.bytes_sent,
            bytes_recv = line.bytes_recv,
            duration = %Millis(line.duration),
            response_flags = line.flags,
            error = %Peer(line.error),
            "connection complete"
        );
    }

    /// Writes a line for a request.
    pub fn request(&self, line: &Line<'_>, request: &Request<'_>) {
        tracing::event!(
            target: "access",
            tracing::Level::INFO,
            src.addr = %Addr(line.src.addr),
            src.workload = line.src.workload,
            src.namespace = line.src.namespace,
            src.identity = line.src.identity,
            dst.addr = %Addr(line.dst.addr),
            dst.hbone_addr = %Addr(line.hbone_addr),
            dst.service = line.service,
            dst.workload = line.dst.workload,
            dst.namespace = line.dst.namespace,
            dst.identity = line.dst.identity,
            direction = direction(line.reporter),
            protocol = line.protocol,
            method = %Peer(request.method),
            path = %Peer(without_query(request.path)),
            authority = %Peer(request.authority),
            response_code = request.code,
            response_flags = line.flags,
            route = request.route,
            attempt = request.attempts,
            request_id = %Peer(request.request_id),
            bytes_sent = line.bytes_sent,
            bytes_recv = line.bytes_recv,
            duration = %Millis(line.duration),
            error = %Peer(line.error),
            "request complete"
        );
    }
}

/// A peer's words: control characters and quotes escaped, cut at 256 bytes.
pub struct Peer<'a>(pub &'a str);

impl fmt::Display for Peer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write as _;
        let mut room = PEER_BYTES;
        for c in self.0.chars().flat_map(char::escape_default) {
            if room == 0 {
                return f.write_str("…");
            }
            room -= 1;
            f.write_char(c)?;
        }
        Ok(())
    }
}

struct Addr(Option<SocketAddr>);

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(addr) => addr.fmt(f),
            None => f.write_str("-"),
        }
    }
}

struct Millis(Duration);

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3}ms", self.0.as_secs_f64() * 1e3)
    }
}

const fn direction(reporter: Reporter) -> &'static str {
    match reporter {
        Reporter::Source => "outbound",
        Reporter::Destination => "inbound",
    }
}

fn without_query(path: &str) -> &str {
    path.split_once('?').map_or(path, |(path, _)| path)
}

const ALL: u32 = 1_000_000;
const PEER_BYTES: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_words_are_escaped_and_cut() {
        assert_eq!(Peer("a\r\nb\"").to_string(), "a\\r\\nb\\\"");
        let long = Peer(&"x".repeat(10_000)).to_string();
        assert_eq!(long.chars().count(), 257);
        assert!(Peer(&"\u{1F600}".repeat(1_000)).to_string().len() < 300);
    }

    #[test]
    fn query_strings_are_left_out() {
        assert_eq!(without_query("/a?token=x"), "/a");
    }

    #[derive(Clone, Default)]
    struct Buffer(std::sync::Arc<parking_lot::Mutex<Vec<u8>>>);

    impl std::io::Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_request_is_one_line_with_ztunnels_keys() {
        let buffer = Buffer::default();
        let out = buffer.clone();
        let subscriber = tracing_subscriber::fmt()
            .json()
            .with_writer(move || out.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            let log = AccessLog::default();
            log.set_on(false);
            assert!(!log.wanted());
            log.set_on(true);
            assert!(log.wanted());
            let line = Line {
                reporter: Reporter::Destination,
                src: Side {
                    identity: "spiffe://a",
                    ..Side::default()
                },
                dst: Side {
                    addr: Some(([10, 0, 0, 1], 80).into()),
                    ..Side::default()
                },
                hbone_addr: None,
                service: "web",
                protocol: "http",
                bytes_sent: 1,
                bytes_recv: 2,
                duration: Duration::from_micros(1_500),
                flags: "-",
                error: "",
            };
            let request = Request {
                method: "GET",
                path: "/a\n?token=secret",
                authority: "web",
                request_id: "id",
                code: 200,
                route: "",
                attempts: 1,
            };
            log.request(&line, &request);
        });
        let text = String::from_utf8(buffer.0.lock().clone()).unwrap();
        assert_eq!(text.lines().count(), 1, "{text}");
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["target"], "access");
        let fields = &value["fields"];
        for (key, want) in [
            ("src.identity", "spiffe://a"),
            ("dst.addr", "10.0.0.1:80"),
            ("direction", "inbound"),
            ("path", "/a\\n"),
            ("duration", "1.500ms"),
        ] {
            assert_eq!(fields[key], want, "{key} in {text}");
        }
        assert!(!text.contains("secret"));
    }
}
