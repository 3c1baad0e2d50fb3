//! Header fields on their way through: what belongs to one connection is taken off, what routes ask for is put on.

use super::head::{self, Violation};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use mesh_core::model::route::HeaderEdits;
use mesh_core::routing::{self, HeaderView};
use std::borrow::Cow;

/// The matcher's view of a request's fields.
pub(super) struct View<'a>(pub(super) &'a HeaderMap);

impl HeaderView for View<'_> {
    fn joined(&self, name: &str) -> Option<Cow<'_, str>> {
        let mut values = self
            .0
            .get_all(name)
            .iter()
            .map(|v| String::from_utf8_lossy(v.as_bytes()));
        let first = values.next()?;
        Some(values.fold(first, |mut all, value| {
            let text = all.to_mut();
            text.push(',');
            text.push_str(&value);
            all
        }))
    }
}

/// The one authority of a request, or what is wrong with it. HTTP/1.1 heads were checked by their bytes already.
pub(super) fn authority(parts: &Parts) -> Result<HeaderValue, Violation> {
    let mut hosts = parts.headers.get_all(header::HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(Violation::ManyHosts);
    }
    let Some(own) = parts.uri.authority() else {
        // Only HTTP/1.0 comes this far without a host.
        return match host {
            Some(host) if head::valid_authority(host.as_bytes()) => Ok(host.clone()),
            Some(_) => Err(Violation::BadHost),
            None if parts.version == http::Version::HTTP_10 => Ok(HeaderValue::from_static("")),
            None => Err(Violation::NoHost),
        };
    };
    if !head::valid_authority(own.as_str().as_bytes()) {
        return Err(Violation::BadHost);
    }
    if host.is_some_and(|h| !h.as_bytes().eq_ignore_ascii_case(own.as_str().as_bytes())) {
        return Err(Violation::HostMismatch);
    }
    HeaderValue::from_str(own.as_str()).map_err(|_| Violation::BadHost)
}

/// Takes off what is for this hop only (RFC 9110 § 7.6.1), and fields that steer proxies of other makes.
pub(super) fn strip(headers: &mut HeaderMap) {
    if let Some(connection) = headers.remove(header::CONNECTION) {
        strip_listed(headers, &connection);
    }
    let mut found: [Option<HeaderName>; HOP_FIELDS] = [const { None }; HOP_FIELDS];
    let mut n = 0;
    let mut te_trailers = false;
    for (name, value) in headers.iter() {
        let hop = *name == header::TRANSFER_ENCODING
            || *name == header::UPGRADE
            || *name == header::TE
            || *name == header::PROXY_AUTHENTICATE
            || *name == header::PROXY_AUTHORIZATION
            || matches!(
                name.as_str(),
                "keep-alive" | "proxy-connection" | "http2-settings"
            );
        if *name == header::TE {
            te_trailers |= value
                .as_bytes()
                .split(|b| *b == b',')
                .any(|t| t.trim_ascii() == b"trailers");
        }
        if hop && n < found.len() {
            found[n] = Some(name.clone());
            n += 1;
        }
    }
    found.into_iter().flatten().for_each(|name| {
        headers.remove(name);
    });
    if te_trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
}

/// Other names in `Connection` are for this hop too, but not those that end-to-end semantics rest on.
fn strip_listed(headers: &mut HeaderMap, connection: &HeaderValue) {
    let Ok(list) = connection.to_str() else { return };
    for name in list.split(',').map(str::trim) {
        let kept = [
            "host",
            "content-length",
            "transfer-encoding",
            "te",
            "authorization",
            "cookie",
        ];
        if !kept.iter().any(|k| name.eq_ignore_ascii_case(k)) {
            headers.remove(name);
        }
    }
}

