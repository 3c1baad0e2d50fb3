//! The life of one request: checked, decided, edited, tried until there is a response or no try is left, answered.

use super::super::detect::Detected;
use super::super::outbound::{Hop, Outbound, Unreachable};
use super::super::pair::{Outgoing as Outwards, Pair};
use super::super::tcp::chain;
use super::super::upstream::Path;
use super::answer::{self, Fault};
use super::attempt::{self, NoReply, Reply, Try};
use super::body::{Outgoing, RequestBody, ResponseBody, Tail, Traffic};
use super::head::Violation;
use super::headers;
use super::mirror::{self, Tap};
use super::plan::{self, Plan};
use super::record::{Record, Text};
use super::retry::{self, Failed, Replay};
use super::upgrade::{Expect, Upgraded};
use super::{Context, Side};
use crate::telemetry::labels::{RequestProtocol, ServiceNames};
use http::header::{self, HeaderValue};
use http::uri::{PathAndQuery, Scheme};
use http::{Method, Request, Response, StatusCode, Uri, Version};
use hyper::body::Incoming;
use hyper::ext::Protocol;
use hyper_util::rt::TokioIo;
use mesh_core::model::route::RetryPolicy;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Answers one request.
pub(super) async fn handle(
    context: Rc<Context>,
    request: Request<Incoming>,
) -> Result<Response<ResponseBody>, Infallible> {
    if let Some(violation) = context.guard.as_ref().and_then(|g| g.next_request()) {
        return Ok(refuse(&context, violation));
    }
    let response = match admit(&context, request) {
        Ok((exchange, plan)) => exchange.run(plan.as_ref()).await,
        Err(response) => *response,
    };
    if response.status() != StatusCode::SWITCHING_PROTOCOLS
        && let Some(guard) = &context.guard
    {
        guard.release();
    }
    Ok(response)
}

/// One request on its way.
struct Exchange {
    context: Rc<Context>,
    request: Option<Request<RequestBody>>,
    /// Reads the body again.
    replay: Option<Replay>,
    record: Record,
    http2: bool,
    switch: Switch,
}

/// Whether the client asks for another protocol.
enum Switch {
    No,
    /// `Upgrade` of HTTP/1.1.
    Http1,
    /// Extended CONNECT of HTTP/2 (RFC 8441).
    Extended(hyper::upgrade::OnUpgrade),
}

