//! A request's way in: checked, decided, edited, and then handed to its [`Exchange`].

use super::super::detect::Detected;
use super::super::outbound::Outbound;
use super::super::pair::{Outgoing, Pair};
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
use http::header::{self, HeaderValue};
use http::uri::{PathAndQuery, Scheme};
use http::{Method, Request, Response, StatusCode, Uri, Version};
use hyper::body::Incoming;
use hyper::ext::Protocol;
use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;

/// Answers one request.
pub(super) async fn handle(
    context: Rc<Context>,
    request: Request<Incoming>,
) -> Result<Response<ResponseBody>, Infallible> {
    if let Some(violation) = context.guard.as_ref().and_then(|g| g.next_request()) {
        return Ok(refuse(&context, violation));
    }
    let mut response = match admit(&context, request) {
        Ok((exchange, plan)) => exchange.run(plan.as_ref()).await,
        Err(response) => *response,
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
            if let Some(edge) = &conn.edge {
                let hops = worker.shared.config.trusted_hops;
                edge::dress(&mut parts.headers, conn.client.ip(), edge, &authority, hops);
            }
            headers::complete(&mut parts.headers);
            match plan::decide(conn, &worker.snapshot(), &parts, &authority) {
                Ok(plan) => Some(plan),
                Err(Own::Answer(own, names)) => {
                    record.between(unsent(conn, &names, record.grpc));
                    return Err(Box::new(answer::ruled(&own, record)));
                }
                Err(Own::ToHttps(location, names)) => {
                    record.between(unsent(conn, &names, record.grpc));
                    return Err(Box::new(answer::moved(&location, record)));
                }
                Err(Own::Refuse(refusal, names)) => {
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
        for ops in rule.headers() {
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
    let mut exchange = Exchange::new(context, record, http2, switch);
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
        route: rule.map_or_else(String::new, |m| m.rule().origin.to_string()),
    })
}
