//! Stands between a client's bytes and hyper: follows the framing, checks each head before hyper sees a byte of it,
//! and holds what follows an upgrade request until the server has agreed.
//!
//! States: `Head` → (`Body` | `Chunks`) → `Head`; `Head` → `Held` → `Head`, or the stream is taken out for the new
//! protocol; any → `Refused`. A refused head is replaced with a harmless one, so that hyper asks for the answer in
//! its turn, after the answers to the requests before it.

use super::head::{self, Framing, Violation};
use bytes::{Buf, BytesMut};
use hyper::rt::{Read, ReadBufCursor, Write};
use std::cell::{Cell, RefCell};
use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// What the guard and the handler of requests know of each other.
#[derive(Default)]
pub(super) struct Shared {
    heads: Cell<u64>,
    calls: Cell<u64>,
    refused: Cell<Option<(u64, Violation)>>,
    held: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

/// A client's stream.
pub(super) struct Guard<T> {
    io: T,
    shared: Rc<Shared>,
    /// Bytes not yet given to hyper; the first `passed` may be.
    buf: BytesMut,
    passed: usize,
    state: State,
    timer: Option<Pin<Box<Sleep>>>,
}

enum State {
    /// A head is expected; lines before this offset were looked at.
    Head(usize),
    /// Body bytes to go.
    Body(u64),
    /// Inside a chunked body.
    Chunks(Chunk),
    /// After an upgrade request.
    Held,
    /// Nothing more is read.
    Refused,
}

enum Chunk {
    Size,
    Data(u64),
    Trailers,
}

impl Shared {
    /// To be called once for each request that hyper hands over: what is wrong with it, if anything.
    pub(super) fn next_request(&self) -> Option<Violation> {
        self.calls.set(self.calls.get() + 1);
        let (at, violation) = self.refused.get()?;
        (at == self.calls.get()).then_some(violation)
    }

    /// Whether the request being handled asks for an upgrade.
    pub(super) fn is_held(&self) -> bool {
        self.held.get()
    }

    /// The upgrade was not agreed to: what follows is HTTP.
    pub(super) fn release(&self) {
        if self.held.replace(false)
            && let Some(waker) = self.waker.borrow_mut().take()
        {
            waker.wake();
        }
    }
}

impl<T> Guard<T> {
    pub(super) fn new(io: T) -> (Self, Rc<Shared>) {
        let shared = Rc::new(Shared::default());
        let guard = Self {
            io,
            shared: Rc::clone(&shared),
            buf: BytesMut::new(),
            passed: 0,
            state: State::Head(0),
            timer: None,
        };
        (guard, shared)
    }

    /// The stream and what was read of it but never given to hyper.
    pub(super) fn into_parts(self) -> (BytesMut, T) {
        (self.buf, self.io)
    }

    /// Looks at the bytes of `buf` beyond `passed` and lets through what may be.
    fn inspect(&mut self) -> io::Result<()> {
        loop {
            let fresh = &self.buf[self.passed..];
            let before = self.passed;
            match &mut self.state {
                State::Head(scanned) => {
                    let skip = if *scanned == 0 { empty_lines(fresh) } else { 0 };
                    if skip > 0 {
                        self.passed += skip;
                        continue;
                    }
                    if fresh.is_empty() {
                        return Ok(());
                    }
                    match head::find_end(fresh, *scanned) {
                        Ok(Ok(end)) if end <= HEAD_MAX => match head::check(&fresh[..end]) {
                            Ok(head) => self.enter(head, end),
                            Err(violation) => self.refuse(violation),
                        },
                        Ok(Err(line)) if fresh.len() <= HEAD_MAX => {
                            *scanned = line;
                            return Ok(());
                        }
                        Ok(_) => self.refuse(Violation::TooLarge),
                        Err(violation) => self.refuse(violation),
                    }
                }
                State::Body(left) => {
                    let n = fresh.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                    self.passed += n;
                    *left -= n as u64;
                    if *left == 0 {
                        self.state = State::Head(0);
                    }
                }
                State::Chunks(chunk) => match chunk.advance(fresh)? {
                    Some((n, Some(next))) => {
                        self.passed += n;
                        *chunk = next;
                    }
                    Some((n, None)) => {
                        self.passed += n;
                        self.state = State::Head(0);
                    }
                    None => return Ok(()),
                },
                State::Held if self.shared.held.get() => return Ok(()),
                State::Held => self.state = State::Head(0),
                State::Refused => return Ok(()),
            }
            if self.passed == before && self.passed == self.buf.len() && !matches!(self.state, State::Held) {
                return Ok(());
            }
        }
    }

    fn enter(&mut self, head: head::Head, end: usize) {
        self.passed += end;
        self.timer = None;
        self.shared.heads.set(self.shared.heads.get() + 1);
        self.state = match head.framing {
            _ if head.upgrade => {
                self.shared.held.set(true);
                State::Held
            }
            Framing::Length(0) => State::Head(0),
            Framing::Length(n) => State::Body(n),
            Framing::Chunked => State::Chunks(Chunk::Size),
        };
    }