fn refuse(context: &Context, violation: Violation) -> Response<ResponseBody> {
    let metrics = &context.side.worker().telemetry().proxy;
    metrics
        .bad_requests
        .get_or_create(&[("reason", violation.label())])
        .inc();
    let mut response = answer::plain(violation.status(), "bad request", None);
    if context.version == Detected::Http1 {
        response
            .headers_mut()
            .insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    tracing::debug!(reason = %violation, client = %context.side.client(), "request refused");
    response
}

type Admitted = (Exchange, Option<Plan>);

/// Checks and decides.
fn admit(context: &Rc<Context>, request: Request<Incoming>) -> Result<Admitted, Box<Response<ResponseBody>>> {
    let refused = |violation| Box::new(refuse(context, violation));
    let mut request = request;
    let switch = switch_of(context, &mut request).map_err(refused)?;
    let (mut parts, body) = request.into_parts();
    let mut authority = headers::authority(&parts).map_err(refused)?;
    let worker = context.side.worker();
    let mut record = Record::begin(worker, headers::is_grpc(&parts.headers));
    let plan = match &context.side {
        Side::Inbound(_) => None,
        Side::Outbound(conn) => {
            headers::strip_controls(&mut parts.headers);
            headers::complete(&mut parts.headers);
            match plan::decide(conn, &worker.snapshot(), &parts, &authority) {
                Ok(plan) => Some(plan),
                Err((refusal, names)) => {
                    tracing::debug!(detail = %refusal.detail, client = %conn.client, "request refused");
                    record.between(unsent(conn, &names, record.grpc));
                    let fault = Fault::refused(refusal.status, refusal.flag);
                    return Err(Box::new(answer::fault(&fault, record)));
                }
            }
        }
    };
    if worker.telemetry().access.wanted() {
        record.describe(text_of(&parts, &authority, plan.as_ref()));
    }
    let expect = parts.headers.contains_key(header::EXPECT);
    headers::strip(&mut parts.headers);
    if let Some(rule) = plan.as_ref().and_then(|p| p.route()?.rule.as_ref()) {
        for ops in [rule.headers(), rule.destination_headers()] {
            if let Some(new) = headers::edit(&mut parts.headers, &ops.request) {
                authority = new;
            }
        }
    }
    let http1_only = !matches!(switch, Switch::No);
    let declared = plan.as_ref().is_some_and(Plan::declares_http2);
    let http2 = !http1_only && (context.version == Detected::Http2 || declared);
    if http2 || context.version == Detected::Http2 {
        parts.headers.remove(header::EXPECT);
    }
    let path = parts.uri.path_and_query().cloned();
    let mut head = Request::new(());
    *head.method_mut() = parts.method;
    *head.headers_mut() = parts.headers;
    if let Err(violation) = address(&mut head, path, authority, http2) {
        return Err(refused(violation));
    }
    switch.dress(&mut head);
    let mut exchange = Exchange {
        context: Rc::clone(context),
        request: None,
        replay: None,
        record,
        http2,
        switch,
    };
    exchange.attach(
        head,
        body,
        plan.as_ref(),
        expect && context.version == Detected::Http1 && !http2,
    );
    Ok((exchange, plan))
}

fn switch_of(context: &Context, request: &mut Request<Incoming>) -> Result<Switch, Violation> {
    if request.method() == Method::CONNECT {
        let websocket = request
            .extensions()
            .get::<Protocol>()
            .is_some_and(|p| p.as_str() == "websocket");
        return if websocket {
            Ok(Switch::Extended(hyper::upgrade::on(request)))
        } else {
            Err(Violation::Connect)
        };
    }
    let held = context.guard.as_ref().is_some_and(|g| g.is_held());
    Ok(if held { Switch::Http1 } else { Switch::No })
}

/// Gives the head the form that the upstream's version wants.
fn address(
    head: &mut Request<()>,
    path: Option<PathAndQuery>,
    authority: HeaderValue,
    http2: bool,
) -> Result<(), Violation> {
    let path = path.unwrap_or_else(|| PathAndQuery::from_static("/"));
    if !http2 {
        *head.uri_mut() = Uri::from(path);
        head.headers_mut().insert(header::HOST, authority);
        return Ok(());
    }
    let mut uri = http::uri::Parts::default();
    uri.scheme = Some(Scheme::HTTP);
    uri.authority = Some(authority.as_bytes().try_into().map_err(|_| Violation::BadHost)?);
    uri.path_and_query = Some(path);
    *head.uri_mut() = Uri::from_parts(uri).map_err(|_| Violation::RequestLine)?;
    *head.version_mut() = Version::HTTP_2;
    head.headers_mut().remove(header::HOST);
    Ok(())
}

impl Switch {
    /// The fields that ask the upstream, which were taken off as belonging to one hop.
    fn dress(&self, head: &mut Request<()>) {
        let upgrade = match self {
            Self::No => return,
            Self::Http1 | Self::Extended(_) => HeaderValue::from_static("websocket"),
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
    /// Puts the body on the request, in the way that retries and mirrors need it.
    fn attach(&mut self, head: Request<()>, body: Incoming, plan: Option<&Plan>, expect: bool) {
        use http_body::Body as _;
        let (parts, ()) = head.into_parts();
        if body.is_end_stream() || !matches!(self.switch, Switch::No) {
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

    async fn run(mut self, plan: Option<&Plan>) -> Response<ResponseBody> {
        let started = Instant::from_std(self.record.started());
        let deadline = plan.and_then(Plan::timeout).and_then(|t| started.checked_add(t));
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
            Err(fault) => answer::fault(&fault, self.record),
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
            let hop = self.hop(plan, &avoid)?;
            let addr = hop.as_ref().map(|h| h.endpoint.addr);
            let request = self.request.take().ok_or(Fault::RESET)?;
            let spare = self.spare(&request);
            let outcome = self.once(plan, hop.as_ref(), policy, request).await;
            let again = match outcome {
                Ok(reply) => {
                    let wanted = left > 0
                        && spare.is_some()
                        && policy.is_some_and(|p| {
                            let head = &reply.response;
                            retry::after_response(p, head.status().as_u16(), self.record.grpc, head.headers())
                        });
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
                    request
                }
            };
            left -= 1;
            self.request = Some(again);
            avoid.extend(addr);
            self.context.side.worker().telemetry().proxy.retries.inc();
            if let Some(policy) = policy {
                let n = policy.attempts - left;
                tokio::time::sleep(retry::delay(policy, n, fastrand::f64())).await;
            }
        }
    }

    fn hop(&mut self, plan: Option<&Plan>, avoid: &[SocketAddr]) -> Result<Option<Hop>, Fault> {
        let context = Rc::clone(&self.context);
        let (Some(plan), Side::Outbound(conn)) = (plan, &context.side) else {
            return Ok(None);
        };
        plan.hop(conn, avoid).map(Some).map_err(|error| {
            tracing::debug!(error = %chain(&error), client = %conn.client, "no endpoint");
            self.between(Some(plan), None);
            match error {
                Unreachable::Refused(refusal) => Fault::refused(refusal.status, refusal.flag),
                Unreachable::NoEndpoint => Fault::NO_ENDPOINT,
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
    ) -> Result<Reply, (Failed, Option<Box<Request<RequestBody>>>, bool)> {
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
        let wanted = Try {
            path,
            addr,
            origin: &origin,
            peer,
            host: plan.map(|p| &p.names().host),
            http2: self.http2,
            switch: !matches!(self.switch, Switch::No),
        };
        let sending = attempt::send(self.context.side.worker(), &wanted, request);
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
    fn between(&mut self, plan: Option<&Plan>, hop: Option<&Hop>) {
        let protocol = protocol(self.record.grpc);
        let pair = match &self.context.side {
            Side::Inbound(conn) => conn.pair(protocol),
            Side::Outbound(conn) => {
                let Some(plan) = plan else { return };
                Pair::outgoing(
                    &conn.worker,
                    &Outwards {
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

    async fn respond(
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
        if let Some(rule) = plan.and_then(|p| p.route()?.rule.as_ref()) {
            for ops in [rule.destination_headers(), rule.headers()] {
                headers::edit(&mut parts.headers, &ops.response);
            }
        }
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

    /// The server agreed to another protocol.
    async fn switch(
        self,
        mut parts: http::response::Parts,
        upgrade: Option<HeaderValue>,
        switched: tokio::sync::oneshot::Receiver<super::upgrade::Switched>,
        lease: super::pool::Lease,
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
            Switch::Http1 | Switch::No => {
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

fn copy_head(parts: &http::request::Parts) -> Request<()> {
    let mut copy = Request::new(());
    *copy.method_mut() = parts.method.clone();
    *copy.uri_mut() = parts.uri.clone();
    *copy.headers_mut() = parts.headers.clone();
    copy
}

/// A request that found no route.
fn unsent(conn: &Outbound, names: &Arc<ServiceNames>, grpc: bool) -> Pair {
    Pair::outgoing(
        &conn.worker,
        &Outwards {
            source: &conn.party,
            service: names,
            workload: None,
            path: None,
            client: conn.client,
            server: conn.original,
            protocol: protocol(grpc),
        },
    )
}

fn text_of(parts: &http::request::Parts, authority: &HeaderValue, plan: Option<&Plan>) -> Box<Text> {
    let lossy = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let rule = plan.and_then(|p| p.route()?.rule.as_ref());
    Box::new(Text {
        method: parts.method.as_str().to_owned(),
        path: parts.uri.path().to_owned(),
        authority: lossy(authority.as_bytes()),
        request_id: parts
            .headers
            .get(headers::REQUEST_ID)
            .map_or_else(String::new, |v| lossy(v.as_bytes())),
        route: rule.map_or_else(String::new, |m| {
            format!("{} spec.http[{}]", m.table.object, m.rule().index)
        }),
    })
}

const fn protocol(grpc: bool) -> RequestProtocol {
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
const SWITCH: Duration = Duration::from_secs(5);
/// Any value will do: the handshake proves that the server speaks WebSocket, and this client is the mesh.
const WEBSOCKET_KEY: &str = "aGVkZGxlLXdlYnNvY2tldA==";
