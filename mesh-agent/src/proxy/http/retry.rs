//! Which failures are worth another try, after how long, and the body that goes with it.

use super::body::{BodyError, Traffic};
use super::mirror::Tap;
use bytes::Bytes;
use http::{HeaderMap, Method};
use http_body::{Body as _, Frame};
use hyper::body::Incoming;
use mesh_core::model::route::RetryPolicy;
use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

/// A try that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failed {
    /// No connection.
    Connect,
    /// The upstream said that it did not begin (REFUSED_STREAM, GOAWAY).
    RefusedStream,
    /// The connection or stream ended before the response.
    Reset,
    /// `perTryTimeout` has passed.
    TryTimeout,
}

/// Whether the policy wants another try after this failure.
pub(super) fn after_failure(policy: &RetryPolicy, failed: Failed) -> bool {
    let on = &policy.on;
    match failed {
        Failed::Connect => on.connect_failure || on.reset || on.server_error || on.gateway_error,
        Failed::RefusedStream => on.refused_stream || on.reset || on.server_error,
        Failed::Reset => on.reset || on.server_error || on.gateway_error,
        Failed::TryTimeout => {
            on.try_timeout || on.server_error || on.gateway_error || on.statuses.contains(&504)
        }
    }
}

/// Whether the policy wants another try after a response with this head.
pub(super) fn after_response(policy: &RetryPolicy, status: u16, grpc: bool, headers: &HeaderMap) -> bool {
    let on = &policy.on;
    if grpc && !on.grpc.is_empty() {
        // Only a response of trailers alone has its status here; nothing was sent to the client yet.
        let code = headers
            .get("grpc-status")
            .and_then(|v| v.to_str().ok()?.parse::<u8>().ok());
        if code.is_some_and(|code| on.grpc.contains(&code)) {
            return true;
        }
    }
    (on.server_error && (500..600).contains(&status))
        || (on.gateway_error && (502..=504).contains(&status))
        || (on.retriable_4xx && status == 409)
        || (on.rate_limited && headers.contains_key("x-envoy-ratelimited"))
        || on.statuses.contains(&status)
}

/// Whether the policy can want a try after the body has begun to move, so that the body must be kept.
pub(super) fn keeps_body(policy: &RetryPolicy, grpc: bool) -> bool {
    let on = &policy.on;
    policy.attempts > 0
        && (on.reset
            || on.server_error
            || on.gateway_error
            || on.retriable_4xx
            || on.rate_limited
            || !on.statuses.is_empty()
            || (grpc && (!on.grpc.is_empty() || on.refused_stream)))
}

/// Whether a request that may have arrived can be sent again (RFC 9110 § 9.2.2).
pub(super) fn is_idempotent(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE
    )
}

/// Delay before try `n` (1 = first retry): random, up to the base doubled each time, at most ten times the base
/// (Envoy).
pub(super) fn delay(policy: &RetryPolicy, n: u32, draw: f64) -> Duration {
    let most = policy
        .backoff
        .saturating_mul(1 << n.min(10))
        .saturating_sub(policy.backoff);
    most.min(policy.backoff.saturating_mul(10))
        .mul_f64(draw.clamp(0.0, 1.0))
}

/// A client's body that can be read again from its start, as long as it is short.
pub(super) struct Replay {
    source: Rc<RefCell<Source>>,
    /// Which reader this is: an earlier one must not take frames from a later one.
    reader: u32,
    next: usize,
}

struct Source {
    inner: Incoming,
    kept: Vec<Bytes>,
    size: usize,
    limit: usize,
    too_long: bool,
    trailers: Option<HeaderMap>,
    ended: bool,
    reader: u32,
    count: Rc<Traffic>,
    taps: Vec<Tap>,
}

impl Replay {
    /// Keeps up to `limit` bytes of `inner`.
    pub(super) fn new(inner: Incoming, limit: usize, count: Rc<Traffic>, taps: Vec<Tap>) -> Self {
        let source = Source {
            inner,
            kept: Vec::new(),
            size: 0,
            limit,
            too_long: false,
            trailers: None,
            ended: false,
            reader: 0,
            count,
            taps,
        };
        Self {
            source: Rc::new(RefCell::new(source)),
            reader: 0,
            next: 0,
        }
    }

    /// Another reader from the start; this one gets nothing more. `None` once the body was too long to keep.
    pub(super) fn again(&self) -> Option<Self> {
        let mut source = self.source.borrow_mut();
        if source.too_long {
            return None;
        }
        source.reader += 1;
        Some(Self {
            source: Rc::clone(&self.source),
            reader: source.reader,
            next: 0,
        })
    }

    /// The same reader, to be kept for [`Replay::again`].
    pub(super) fn handle(&self) -> Self {
        Self {
            source: Rc::clone(&self.source),
            reader: self.reader,
            next: self.next,
        }
    }

    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut source = self.source.borrow_mut();
        if source.reader != self.reader {
            return Poll::Ready(Some(Err("another try has taken over".into())));
        }
        if let Some(data) = source.kept.get(self.next) {
            self.next += 1;
            return Poll::Ready(Some(Ok(Frame::data(data.clone()))));
        }
        if source.ended {
            return Poll::Ready(source.trailers.take().map(|t| Ok(Frame::trailers(t))));
        }
        let frame = ready!(source.poll_inner(cx));
        self.next = source.kept.len();
        Poll::Ready(frame)
    }
}

impl Source {
    fn poll_inner(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    self.count.add(data, true);
                    self.taps.iter_mut().for_each(|tap| tap.data(data));
                    self.keep(data);
                } else if let Some(trailers) = frame.trailers_ref() {
                    self.taps.iter_mut().for_each(|tap| tap.trailers(trailers));
                    self.trailers = (!self.too_long).then(|| trailers.clone());
                }
                self.ended = self.inner.is_end_stream();
            }
            Some(Err(_)) => {
                self.taps.clear();
                self.too_long = true;
            }
            None => self.ended = true,
        }
        if self.ended {
            self.taps.drain(..).for_each(Tap::end);
        }
        Poll::Ready(frame.map(|f| f.map_err(Into::into)))
    }

    fn keep(&mut self, data: &Bytes) {
        self.size += data.len();
        self.too_long |= self.size > self.limit;
        if self.too_long {
            self.kept = Vec::new();
        } else {
            self.kept.push(data.clone());
        }
    }
}
