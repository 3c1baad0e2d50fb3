//! Moving bytes between two streams, each direction ending on its own.
//!
//! A direction borrows a buffer only while it has bytes in hand, starts with 64 KiB and goes to 128 KiB when reads
//! fill it. Nothing is copied in between.

pub mod buffers;

use buffers::{Buffer, LARGE_BUFFER, READ_BUFFER};
use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes moved so far; can be read while the copy runs.
#[derive(Debug, Default)]
pub struct Counters {
    /// From downstream to upstream.
    pub sent: Cell<u64>,
    /// From upstream to downstream.
    pub received: Cell<u64>,
}

/// Which of the two streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Peer {
    /// The first: who asked for the connection.
    Downstream,
    /// The second: who was asked.
    Upstream,
}

/// Why a copy ended before both directions had.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// Reading failed: the peer reset, or its connection broke.
    #[error("reading from {0:?} failed")]
    Read(Peer, #[source] io::Error),
    /// Writing failed: the peer takes no more.
    #[error("writing to {0:?} failed")]
    Write(Peer, #[source] io::Error),
    /// No byte in either direction for this long.
    #[error("idle for {0:?}")]
    Idle(Duration),
}

impl CopyError {
    /// Who failed; none for an idle connection.
    #[must_use]
    pub const fn peer(&self) -> Option<Peer> {
        match self {
            Self::Read(peer, _) | Self::Write(peer, _) => Some(*peer),
            Self::Idle(_) => None,
        }
    }
}

/// Copies until both directions have ended, each by a half close that is passed on. On an error both streams are to
/// be dropped, which resets what is still open. Not cancel safe: bytes in hand are lost with the future.
///
/// # Errors
/// The first failure of either stream, or `idle` without a byte.
pub async fn copy_bidirectional<D, U>(
    downstream: &mut D,
    upstream: &mut U,
    idle: Option<Duration>,
    counters: &Counters,
) -> Result<(), CopyError>
where
    D: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    let mut there = Direction::new(Peer::Downstream, Peer::Upstream);
    let mut back = Direction::new(Peer::Upstream, Peer::Downstream);
    let both = std::future::poll_fn(|cx| {
        let sent = there.poll(cx, downstream, upstream, &counters.sent)?;
        let received = back.poll(cx, upstream, downstream, &counters.received)?;
        if sent.is_ready() && received.is_ready() {
            Poll::Ready(Ok(()))
        } else {
            Poll::Pending
        }
    });
    let Some(idle) = idle else {
        return both.await;
    };
    tokio::select! {
        biased;
        result = both => result,
        () = silence(idle, counters) => Err(CopyError::Idle(idle)),
    }
}

/// Ends after a whole period without a byte. Looks at the counters once per period, so that moving a byte costs no
/// look at the clock; silence is noticed after one to two periods.
async fn silence(period: Duration, counters: &Counters) {
    loop {
        let before = (counters.sent.get(), counters.received.get());
        tokio::time::sleep(period).await;
        if before == (counters.sent.get(), counters.received.get()) {
            return;
        }
    }
}

struct Direction {
    from: Peer,
    to: Peer,
    buffer: Option<Buffer>,
    start: usize,
    end: usize,
    wanted: usize,
    ended: bool,
    unflushed: bool,
    done: bool,
}

