//! Tests of the proxy as a whole, in one process, on loopback: what a pod's application dialled is a constant, and
//! the endpoints are servers of the test.

mod bytes;
mod connections;
mod cross;
mod http1;
mod http2;
mod mesh;
mod policies;
mod promises;
mod rules;
mod sessions;
mod smuggling;
mod vouched;

use crate::contract::{Credential, Credentials, Origination};
use crate::tls::Originator;
use std::sync::Arc;

/// One Secret for everybody: `ca.crt` is the test authority's.
struct OneSecret(Arc<Credential>);

impl Credentials for OneSecret {
    fn credential(&self, _: &str, name: &str) -> Option<Arc<Credential>> {
        (name == "ca").then(|| Arc::clone(&self.0))
    }
}

fn origination() -> Arc<dyn Origination> {
    let credential = Credential {
        authority: Some(policies::authority().into_bytes()),
        ..Credential::default()
    };
    Arc::new(Originator::new(Arc::new(OneSecret(Arc::new(credential)))))
}
