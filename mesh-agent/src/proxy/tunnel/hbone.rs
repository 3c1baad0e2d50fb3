//! HBONE: HTTP/2 CONNECT, wire-compatible with Istio ambient's ztunnel (settings, life, codes as there).

pub(super) mod client;
pub(super) mod server;

use super::TunnelConfig;
use bytes::{Buf, Bytes};
use h2::{Ping, PingPong, Reason, RecvStream, SendStream};
use std::any::Any;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

const STREAM_WINDOW: u32 = 4 * 1024 * 1024;
const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;
const FRAME_SIZE: u32 = 1024 * 1024;
const CLIENT_HEADER_LIST: u32 = 16 * 1024;
const SERVER_HEADER_LIST: u32 = 64 * 1024;
const SERVER_STREAMS: u32 = 200;
/// Bytes that h2 may hold per stream while the connection is slow.
const SEND_BUFFER: usize = 256 * 1024;
/// TLS bytes that rustls may hold below h2.
pub(super) const TLS_BUFFER: usize = 256 * 1024;
/// Most payload taken by one write.
const CHUNK: usize = 128 * 1024;

/// One CONNECT stream.
pub(super) struct HboneStream {
    send: SendStream<Bytes>,
    recv: RecvStream,
    pending: Bytes,
    read_ended: bool,
    write_ended: bool,
    /// What must live as long as the stream, e.g. its place in the count of its connection.
    _guard: Option<Box<dyn Any>>,
}

impl HboneStream {
    fn new(send: SendStream<Bytes>, recv: RecvStream, guard: Option<Box<dyn Any>>) -> Self {
        Self {
            send,
            recv,
            pending: Bytes::new(),
            read_ended: false,
            write_ended: false,
            _guard: guard,
        }
    }

    /// Makes `pending` non-empty or finds the end of the direction.
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.pending.is_empty() && !self.read_ended {
            match ready!(self.recv.poll_data(cx)) {
                Some(Ok(data)) => self.pending = data,
                Some(Err(error)) if is_clean(&error) => self.read_ended = true,
                Some(Err(error)) => return Poll::Ready(Err(into_io(error))),
                None => self.read_ended = true,
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// RST_STREAM with NO_ERROR or CANCEL is an end, not a failure (as ztunnel).
fn is_clean(error: &h2::Error) -> bool {
    error.is_reset() && matches!(error.reason(), Some(Reason::NO_ERROR | Reason::CANCEL))
}

fn into_io(error: h2::Error) -> io::Error {
    if error.is_io() {
        return error
            .into_io()
            .unwrap_or_else(|| io::ErrorKind::ConnectionReset.into());
    }
    let kind = if error.is_reset() || error.is_go_away() {
        io::ErrorKind::ConnectionReset
    } else {
        io::ErrorKind::BrokenPipe
    };
    io::Error::new(kind, error)
}

impl AsyncRead for HboneStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = out.filled().len();
        while out.remaining() > 0 {
            let some = out.filled().len() > before;
            match this.poll_data(cx) {
                Poll::Ready(Ok(())) if !this.pending.is_empty() => {}
                // Also an end or an error waits behind bytes already taken.
                _ if some => break,
                other => return other,
            }
            let n = this.pending.len().min(out.remaining());
            out.put_slice(&this.pending[..n]);
            this.pending.advance(n);
            // Fails only if more is released than was received, or after a reset, when no window matters.
            let _reset = this.recv.flow_control().release_capacity(n);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for HboneStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.write_ended {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let wanted = buf.len().min(CHUNK);
        this.send.reserve_capacity(wanted);
        while this.send.capacity() == 0 {
            match ready!(this.send.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(into_io(error))),
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            }
        }
        let n = this.send.capacity().min(wanted);
        this.send
            .send_data(Bytes::copy_from_slice(&buf[..n]), false)
            .map_err(into_io)?;
        Poll::Ready(Ok(n))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.write_ended {
            this.write_ended = true;
            this.send.reserve_capacity(0);
            this.send.send_data(Bytes::new(), true).map_err(into_io)?;
        }
        Poll::Ready(Ok(()))
    }
}

/// Asks the peer for signs of life; ends when it gives none in time.
async fn ping_until_dead(mut pings: PingPong, config: &TunnelConfig) {
    loop {
        tokio::time::sleep(config.ping_interval).await;
        match tokio::time::timeout(config.ping_timeout, pings.ping(Ping::opaque())).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) | Err(_) => return,
        }
    }
}
