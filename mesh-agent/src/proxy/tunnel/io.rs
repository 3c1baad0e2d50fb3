//! What lies below rustls: a TCP socket that is read in 64 KiB pieces, although rustls asks for 4 KiB, and that
//! holds no buffer while nothing has arrived.

use crate::proxy::copy::buffers::{Buffer, READ_BUFFER};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// TCP with a read buffer that is borrowed from the worker's free list only while it has bytes in it.
pub(super) struct BufferedTcp {
    tcp: TcpStream,
    buffer: Option<Buffer>,
    start: usize,
    end: usize,
}

impl BufferedTcp {
    pub(super) const fn new(tcp: TcpStream) -> Self {
        Self {
            tcp,
            buffer: None,
            start: 0,
            end: 0,
        }
    }

    /// Bytes read from the socket and not yet taken.
    pub(super) const fn buffered(&self) -> usize {
        self.end - self.start
    }

    fn take(&mut self, out: &mut ReadBuf<'_>) {
        let n = self.buffered().min(out.remaining());
        if let Some(buffer) = &self.buffer {
            out.put_slice(&buffer[self.start..self.start + n]);
        }
        self.start += n;
        if self.start == self.end {
            self.buffer = None;
            (self.start, self.end) = (0, 0);
        }
    }
}

impl AsyncRead for BufferedTcp {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.buffered() == 0 {
            if out.remaining() >= READ_BUFFER {
                return Pin::new(&mut this.tcp).poll_read(cx, out);
            }
            // Readiness first, so that an idle connection borrows no buffer.
            ready!(this.tcp.poll_read_ready(cx))?;
            let mut buffer = Buffer::take(READ_BUFFER);
            let mut space = ReadBuf::new(&mut buffer);
            ready!(Pin::new(&mut this.tcp).poll_read(cx, &mut space))?;
            let n = space.filled().len();
            if n == 0 {
                return Poll::Ready(Ok(()));
            }
            this.buffer = Some(buffer);
            (this.start, this.end) = (0, n);
        }
        this.take(out);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for BufferedTcp {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().tcp).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().tcp).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tcp).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tcp).poll_shutdown(cx)
    }
}
