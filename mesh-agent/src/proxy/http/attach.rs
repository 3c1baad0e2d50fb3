//! The body of a request, put on in the way that retries, mirrors and `Expect` need it.

use super::Side;
use super::body::{Outgoing, RequestBody, Traffic};
use super::exchange::{Exchange, copy_head};
use super::forward::address;
use super::mirror::{self, Tap};
use super::plan::{self, Plan};
use super::retry::{self, Replay};
use super::upgrade::Expect;
use http::Request;
use http::header::{self, HeaderValue};
use hyper::body::Incoming;
use std::rc::Rc;

impl Exchange {
    /// Puts the body on the request, in the way that retries and mirrors need it.
    pub(super) fn attach(&mut self, head: Request<()>, body: Incoming, plan: Option<&Plan>, expect: bool) {
        use http_body::Body as _;
        let (parts, ()) = head.into_parts();
        if body.is_end_stream() || self.switches() {
            self.mirror(&parts, plan, &mut None);
            self.request = Some(Request::from_parts(parts, RequestBody::Empty));
            return;
        }
        let count = Rc::new(Traffic::default());
        self.record.count_request(Rc::clone(&count));
        let mut taps = Some(Vec::new());
        self.mirror(&parts, plan, &mut taps);
        let taps = taps.unwrap_or_default();
        let keep = plan.is_some_and(|p| retry::keeps_body(p.retries(), self.record.grpc));
        let body = if keep && !expect {
            let limit = self.context.side.worker().shared.config.retry_buffer;
            let replay = Replay::new(body, limit, count, taps);
            self.replay = Some(replay.handle());
            RequestBody::Replay(replay)
        } else {
            RequestBody::Stream(Box::new(Outgoing {
                inner: body,
                count,
                taps,
                expect: None,
            }))
        };
        let mut request = Request::from_parts(parts, body);
        if expect {
            let waits = Expect::of(&mut request);
            if let RequestBody::Stream(body) = request.body_mut() {
                body.expect = Some(waits);
            }
        }
        self.request = Some(request);
    }

    fn mirror(&self, parts: &http::request::Parts, plan: Option<&Plan>, taps: &mut Option<Vec<Tap>>) {
        let (Some(route), Side::Outbound(conn)) = (plan.and_then(Plan::route), &self.context.side) else {
            return;
        };
        for upstream in &route.mirrors {
            let worker = self.context.side.worker();
            let Some(hop) = plan::mirror_hop(conn, upstream) else {
                worker.telemetry().proxy.mirrors_dropped.inc();
                continue;
            };
            let body = match taps {
                Some(taps) => {
                    let (tap, body) = Tap::new(worker);
                    taps.push(tap);
                    body
                }
                None => RequestBody::Empty,
            };
            let mut copy = copy_head(parts).map(|()| body);
            let authority = match copy.headers().get(header::HOST) {
                Some(host) => mirror::shadow(host),
                None => {
                    let text = copy.uri().authority().map_or("", |a| a.as_str());
                    mirror::shadow(&HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static("")))
                }
            };
            let path = copy.uri().path_and_query().cloned();
            let (copy_parts, body) =
                std::mem::replace(&mut copy, Request::new(RequestBody::Empty)).into_parts();
            let mut head = Request::from_parts(copy_parts, ());
            if address(&mut head, path, authority, self.http2).is_ok() {
                mirror::send(conn, hop, head.map(|()| body), self.http2);
            }
        }
    }
}
