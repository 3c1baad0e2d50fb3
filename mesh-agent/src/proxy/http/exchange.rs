//! Tries of one request, until there is a response or none is left.

use super::super::outbound::{Hop, Unreachable};
use super::super::pair::{Outgoing, Pair};
use super::super::policy::{self, Overflow, Permit, RetryPermit, Wish};
use super::super::upstream::Path;
use super::answer::{self, Fault};
use super::attempt::{self, NoReply, Reply};
use super::body::{RequestBody, ResponseBody};
use super::headers;
use super::plan::Plan;
use super::pool::Wanted;
use super::record::Record;
use super::retry::{self, Failed, Replay};
use super::{Context, Side};
use crate::errors::chain;
use crate::telemetry::labels::RequestProtocol;
use http::header::{self, HeaderValue};
use http::{Method, Request, Response};
use mesh_core::model::route::RetryPolicy;
use mesh_core::outlier::Outcome;
use mesh_core::routing::{Affinity, Session};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// One request on its way.
pub(super) struct Exchange {
    pub(super) context: Rc<Context>,
    pub(super) request: Option<Request<RequestBody>>,
    /// Reads the body again.
    pub(super) replay: Option<Replay>,
    pub(super) record: Record,
    /// Time for the response with all of its tries.
    pub(super) timeout: Option<Duration>,
    pub(super) http2: bool,
    pub(super) switch: Switch,
    /// What it is bound to.
    pub(super) bound: Affinity,
    /// The session that keeps it with an endpoint.
    pub(super) session: Option<Session>,
    /// The server that it asks for, as a name for TLS.
    pub(super) server_name: String,
    /// The place of a try after the first.
    retry: Option<RetryPermit>,
}

/// A try without a response: why, the request if nothing of it was sent, and whether the connection had served before.
type Failure = (Failed, Option<Box<Request<RequestBody>>>, bool);

/// Whether the client asks for another protocol.
pub(super) enum Switch {
    No,
    /// `Upgrade` of HTTP/1.1.
    Http1(HeaderValue),
    /// Extended CONNECT of HTTP/2 (RFC 8441).
    Extended(hyper::upgrade::OnUpgrade),
}

impl Switch {
    /// The fields that ask the upstream, which were taken off as belonging to one hop.
    pub(super) fn dress(&self, head: &mut Request<()>) {
        let upgrade = match self {
            Self::No => return,
            Self::Http1(protocol) => protocol.clone(),
            Self::Extended(_) => HeaderValue::from_static("websocket"),
        };
        if matches!(self, Self::Extended(_)) {
            *head.method_mut() = Method::GET;
            head.headers_mut()
                .insert(header::SEC_WEBSOCKET_KEY, HeaderValue::from_static(WEBSOCKET_KEY));
        }
        head.headers_mut()
            .insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        head.headers_mut().insert(header::UPGRADE, upgrade);
    }
}

impl Exchange {
    /// A request whose body is still to be attached: without a timeout, over HTTP/1.1.
    pub(super) fn new(context: &Rc<Context>, record: Record, switch: Switch) -> Self {
        Self {
            context: Rc::clone(context),
            request: None,
            replay: None,
            record,
            timeout: None,
            http2: false,
            switch,
            bound: Affinity::default(),
            session: None,
            server_name: String::new(),
            retry: None,
        }
    }

    /// Whether the client asks for another protocol.
    pub(super) const fn switches(&self) -> bool {
        !matches!(self.switch, Switch::No)
    }

