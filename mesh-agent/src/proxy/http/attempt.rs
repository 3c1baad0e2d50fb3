//! One try of a request at one endpoint.

use super::super::upstream::{ConnectError, Origin, Path};
use super::super::worker::Worker;
use super::body::RequestBody;
use super::pool::{self, Lease, Wanted};
use super::upgrade::Switched;
use http::{Request, Response};
use hyper::body::Incoming;
use mesh_core::model::identity::SpiffeId;
use mesh_core::model::traffic::TrafficPolicy;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use tokio::sync::oneshot;

/// Where and how.
pub(super) struct Try<'a> {
    pub(super) path: &'a Path,
    pub(super) addr: SocketAddr,
    pub(super) origin: &'a Origin,
    pub(super) peer: Option<&'a SpiffeId>,
    pub(super) host: Option<&'a Arc<str>>,
    pub(super) http2: bool,
    /// How connections to the endpoint are made; `None` = as the mesh does.
    pub(super) policy: Option<&'a Arc<TrafficPolicy>>,
    /// What the server is called, where it must prove it.
    pub(super) server_name: &'a str,
    /// The request asks for another protocol.
    pub(super) switch: bool,
}

/// A response's head, and what it came by.
pub(super) struct Reply {
    pub(super) response: Response<Incoming>,
    pub(super) lease: Lease,
    pub(super) switched: Option<oneshot::Receiver<Switched>>,
}

/// No response.
pub(super) enum NoReply {
    /// No connection; here is the request back.
    Connect(ConnectError, Box<Request<RequestBody>>),
    /// Nothing of the request was sent on a connection that was kept too long; here it is back.
    Unsent(Box<Request<RequestBody>>),
    /// The connection or stream ended.
    Reset {
        /// The upstream said that it did not begin.
        refused: bool,
        /// The connection had served before.
        reused: bool,
        error: hyper::Error,
    },
}

/// Sends the request and waits for the head of the response. Cancelled, it closes the connection or stream.
pub(super) async fn send(
    worker: &Rc<Worker>,
    wanted: &Try<'_>,
    request: Request<RequestBody>,
) -> Result<Reply, NoReply> {
    let connection = Wanted {
        path: wanted.path,
        addr: wanted.addr,
        origin: wanted.origin,
        peer: wanted.peer,
        host: wanted.host,
        http2: wanted.http2,
        policy: wanted.policy,
        server_name: wanted.server_name,
    };
    let mut request = request;
    loop {
        let (mut lease, reused) = match pool::lease(worker, &connection).await {
            Ok(leased) => leased,
            Err(error) => return Err(NoReply::Connect(error, Box::new(request))),
        };
        let mut switched = None;
        let sent = match &mut lease {
            Lease::Http1(_, _, conn) => {
                switched = wanted.switch.then(|| conn.expect_switch());
                conn.sender().try_send_request(request).await
            }
            Lease::Http2(stream) => stream.sender().try_send_request(request).await,
        };
        match sent {
            Ok(response) => {
                return Ok(Reply {
                    response,
                    lease,
                    switched,
                });
            }
            Err(mut failed) => match failed.take_message() {
                // A kept connection was closed by the other end at the same moment: the next one may do.
                Some(back) if reused => request = back,
                Some(back) => return Err(NoReply::Unsent(Box::new(back))),
                None => {
                    let error = failed.into_error();
                    return Err(NoReply::Reset {
                        refused: is_refused(&error),
                        reused,
                        error,
                    });
                }
            },
        }
    }
}

fn is_refused(error: &hyper::Error) -> bool {
    use std::error::Error as _;
    let source = error.source().and_then(|s| s.downcast_ref::<h2::Error>());
    source.is_some_and(|e| e.reason() == Some(h2::Reason::REFUSED_STREAM))
}
