//! A request's way in: checked, decided, edited, and then handed to its [`Exchange`].

use super::super::detect::Detected;
use super::super::outbound::Outbound;
use super::super::pair::{Outgoing, Pair};
use super::super::worker::Worker;
use super::answer::{self, Fault};
use super::body::ResponseBody;
use super::edge;
use super::exchange::{Exchange, Switch, protocol};
use super::head::Violation;
use super::headers;
use super::plan::{self, Own, Plan};
use super::record::{Record, Text};
use super::{Context, Side};
use crate::telemetry::labels::ServiceNames;
use http::header::{self, HeaderName, HeaderValue};
use http::request::Parts;
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, Version};
use hyper::body::Incoming;
use hyper::ext::Protocol;
use mesh_core::model::host;
use mesh_core::model::traffic::ClientTls;
use mesh_core::routing::{self, Answer, MatchedRule, RoutePlan, Session};
use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Answers one request.
pub(super) async fn handle(
    context: Rc<Context>,
    request: Request<Incoming>,
) -> Result<Response<ResponseBody>, Infallible> {
    if let Some(violation) = context.guard.as_ref().and_then(|g| g.next_request()) {
        return Ok(refuse(&context, violation));
    }
    let mut response = match admit(&context, request) {
        Ok(admitted) => admitted.run().await,
        Err(early) => early.give().await,
    };
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        if let Some(guard) = &context.guard {
            guard.release();
        }
        if context.closing.get() {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(header::CONNECTION, close);
        }
    }
    Ok(response)
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

/// A request that is to be forwarded.
struct Admitted {
    exchange: Exchange,
    head: Request<()>,
    body: Incoming,
    expect: bool,
    plan: Option<Plan>,
}

impl Admitted {
    async fn run(self) -> Response<ResponseBody> {
        let Self {
            mut exchange,
            head,
            body,
            expect,
            plan,
        } = self;
        if let Some(delay) = plan.as_ref().and_then(|p| p.route()?.delay) {
            // Before the body is attached: copies for mirrors are made there, and the timeout runs from there.
            exchange.record.delayed();
            tokio::time::sleep(delay).await;
        }
        exchange.attach(head, body, plan.as_ref(), expect);
        exchange.run(plan.as_ref()).await
    }
}

/// What is answered without an upstream.
enum Early {
    /// At once.
    Now(Response<ResponseBody>),
    /// As a rule says, perhaps after a delay.
    Ruled(Box<Answer>, Record),
}

impl Early {
    async fn give(self: Box<Self>) -> Response<ResponseBody> {
        match *self {
            Self::Now(response) => response,
            Self::Ruled(own, mut record) => {
                if let Some(delay) = own.delay {
                    record.delayed();
                    tokio::time::sleep(delay).await;
                }
                answer::ruled(&own, record)
            }
        }
    }
}