/// HTTP/2 may send cookies one by one; HTTP/1.1 has one field of them (RFC 9113 § 8.2.3).
pub(super) fn join_cookies(headers: &mut HeaderMap) {
    let cookies: Vec<&[u8]> = headers
        .get_all(header::COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    if cookies.len() > 1
        && let Ok(one) = HeaderValue::from_bytes(&cookies.join(&b"; "[..]))
    {
        headers.insert(header::COOKIE, one);
    }
}

/// Fields that other proxies take orders from, and that a client could send. None is obeyed here, and none leaves
/// the node of the client.
pub(super) fn strip_controls(headers: &mut HeaderMap) {
    let control = |name: &HeaderName| CONTROLS.iter().any(|prefix| name.as_str().starts_with(prefix));
    if !headers.keys().any(control) {
        return;
    }
    let names: Vec<_> = headers.keys().filter(|n| control(n)).cloned().collect();
    names.into_iter().for_each(|name| {
        headers.remove(name);
    });
}

/// Applies a route's operations: remove, set, add. Returns a new authority if they set one.
pub(super) fn edit(headers: &mut HeaderMap, edits: &HeaderEdits) -> Option<HeaderValue> {
    for name in &edits.remove {
        headers.remove(&**name);
    }
    let mut authority = None;
    for (name, value) in &edits.set {
        let Ok(value) = HeaderValue::from_str(value) else {
            continue;
        };
        if name.eq_ignore_ascii_case("host") || &**name == ":authority" {
            authority = Some(value);
        } else if let Ok(name) = HeaderName::from_bytes(name.as_bytes()) {
            headers.insert(name, value);
        }
    }
    for (name, value) in &edits.add {
        if let (Ok(name), Ok(value)) = (
            HeaderName::from_bytes(name.as_bytes()),
            HeaderValue::from_str(value),
        ) {
            headers.append(name, value);
        }
    }
    authority
}

/// Sets what CORS wants of an answer.
pub(super) fn dress(headers: &mut HeaderMap, fields: &routing::Fields) {
    for (name, value) in fields {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(*name, value);
        }
    }
}

/// Fields that every request has behind the client's node.
pub(super) fn complete(headers: &mut HeaderMap) {
    if !headers.contains_key(FORWARDED_PROTO) {
        headers.insert(FORWARDED_PROTO, HeaderValue::from_static("http"));
    }
    if !headers.contains_key(REQUEST_ID)
        && let Ok(id) = HeaderValue::from_str(&request_id(fastrand::u128(..)))
    {
        headers.insert(REQUEST_ID, id);
    }
}

/// Whether the body is gRPC (`application/grpc`, `application/grpc+proto`, …; not gRPC-Web).
pub(super) fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|v| {
        let rest = v.as_bytes().strip_prefix(b"application/grpc");
        rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
    })
}

/// A random UUID, version 4.
fn request_id(random: u128) -> String {
    let id = random & !(0xf << 76) & !(0x3 << 62) | 0x4 << 76 | 0x2 << 62;
    let hex = format!("{id:032x}");
    format!(
        "{}-{}-{}-{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..]
    )
}

/// `x-request-id`.
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Where a rewritten request tells what path its client sent (Envoy).
pub(super) const ORIGINAL_PATH: HeaderName = HeaderName::from_static("x-envoy-original-path");
/// On an answer of the agent of the destination's node, for the agent of the client's: nothing of the request was sent,
/// because the application takes no connection.
pub(super) const UNSENT: HeaderName = HeaderName::from_static("x-heddle-unsent");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const CONTROLS: [&str; 2] = ["x-envoy-", "x-heddle-"];
const HOP_FIELDS: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookies_of_http2_become_the_one_field_of_http1() {
        let mut headers = HeaderMap::new();
        for cookie in ["a=1", "b=2; c=3"] {
            headers.append(header::COOKIE, HeaderValue::from_static(cookie));
        }
        join_cookies(&mut headers);
        let all: Vec<_> = headers.get_all(header::COOKIE).iter().collect();
        assert_eq!(all, ["a=1; b=2; c=3"]);
    }

    #[test]
    fn hop_by_hop_fields_are_taken_off_and_trailers_are_kept() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, x-mine, host"),
            ("x-mine", "1"),
            ("keep-alive", "timeout=5"),
            ("te", "gzip, trailers"),
            ("upgrade", "h2c"),
            ("http2-settings", "AAMAAABk"),
            ("host", "a"),
            ("x-theirs", "2"),
        ] {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        strip(&mut headers);
        let mut left: Vec<_> = headers
            .iter()
            .map(|(n, v)| (n.as_str(), v.to_str().unwrap()))
            .collect();
        left.sort_unstable();
        assert_eq!(left, [("host", "a"), ("te", "trailers"), ("x-theirs", "2")]);
    }

    #[test]
    fn control_headers_of_other_proxies_are_taken_off() {
        let mut headers = HeaderMap::new();
        headers.insert("x-envoy-max-retries", HeaderValue::from_static("99"));
        headers.insert("x-heddle-peer", HeaderValue::from_static("me"));
        headers.insert("x-env", HeaderValue::from_static("1"));
        strip_controls(&mut headers);
        assert_eq!(
            headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(),
            ["x-env"]
        );
    }

    #[test]
    fn request_ids_are_version_4_uuids() {
        let id = request_id(u128::MAX);
        assert_eq!(id, "ffffffff-ffff-4fff-bfff-ffffffffffff");
        assert_eq!(request_id(0), "00000000-0000-4000-8000-000000000000");
    }
}
