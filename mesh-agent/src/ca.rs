//! Certificates of this node's workloads: the built-in CA and the store that keeps what it issued current.

pub mod issuer;
pub mod store;
#[cfg(test)]
mod tests;

pub use issuer::{CaError, Issuer};
pub use store::{CertificateState, CertificateStatus, CertificateStore, Clock, system_clock};

use crate::tls::IdentityMaterial;
use mesh_core::model::identity::SpiffeId;

/// A fresh certificate with its key.
pub struct Issued {
    /// What it proves and with what.
    pub material: IdentityMaterial,
    /// `notBefore`, seconds since the Unix epoch.
    pub not_before: u64,
}

/// Who signs. The built-in CA is one; a remote certificate service is another.
pub trait CertificateAuthority: Send + Sync {
    /// Makes a key and a certificate for `identity`, valid around `now` (seconds since the Unix epoch).
    ///
    /// # Errors
    /// The CA cannot be read, or refuses.
    fn issue(&self, identity: &SpiffeId, now: u64) -> Result<Issued, CaError>;
}
