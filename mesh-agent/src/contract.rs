//! What the edges know of each other: plain data and three narrow traits, implemented by one edge, used by another
//! through `app`.

use crate::sys::NetNs;
use arc_swap::ArcSwap;
use mesh_common::SocketRecord;
use mesh_core::model::gateway::ListenerOrigin;
use mesh_core::model::identity::SpiffeId;
use mesh_core::model::traffic::ClientTls;
use mesh_core::model::workload::Workload;
use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::{IpAddr, TcpListener, UdpSocket};
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
    /// Where questions for names are taken, with the slot of the name server that was asked
    /// (`mesh_common::verdict::resolver_at`); none in a gateway, and where the mesh answers no names.
    pub resolver: Vec<(u32, UdpSocket)>,
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

/// The name servers that the kernel programs saw pods ask (`RESOLVERS`). Implemented by `bpf`.
pub trait NameServers: Send + Sync {
    /// The name server with this slot of the pod with this network namespace; it stays the same as long as the pod lives.
    fn server(&self, cookie: u64, slot: u32) -> Option<IpAddr>;
}

/// What the mesh answers to questions for names. Implemented by `dns`.
pub trait NameAnswers: Send + Sync {
    /// The answer to a message of `client` (RFC 1035 § 4, without TCP's length); `None` if the pod's own name server is to be
    /// asked. Never blocks.
    fn answer(&self, client: &Workload, message: &[u8]) -> Option<Vec<u8>>;
}

/// A process that answers no names.
#[derive(Debug)]
pub struct NoNames;

impl NameAnswers for NoNames {
    fn answer(&self, _: &Workload, _: &[u8]) -> Option<Vec<u8>> {
        None
    }
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

/// What users keep in Secrets for connections that are no part of the mesh: `credentialName`.
pub trait Credentials: Send + Sync {
    /// The Secret `name` of `namespace`, if it is there and this process may know it. The same allocation as long as it is
    /// the same. Never blocks.
    fn credential(&self, namespace: &str, name: &str) -> Option<Arc<Credential>>;
}

/// Contents of a Secret, PEM. No `Debug`: it may hold a private key.
#[derive(Default)]
pub struct Credential {
    /// `tls.crt`, leaf first.
    pub certificate: Option<Vec<u8>>,
    /// `tls.key`.
    pub key: Option<Vec<u8>>,
    /// `ca.crt`.
    pub authority: Option<Vec<u8>>,
    /// `ca.crl`.
    pub revoked: Option<Vec<u8>>,
}

/// A process that is told no Secrets.
#[derive(Debug)]
pub struct NoCredentials;

impl Credentials for NoCredentials {
    fn credential(&self, _: &str, _: &str) -> Option<Arc<Credential>> {
        None
    }
}

/// TLS towards servers that users vouch for (`tls` of a DestinationRule). Implemented by `tls`.
pub trait Origination: Send + Sync {
    /// The configuration for `tls`, for clients of `namespace`, that offers `alpn`. Cheap when cached. Never blocks for
    /// long: the first one reads the system's root certificates.
    ///
    /// # Errors
    /// The settings cannot be carried out. The connection is refused, never made with less.
    fn client(
        &self,
        tls: &ClientTls,
        namespace: &str,
        alpn: Option<&'static str>,
    ) -> Result<Arc<rustls::ClientConfig>, OriginationError>;
}

/// Why `tls` of a DestinationRule cannot be carried out.
#[derive(Debug, thiserror::Error)]
pub enum OriginationError {
    /// The Secret is not there, or not for this process: agents read none, gateways those of their namespace.
    #[error("credentialName: Secret {0} is not there, or this proxy may not read it")]
    NoCredential(Arc<str>),
    /// Its contents, or the system's roots, are of no use.
    #[error("tls cannot be used: {0}")]
    Unusable(String),
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
