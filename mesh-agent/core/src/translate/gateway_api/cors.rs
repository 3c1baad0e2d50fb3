//! The CORS filter.

use super::raw;
use crate::model::route::{Cors, StringMatch};
use crate::translate::value::{FieldError, is_header_name};
use crate::translate::virtual_service::regex;
use std::sync::Arc;
use std::time::Duration;

/// `maxAge` where none is written, seconds.
const MAX_AGE_S: u32 = 5;

pub(super) fn cors(at: &str, raw: raw::Cors) -> Result<Cors, FieldError> {
    let origins = raw.allow_origins.unwrap_or_default();
    let allow_origins = origins.iter().enumerate().map(|(i, given)| {
        origin(given).map_err(|reason| FieldError::new(format!("{at}.allowOrigins[{i}]"), reason))
    });
    let max_age = Duration::from_secs(u64::from(raw.max_age.unwrap_or(MAX_AGE_S)));
    Ok(Cors {
        allow_origins: allow_origins.collect::<Result<_, _>>()?,
        allow_methods: names(&format!("{at}.allowMethods"), raw.allow_methods)?,
        allow_headers: names(&format!("{at}.allowHeaders"), raw.allow_headers)?,
        expose_headers: names(&format!("{at}.exposeHeaders"), raw.expose_headers)?,
        max_age: Some(max_age),
        allow_credentials: raw.allow_credentials.unwrap_or(false),
        forward_unmatched: false,
    })
}

/// `*`, or a scheme, a host in which `*` stands for any text, and perhaps a port: without one the scheme's own, which
/// browsers leave out.
fn origin(given: &str) -> Result<StringMatch, String> {
    if given == "*" {
        return Ok(StringMatch::Prefix("".into()));
    }
    let expected = || format!("{given:?} is no origin: write it like https://*.example.com:8443");
    let (scheme, rest) = given.split_once("://").ok_or_else(expected)?;
    let default = match scheme {
        "http" => "80",
        "https" => "443",
        _ => return Err("the scheme of an origin is http or https".into()),
    };
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) if port.parse::<u16>().is_ok_and(|p| p > 0) => (host, port),
        Some(_) => return Err(expected()),
        None => (rest, default),
    };
    let fits = |c: char| c.is_ascii_alphanumeric() || "-.*".contains(c);
    if host.is_empty() || !host.chars().all(fits) {
        return Err(expected());
    }
    let host = regex::escape(&host.to_ascii_lowercase()).replace(r"\*", "[^/:?#]*");
    let port = match port == default {
        true => format!("(?::{port})?"),
        false => format!(":{port}"),
    };
    regex(&format!("{scheme}://{host}{port}"))
        .map(Box::new)
        .map(StringMatch::Regex)
}

fn names(at: &str, given: Option<Vec<String>>) -> Result<Vec<Arc<str>>, FieldError> {
    let name = |(i, name): (usize, String)| {
        if name == "*" || is_header_name(&name) {
            Ok(name.into())
        } else {
            Err(FieldError::new(
                format!("{at}[{i}]"),
                "is no name of a method or header",
            ))
        }
    };
    given.into_iter().flatten().enumerate().map(name).collect()
}