    /// Tries, and answers.
    pub(super) async fn run(mut self, plan: Option<&Plan>) -> Response<ResponseBody> {
        let deadline = self.timeout.and_then(|t| Instant::now().checked_add(t));
        let outcome = match deadline {
            None => self.tries(plan).await,
            Some(at) => match tokio::time::timeout_at(at, self.tries(plan)).await {
                Ok(outcome) => outcome,
                Err(_) => {
                    self.between(plan, None);
                    Err(Fault::TIMEOUT)
                }
            },
        };
        match outcome {
            Ok((reply, hop)) => self.respond(reply, hop, plan, deadline).await,
            Err(fault) => {
                let from_agent = matches!(&self.context.side, Side::Inbound(conn) if conn.peer.is_some());
                let unsent = from_agent && fault.flag == Fault::CONNECT.flag;
                let mut response = answer::fault(&fault, self.record);
                if unsent {
                    let yes = HeaderValue::from_static("1");
                    response.headers_mut().insert(headers::UNSENT, yes);
                }
                if let Some(route) = plan.and_then(Plan::route) {
                    headers::dress(response.headers_mut(), &route.cors);
                }
                response
            }
        }
    }

    /// Tries until there is a response that is not to be tried again.
    async fn tries(&mut self, plan: Option<&Plan>) -> Result<(Reply, Option<Hop>), Fault> {
        let policy = plan.map(Plan::retries);
        let mut left = policy.map_or(0, |p| p.attempts);
        let mut stale = STALE_TRIES;
        let mut avoid: Vec<SocketAddr> = Vec::new();
        loop {
            self.record.attempts += 1;
            let permit = self.admit(plan).await?;
            let mut hop = self.hop(plan, &avoid)?;
            if let Some(hop) = &mut hop {
                hop.permit = permit;
            }
            let addr = hop.as_ref().map(|h| h.endpoint.addr);
            let request = self.request.take().ok_or(Fault::RESET)?;
            let spare = self.spare(&request);
            let outcome = self.once(plan, hop.as_ref(), policy, request).await;
            self.watched(hop.as_ref(), &outcome);
            let again = match outcome {
                Ok(mut reply) => {
                    // Taken off on both sides: an application's word on it goes nowhere.
                    let said = reply.response.headers_mut().remove(headers::UNSENT).is_some();
                    let unsent = said && matches!(&hop, Some(hop) if matches!(hop.path, Path::Tunnel(_)));
                    let wanted = left > 0
                        && spare.is_some()
                        && policy.is_some_and(|p| {
                            let head = &reply.response;
                            unsent && retry::after_failure(p, Failed::Connect)
                                || retry::after_response(
                                    p,
                                    head.status().as_u16(),
                                    self.record.grpc,
                                    head.headers(),
                                )
                        });
                    let admitted = match wanted {
                        true => self.may_retry(plan),
                        false => Ok(false),
                    };
                    let wanted = match admitted {
                        Ok(wanted) => wanted,
                        Err(fault) => {
                            self.between(plan, hop.as_ref());
                            return Err(fault);
                        }
                    };
                    match spare.filter(|_| wanted).and_then(|s| self.refill(s)) {
                        Some(request) => request,
                        None => return Ok((reply, hop)),
                    }
                }
                Err((failed, back, reused)) => {
                    let unsent = back.is_some();
                    let request = match back {
                        Some(request) => Some(*request),
                        None => spare.and_then(|s| self.refill(s)),
                    };
                    let fault = fault_of(failed);
                    self.between(plan, hop.as_ref());
                    let Some(request) = request else { return Err(fault) };
                    let free = reused && !unsent && stale > 0 && retry::is_idempotent(request.method());
                    if free {
                        // A kept connection that the other end was closing: no failure of the endpoint.
                        stale -= 1;
                        self.request = Some(request);
                        continue;
                    }
                    if left == 0 || !policy.is_some_and(|p| retry::after_failure(p, failed)) {
                        return Err(fault);
                    }
                    if !self.may_retry(plan)? {
                        return Err(fault);
                    }
                    request
                }
            };
            left -= 1;
            self.request = Some(again);
            if !policy.is_some_and(|p| p.previous_hosts) {
                avoid.extend(addr);
            }
            self.context.side.worker().telemetry().proxy.retries.inc();
            if let Some(policy) = policy {
                let n = policy.attempts - left;
                tokio::time::sleep(retry::delay(policy, n, fastrand::f64())).await;
            }
        }
    }

