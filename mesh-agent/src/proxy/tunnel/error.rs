//! What can go wrong with a tunnel, and what may be done about it.

use crate::contract::CertificateError;
use mesh_core::model::identity::SpiffeId;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

/// Why a tunnel stream could not be opened or accepted.
#[derive(Debug, thiserror::Error)]
pub enum TunnelError {
    /// The source has no certificate.
    #[error("no certificate")]
    Certificate(#[from] CertificateError),
    /// No socket could be made in the source pod's namespace.
    #[error("no socket in the pod's network namespace")]
    Socket(#[source] io::Error),
    /// TCP connect failed.
    #[error("cannot connect to {to}")]
    Connect {
        /// Tunnel address of the peer.
        to: SocketAddr,
        /// As connect(2).
        #[source]
        source: io::Error,
    },
    /// TCP connect took too long.
    #[error("no connection to {to} within {after:?}")]
    ConnectTimeout {
        /// Tunnel address of the peer.
        to: SocketAddr,
        /// The deadline.
        after: Duration,
    },
    /// TLS failed: untrusted chain, no certificate, or the peer refused ours.
    #[error("TLS handshake with {to} failed")]
    Handshake {
        /// Tunnel address of the peer.
        to: SocketAddr,
        /// rustls's words.
        #[source]
        source: io::Error,
    },
    /// TLS took too long.
    #[error("no TLS handshake with {to} within {after:?}")]
    HandshakeTimeout {
        /// Tunnel address of the peer.
        to: SocketAddr,
        /// The deadline.
        after: Duration,
    },
    /// The peer proved another identity than the endpoint has.
    #[error("{to} is {presented}, expected {expected}")]
    IdentityMismatch {
        /// Tunnel address of the peer.
        to: SocketAddr,
        /// Identity of the endpoint chosen.
        expected: SpiffeId,
        /// What the certificate says.
        presented: String,
    },
    /// The peer answered with something other than 200.
    #[error("peer refused with {status} {reason:?}")]
    Refused {
        /// 400, 401 or 503 from a mesh peer.
        status: u16,
        /// The peer's words, if its wire form has any; at most 256 bytes.
        reason: String,
    },
    /// The connection ended before the peer answered.
    #[error("connection ended before the answer")]
    Reset(#[source] io::Error),
    /// The peer did not answer.
    #[error("no answer within {after:?}")]
    ReplyTimeout {
        /// The deadline.
        after: Duration,
    },
    /// The peer broke the protocol.
    #[error("protocol error: {0}")]
    Protocol(&'static str),
    /// This client drains and opens nothing new.
    #[error("draining")]
    Draining,
}

/// Who is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// The side that asked.
    Downstream,
    /// The side that was asked.
    Upstream,
    /// This agent.
    Internal,
}

/// Whether another attempt is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Retry {
    /// Nothing has reached the application.
    Yes,
    /// If none of the payload was sent.
    IfUnsent,
    /// It would end the same way, or must not be tried.
    No,
}

/// Bounded cause: metric label and access log flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The source has no certificate.
    CertificateMissing,
    /// No socket in the pod's namespace.
    SocketFailed,
    /// TCP connect failed.
    ConnectFailed,
    /// TCP connect took too long.
    ConnectTimeout,
    /// TLS failed.
    HandshakeFailed,
    /// TLS took too long.
    HandshakeTimeout,
    /// The peer proved another identity.
    IdentityMismatch,
    /// 401 from the peer.
    PolicyDenied,
    /// 503 from the peer.
    PeerUnavailable,
    /// 400 or any other code from the peer.
    PeerRefused,
    /// The connection ended early.
    Reset,
    /// No answer.
    ReplyTimeout,
    /// The peer broke the protocol.
    ProtocolError,
    /// The agent drains.
    Draining,
}

impl Reason {
    /// The label, in lower case with underscores.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CertificateMissing => "certificate_missing",
            Self::SocketFailed => "socket_failed",
            Self::ConnectFailed => "connect_failed",
            Self::ConnectTimeout => "connect_timeout",
            Self::HandshakeFailed => "handshake_failed",
            Self::HandshakeTimeout => "handshake_timeout",
            Self::IdentityMismatch => "identity_mismatch",
            Self::PolicyDenied => "policy_denied",
            Self::PeerUnavailable => "peer_unavailable",
            Self::PeerRefused => "peer_refused",
            Self::Reset => "reset",
            Self::ReplyTimeout => "reply_timeout",
            Self::ProtocolError => "protocol_error",
            Self::Draining => "draining",
        }
    }
}

impl TunnelError {
    /// Who is at fault.
    #[must_use]
    pub const fn side(&self) -> Side {
        match self {
            Self::Certificate(_) | Self::Socket(_) | Self::Draining => Side::Internal,
            _ => Side::Upstream,
        }
    }

    /// Whether another attempt, perhaps at another endpoint, is allowed. Payload is never sent before the answer,
    /// so that every failure to open leaves the application untouched.
    #[must_use]
    pub const fn retryable(&self) -> Retry {
        match self {
            Self::Connect { .. }
            | Self::ConnectTimeout { .. }
            | Self::Handshake { .. }
            | Self::HandshakeTimeout { .. }
            | Self::IdentityMismatch { .. }
            | Self::Refused { status: 503, .. } => Retry::Yes,
            Self::Reset(_) | Self::ReplyTimeout { .. } => Retry::IfUnsent,
            Self::Certificate(_)
            | Self::Socket(_)
            | Self::Refused { .. }
            | Self::Protocol(_)
            | Self::Draining => Retry::No,
        }
    }

    /// The bounded cause.
    #[must_use]
    pub const fn reason(&self) -> Reason {
        match self {
            Self::Certificate(_) => Reason::CertificateMissing,
            Self::Socket(_) => Reason::SocketFailed,
            Self::Connect { .. } => Reason::ConnectFailed,
            Self::ConnectTimeout { .. } => Reason::ConnectTimeout,
            Self::Handshake { .. } => Reason::HandshakeFailed,
            Self::HandshakeTimeout { .. } => Reason::HandshakeTimeout,
            Self::IdentityMismatch { .. } => Reason::IdentityMismatch,
            Self::Refused { status: 401, .. } => Reason::PolicyDenied,
            Self::Refused { status: 503, .. } => Reason::PeerUnavailable,
            Self::Refused { .. } => Reason::PeerRefused,
            Self::Reset(_) => Reason::Reset,
            Self::ReplyTimeout { .. } => Reason::ReplyTimeout,
            Self::Protocol(_) => Reason::ProtocolError,
            Self::Draining => Reason::Draining,
        }
    }
}
