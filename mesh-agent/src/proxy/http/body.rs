//! Bodies in flight. Both kinds are plain enums: no frame is boxed, and a frame is asked for only when the other
//! side takes one, so that a body of any size needs the memory of a few frames.

use super::mirror::Tap;
use super::record::Record;
use super::retry::Replay;
use super::upgrade::Expect;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use tokio::sync::mpsc;
use tokio::time::Sleep;

/// A failure in the middle of a body; ends the stream, never truncates it silently.
pub(super) type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// Body of a request to an upstream.
pub(super) enum RequestBody {
    /// None.
    Empty,
    /// The client's.
    Stream(Box<Outgoing>),
    /// The client's, kept for another try as far as it is short.
    Replay(Replay),
    /// A copy for a mirror; closed without a final `None` if the copy is not whole.
    Copy(mpsc::Receiver<Option<Frame<Bytes>>>),
}

/// A client's body on its way.
pub(super) struct Outgoing {
    pub(super) inner: Incoming,
    pub(super) count: Rc<Traffic>,
    pub(super) taps: Vec<Tap>,
    pub(super) expect: Option<Expect>,
}

/// Bytes and gRPC messages of one direction.
#[derive(Default)]
pub(super) struct Traffic {
    bytes: Cell<u64>,
    messages: Cell<u64>,
    /// Bytes of the current gRPC message or of its prefix still to come; the prefix's length field so far.
    grpc: Cell<(u64, u64)>,
}

impl Traffic {
    /// Bytes so far.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.get()
    }

    /// gRPC messages so far.
    pub(super) fn messages(&self) -> u64 {
        self.messages.get()
    }

    /// Counts a frame; `grpc` bodies are counted by message as well.
    pub(super) fn add(&self, data: &[u8], grpc: bool) {
        self.bytes.set(self.bytes.get() + data.len() as u64);
        if grpc {
            self.add_messages(data);
        }
    }

    /// A message is one flag byte, four bytes of length, and so many bytes (gRPC over HTTP/2).
    fn add_messages(&self, mut data: &[u8]) {
        let (mut skip, mut prefix) = self.grpc.get();
        while !data.is_empty() {
            if skip > 0 {
                let n = data.len().min(usize::try_from(skip).unwrap_or(usize::MAX));
                skip -= n as u64;
                data = &data[n..];
                continue;
            }
            // `prefix` holds the count of its bytes in the top eight bits, the length below.
            let (have, value) = (prefix >> 56, prefix & 0xffff_ffff);
            let value = if have == 0 {
                0
            } else {
                (value << 8 | u64::from(data[0])) & 0xffff_ffff
            };
            data = &data[1..];
            if have == 4 {
                self.messages.set(self.messages.get() + 1);
                (skip, prefix) = (value, 0);
            } else {
                prefix = (have + 1) << 56 | value;
            }
        }
        self.grpc.set((skip, prefix));
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Stream(body) => body.poll_frame(cx),
            Self::Replay(replay) => replay.poll_frame(cx),
            Self::Copy(frames) => match ready!(frames.poll_recv(cx)) {
                Some(Some(frame)) => Poll::Ready(Some(Ok(frame))),
                Some(None) => Poll::Ready(None),
                None => Poll::Ready(Some(Err("the copy is not whole".into()))),
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Stream(body) => body.expect.is_none() && body.inner.is_end_stream(),
            Self::Replay(_) | Self::Copy(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Stream(body) => body.inner.size_hint(),
            Self::Replay(_) | Self::Copy(_) => SizeHint::default(),
        }
    }
}

impl Outgoing {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(expect) = &mut self.expect {
            ready!(expect.poll_allowed(cx));
            self.expect = None;
        }
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    self.count.add(data, true);
                    self.taps.iter_mut().for_each(|tap| tap.data(data));
                } else if let Some(trailers) = frame.trailers_ref() {
                    self.taps.iter_mut().for_each(|tap| tap.trailers(trailers));
                }
                if self.inner.is_end_stream() {
                    self.taps.drain(..).for_each(Tap::end);
                }
            }
            Some(Err(_)) => self.taps.clear(),
            None => self.taps.drain(..).for_each(Tap::end),
        }
        Poll::Ready(frame.map(|f| f.map_err(Into::into)))
    }
}