    /// Waits for a place among those that are limited.
    async fn admit(&mut self, plan: Option<&Plan>) -> Result<Option<Permit>, Fault> {
        let context = Rc::clone(&self.context);
        let (Some(upstream), Side::Outbound(conn)) = (plan.and_then(Plan::upstream), &context.side) else {
            return Ok(None);
        };
        let most = upstream.policy.connection_pool.http.max_concurrent_streams;
        let streams = if self.http2 {
            most.unwrap_or(policy::STREAMS)
        } else {
            1
        };
        let admitted = conn.admit_request(upstream, streams).await;
        admitted.map_err(|overflow| {
            self.overflowed(overflow);
            self.between(plan, None);
            Fault::OVERFLOW
        })
    }

    /// Takes a place for one more try, if there is one. Where a service constrains retries, one too many is answered with
    /// 503 (GEP-3388); any other limit leaves what the last try came to.
    fn may_retry(&mut self, plan: Option<&Plan>) -> Result<bool, Fault> {
        self.retry = None;
        let context = Rc::clone(&self.context);
        let (Some(upstream), Side::Outbound(conn)) = (plan.and_then(Plan::upstream), &context.side) else {
            return Ok(true);
        };
        match conn.admit_retry(upstream) {
            Ok(permit) => {
                self.retry = permit;
                Ok(true)
            }
            Err(overflow) => {
                self.overflowed(overflow);
                self.record.fail(Fault::OVERFLOW.flag, "retry limit");
                match overflow {
                    Overflow::RETRY_CONSTRAINT => Err(Fault::OVERFLOW),
                    _ => Ok(false),
                }
            }
        }
    }

    fn overflowed(&self, overflow: Overflow) {
        let metrics = &self.context.side.worker().telemetry().proxy;
        metrics.overflows.get_or_create(&[("limit", overflow.0)]).inc();
    }

    /// Tells outlier detection how a try came out.
    fn watched(&self, hop: Option<&Hop>, outcome: &Result<Reply, Failure>) {
        let Some(watch) = hop.and_then(|h| h.watch.as_ref()) else {
            return;
        };
        let outcome = match outcome {
            Ok(reply) => Outcome::Status(retry::status(
                reply.response.status().as_u16(),
                self.record.grpc,
                reply.response.headers(),
            )),
            Err((Failed::TryTimeout, ..)) => Outcome::TimedOut,
            // A kept connection that the other end was closing: no failure of the endpoint.
            Err((_, _, true)) => return,
            Err(_) => Outcome::Failed,
        };
        watch.report(outcome, self.context.side.worker().telemetry());
    }

    fn hop(&mut self, plan: Option<&Plan>, avoid: &[SocketAddr]) -> Result<Option<Hop>, Fault> {
        let context = Rc::clone(&self.context);
        let (Some(plan), Side::Outbound(conn)) = (plan, &context.side) else {
            return Ok(None);
        };
        let wish = Wish {
            hash: self.bound.hash,
            held: self.session.as_ref().and_then(Session::held),
        };
        plan.hop(conn, wish, avoid).map(Some).map_err(|error| {
            tracing::debug!(error = %chain(&error), client = %conn.client, "no endpoint");
            self.between(Some(plan), None);
            match error {
                Unreachable::Refused(refusal) => Fault::refused(refusal.status, refusal.flag),
                Unreachable::NoEndpoint => Fault::NO_ENDPOINT,
                Unreachable::Overflow(_) => Fault::OVERFLOW,
                Unreachable::Connect(_) => Fault::CONNECT,
            }
        })
    }

