//! Mutual TLS between workloads: configurations and who the peer is.
//!
//! TLS 1.3 only, X25519MLKEM768 first, AES-128-GCM first. No tickets, no resumption, no early data: a change of trust
//! or identity is seen by every new handshake.

pub mod config;
pub mod edge;
pub mod verify;

pub use config::{IdentityMaterial, TlsConfigError, identity_tls};
pub use verify::{IdentityError, peer_identity};

/// ALPN of the form that two Heddle agents speak.
pub const ALPN_HEDDLE: &[u8] = b"heddle/1";
/// ALPN of HBONE.
pub const ALPN_H2: &[u8] = b"h2";
