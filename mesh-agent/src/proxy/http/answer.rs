//! Answers of the proxy itself. gRPC clients get theirs as gRPC.

use super::body::ResponseBody;
use super::headers;
use super::record::Record;
use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{HeaderName, Response, StatusCode};
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
    record.status(answer.status);
    let body = Bytes::from_owner(Arc::clone(&answer.body));
    let mut response = Response::new(ResponseBody::own(body, Some(record)));
    *response.status_mut() = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::BAD_GATEWAY);
    let headers = response.headers_mut();
    let location = answer.location.as_ref().map(|text| HeaderValue::from_str(text));
    if let Some(Ok(location)) = location {
        headers.insert(header::LOCATION, location);
    }
    for ops in answer.rule.headers().rev() {
        headers::edit(headers, &ops.response);
    }
    response
}

/// Answers that the resource is elsewhere for good.
pub(super) fn moved(location: &str, mut record: Record) -> Response<ResponseBody> {
    record.status(301);
    let mut response = Response::new(ResponseBody::own(Bytes::new(), Some(record)));
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    if let Ok(location) = HeaderValue::from_str(location) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

/// A short text.
pub(super) fn plain(status: u16, text: &'static str, record: Option<Record>) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::own(Bytes::from_static(text.as_bytes()), record));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}

/// A response that consists of trailers only (gRPC over HTTP/2).
fn grpc_fault(fault: &Fault, mut record: Record) -> Response<ResponseBody> {
    let status = match fault.status {
        404 => "12",
        504 => "4",
        400 => "13",
        _ => "14",
    };
    let mut headers = http::HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(GRPC_STATUS, HeaderValue::from_static(status));
    headers.insert(GRPC_MESSAGE, HeaderValue::from_static(fault.text));
    record.head(200, &headers);
    let mut response = Response::new(ResponseBody::own(Bytes::new(), Some(record)));
    *response.headers_mut() = headers;
    response
}

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