    /// One try.
    async fn once(
        &self,
        plan: Option<&Plan>,
        hop: Option<&Hop>,
        policy: Option<&RetryPolicy>,
        request: Request<RequestBody>,
    ) -> Result<Reply, Failure> {
        let local;
        let (path, addr, origin, peer) = match &self.context.side {
            Side::Outbound(conn) => {
                let Some(hop) = hop else {
                    return Err((Failed::Connect, None, false));
                };
                (&hop.path, hop.endpoint.addr, conn.origin(), None)
            }
            Side::Inbound(conn) => {
                local = Path::App(Arc::clone(&conn.pod));
                (&local, conn.target, conn.origin(), conn.peer.as_ref())
            }
        };
        let wanted = Wanted {
            path,
            addr,
            origin: &origin,
            peer,
            host: plan.map(|p| &p.names().host),
            http2: self.http2,
            policy: hop.map(|h| &h.policy),
            server_name: &self.server_name,
        };
        let sending = attempt::send(self.context.side.worker(), &wanted, self.switches(), request);
        let sent = match policy.and_then(|p| p.per_try_timeout) {
            None => sending.await,
            Some(limit) => match tokio::time::timeout(limit, sending).await {
                Ok(sent) => sent,
                Err(_) => return Err((Failed::TryTimeout, None, false)),
            },
        };
        sent.map_err(|error| match error {
            NoReply::Connect(error, request) => {
                tracing::debug!(error = %chain(&error), "no upstream connection");
                (Failed::Connect, Some(request), false)
            }
            NoReply::Unsent(request) => (Failed::Connect, Some(request), false),
            NoReply::Reset {
                refused,
                reused,
                error,
            } => {
                tracing::debug!(error = %chain(&error), %addr, "no response");
                (
                    if refused {
                        Failed::RefusedStream
                    } else {
                        Failed::Reset
                    },
                    None,
                    reused,
                )
            }
        })
    }

    /// What another try after this one needs: a copy of the head, if the body can be had again.
    fn spare(&self, request: &Request<RequestBody>) -> Option<Request<()>> {
        let empty = matches!(request.body(), RequestBody::Empty);
        if !empty && self.replay.is_none() {
            return None;
        }
        let mut copy = Request::new(());
        *copy.method_mut() = request.method().clone();
        *copy.uri_mut() = request.uri().clone();
        *copy.version_mut() = request.version();
        *copy.headers_mut() = request.headers().clone();
        Some(copy)
    }

    fn refill(&mut self, spare: Request<()>) -> Option<Request<RequestBody>> {
        let body = match &self.replay {
            None => RequestBody::Empty,
            Some(replay) => {
                let again = replay.again()?;
                self.replay = Some(again.handle());
                RequestBody::Replay(again)
            }
        };
        Some(spare.map(|()| body))
    }

    /// Tells the record who talks to whom.
    pub(super) fn between(&mut self, plan: Option<&Plan>, hop: Option<&Hop>) {
        let protocol = protocol(self.record.grpc);
        let pair = match &self.context.side {
            Side::Inbound(conn) => conn.pair(protocol),
            Side::Outbound(conn) => {
                let Some(plan) = plan else { return };
                Pair::outgoing(
                    &conn.worker,
                    &Outgoing {
                        source: &conn.party,
                        service: plan.names(),
                        workload: hop.and_then(|h| h.endpoint.workload.as_ref()),
                        path: hop.map(|h| &h.path),
                        client: conn.client,
                        server: hop.map_or(conn.original, |h| h.endpoint.addr),
                        protocol,
                    },
                )
            }
        };
        self.record.between(pair);
    }
}

/// A copy of everything but the body.
pub(super) fn copy_head(parts: &http::request::Parts) -> Request<()> {
    let mut copy = Request::new(());
    *copy.method_mut() = parts.method.clone();
    *copy.uri_mut() = parts.uri.clone();
    *copy.headers_mut() = parts.headers.clone();
    copy
}

/// What metrics call it.
pub(super) const fn protocol(grpc: bool) -> RequestProtocol {
    if grpc {
        RequestProtocol::Grpc
    } else {
        RequestProtocol::Http
    }
}

const fn fault_of(failed: Failed) -> Fault {
    match failed {
        Failed::Connect => Fault::CONNECT,
        Failed::RefusedStream | Failed::Reset => Fault::RESET,
        Failed::TryTimeout => Fault::TIMEOUT,
    }
}

/// Tries on kept connections that turn out to be closed, beyond the policy's.
const STALE_TRIES: u32 = 2;
/// Any value will do: the handshake proves that the server speaks WebSocket, and this client is the mesh.
const WEBSOCKET_KEY: &str = "aGVkZGxlLXdlYnNvY2tldA==";
