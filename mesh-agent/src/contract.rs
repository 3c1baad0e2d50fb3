//! What the edges know of each other: plain data and three narrow traits, implemented by one edge, used by another
//! through `app`.

use crate::sys::NetNs;
use arc_swap::ArcSwap;
use mesh_common::SocketRecord;
use mesh_core::model::gateway::ListenerOrigin;
use mesh_core::model::identity::SpiffeId;
use mesh_core::model::workload::Workload;
use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::TcpListener;
use std::os::fd::BorrowedFd;
use std::pin::Pin;
use std::sync::Arc;

/// A pod whose connections the proxy carries: a captured one of this node, with its network namespace and the agent's
/// listeners inside it (made by `pods`), or the gateway that the process is (made by `gateway`).
#[derive(Debug)]
pub struct PodHandle {
    /// The pod as it was enrolled. Labels may have changed since: the snapshot knows.
    pub workload: Arc<Workload>,
    /// Its network namespace; sockets towards the application and towards other nodes are opened in it, so that
    /// their source is the pod's address.
    pub netns: NetNs,
    /// Listeners, non-blocking, already in the `LISTENERS` map; none in a gateway, where nothing is captured.
    pub listeners: Option<Listeners>,
}

/// The agent's listening sockets inside one pod; dual-stack where the pod is.
#[derive(Debug)]
pub struct Listeners {
    /// Takes the pod's outbound connections.
    pub outbound: TcpListener,
    /// Takes plaintext connections to the pod.
    pub inbound: TcpListener,
    /// Takes HBONE, port 15008.
    pub tunnel: TcpListener,
}

/// The records that the kernel programs keep with a socket (`SOCKETS`, socket storage). Implemented by `bpf`.
pub trait SocketRecords: Send + Sync {
    /// What the programs recorded for an accepted socket. For an outbound one: what the application dialled.
    ///
    /// # Errors
    /// No record: the connection must be closed and counted, never guessed.
    fn record(&self, socket: BorrowedFd<'_>) -> io::Result<SocketRecord>;

    /// Announces, before `connect`, whose connection this socket carries to an application, so that the
    /// application's `accept` and `getpeername` show that client.
    ///
    /// # Errors
    /// The kernel refuses the record.
    fn announce(&self, socket: BorrowedFd<'_>, record: &SocketRecord) -> io::Result<()>;
}

/// Certificates of the workloads of this node. Implemented by `ca`.
pub trait Certificates: Send + Sync {
    /// TLS configurations that prove `identity`; asked for on demand, kept current by rotation. Cheap when cached.
    ///
    /// Never blocks.
    ///
    /// # Errors
    /// No valid certificate, e.g. `SVID_EXPIRED`. The connection is refused, never made in plaintext.
    fn tls(&self, identity: &SpiffeId) -> Result<Arc<IdentityTls>, CertificateError>;

    /// As [`Certificates::tls`], but where the CA is still being asked it waits a few seconds for the answer. Cancel
    /// safe.
    fn wait<'a>(&'a self, identity: &'a SpiffeId) -> CertificateWait<'a> {
        Box::pin(std::future::ready(self.tls(identity)))
    }
}

/// A certificate that is on its way.
pub type CertificateWait<'a> =
    Pin<Box<dyn Future<Output = Result<Arc<IdentityTls>, CertificateError>> + Send + 'a>>;

/// The certificate of `identity`: at once where it is there, else as soon as the CA has answered. Cancel safe.
///
/// # Errors
/// As [`Certificates::tls`].
pub async fn certificate(
    certificates: &dyn Certificates,
    identity: &SpiffeId,
) -> Result<Arc<IdentityTls>, CertificateError> {
    match certificates.tls(identity) {
        Err(CertificateError::Pending(_)) => certificates.wait(identity).await,
        known => known,
    }
}

/// rustls configurations of one identity, replaced as a whole by each rotation.
#[derive(Debug)]
pub struct IdentityTls {
    /// Who this proves.
    pub identity: SpiffeId,
    /// As client, offering ALPN `heddle/1` then `h2`. Verifies the chain; the caller compares the peer's SPIFFE ID.
    pub client: Arc<rustls::ClientConfig>,
    /// As server, ALPN `heddle/1` or `h2`, client certificate required.
    pub server: Arc<rustls::ServerConfig>,
    /// `notAfter`, seconds since the Unix epoch: no new handshake after it.
    pub not_after: u64,
    /// Serial number, hexadecimal.
    pub serial: String,
}

/// How a gateway's listeners terminate TLS; replaced as a whole when a certificate or setting changes. Made by `gateway`,
/// read by `proxy` at each handshake. A listener that is not in it serves nothing.
pub type EdgeTls = Arc<ArcSwap<HashMap<ListenerOrigin, Arc<rustls::ServerConfig>>>>;

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// The last one has expired and no new one could be had.
    #[error("SVID_EXPIRED: certificate of {0} has expired and the CA gave no new one")]
    Expired(SpiffeId),
    /// The CA is being asked.
    #[error("the certificate of {0} is still being asked for")]
    Pending(SpiffeId),
    /// The CA refused or failed.
    #[error("the CA gave no certificate for {identity}: {reason}")]
    Refused {
        /// For whom.
        identity: SpiffeId,
        /// The CA's or the library's words.
        reason: String,
    },
}