impl Direction {
    const fn new(from: Peer, to: Peer) -> Self {
        Self {
            from,
            to,
            buffer: None,
            start: 0,
            end: 0,
            wanted: READ_BUFFER,
            ended: false,
            unflushed: false,
            done: false,
        }
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut (impl AsyncRead + Unpin),
        writer: &mut (impl AsyncWrite + Unpin),
        count: &Cell<u64>,
    ) -> Poll<Result<(), CopyError>> {
        while !self.done {
            if self.start < self.end {
                ready!(self.poll_drain(cx, writer, count))
                    .map_err(|error| CopyError::Write(self.to, error))?;
                continue;
            }
            if self.ended {
                ready!(Pin::new(&mut *writer).poll_shutdown(cx))
                    .or_else(already_gone)
                    .map_err(|error| CopyError::Write(self.to, error))?;
                self.done = true;
                break;
            }
            match self.poll_fill(cx, reader) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(CopyError::Read(self.from, error))),
                Poll::Pending => {
                    if self.unflushed {
                        ready!(Pin::new(&mut *writer).poll_flush(cx))
                            .map_err(|error| CopyError::Write(self.to, error))?;
                        self.unflushed = false;
                    }
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut (impl AsyncRead + Unpin),
    ) -> Poll<io::Result<()>> {
        let mut buffer = Buffer::take(self.wanted);
        let mut space = ReadBuf::new(&mut buffer);
        ready!(Pin::new(reader).poll_read(cx, &mut space))?;
        let n = space.filled().len();
        if n == 0 {
            self.ended = true;
            return Poll::Ready(Ok(()));
        }
        self.wanted = if n == buffer.len() {
            LARGE_BUFFER
        } else if n < READ_BUFFER / 2 {
            READ_BUFFER
        } else {
            self.wanted
        };
        (self.start, self.end, self.buffer) = (0, n, Some(buffer));
        Poll::Ready(Ok(()))
    }

    fn poll_drain(
        &mut self,
        cx: &mut Context<'_>,
        writer: &mut (impl AsyncWrite + Unpin),
        count: &Cell<u64>,
    ) -> Poll<io::Result<()>> {
        let in_hand = self
            .buffer
            .as_ref()
            .map_or(&[][..], |buffer| &buffer[self.start..self.end]);
        let n = ready!(Pin::new(writer).poll_write(cx, in_hand))?;
        if n == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        count.set(count.get().wrapping_add(n as u64));
        self.unflushed = true;
        self.start += n;
        if self.start == self.end {
            self.buffer = None;
        }
        Poll::Ready(Ok(()))
    }
}

/// A peer that has closed both ways already needs no half close.
fn already_gone(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotConnected {
        Ok(())
    } else {
        Err(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    #[tokio::test]
    async fn a_half_close_is_passed_on_and_the_other_direction_goes_on() {
        let (mut client, mut left) = duplex(1024);
        let (mut right, mut server) = duplex(1024);
        let counters = Counters::default();
        let copy = copy_bidirectional(&mut left, &mut right, None, &counters);
        let asking = async {
            client.write_all(b"question").await.unwrap();
            client.shutdown().await.unwrap();
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).await.unwrap();
            answer
        };
        let answering = async {
            let mut question = Vec::new();
            server.read_to_end(&mut question).await.unwrap();
            server.write_all(&vec![7; 300_000]).await.unwrap();
            server.shutdown().await.unwrap();
            question
        };
        let (copied, answer, question) = tokio::join!(copy, asking, answering);
        copied.unwrap();
        assert_eq!((question.as_slice(), answer.len()), (&b"question"[..], 300_000));
        assert_eq!((counters.sent.get(), counters.received.get()), (8, 300_000));
    }

    #[tokio::test]
    async fn a_broken_stream_is_named() {
        let (client, mut left) = duplex(16);
        let (mut right, server) = duplex(16);
        drop(server);
        let counters = Counters::default();
        let mut client = client;
        client.write_all(b"x").await.unwrap();
        let error = copy_bidirectional(&mut left, &mut right, None, &counters)
            .await
            .unwrap_err();
        assert_eq!(error.peer(), Some(Peer::Upstream), "{error}");
    }

    #[tokio::test]
    async fn silence_ends_a_copy_and_bytes_keep_it() {
        let (mut client, mut left) = duplex(1024);
        let (mut right, mut server) = duplex(1024);
        let counters = Counters::default();
        let idle = Duration::from_millis(600);
        let started = tokio::time::Instant::now();
        let talk = async {
            for _ in 0..5 {
                tokio::time::sleep(Duration::from_millis(200)).await;
                client.write_all(b"x").await.unwrap();
                server.read_u8().await.unwrap();
            }
            std::future::pending::<()>().await;
        };
        let copied = tokio::select! {
            copied = copy_bidirectional(&mut left, &mut right, Some(idle), &counters) => copied,
            () = talk => Ok(()),
        };
        assert!(matches!(copied, Err(CopyError::Idle(_))));
        assert!(started.elapsed() >= Duration::from_secs(1));
    }
}
