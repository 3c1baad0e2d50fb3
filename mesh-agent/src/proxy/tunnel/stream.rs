//! The stream that callers hold, whatever wire form is below.

use super::baggage::Baggage;
use super::hbone::HboneStream;
use super::native::NativeStream;
use mesh_core::model::identity::SpiffeId;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes to and from the other end of a tunnel. Shutdown ends this direction only. Dropping a stream before both
/// directions have ended resets it.
pub struct TunnelStream {
    inner: Inner,
    peer: SpiffeId,
    baggage: Option<Baggage>,
    reused: bool,
    not_after: Option<u64>,
}

enum Inner {
    Native(NativeStream),
    Hbone(HboneStream),
}

impl TunnelStream {
    pub(super) fn native(
        stream: NativeStream,
        peer: SpiffeId,
        baggage: Option<Baggage>,
        reused: bool,
    ) -> Self {
        Self {
            inner: Inner::Native(stream),
            peer,
            baggage,
            reused,
            not_after: None,
        }
    }

    pub(super) fn hbone(stream: HboneStream, peer: SpiffeId, baggage: Option<Baggage>, reused: bool) -> Self {
        Self {
            inner: Inner::Hbone(stream),
            peer,
            baggage,
            reused,
            not_after: None,
        }
    }

    /// The same stream, on a connection made with a certificate that is good until `not_after`.
    pub(super) const fn until(mut self, not_after: u64) -> Self {
        self.not_after = Some(not_after);
        self
    }

    /// End of life of the certificate that the connection below was opened with, seconds since the Unix epoch: no new
    /// request may use this stream after it. None on the accepting side.
    #[must_use]
    pub const fn not_after(&self) -> Option<u64> {
        self.not_after
    }

    /// What the peer says about the workload it stands for; telemetry only. None on the accepting side.
    #[must_use]
    pub const fn response_baggage(&self) -> Option<&Baggage> {
        self.baggage.as_ref()
    }

    /// Who the peer proved to be.
    #[must_use]
    pub const fn peer_identity(&self) -> &SpiffeId {
        &self.peer
    }

    /// Whether the connection below existed before.
    #[must_use]
    pub const fn reused(&self) -> bool {
        self.reused
    }

    /// Whether this stream shares nothing with others: the native form.
    #[must_use]
    pub const fn is_native(&self) -> bool {
        matches!(self.inner, Inner::Native(_))
    }
}

impl std::fmt::Debug for TunnelStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TunnelStream")
            .field("peer", &self.peer)
            .field("native", &self.is_native())
            .field("reused", &self.reused)
            .finish_non_exhaustive()
    }
}

impl AsyncRead for TunnelStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().inner {
            Inner::Native(stream) => Pin::new(stream).poll_read(cx, buf),
            Inner::Hbone(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for TunnelStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().inner {
            Inner::Native(stream) => Pin::new(stream).poll_write(cx, buf),
            Inner::Hbone(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().inner {
            Inner::Native(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Inner::Hbone(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.is_native()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().inner {
            Inner::Native(stream) => Pin::new(stream).poll_flush(cx),
            Inner::Hbone(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().inner {
            Inner::Native(stream) => Pin::new(stream).poll_shutdown(cx),
            Inner::Hbone(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
