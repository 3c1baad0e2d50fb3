//! Tunnels between nodes: one stream of bytes from a pod of this node to a pod of another, in mutual TLS on port
//! 15008, in one of two wire forms chosen by ALPN.
//!
//! - `h2`: HBONE, HTTP/2 CONNECT exactly as ztunnel speaks it. Many streams share a connection.
//! - `heddle/1`: between two Heddle agents. One stream at a time on a connection, no multiplexing, no
//!   second flow control; the connection goes back to the pool when both directions have ended cleanly.
//!
//! Thread-per-core: nothing here is `Send`. Everything runs on a current-thread runtime inside a `LocalSet`.

mod addr;
pub mod baggage;
mod client;
mod dial;
mod error;
mod forwarded;
mod hbone;
mod head;
mod io;
mod native;
mod pool;
mod server;
mod stream;
#[cfg(test)]
mod tests;

pub(super) use client::unix_now;
pub use client::{PoolStats, TunnelClient};
pub use error::{Reason, Retry, Side, TunnelError};
pub use server::{TunnelHandler, TunnelIncoming, serve};
pub use stream::TunnelStream;

use crate::contract::PodHandle;
use mesh_common::maps;
use mesh_core::model::identity::SpiffeId;
use mesh_core::model::workload::Workload;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// Port of tunnels, on every pod's address.
pub const TUNNEL_PORT: u16 = maps::TUNNEL_PORT;

/// Ports of the mesh itself, which no tunnel may target (ztunnel answers 503).
const RESERVED_PORTS: [u16; 3] = [maps::OUTBOUND_PORT, maps::INBOUND_PORT, TUNNEL_PORT];

/// What a stream will carry. Only the native form tells it to the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TunnelKind {
    /// Opaque bytes with half close; the connection below is reused for later streams.
    Tcp,
    /// HTTP/1.1 requests, decided one by one at the far end; the HTTP layer above keeps the stream.
    Http1,
    /// HTTP/2, as `Http1`.
    Http2,
}

/// One stream wanted.
#[derive(Clone, Debug)]
pub struct TunnelRequest {
    /// The source pod: sockets are opened in its network namespace, from its address.
    pub pod: Arc<PodHandle>,
    /// The source as the snapshot knows it: identity and baggage.
    pub source: Arc<Workload>,
    /// The application's own address.
    pub client: SocketAddr,
    /// Who must answer. Any other identity is an error, never accepted.
    pub peer: SpiffeId,
    /// Pod address and target port (the service is already resolved).
    pub target: SocketAddr,
    /// The host the client asked for, for the peer's telemetry only.
    pub host: Option<Arc<str>>,
    /// What the stream will carry.
    pub kind: TunnelKind,
}

/// Settings of tunnels. `Default` holds the values to ship.
#[derive(Clone, Debug)]
pub struct TunnelConfig {
    /// Mark of the agent's own sockets.
    pub mark: u32,
    /// Port dialled on the peer's address; other than [`TUNNEL_PORT`] in tests only.
    pub port: u16,
    /// Deadline of TCP connect.
    pub connect_timeout: Duration,
    /// Deadline of the TLS handshake, both ends.
    pub handshake_timeout: Duration,
    /// How long a server waits for the HTTP/2 preface, or for the first head of a native connection.
    pub head_timeout: Duration,
    /// How long a client waits for the peer's answer; the peer dials the application meanwhile (10 s).
    pub reply_timeout: Duration,
    /// After this long without a stream a connection is closed.
    pub idle_timeout: Duration,
    /// Streams that a client puts on one HBONE connection before it opens another one.
    pub streams_per_connection: usize,
    /// Native connections per source, peer and address above which more streams share HBONE connections: a TLS
    /// session costs some 16 KiB at each end, and that many streams are rarely busy at once.
    pub native_per_peer: usize,
    /// Native connections kept for reuse per source, peer and address.
    pub idle_per_peer: usize,
    /// Time between the last answer and the next HTTP/2 PING.
    pub ping_interval: Duration,
    /// How long a PING may stay unanswered.
    pub ping_timeout: Duration,
    /// `k8s.cluster.name` of the baggage.
    pub cluster: Arc<str>,
    /// Offer and accept the native form. Off: HBONE only.
    pub native: bool,
}

impl Default for TunnelConfig {
    fn default() -> Self {
        Self {
            mark: 0,
            port: TUNNEL_PORT,
            connect_timeout: Duration::from_secs(5),
            handshake_timeout: Duration::from_secs(5),
            head_timeout: Duration::from_secs(10),
            reply_timeout: Duration::from_secs(15),
            idle_timeout: Duration::from_secs(300),
            streams_per_connection: 100,
            native_per_peer: 48,
            idle_per_peer: 48,
            ping_interval: Duration::from_secs(10),
            ping_timeout: Duration::from_secs(20),
            cluster: Arc::from("Kubernetes"),
            native: true,
        }
    }
}