/// Checks and decides.
fn admit(context: &Rc<Context>, request: Request<Incoming>) -> Result<Admitted, Box<Early>> {
    let refused = |violation| Box::new(Early::Now(refuse(context, violation)));
    let mut request = request;
    let switch = switch_of(context, &mut request).map_err(refused)?;
    let (mut parts, body) = request.into_parts();
    let authority = headers::authority(&parts).map_err(refused)?;
    let worker = context.side.worker();
    let mut record = Record::begin(worker, headers::is_grpc(&parts.headers));
    let plan = match &context.side {
        Side::Inbound(_) => {
            describe(&mut record, worker, &parts, &authority, None);
            None
        }
        Side::Outbound(conn) => match planned(conn, &mut parts, &authority, &mut record) {
            Ok(plan) => Some(plan),
            Err(Own::Answer(own, _)) => return Err(Box::new(Early::Ruled(own, record))),
            Err(Own::Refuse(refusal, _)) => {
                let fault = Fault::refused(refusal.status, refusal.flag);
                return Err(Box::new(Early::Now(answer::fault(&fault, record))));
            }
        },
    };
    let grpc = record.grpc;
    let mut exchange = Exchange::new(context, record, switch);
    exchange.timeout = timeout(&mut parts.headers, grpc, plan.as_ref());
    if let (Some(upstream), Side::Outbound(conn)) = (plan.as_ref().and_then(Plan::upstream), &context.side) {
        let path = parts.uri.path_and_query().map_or("/", PathAndQuery::as_str);
        let view = headers::View(&parts.headers);
        let fresh = fastrand::u64(..);
        exchange.bound = routing::affinity(&upstream.policy, conn.client.ip(), path, &view, fresh);
        let persistence = plan
            .as_ref()
            .and_then(Plan::route)
            .and_then(RoutePlan::persistence);
        exchange.session = persistence.map(|p| Session::of(p, &view, plan::now()));
        if upstream.policy.tls.as_ref().is_some_and(ClientTls::originates) {
            let name = host::canonical(authority.to_str().unwrap_or_default());
            exchange.server_name = name.into_owned();
        }
    }
    let expect = parts.headers.contains_key(header::EXPECT);
    headers::strip(&mut parts.headers);
    let edited = edit(
        &mut parts.headers,
        parts.uri.path_and_query(),
        authority,
        plan.as_ref(),
    );
    let (authority, path) = edited.map_err(refused)?;
    let came_so = context.version == Detected::Http2;
    let edge = matches!(&context.side, Side::Outbound(conn) if conn.edge.is_some());
    let follows = came_so && (!edge || grpc);
    let wanted = plan.as_ref().map_or(came_so, |p| p.wants_http2(came_so, follows));
    exchange.http2 = wanted && !exchange.switches();
    if exchange.http2 || context.version == Detected::Http2 {
        parts.headers.remove(header::EXPECT);
    }
    let mut head = Request::new(());
    *head.method_mut() = parts.method;
    *head.headers_mut() = parts.headers;
    address(&mut head, path, authority, exchange.http2).map_err(refused)?;
    exchange.switch.dress(&mut head);
    let expect = expect && context.version == Detected::Http1 && !exchange.http2;
    Ok(Admitted {
        exchange,
        head,
        body,
        expect,
        plan,
    })
}

/// Asks the core, and tells the record what it says.
fn planned(
    conn: &Rc<Outbound>,
    parts: &mut Parts,
    authority: &HeaderValue,
    record: &mut Record,
) -> Result<Plan, Own> {
    headers::strip_controls(&mut parts.headers);
    let worker = &conn.worker;
    if let Some(edge) = &conn.edge {
        let hops = worker.shared.config.trusted_hops;
        edge::dress(&mut parts.headers, conn.client.ip(), edge, authority, hops);
    }
    headers::complete(&mut parts.headers);
    let decided = plan::decide(conn, &worker.snapshot(), parts, authority);
    let rule = match &decided {
        Ok(plan) => plan.route().and_then(|r| r.rule.as_ref()),
        Err(Own::Answer(own, names)) => {
            record.between(unsent(conn, names, record.grpc));
            Some(&own.rule)
        }
        Err(Own::Refuse(refusal, names)) => {
            tracing::debug!(detail = %refusal.detail, client = %conn.client, "request refused");
            record.between(unsent(conn, names, record.grpc));
            None
        }
    };
    describe(record, worker, parts, authority, rule);
    decided
}

/// How long the request may take; a gRPC server is told if that is less than its client asked for.
fn timeout(headers: &mut HeaderMap, grpc: bool, plan: Option<&Plan>) -> Option<Duration> {
    let plan = plan?;
    let asked = headers.get(GRPC_TIMEOUT).and_then(|v| v.to_str().ok());
    let timeout = routing::timeout(plan.timeout(), grpc, asked);
    if let Some(time) = timeout.filter(|t| grpc && asked.is_some() && plan.timeout() == Some(*t))
        && let Ok(value) = HeaderValue::from_str(&routing::grpc_timeout(time))
    {
        headers.insert(GRPC_TIMEOUT, value);
    }
    timeout
}

