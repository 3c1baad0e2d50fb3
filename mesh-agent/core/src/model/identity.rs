//! SPIFFE identities (<https://spiffe.io/docs/latest/spiffe-specs/spiffe-id/>), in the form Kubernetes meshes use.

use std::fmt;
use std::sync::Arc;

/// The longest URI accepted (SPIFFE-ID § 2.3: 2048 bytes).
const MAX_URI: usize = 2048;

/// `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId {
    trust_domain: Arc<str>,
    namespace: Arc<str>,
    service_account: Arc<str>,
}

/// Why a URI is not an identity of a mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSpiffeId {
    /// Longer than 2048 bytes.
    #[error("longer than {MAX_URI} bytes")]
    TooLong,
    /// The scheme is not `spiffe://`, in lower case.
    #[error("scheme is not spiffe://")]
    Scheme,
    /// The trust domain is empty or has a character outside `[a-z0-9.-_]`.
    #[error("trust domain has a character outside [a-z0-9._-] or is empty")]
    TrustDomain,
    /// The path is not `/ns/<namespace>/sa/<service account>`.
    #[error("path is not /ns/<namespace>/sa/<service account>")]
    Path,
}

impl SpiffeId {
    /// Builds an identity from parts that are already known to be valid names.
    pub fn new(
        trust_domain: impl Into<Arc<str>>,
        namespace: impl Into<Arc<str>>,
        service_account: impl Into<Arc<str>>,
    ) -> Self {
        Self {
            trust_domain: trust_domain.into(),
            namespace: namespace.into(),
            service_account: service_account.into(),
        }
    }

    /// Parses a URI SAN.
    ///
    /// # Errors
    /// Any deviation from the form above, percent-encoding and non-ASCII included.
    pub fn parse(uri: &str) -> Result<Self, InvalidSpiffeId> {
        if uri.len() > MAX_URI {
            return Err(InvalidSpiffeId::TooLong);
        }
        let rest = uri.strip_prefix("spiffe://").ok_or(InvalidSpiffeId::Scheme)?;
        let (trust_domain, path) = rest.split_once('/').ok_or(InvalidSpiffeId::Path)?;
        let domain_char = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || b".-_".contains(&c);
        if trust_domain.is_empty() || trust_domain.ends_with('.') || !trust_domain.bytes().all(domain_char) {
            return Err(InvalidSpiffeId::TrustDomain);
        }
        let name_char = |c: u8| c.is_ascii_alphanumeric() || b".-_".contains(&c);
        let name = |s: &str| !s.is_empty() && s != "." && s != ".." && s.bytes().all(name_char);
        let mut parts = path.split('/');
        match (
            parts.next(),
            parts.next(),
            parts.next(),
            parts.next(),
            parts.next(),
        ) {
            (Some("ns"), Some(ns), Some("sa"), Some(sa), None) if name(ns) && name(sa) => {
                Ok(Self::new(trust_domain, ns, sa))
            }
            _ => Err(InvalidSpiffeId::Path),
        }
    }

    /// The trust domain.
    #[must_use]
    pub fn trust_domain(&self) -> &str {
        &self.trust_domain
    }

    /// The namespace.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The service account.
    #[must_use]
    pub fn service_account(&self) -> &str {
        &self.service_account
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "spiffe://{}/ns/{}/sa/{}",
            self.trust_domain, self.namespace, self.service_account
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_exact_form_is_an_identity() {
        let id = SpiffeId::parse("spiffe://cluster.local/ns/weather/sa/forecast").unwrap();
        assert_eq!(
            (id.trust_domain(), id.namespace(), id.service_account()),
            ("cluster.local", "weather", "forecast")
        );
        assert_eq!(id.to_string(), "spiffe://cluster.local/ns/weather/sa/forecast");
        for bad in [
            "",
            "spiffe://",
            "SPIFFE://cluster.local/ns/a/sa/b",
            "https://cluster.local/ns/a/sa/b",
            "spiffe:///ns/a/sa/b",
            "spiffe://Cluster.local/ns/a/sa/b",
            "spiffe://cluster.local./ns/a/sa/b",
            "spiffe://cluster.local/ns/a/sa/",
            "spiffe://cluster.local/ns//sa/b",
            "spiffe://cluster.local/ns/a/sa/b/",
            "spiffe://cluster.local/ns/a/sa/b?x",
            "spiffe://cluster.local/ns/a/sa/b%00",
            "spiffe://cluster.local/ns/a/sa/b\0",
            "spiffe://cluster.local/ns/../sa/b",
            "spiffe://user@cluster.local/ns/a/sa/b",
            "spiffe://cluster.local:80/ns/a/sa/b",
            "spiffe://cluster.local/sa/b/ns/a",
        ] {
            assert!(SpiffeId::parse(bad).is_err(), "{bad:?}");
        }
        assert_eq!(
            SpiffeId::parse(&"x".repeat(MAX_URI + 1)),
            Err(InvalidSpiffeId::TooLong)
        );
    }
}
