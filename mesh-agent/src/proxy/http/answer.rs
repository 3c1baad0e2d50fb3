//! Answers of the proxy itself. gRPC clients get theirs as gRPC.

use super::body::ResponseBody;
use super::headers;
use super::record::Record;
use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{HeaderName, Response, StatusCode};
use mesh_core::model::route::AbortWith;
use mesh_core::routing::Answer;
use std::sync::Arc;

/// A request that is not forwarded, or that got no answer.
pub(super) struct Fault {
    /// Status for HTTP.
    pub(super) status: u16,
    /// Response flag.
    pub(super) flag: &'static str,
    /// Body and access log.
    pub(super) text: &'static str,
}

impl Fault {
    /// No connection to any endpoint that was tried.
    pub(super) const CONNECT: Self = Self {
        status: 503,
        flag: "UF",
        text: "upstream connection failed",
    };
    /// No endpoint is ready.
    pub(super) const NO_ENDPOINT: Self = Self {
        status: 503,
        flag: "UH",
        text: "no healthy upstream",
    };
    /// The upstream ended the connection or stream without an answer.
    pub(super) const RESET: Self = Self {
        status: 503,
        flag: "UC",
        text: "upstream ended the connection before its response",
    };
    /// The route's timeout has passed.
    pub(super) const TIMEOUT: Self = Self {
        status: 504,
        flag: "UT",
        text: "upstream request timeout",
    };
    /// The service has no such route, port or subset.
    pub(super) const fn refused(status: u16, flag: &'static str) -> Self {
        let text = match flag.as_bytes() {
            b"NR" => "no route",
            b"NC" => "no such destination",
            b"UH" => "no healthy upstream",
            _ => "refused",
        };
        Self { status, flag, text }
    }
}

/// Answers with the fault and reports it.
pub(super) fn fault(fault: &Fault, mut record: Record) -> Response<ResponseBody> {
    let grpc = record.grpc;
    record.fail(fault.flag, fault.text);
    record.status(if grpc { 200 } else { fault.status });
    if grpc {
        grpc_fault(fault, record)
    } else {
        plain(fault.status, fault.text, Some(record))
    }
}

/// Answers as a rule says.
pub(super) fn ruled(answer: &Answer, mut record: Record) -> Response<ResponseBody> {
    let mut response = match answer.fault {
        Some(with) => injected(with, record),
        None if record.grpc => trailers_only(grpc_of(answer.status), &answer.body, record),
        None => {
            record.status(answer.status);
            let body = Bytes::from_owner(Arc::clone(&answer.body));
            let mut response = Response::new(ResponseBody::own(body, Some(record)));
            *response.status_mut() = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::BAD_GATEWAY);
            response
        }
    };
    let headers = response.headers_mut();
    let location = answer.location.as_ref().map(|text| HeaderValue::from_str(text));
    if let Some(Ok(location)) = location {
        headers.insert(header::LOCATION, location);
    }
    if answer.fault.is_none() {
        for ops in answer.rule.headers().rev() {
            headers::edit(headers, &ops.response);
        }
        if !answer.body.is_empty() && !headers.contains_key(header::CONTENT_TYPE) {
            headers.insert(header::CONTENT_TYPE, TEXT);
        }
    }
    headers::dress(headers, &answer.cors);
    response
}

/// An injected fault. A gRPC status means something to gRPC clients only; others get 200, as from Envoy.
fn injected(with: AbortWith, mut record: Record) -> Response<ResponseBody> {
    record.fail("FI", ABORTED);
    match (with, record.grpc) {
        (AbortWith::Grpc(code), true) => trailers_only(code, ABORTED.as_bytes(), record),
        (AbortWith::Http(status), true) => trailers_only(grpc_of(status), ABORTED.as_bytes(), record),
        (AbortWith::Grpc(_), false) => {
            record.status(200);
            plain(200, ABORTED, Some(record))
        }
        (AbortWith::Http(status), false) => {
            record.status(status);
            plain(status, ABORTED, Some(record))
        }
    }
}

/// A short text.
pub(super) fn plain(status: u16, text: &'static str, record: Option<Record>) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::own(Bytes::from_static(text.as_bytes()), record));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
    response.headers_mut().insert(header::CONTENT_TYPE, TEXT);
    response
}

/// What a proxy's own fault is to a gRPC client.
fn grpc_fault(fault: &Fault, record: Record) -> Response<ResponseBody> {
    let code = match fault.status {
        504 => 4,
        500 => 14,
        status => grpc_of(status),
    };
    trailers_only(code, fault.text.as_bytes(), record)
}

/// The gRPC code for an HTTP status (gRPC's own table).
const fn grpc_of(status: u16) -> u8 {
    match status {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => 14,
        _ => 2,
    }
}

/// A response that consists of trailers only (gRPC over HTTP/2).
fn trailers_only(code: u8, message: &[u8], mut record: Record) -> Response<ResponseBody> {
    let mut headers = http::HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(GRPC_STATUS, HeaderValue::from(u16::from(code)));
    if let Some(message) = grpc_message(message) {
        headers.insert(GRPC_MESSAGE, message);
    }
    record.head(200, &headers);
    let mut response = Response::new(ResponseBody::own(Bytes::new(), Some(record)));
    *response.headers_mut() = headers;
    response
}

/// `grpc-message`: percent-encoded, and cut where it is no message any more.
fn grpc_message(text: &[u8]) -> Option<HeaderValue> {
    use std::fmt::Write as _;
    let mut encoded = String::new();
    for byte in text.iter().take(MESSAGE) {
        match byte {
            b'%' | 0..=0x1f | 0x7f.. => _ = write!(encoded, "%{byte:02X}"),
            _ => encoded.push(char::from(*byte)),
        }
    }
    HeaderValue::from_str(&encoded).ok().filter(|v| !v.is_empty())
}

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain");
/// Body of an injected fault (Envoy).
const ABORTED: &str = "fault filter abort";
const MESSAGE: usize = 2_048;
