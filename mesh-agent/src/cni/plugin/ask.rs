//! One question to the agent: a small blocking HTTP/1.1 client on its Unix socket.

use crate::cni::{Answer, MAX_BODY_BYTES, Operation, Question};
use socket2::{Domain, SockAddr, Socket, Type};
use std::io::{self, ErrorKind, Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};

/// An agent that restarts is away for about a second: looking this often costs nothing and loses nothing.
const PAUSE: Duration = Duration::from_millis(50);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unanswered {
    /// Nobody listens.
    #[error("{0}")]
    Absent(io::Error),
    /// Somebody listens and does not answer.
    #[error("{0}")]
    Silent(io::Error),
    /// The answer is none that this plug-in knows.
    #[error("{0}")]
    Refused(String),
}

/// Asks until there is an answer or the deadline is over: an agent that goes away meanwhile, or is not there yet, may be
/// there a moment later, and the question may be put twice.
pub(super) fn ask(
    socket: &Path,
    operation: Operation,
    question: &Question,
    deadline: Instant,
) -> Result<Answer, Unanswered> {
    loop {
        match ask_once(socket, operation, question, deadline) {
            Err(error @ (Unanswered::Absent(_) | Unanswered::Silent(_))) => {
                if deadline.saturating_duration_since(Instant::now()) <= PAUSE {
                    return Err(error);
                }
                std::thread::sleep(PAUSE);
            }
            decided => return decided,
        }
    }
}

/// Asks, and takes the first outcome.
pub(super) fn ask_once(
    socket: &Path,
    operation: Operation,
    question: &Question,
    deadline: Instant,
) -> Result<Answer, Unanswered> {
    let body = serde_json::to_string(question).map_err(|error| Unanswered::Refused(error.to_string()))?;
    let request = format!(
        "POST {} HTTP/1.1\r\nhost: agent\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
         connection: close\r\n\r\n{body}",
        operation.path(),
        body.len()
    );
    let socket = connect(socket, deadline).map_err(Unanswered::Absent)?;
    let response = talk(&socket, request.as_bytes(), deadline).map_err(Unanswered::Silent)?;
    response.answer()
}

/// `connect` waits while the agent's queue is full, for as long as a send may take (unix(7)).
fn connect(path: &Path, deadline: Instant) -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_write_timeout(Some(left(deadline)?))?;
    socket.connect(&SockAddr::unix(path)?)?;
    Ok(socket)
}

fn talk(mut socket: &Socket, request: &[u8], deadline: Instant) -> io::Result<Response> {
    // The request fits into the socket's buffer: this does not wait.
    socket.write_all(request).map_err(timely)?;
    let mut received = Vec::new();
    let mut chunk = [0u8; 4096];
    loop {
        socket.set_read_timeout(Some(left(deadline)?))?;
        let count = match socket.read(&mut chunk) {
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(timely(error)),
        };
        if count == 0 {
            return Err(io::Error::new(ErrorKind::UnexpectedEof, "the agent hung up"));
        }
        received.extend_from_slice(&chunk[..count]);
        if let Some(response) = Response::parse(&received)? {
            return Ok(response);
        }
        if received.len() > MAX_BODY_BYTES {
            return Err(io::Error::new(ErrorKind::InvalidData, "the answer has no end"));
        }
    }
}

/// Time until the deadline, as a socket takes it: zero would mean for ever.
fn left(deadline: Instant) -> io::Result<Duration> {
    match deadline.saturating_duration_since(Instant::now()) {
        Duration::ZERO => Err(timely(ErrorKind::TimedOut.into())),
        left => Ok(left),
    }
}

/// A socket's time-out says "resource temporarily unavailable", which explains nothing.
fn timely(error: io::Error) -> io::Error {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => io::Error::new(ErrorKind::TimedOut, "timed out"),
        _ => error,
    }
}

struct Response {
    status: u16,
    body: Vec<u8>,
}

impl Response {
    /// `None` while there is more to come. The agent always says how long its answer is.
    fn parse(received: &[u8]) -> io::Result<Option<Self>> {
        let invalid = |reason: &str| io::Error::new(ErrorKind::InvalidData, reason.to_owned());
        let mut headers = [httparse::EMPTY_HEADER; 16];
        let mut response = httparse::Response::new(&mut headers);
        let head = match response.parse(received) {
            Ok(httparse::Status::Complete(head)) => head,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(error) => return Err(invalid(&error.to_string())),
        };
        let length = response
            .headers
            .iter()
            .find(|header| header.name.eq_ignore_ascii_case("content-length"))
            .and_then(|header| std::str::from_utf8(header.value).ok()?.parse::<usize>().ok())
            .filter(|length| *length <= MAX_BODY_BYTES)
            .ok_or_else(|| invalid("the answer has no length"))?;
        let body = received.get(head..head + length);
        Ok(body.map(|body| Self {
            status: response.code.unwrap_or_default(),
            body: body.to_vec(),
        }))
    }

    fn answer(self) -> Result<Answer, Unanswered> {
        let text = String::from_utf8_lossy(&self.body);
        match self.status {
            200 => serde_json::from_slice(&self.body).map_err(|error| Unanswered::Refused(error.to_string())),
            // Busy, or on its way out.
            503 => Err(Unanswered::Silent(io::Error::other(text.trim().to_owned()))),
            status => Err(Unanswered::Refused(format!("status {status}: {}", text.trim()))),
        }
    }
}