/// Applies the rule's operations and rewrites: those of the route, its new authority, then those of the destination.
fn edit(
    headers: &mut HeaderMap,
    path: Option<&PathAndQuery>,
    mut authority: HeaderValue,
    plan: Option<&Plan>,
) -> Result<(HeaderValue, Option<PathAndQuery>), Violation> {
    let mut path = path.cloned();
    let Some((route, rule)) = plan
        .and_then(Plan::route)
        .and_then(|r| Some((r, r.rule.as_ref()?)))
    else {
        return Ok((authority, path));
    };
    let rewritten = route.authority.as_ref();
    let rewritten = rewritten.and_then(|a| HeaderValue::from_str(a).ok());
    let of_route = rule.action().headers.as_deref();
    let mut edits = rule.headers();
    if of_route.is_some()
        && let Some(new) = edits.next().and_then(|ops| headers::edit(headers, &ops.request))
    {
        authority = new;
    }
    authority = rewritten.unwrap_or(authority);
    for ops in edits {
        authority = headers::edit(headers, &ops.request).unwrap_or(authority);
    }
    if let Some(new) = &route.path {
        let original = path.as_ref().and_then(|p| HeaderValue::from_str(p.as_str()).ok());
        if let Some(original) = original {
            headers.insert(headers::ORIGINAL_PATH, original);
        }
        path = Some(new.parse().map_err(|_| Violation::RequestLine)?);
    }
    Ok((authority, path))
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
    if !context.guard.as_ref().is_some_and(|g| g.is_held()) {
        return Ok(Switch::No);
    }
    // A protocol that nobody here would speak is not offered on (the h2c among others in the list).
    let offered = request
        .headers()
        .get_all(header::UPGRADE)
        .iter()
        .filter_map(|v| v.to_str().ok());
    let wanted: Vec<&str> = offered
        .flat_map(|list| list.split(','))
        .map(str::trim)
        .filter(|protocol| !protocol.is_empty() && !protocol.eq_ignore_ascii_case("h2c"))
        .collect();
    let protocol = HeaderValue::from_str(&wanted.join(", ")).map_err(|_| Violation::HeaderLine)?;
    Ok(Switch::Http1(protocol))
}

/// Gives the head the form that the upstream's version wants.
pub(super) fn address(
    head: &mut Request<()>,
    path: Option<PathAndQuery>,
    authority: HeaderValue,
    http2: bool,
) -> Result<(), Violation> {
    let path = path.unwrap_or_else(|| PathAndQuery::from_static("/"));
    if !http2 {
        *head.uri_mut() = Uri::from(path);
        head.headers_mut().insert(header::HOST, authority);
        headers::join_cookies(head.headers_mut());
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

/// A request that found no route.
fn unsent(conn: &Outbound, names: &Arc<ServiceNames>, grpc: bool) -> Pair {
    Pair::outgoing(
        &conn.worker,
        &Outgoing {
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

/// Tells the record what the access log needs, if there is one.
fn describe(
    record: &mut Record,
    worker: &Worker,
    parts: &Parts,
    authority: &HeaderValue,
    rule: Option<&MatchedRule>,
) {
    if !worker.telemetry().access.wanted() {
        return;
    }
    let lossy = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    record.describe(Box::new(Text {
        method: parts.method.as_str().to_owned(),
        path: parts.uri.path().to_owned(),
        authority: lossy(authority.as_bytes()),
        request_id: parts
            .headers
            .get(headers::REQUEST_ID)
            .map_or_else(String::new, |v| lossy(v.as_bytes())),
        route: rule.map_or_else(String::new, |m| m.rule().origin.to_string()),
    }));
}

const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
