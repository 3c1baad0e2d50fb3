//! Copies of requests for mirrors. Nobody waits for them: a mirror that is slow loses its copy, and that is counted.

use super::super::outbound::{Hop, Outbound};
use super::super::worker::Worker;
use super::attempt;
use super::body::RequestBody;
use super::pool::Wanted;
use bytes::Bytes;
use http::header::HeaderValue;
use http::{HeaderMap, Request};
use http_body::{Body as _, Frame};
use http_body_util::BodyExt as _;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Where a body's frames go a second time.
pub(super) struct Tap {
    frames: Option<mpsc::Sender<Option<Frame<Bytes>>>>,
    worker: Rc<Worker>,
}

impl Tap {
    /// A tap and the body that comes out of it.
    pub(super) fn new(worker: &Rc<Worker>) -> (Self, RequestBody) {
        let (sender, receiver) = mpsc::channel(FRAMES);
        (
            Self {
                frames: Some(sender),
                worker: Rc::clone(worker),
            },
            RequestBody::Copy(receiver),
        )
    }

    pub(super) fn data(&mut self, data: &Bytes) {
        self.send(Frame::data(data.clone()));
    }

    pub(super) fn trailers(&mut self, trailers: &HeaderMap) {
        self.send(Frame::trailers(trailers.clone()));
    }

    /// The body was whole.
    pub(super) fn end(self) {
        let Some(frames) = self.frames else { return };
        if let Err(mpsc::error::TrySendError::Full(end)) = frames.try_send(None) {
            // One frame more than fits: the mirror is given the time to take it.
            self.worker.spawn_fenced(async move {
                let _mirror_gone = tokio::time::timeout(DEADLINE, frames.send(end)).await;
            });
        }
    }

    fn send(&mut self, frame: Frame<Bytes>) {
        let Some(frames) = &self.frames else { return };
        if frames.try_send(Some(frame)).is_err() {
            self.frames = None;
            self.worker.telemetry().proxy.mirrors_dropped.inc();
        }
    }
}

/// Sends a copy and forgets the answer.
pub(super) fn send(conn: &Rc<Outbound>, hop: Hop, request: Request<RequestBody>, http2: bool) {
    let worker = &conn.worker;
    if worker.mirrors.get() >= worker.shared.config.mirrors {
        worker.telemetry().proxy.mirrors_dropped.inc();
        return;
    }
    let place = Place::take(worker);
    let conn = Rc::clone(conn);
    worker.spawn_fenced(async move {
        let place = place;
        let origin = conn.origin();
        let exchange = async {
            let wanted = Wanted {
                path: &hop.path,
                addr: hop.endpoint.addr,
                origin: &origin,
                peer: None,
                host: Some(&hop.service.host),
                http2,
                policy: Some(&hop.policy),
                server_name: &hop.service.host,
            };
            let Ok(reply) = attempt::send(&place.0, &wanted, false, request).await else {
                return false;
            };
            let mut body = reply.response.into_body();
            while let Some(Ok(_)) = body.frame().await {}
            if body.is_end_stream() {
                reply.lease.give_back();
            }
            true
        };
        if !matches!(tokio::time::timeout(DEADLINE, exchange).await, Ok(true)) {
            place.0.telemetry().proxy.mirrors_dropped.inc();
        }
    });
}

/// The authority of a copy, as Envoy marks it: `-shadow` after the host.
pub(super) fn shadow(authority: &HeaderValue) -> HeaderValue {
    let text = authority.to_str().unwrap_or_default();
    let (host, port) = match text.rfind(':') {
        Some(colon) if !text.ends_with(']') => text.split_at(colon),
        _ => (text, ""),
    };
    HeaderValue::from_str(&format!("{host}-shadow{port}")).unwrap_or_else(|_| authority.clone())
}

/// One of the worker's places for copies in flight.
struct Place(Rc<Worker>);

impl Place {
    fn take(worker: &Rc<Worker>) -> Self {
        worker.mirrors.set(worker.mirrors.get() + 1);
        Self(Rc::clone(worker))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.mirrors.set(self.0.mirrors.get() - 1);
    }
}

const FRAMES: usize = 32;
const DEADLINE: Duration = Duration::from_secs(15);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_are_marked_in_the_host() {
        for (from, want) in [
            ("a", "a-shadow"),
            ("a.b:80", "a.b-shadow:80"),
            ("[fd00::1]:80", "[fd00::1]-shadow:80"),
        ] {
            assert_eq!(shadow(&HeaderValue::from_static(from)), want);
        }
    }
}
