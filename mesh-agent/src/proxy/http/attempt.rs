//! One try of a request at one endpoint.

use super::super::upstream::ConnectError;
use super::super::worker::Worker;
use super::body::RequestBody;
use super::pool::{self, Lease, Wanted};
use super::upgrade::Switched;
use http::{Request, Response};
use hyper::body::Incoming;
use std::rc::Rc;
use tokio::sync::oneshot;

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

/// Sends the request and waits for the head of the response. Cancelled, it closes the connection or stream. `switch`: the
/// request asks for another protocol.
pub(super) async fn send(
    worker: &Rc<Worker>,
    wanted: &Wanted<'_>,
    switch: bool,
    request: Request<RequestBody>,
) -> Result<Reply, NoReply> {
    let mut request = request;
    loop {
        let (mut lease, reused) = match pool::lease(worker, wanted).await {
            Ok(leased) => leased,
            Err(error) => return Err(NoReply::Connect(error, Box::new(request))),
        };
        let mut switched = None;
        let sent = match &mut lease {
            Lease::Http1(_, _, conn) => {
                switched = switch.then(|| conn.expect_switch());
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
