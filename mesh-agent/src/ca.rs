//! Certificates of this node's workloads: who signs them, and the store that keeps what was signed current.
//!
//! Two authorities: the built-in one of a directory ([`Issuer`]), and a certificate service elsewhere ([`RemoteCa`]),
//! Heddle's own controller, istiod or istio-csr.

pub mod issuer;
pub mod protocol;
pub mod remote;
pub mod signer;
pub mod store;
#[cfg(test)]
mod tests;

pub use issuer::Issuer;
pub use remote::{RemoteCa, RemoteConfig};
pub use signer::{Signer, SignerError};
pub use store::{CertificateState, CertificateStatus, CertificateStore, Clock, system_clock};

use crate::tls::IdentityMaterial;
use mesh_core::model::identity::SpiffeId;
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;

/// A fresh certificate with its key.
pub struct Issued {
    /// What it proves and with what.
    pub material: IdentityMaterial,
    /// `notBefore`, seconds since the Unix epoch.
    pub not_before: u64,
}

/// An answer that is on its way.
pub type Issuing<'a> = Pin<Box<dyn Future<Output = Result<Issued, CaError>> + Send + 'a>>;

/// Who signs. Asked by the store on the control side only, a few questions at once.
pub trait CertificateAuthority: Send + Sync {
    /// Makes a key and a certificate for `identity`, valid around `now` (seconds since the Unix epoch). Bounded in
    /// time by the authority; dropping the future gives up.
    ///
    /// # Errors
    /// The CA cannot be read or reached, or refuses.
    fn issue<'a>(&'a self, identity: &'a SpiffeId, now: u64) -> Issuing<'a>;
}

/// Why the CA gives no certificate.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// A file of the CA cannot be read or written.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file of the CA does not hold what it should.
    #[error("{path}: {reason}")]
    Content {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The certificate cannot be made.
    #[error("cannot sign for {identity}: {reason}")]
    Sign {
        /// For whom.
        identity: SpiffeId,
        /// Why.
        reason: String,
    },
    /// A CA elsewhere cannot be asked at all: whoever else asks it will fare no better.
    #[error("the CA at {address} is away: {reason}")]
    Away {
        /// `host:port`.
        address: String,
        /// Why.
        reason: String,
    },
    /// A CA elsewhere refused this identity, or gave an answer that proves nothing.
    #[error("the CA at {address} gave no certificate for {identity}: {reason}")]
    Refused {
        /// `host:port`.
        address: String,
        /// For whom.
        identity: SpiffeId,
        /// Why.
        reason: String,
    },
}
