//! The response on its way back, and the switch to another protocol.

use super::super::outbound::Hop;
use super::answer::{self, Fault};
use super::attempt::Reply;
use super::body::{ResponseBody, Tail};
use super::exchange::{Exchange, Switch};
use super::headers;
use super::plan::Plan;
use super::pool::Lease;
use super::upgrade::{Switched, Upgraded};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode, Version};
use hyper_util::rt::TokioIo;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;

impl Exchange {
    /// Gives the response to the client.
    pub(super) async fn respond(
        mut self,
        reply: Reply,
        hop: Option<Hop>,
        plan: Option<&Plan>,
        deadline: Option<Instant>,
    ) -> Response<ResponseBody> {
        self.between(plan, hop.as_ref());
        let (mut parts, body) = reply.response.into_parts();
        self.record.head(parts.status.as_u16(), &parts.headers);
        parts.version = Version::HTTP_11;
        let switching = parts.status == StatusCode::SWITCHING_PROTOCOLS;
        let upgrade = parts.headers.get(header::UPGRADE).cloned();
        headers::strip(&mut parts.headers);
        if let Some(route) = plan.and_then(Plan::route) {
            let rule = route.rule.as_ref();
            for ops in rule.into_iter().flat_map(|r| r.headers().rev()) {
                headers::edit(&mut parts.headers, &ops.response);
            }
            headers::dress(&mut parts.headers, &route.cors);
        }
        let cookie = self.bound.set_cookie.take();
        if let Some(Ok(cookie)) = cookie.map(HeaderValue::try_from) {
            parts.headers.append(header::SET_COOKIE, cookie);
        }
        self.begin_session(&mut parts.headers, hop.as_ref());
        if switching {
            let Some(switched) = reply.switched else {
                return answer::fault(&Fault::RESET, self.record);
            };
            return self.switch(parts, upgrade, switched, reply.lease).await;
        }
        let deadline = deadline.map(|at| Box::pin(tokio::time::sleep_until(at)));
        let tail = Box::new(Tail {
            record: self.record,
            lease: Some(reply.lease),
            deadline,
            _load: hop,
        });
        Response::from_parts(parts, ResponseBody::upstream(body, tail))
    }

    /// Tells the client where it was served, unless it knows.
    fn begin_session(&self, headers: &mut HeaderMap, hop: Option<&Hop>) {
        let (Some(session), Some(hop)) = (&self.session, hop) else {
            return;
        };
        let Some((field, value)) = session.begins(hop.endpoint.addr) else {
            return;
        };
        let (Ok(field), Ok(value)) = (HeaderName::try_from(field), HeaderValue::try_from(value)) else {
            return;
        };
        if field == header::SET_COOKIE {
            headers.append(field, value);
        } else {
            headers.insert(field, value);
        }
    }

    /// The server agreed to another protocol.
    async fn switch(
        self,
        mut parts: http::response::Parts,
        upgrade: Option<HeaderValue>,
        switched: oneshot::Receiver<Switched>,
        lease: Lease,
    ) -> Response<ResponseBody> {
        let server = match tokio::time::timeout(SWITCH, switched).await {
            Ok(Ok(server)) => server,
            _ => return answer::fault(&Fault::RESET, self.record),
        };
        drop(lease);
        let upgraded = Upgraded {
            server,
            record: self.record,
        };
        match self.switch {
            Switch::Extended(client) => {
                parts.status = StatusCode::OK;
                parts.headers.remove(header::SEC_WEBSOCKET_ACCEPT);
                let worker = Rc::clone(self.context.side.worker());
                worker.spawn_fenced(async move {
                    match client.await {
                        Ok(client) => upgraded.run(TokioIo::new(client)).await,
                        Err(error) => tracing::debug!(%error, "client left before the upgrade"),
                    }
                });
            }
            Switch::Http1(_) | Switch::No => {
                parts
                    .headers
                    .insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
                if let Some(upgrade) = upgrade {
                    parts.headers.insert(header::UPGRADE, upgrade);
                }
                self.context.upgrade.put(upgraded);
            }
        }
        Response::from_parts(parts, ResponseBody::own(bytes::Bytes::new(), None))
    }
}

const SWITCH: Duration = Duration::from_secs(5);
