//! The form of two Heddle agents, ALPN `heddle/1`: one stream at a time on a connection.
//!
//! After head and reply ([`super::head`]) an HTTP stream is the raw connection until it closes. A TCP stream comes in
//! chunks, `u32 length | bytes`, length 0 ending its direction, so that the connection outlives the stream.

use super::io::BufferedTcp;
use std::any::Any;
use std::cell::Cell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Instant;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::TlsStream;

/// TLS over a socket.
pub(super) type Tls = TlsStream<BufferedTcp>;

const HEADER: usize = 4;
/// Most payload per chunk: with its header it fills eight TLS records exactly.
const CHUNK: usize = 8 * 16 * 1024 - HEADER;

/// A connection between streams.
pub(super) struct NativeConn {
    pub(super) tls: Tls,
    /// End of life of the certificate it was made with: not reused after it.
    pub(super) not_after: u64,
    pub(super) idle_since: Instant,
    /// Counts it among the peer's native connections while it lives; only the opening end counts.
    pub(super) slot: Option<Slot>,
}

/// One of the native connections to a peer.
pub(super) struct Slot(Rc<Cell<usize>>);

impl Slot {
    pub(super) fn new(count: &Rc<Cell<usize>>) -> Self {
        count.set(count.get() + 1);
        Self(Rc::clone(count))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

impl NativeConn {
    pub(super) fn new(tls: Tls, not_after: u64) -> Box<Self> {
        Box::new(Self {
            tls,
            not_after,
            idle_since: Instant::now(),
            slot: None,
        })
    }

    /// Whether the peer has neither closed nor said anything since the last stream.
    pub(super) fn is_quiet(&mut self) -> bool {
        let mut byte = [0; 1];
        let mut cx = Context::from_waker(Waker::noop());
        Pin::new(&mut self.tls)
            .poll_read(&mut cx, &mut ReadBuf::new(&mut byte))
            .is_pending()
    }
}

type GiveBack = Box<dyn FnOnce(Box<NativeConn>)>;

/// One stream on a connection of its own.
pub(super) struct NativeStream {
    conn: Option<Box<NativeConn>>,
    chunks: Option<Chunks>,
    give_back: Option<GiveBack>,
    _guard: Option<Box<dyn Any>>,
}

/// State of the chunk form.
#[derive(Default)]
struct Chunks {
    /// Payload bytes left in the chunk being read.
    left: usize,
    header: [u8; HEADER],
    have: usize,
    read_ended: bool,
    end: End,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum End {
    #[default]
    Open,
    Queued,
    Sent,
}

impl NativeStream {
    /// A chunked stream; `give_back` gets the connection if both directions end cleanly.
    pub(super) fn chunked(conn: Box<NativeConn>, give_back: impl FnOnce(Box<NativeConn>) + 'static) -> Self {
        Self {
            conn: Some(conn),
            chunks: Some(Chunks::default()),
            give_back: Some(Box::new(give_back)),
            _guard: None,
        }
    }

    /// A raw stream, which ends with its connection.
    pub(super) const fn raw(conn: Box<NativeConn>) -> Self {
        Self {
            conn: Some(conn),
            chunks: None,
            give_back: None,
            _guard: None,
        }
    }

    /// The same stream, with something that lives as long.
    pub(super) fn guarded(mut self, guard: impl Sized + 'static) -> Self {
        self._guard = Some(Box::new(guard));
        self
    }

    fn parts(&mut self) -> io::Result<(&mut Tls, Option<&mut Chunks>)> {
        let conn = self.conn.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        Ok((&mut conn.tls, self.chunks.as_mut()))
    }
}

impl Drop for NativeStream {
    fn drop(&mut self) {
        let clean = self
            .chunks
            .as_ref()
            .is_some_and(|chunks| chunks.read_ended && chunks.end == End::Sent);
        if let (true, Some(mut conn), Some(give_back)) = (clean, self.conn.take(), self.give_back.take()) {
            conn.idle_since = Instant::now();
            give_back(conn);
        }
    }
}

/// Whether more plaintext can be had without asking the kernel.
fn at_hand(tls: &Tls) -> bool {
    let (io, state) = tls.get_ref();
    io.buffered() > 0 || !state.wants_read()
}

/// Reads at least one byte, then as much as is at hand, up to `limit`. 0 bytes: the peer has closed.
fn fill(tls: &mut Tls, cx: &mut Context<'_>, out: &mut ReadBuf<'_>, limit: usize) -> Poll<io::Result<usize>> {
    let limit = limit.min(out.remaining());
    let mut part = ReadBuf::new(out.initialize_unfilled_to(limit));
    let mut result = Poll::Pending;
    loop {
        let before = part.filled().len();
        let polled = Pin::new(&mut *tls).poll_read(cx, &mut part);
        let got = part.filled().len();
        // A failure behind bytes already read comes again with the next call.
        if before == 0 || matches!(polled, Poll::Ready(Ok(()))) {
            result = polled;
        }
        if got == before || part.remaining() == 0 || !at_hand(tls) {
            break;
        }
    }
    let got = part.filled().len();
    out.advance(got);
    result.map_ok(|()| got)
}

impl Chunks {
    /// Reads the next header; afterwards `left > 0` or the direction has ended.
    fn poll_header(&mut self, tls: &mut Tls, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.have < HEADER {
            let mut space = ReadBuf::new(&mut self.header[self.have..]);
            ready!(Pin::new(&mut *tls).poll_read(cx, &mut space))?;
            match space.filled().len() {
                0 => return Poll::Ready(Err(cut())),
                n => self.have += n,
            }
        }
        self.have = 0;
        self.left = u32::from_be_bytes(self.header) as usize;
        self.read_ended = self.left == 0;
        Poll::Ready(Ok(()))
    }
}

fn cut() -> io::Error {
    io::Error::new(
        io::ErrorKind::UnexpectedEof,
        "tunnel connection closed inside a stream",
    )
}

impl AsyncRead for NativeStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let (tls, chunks) = self.get_mut().parts()?;
        if out.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let Some(chunks) = chunks else {
            return fill(tls, cx, out, usize::MAX).map_ok(|_| ());
        };
        let before = out.filled().len();
        while !chunks.read_ended && out.remaining() > 0 {
            let some = out.filled().len() > before;
            if chunks.left == 0 {
                // With bytes in hand, a header is read only if that needs no system call.
                if some && !at_hand(tls) {
                    break;
                }
                match chunks.poll_header(tls, cx) {
                    Poll::Ready(Ok(())) => continue,
                    Poll::Pending | Poll::Ready(Err(_)) if some => break,
                    other => return other,
                }
            }
            if some && !at_hand(tls) {
                break;
            }
            match fill(tls, cx, out, chunks.left) {
                Poll::Ready(Ok(0)) if !some => return Poll::Ready(Err(cut())),
                Poll::Ready(Ok(n)) if n > 0 => chunks.left -= n,
                other if !some => return other.map_ok(|_| ()),
                _ => break,
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl NativeStream {
    /// What was written before must be on its way, then a whole chunk is taken: rustls has no limit of its own here,
    /// so that a chunk is never split between its header and its last byte.
    fn poll_put(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let (tls, chunks) = self.parts()?;
        ready!(Pin::new(&mut *tls).poll_flush(cx))?;
        let part = &buf[..buf.len().min(CHUNK)];
        let Some(chunks) = chunks else {
            return Pin::new(tls).poll_write(cx, part);
        };
        if chunks.end != End::Open {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if part.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let header = u32::try_from(part.len()).map_err(io::Error::other)?.to_be_bytes();
        let whole = [IoSlice::new(&header), IoSlice::new(part)];
        match ready!(Pin::new(tls).poll_write_vectored(cx, &whole))? {
            n if n == HEADER + part.len() => Poll::Ready(Ok(part.len())),
            _ => Poll::Ready(Err(io::Error::other("TLS took part of a chunk"))),
        }
    }
}

impl AsyncWrite for NativeStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.get_mut().poll_put(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.chunks.is_none() {
            let (tls, _) = this.parts()?;
            ready!(Pin::new(&mut *tls).poll_flush(cx))?;
            return Pin::new(tls).poll_write_vectored(cx, bufs);
        }
        let first = bufs.iter().find(|buf| !buf.is_empty()).map_or(&[][..], |buf| buf);
        this.poll_put(cx, first)
    }

    fn is_write_vectored(&self) -> bool {
        self.chunks.is_none()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let (tls, _) = self.get_mut().parts()?;
        Pin::new(tls).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let (tls, chunks) = self.get_mut().parts()?;
        let Some(chunks) = chunks else {
            return Pin::new(tls).poll_shutdown(cx);
        };
        if chunks.end == End::Open {
            ready!(Pin::new(&mut *tls).poll_flush(cx))?;
            ready!(Pin::new(&mut *tls).poll_write(cx, &[0; HEADER]))?;
            chunks.end = End::Queued;
        }
        ready!(Pin::new(tls).poll_flush(cx))?;
        chunks.end = End::Sent;
        Poll::Ready(Ok(()))
    }
}
