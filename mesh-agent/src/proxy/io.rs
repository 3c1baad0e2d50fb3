//! The byte streams that the proxy serves: a socket or a tunnel stream, perhaps with bytes that were read already.

use super::tunnel::TunnelStream;
use bytes::{Buf, Bytes};
use hyper_util::rt::TokioIo;
use socket2::SockRef;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Either kind of transport; one type, so that nothing above is compiled twice or boxed.
pub(super) enum Io {
    /// Plain TCP.
    Tcp(TcpStream),
    /// A stream in a mutual TLS tunnel.
    Tunnel(Box<TunnelStream>),
    /// A client's connection to a gateway that terminates its TLS.
    Tls(Box<ServerTls>),
}

/// TLS that a gateway terminates.
pub(super) type ServerTls = tokio_rustls::server::TlsStream<Prefixed<TcpStream>>;

impl Io {
    /// Until when new requests may use it, seconds since the Unix epoch; none for what needs no certificate.
    pub(super) const fn not_after(&self) -> Option<u64> {
        match self {
            Self::Tcp(_) | Self::Tls(_) => None,
            Self::Tunnel(stream) => stream.not_after(),
        }
    }
}

/// A stream whose drop can be made to reset it. A connection that broke must not look to its other end like one that
/// ended: a truncated answer would be taken for a whole one.
pub(super) trait Reset {
    /// Makes the drop of this stream a reset. Tunnel streams that have not ended are reset as they are.
    fn reset_on_drop(&self);
}

impl Reset for TcpStream {
    fn reset_on_drop(&self) {
        if let Err(error) = SockRef::from(self).set_linger(Some(Duration::ZERO)) {
            tracing::debug!(%error, "a broken connection cannot be reset");
        }
    }
}

impl Reset for Io {
    fn reset_on_drop(&self) {
        match self {
            Self::Tcp(io) => io.reset_on_drop(),
            Self::Tls(io) => io.get_ref().0.reset_on_drop(),
            Self::Tunnel(_) => {}
        }
    }
}

/// A stream of a connection that carries others: dropped before it has ended, it is reset.
impl Reset for TokioIo<hyper::upgrade::Upgraded> {
    fn reset_on_drop(&self) {}
}

impl<T: Reset> Reset for Prefixed<T> {
    fn reset_on_drop(&self) {
        self.inner.reset_on_drop();
    }
}

macro_rules! each {
    ($self:ident, $io:ident => $call:expr) => {
        match $self.get_mut() {
            Io::Tcp($io) => $call,
            Io::Tunnel($io) => $call,
            Io::Tls($io) => $call,
        }
    };
}

impl AsyncRead for Io {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        each!(self, io => Pin::new(io).poll_read(cx, buf))
    }
}

impl AsyncWrite for Io {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        each!(self, io => Pin::new(io).poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self, io => Pin::new(io).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(io) => io.is_write_vectored(),
            Self::Tunnel(io) => io.is_write_vectored(),
            Self::Tls(io) => io.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, io => Pin::new(io).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, io => Pin::new(io).poll_shutdown(cx))
    }
}

/// A stream whose first bytes were read already; reading gives them again, then goes on.
pub(super) struct Prefixed<T> {
    prefix: Bytes,
    inner: T,
}

impl<T> Prefixed<T> {
    /// `prefix` comes first.
    pub(super) const fn new(prefix: Bytes, inner: T) -> Self {
        Self { prefix, inner }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Prefixed<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.prefix.is_empty() {
            return Pin::new(&mut this.inner).poll_read(cx, buf);
        }
        let n = this.prefix.len().min(buf.remaining());
        buf.put_slice(&this.prefix[..n]);
        this.prefix.advance(n);
        if this.prefix.is_empty() {
            this.prefix = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Prefixed<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;

    #[tokio::test]
    async fn bytes_read_already_come_first_and_once() {
        let mut io = Prefixed::new(Bytes::from_static(b"GET "), &b"/ HTTP/1.1"[..]);
        let mut all = String::new();
        io.read_to_string(&mut all).await.unwrap();
        assert_eq!(all, "GET / HTTP/1.1");
    }
}