/// Body of a response to a client.
pub(super) struct ResponseBody {
    inner: Inner,
    /// Told when the body ends, whichever way.
    tail: Option<Box<Tail>>,
}

enum Inner {
    Empty,
    Full(Bytes),
    Stream(Incoming),
}

/// What is to be done when a response has ended.
pub(super) struct Tail {
    pub(super) record: Record,
    /// Gives the connection back to its pool; dropped without that, the connection is closed.
    pub(super) lease: Option<super::pool::Lease>,
    /// The route's timeout, which covers the body too.
    pub(super) deadline: Option<Pin<Box<Sleep>>>,
    /// Kept while the response is in flight.
    pub(super) _load: Option<super::super::outbound::Hop>,
}

impl Tail {
    fn complete(self) {
        if let Some(lease) = self.lease {
            lease.give_back();
        }
        self.record.complete();
    }
}

impl ResponseBody {
    /// A short text of our own, or nothing.
    pub(super) fn own(text: Bytes, record: Option<Record>) -> Self {
        if let Some(record) = record {
            record.complete();
        }
        Self {
            inner: if text.is_empty() {
                Inner::Empty
            } else {
                Inner::Full(text)
            },
            tail: None,
        }
    }

    /// An upstream's body.
    pub(super) fn upstream(body: Incoming, tail: Box<Tail>) -> Self {
        if body.is_end_stream() {
            tail.complete();
            return Self {
                inner: Inner::Empty,
                tail: None,
            };
        }
        Self {
            inner: Inner::Stream(body),
            tail: Some(tail),
        }
    }

    fn finish(&mut self) {
        if let Some(tail) = self.tail.take() {
            tail.complete();
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let body = match &mut this.inner {
            Inner::Empty => return Poll::Ready(None),
            Inner::Full(text) => {
                let text = std::mem::take(text);
                this.inner = Inner::Empty;
                return Poll::Ready(Some(Ok(Frame::data(text))));
            }
            Inner::Stream(body) => body,
        };
        if let Some(tail) = &mut this.tail
            && let Some(deadline) = &mut tail.deadline
            && deadline.as_mut().poll(cx).is_ready()
        {
            tail.record.fail("UT", "upstream request timeout");
            this.tail = None;
            return Poll::Ready(Some(Err("upstream request timeout".into())));
        }
        let frame = ready!(Pin::new(&mut *body).poll_frame(cx));
        match frame {
            Some(Ok(frame)) => {
                let last = body.is_end_stream();
                if let Some(tail) = &mut this.tail {
                    tail.record.response_frame(&frame);
                }
                if last {
                    this.finish();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => {
                if let Some(tail) = &mut this.tail {
                    tail.record
                        .fail("UC", "upstream ended in the middle of the response");
                }
                this.tail = None;
                Poll::Ready(Some(Err(error.into())))
            }
            None => {
                this.finish();
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.inner {
            Inner::Empty => true,
            Inner::Full(_) => false,
            Inner::Stream(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.inner {
            Inner::Empty => SizeHint::with_exact(0),
            Inner::Full(text) => SizeHint::with_exact(text.len() as u64),
            Inner::Stream(body) => body.size_hint(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_messages_are_counted_however_they_are_cut() {
        let stream = [
            &[0, 0, 0, 0, 3, 1, 2, 3][..],
            &[0, 0, 0, 0, 0],
            &[1, 0, 0, 1, 0],
            &[7; 256],
        ]
        .concat();
        for size in [1, 2, 3, 5, 7, 300] {
            let traffic = Traffic::default();
            stream.chunks(size).for_each(|chunk| traffic.add(chunk, true));
            assert_eq!(traffic.messages(), 3, "chunks of {size}");
            assert_eq!(traffic.bytes(), stream.len() as u64);
        }
    }
}