    fn refuse(&mut self, violation: Violation) {
        self.timer = None;
        self.buf.truncate(self.passed);
        self.buf.extend_from_slice(HARMLESS);
        self.passed = self.buf.len();
        self.shared
            .refused
            .set(Some((self.shared.heads.get() + 1, violation)));
        self.state = State::Refused;
    }

    /// Only the part of a head has come: the rest must follow in time.
    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.buf.is_empty() || !matches!(self.state, State::Head(_)) {
            return Ok(());
        }
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(HEAD_DEADLINE)));
        match timer.as_mut().poll(cx) {
            Poll::Ready(()) => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "request head took too long",
            )),
            Poll::Pending => Ok(()),
        }
    }
}

impl Chunk {
    /// Bytes that may pass and what comes after them, `Some((_, None))` at the end of the body; `None` if more is
    /// needed.
    fn advance(&self, bytes: &[u8]) -> io::Result<Option<(usize, Option<Self>)>> {
        if bytes.is_empty() {
            return Ok(None);
        }
        match self {
            Self::Data(left) => {
                let n = bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                let left = left - n as u64;
                Ok(Some((
                    n,
                    Some(if left == 0 { Self::Size } else { Self::Data(left) }),
                )))
            }
            Self::Size => {
                let Some(line) = whole_line(bytes, CHUNK_LINE_MAX)? else {
                    return Ok(None);
                };
                let size = chunk_size(&bytes[..line - 2])?;
                // The CRLF after the data is counted as data.
                Ok(Some((
                    line,
                    Some(if size == 0 {
                        Self::Trailers
                    } else {
                        Self::Data(size + 2)
                    }),
                )))
            }
            Self::Trailers => {
                let Some(line) = whole_line(bytes, HEAD_MAX)? else {
                    return Ok(None);
                };
                Ok(Some((line, (line > 2).then_some(Self::Trailers))))
            }
        }
    }
}

impl<T: AsyncRead + Unpin> Read for Guard<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut out: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if this.passed > 0 {
                let n = this.passed.min(out.remaining());
                out.put_slice(&this.buf[..n]);
                this.buf.advance(n);
                this.passed -= n;
                return Poll::Ready(Ok(()));
            }
            match this.state {
                // Not an end: hyper would take it for the client's and give no answer. The answer closes.
                State::Refused => return Poll::Pending,
                State::Held if this.shared.held.get() => {
                    *this.shared.waker.borrow_mut() = Some(cx.waker().clone());
                    return Poll::Pending;
                }
                State::Held => {
                    this.inspect()?;
                    if this.passed > 0 {
                        continue;
                    }
                }
                _ => {}
            }
            this.poll_deadline(cx)?;
            let room = out.remaining();
            let read = SCRATCH.with_borrow_mut(|scratch| {
                let room = scratch.len().min(room);
                let mut read = ReadBuf::new(&mut scratch[..room]);
                match Pin::new(&mut this.io).poll_read(cx, &mut read) {
                    Poll::Ready(Ok(())) => {
                        this.buf.extend_from_slice(read.filled());
                        Poll::Ready(Ok(read.filled().len()))
                    }
                    Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                    Poll::Pending => Poll::Pending,
                }
            });
            match read {
                Poll::Ready(Ok(0)) => return Poll::Ready(Ok(())),
                Poll::Ready(Ok(_)) => this.inspect()?,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

impl<T: AsyncWrite + Unpin> Write for Guard<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

/// Length of the empty lines that a client may send before a request (RFC 9112 § 2.2).
fn empty_lines(bytes: &[u8]) -> usize {
    bytes.chunks_exact(2).take_while(|pair| *pair == b"\r\n").count() * 2
}

fn whole_line(bytes: &[u8], max: usize) -> io::Result<Option<usize>> {
    match memchr::memchr(b'\n', bytes) {
        Some(0) => Err(malformed()),
        Some(end) if bytes[end - 1] != b'\r' => Err(malformed()),
        Some(end) => Ok(Some(end + 1)),
        None if bytes.len() > max => Err(malformed()),
        None => Ok(None),
    }
}

fn chunk_size(line: &[u8]) -> io::Result<u64> {
    let digits = line.iter().take_while(|b| b.is_ascii_hexdigit()).count();
    let extension = line[digits..].first();
    if digits == 0 || digits > 15 || !matches!(extension, None | Some(b';' | b' ' | b'\t')) {
        return Err(malformed());
    }
    let digit = |d: &u8| u64::from((*d as char).to_digit(16).unwrap_or(0));
    Ok(line[..digits].iter().fold(0, |n, d| n << 4 | digit(d)))
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "malformed chunk")
}

thread_local! {
    /// Where reads of this thread land before they are looked at.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; 64 * 1024].into_boxed_slice());
}

const HEAD_MAX: usize = 64 * 1024;
const CHUNK_LINE_MAX: usize = 4 * 1024;
const HEAD_DEADLINE: Duration = Duration::from_secs(10);
/// Stands in for a refused head; the handler answers with what is wrong.
const HARMLESS: &[u8] = b"GET / HTTP/1.1\r\nhost: refused.invalid\r\nconnection: close\r\n\r\n";
