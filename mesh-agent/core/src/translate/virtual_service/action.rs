//! Answers of the proxy's own, rewrites, faults, mirrors and CORS of a rule.

use super::destinations::destination;
use super::{Scope, matches, raw};
use crate::model::route::{
    Abort, AbortWith, Cors, Delay, DirectResponse, Fault, Mirror, PathChange, Redirect, RedirectPort,
    RegexChange, Rewrite, StringMatch,
};
use crate::translate::value::{FieldError, is_header_name, is_header_value, is_subdomain, timeout};
use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use std::net::Ipv6Addr;
use std::sync::Arc;

/// A body of more bytes is refused: it would be kept once for each agent (Envoy's own default is 4 KiB).
const MAX_BODY: usize = 1024 * 1024;

pub(super) fn redirect(at: &str, raw: raw::Redirect) -> Result<Redirect, FieldError> {
    let bad = |field: &str, reason: &str| Err(FieldError::new(format!("{at}.{field}"), reason));
    let [uri, prefix, authority, scheme] =
        [raw.uri, raw.prefix_rewrite, raw.authority, raw.scheme].map(|text| text.filter(|t| !t.is_empty()));
    let status = raw.redirect_code.filter(|code| *code != 0).unwrap_or(301);
    if !matches!(status, 301 | 302 | 303 | 307 | 308) {
        return bad("redirectCode", "expected 301, 302, 303, 307 or 308");
    }
    let port = match (raw.port, raw.derive_port) {
        (Some(_), Some(_)) => return bad("derivePort", "expected only one of port and derivePort"),
        (Some(0), None) => return bad("port", "expected 1 to 65535"),
        (Some(port), None) => RedirectPort::Number(port),
        (None, Some(raw::DerivePort::FromProtocolDefault)) => RedirectPort::OfScheme,
        (None, Some(raw::DerivePort::FromRequestPort)) => RedirectPort::OfRequest,
        (None, None) => RedirectPort::OfAuthority,
    };
    let nothing = uri.is_none() && prefix.is_none() && authority.is_none() && scheme.is_none();
    if nothing && port == RedirectPort::OfAuthority {
        return Err(FieldError::new(
            at,
            "redirect must specify URI, authority, scheme or port",
        ));
    }
    if scheme.as_deref().is_some_and(|s| s != "http" && s != "https") {
        return bad("scheme", "expected http or https");
    }
    if authority.as_deref().is_some_and(|a| !is_authority(a)) {
        return bad("authority", "expected host or host:port");
    }
    let path = match (uri, prefix) {
        (Some(_), Some(_)) => {
            return bad(
                "prefixRewrite",
                "redirect cannot contain both uri and prefixRewrite",
            );
        }
        (Some(uri), None) => Some(PathChange::Full(path(&format!("{at}.uri"), &uri)?)),
        (None, Some(prefix)) => Some(PathChange::Prefix(path(&format!("{at}.prefixRewrite"), &prefix)?)),
        (None, None) => None,
    };
    Ok(Redirect {
        status,
        scheme: scheme.map(Into::into),
        host: authority.map(Into::into),
        port,
        path,
    })
}

pub(super) fn direct_response(at: &str, raw: raw::DirectResponse) -> Result<DirectResponse, FieldError> {
    if !(200..600).contains(&raw.status) {
        return Err(FieldError::new(format!("{at}.status"), "expected 200 to 599"));
    }
    Ok(DirectResponse {
        status: raw.status,
        body: match raw.body {
            None => Arc::default(),
            Some(given) => body(&format!("{at}.body"), given)?,
        },
    })
}

fn body(at: &str, raw: raw::Body) -> Result<Arc<[u8]>, FieldError> {
    let (field, bytes) = match (raw.string, raw.bytes) {
        (Some(_), Some(_)) => return Err(FieldError::new(at, "expected only one of string and bytes")),
        (None, None) => return Ok(Arc::default()),
        (Some(text), None) => ("string", text.into_bytes()),
        (None, Some(encoded)) => {
            let decoded =
                base64(&encoded).ok_or_else(|| FieldError::new(format!("{at}.bytes"), "is no base64"))?;
            ("bytes", decoded)
        }
    };
    if bytes.len() > MAX_BODY {
        let reason = format!("direct response is larger than 1 MiB ({} bytes)", bytes.len());
        return Err(FieldError::new(format!("{at}.{field}"), reason));
    }
    Ok(bytes.into())
}

/// As protobuf's JSON form allows it: either alphabet, with padding or without.
fn base64(text: &str) -> Option<Vec<u8>> {
    let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let url = text.contains(['-', '_']);
    let alphabet = if url {
        &alphabet::URL_SAFE
    } else {
        &alphabet::STANDARD
    };
    GeneralPurpose::new(alphabet, config).decode(text).ok()
}

pub(super) fn rewrite(at: &str, raw: raw::Rewrite) -> Result<Rewrite, FieldError> {
    let [uri, authority] = [raw.uri, raw.authority].map(|text| text.filter(|t| !t.is_empty()));
    if authority.as_deref().is_some_and(|a| !is_authority(a)) {
        let reason = "expected host or host:port";
        return Err(FieldError::new(format!("{at}.authority"), reason));
    }
    let path = match (uri, raw.uri_regex_rewrite) {
        (Some(_), Some(_)) => {
            let reason = "rewrite may only contain one of uri and uriRegexRewrite";
            return Err(FieldError::new(format!("{at}.uriRegexRewrite"), reason));
        }
        (Some(uri), None) => Some(PathChange::Prefix(path(&format!("{at}.uri"), &uri)?)),
        (None, Some(regex)) => {
            let at = format!("{at}.uriRegexRewrite");
            Some(PathChange::Regex(regex_change(&at, &regex)?))
        }
        (None, None) => None,
    };
    if path.is_none() && authority.is_none() {
        let reason = "rewrite must specify uri, uriRegexRewrite or authority";
        return Err(FieldError::new(at, reason));
    }
    Ok(Rewrite {
        authority: authority.map(Into::into),
        path,
    })
}

fn regex_change(at: &str, raw: &raw::RegexRewrite) -> Result<RegexChange, FieldError> {
    let pattern = matches::unanchored(&raw.r#match).map_err(|e| FieldError::new(format!("{at}.match"), e))?;
    let field = format!("{at}.rewrite");
    if !raw.rewrite.is_empty() {
        path(&field, &raw.rewrite)?;
    }
    let replacement =
        replacement(&raw.rewrite, pattern.captures_len()).map_err(|e| FieldError::new(field, e))?;
    Ok(RegexChange {
        pattern,
        replacement: replacement.into(),
    })
}

/// RE2's notation (`\1`, `\\`) in that of the `regex` crate (`${1}`, `\`).
fn replacement(text: &str, groups: usize) -> Result<String, String> {
    let mut out = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '$' => out.push_str("$$"),
            '\\' => match chars.next() {
                Some('\\') => out.push('\\'),
                Some(digit @ '0'..='9') => {
                    if digit.to_digit(10).is_some_and(|n| n as usize >= groups) {
                        return Err(format!("\\{digit} is no group of the expression"));
                    }
                    out.push_str("${");
                    out.push(digit);
                    out.push('}');
                }
                _ => return Err("a backslash must be followed by a digit or a backslash".into()),
            },
            c => out.push(c),
        }
    }
    Ok(out)
}

/// A text that may stand in a request target.
fn path(at: &str, text: &str) -> Result<Arc<str>, FieldError> {
    let legal = |c: u8| c.is_ascii_graphic() && !matches!(c, b'#' | b'"' | b'<' | b'>' | b'`');
    if text.len() <= 8_192 && text.bytes().all(legal) {
        Ok(text.into())
    } else {
        let reason = "has a character that no path can have, or more than 8192 bytes";
        Err(FieldError::new(at, reason))
    }
}

fn is_authority(text: &str) -> bool {
    let port = |text: &str| text.parse::<u16>().is_ok_and(|p| p > 0) && !text.starts_with('+');
    if let Some(rest) = text.strip_prefix('[') {
        let Some((ip, after)) = rest.split_once(']') else {
            return false;
        };
        return ip.parse::<Ipv6Addr>().is_ok()
            && (after.is_empty() || after.strip_prefix(':').is_some_and(port));
    }
    let (host, given) = text.split_once(':').map_or((text, None), |(h, p)| (h, Some(p)));
    is_subdomain(&host.trim_end_matches('.').to_ascii_lowercase()) && given.is_none_or(port)
}

pub(super) fn fault(at: &str, raw: raw::Fault) -> Result<Fault, FieldError> {
    if raw.delay.is_none() && raw.abort.is_none() {
        let reason = "HTTP fault injection must have an abort and/or a delay";
        return Err(FieldError::new(at, reason));
    }
    Ok(Fault {
        delay: raw.delay.map(|d| delay(&format!("{at}.delay"), &d)).transpose()?,
        abort: raw.abort.map(|a| abort(&format!("{at}.abort"), &a)).transpose()?,
    })
}

fn delay(at: &str, raw: &raw::Delay) -> Result<Delay, FieldError> {
    let field = format!("{at}.fixedDelay");
    let Some(text) = &raw.fixed_delay else {
        return Err(FieldError::new(field, "is missing"));
    };
    let time = timeout(text).map_err(|e| FieldError::new(&field, e))?;
    if time.is_zero() {
        return Err(FieldError::new(field, "duration must be greater than 1ms"));
    }
    let per_million = match (&raw.percentage, raw.percent) {
        (Some(percent), _) => share(&format!("{at}.percentage.value"), percent.value.unwrap_or(0.0))?,
        (None, Some(percent)) => share(&format!("{at}.percent"), f64::from(percent))?,
        (None, None) => 0,
    };
    Ok(Delay { time, per_million })
}

fn abort(at: &str, raw: &raw::Abort) -> Result<Abort, FieldError> {
    let with = match (raw.http_status, &raw.grpc_status) {
        (Some(_), Some(_)) => {
            let reason = "expected only one of httpStatus and grpcStatus";
            return Err(FieldError::new(at, reason));
        }
        (None, None) => return Err(FieldError::new(at, "expected httpStatus or grpcStatus")),
        (Some(status), None) if (200..600).contains(&status) => AbortWith::Http(status),
        (Some(status), None) => {
            let reason = format!("HTTP abort status {status} is out of range 200 to 599");
            return Err(FieldError::new(format!("{at}.httpStatus"), reason));
        }
        (None, Some(name)) => match (0_u8..).zip(GRPC).find(|(_, known)| known == name) {
            Some((code, _)) => AbortWith::Grpc(code),
            None => {
                let reason = format!("gRPC status {name:?} is not known: expected a name like UNAVAILABLE");
                return Err(FieldError::new(format!("{at}.grpcStatus"), reason));
            }
        },
    };
    let per_million = match &raw.percentage {
        Some(percent) => share(&format!("{at}.percentage.value"), percent.value.unwrap_or(0.0))?,
        None => 0,
    };
    Ok(Abort { with, per_million })
}

/// By code.
const GRPC: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

pub(super) fn cors(at: &str, raw: raw::Cors) -> Result<Cors, FieldError> {
    let mut allow_origins = Vec::new();
    for (i, origin) in raw.allow_origins.into_iter().flatten().enumerate() {
        let at = format!("{at}.allowOrigins[{i}]");
        match matches::string_match(&at, origin)? {
            Some(origin) => allow_origins.push(origin),
            None => return Err(FieldError::new(at, "expected exact, prefix or regex")),
        }
    }
    if allow_origins.is_empty() {
        let exact = |origin: String| StringMatch::Exact(origin.into());
        allow_origins = raw
            .allow_origin
            .unwrap_or_default()
            .into_iter()
            .map(exact)
            .collect();
    }
    let list = |field: &str, given: Option<Vec<String>>| {
        let names = given.unwrap_or_default().into_iter().enumerate();
        names
            .map(|(i, name)| {
                // `*` is a token as well.
                if is_header_name(&name) && is_header_value(&name) {
                    Ok(name.into())
                } else {
                    let reason = "is no name that can stand in a list of a header";
                    Err(FieldError::new(format!("{at}.{field}[{i}]"), reason))
                }
            })
            .collect::<Result<Vec<Arc<str>>, _>>()
    };
    let max_age = raw.max_age.map(|text| {
        let field = || format!("{at}.maxAge");
        let time = timeout(&text).map_err(|e| FieldError::new(field(), e))?;
        if time.subsec_nanos() > 0 {
            return Err(FieldError::new(field(), "is accurate only to seconds precision"));
        }
        Ok(time)
    });
    Ok(Cors {
        allow_origins,
        allow_methods: list("allowMethods", raw.allow_methods)?,
        allow_headers: list("allowHeaders", raw.allow_headers)?,
        expose_headers: list("exposeHeaders", raw.expose_headers)?,
        max_age: max_age.transpose()?,
        allow_credentials: raw.allow_credentials.unwrap_or(false),
        forward_unmatched: raw.unmatched_preflights != Some(raw::UnmatchedPreflights::Ignore),
    })
}

/// Millionths: `mirrorPercentage` wins over the deprecated `mirrorPercent`; neither is all.
pub(super) fn mirror_share(
    at: &str,
    whole: Option<u32>,
    percent: Option<&raw::Percent>,
) -> Result<u32, FieldError> {
    match (percent, whole) {
        (Some(percent), _) => share(
            &format!("{at}.mirrorPercentage.value"),
            percent.value.unwrap_or(0.0),
        ),
        (None, Some(whole)) => share(&format!("{at}.mirrorPercent"), f64::from(whole)),
        (None, None) => Ok(1_000_000),
    }
}

fn share(at: &str, percent: f64) -> Result<u32, FieldError> {
    if !(0.0..=100.0).contains(&percent) {
        return Err(FieldError::new(
            at,
            format!("{percent} is no percentage: expected 0 to 100"),
        ));
    }
    // Within 0..=1_000_000 by the check above.
    Ok((percent * 10_000.0).round() as u32)
}

pub(super) fn mirrors(
    at: &str,
    single: Option<(raw::Destination, u32)>,
    many: Vec<raw::MirrorPolicy>,
    scope: &Scope<'_>,
) -> Result<Vec<Mirror>, FieldError> {
    if single.is_some() && !many.is_empty() {
        return Err(FieldError::new(
            format!("{at}.mirrors"),
            "HTTP route cannot contain both mirror and mirrors",
        ));
    }
    let mut mirrors = Vec::new();
    if let Some((given, per_million)) = single {
        mirrors.push(Mirror {
            destination: destination(&format!("{at}.mirror"), given, scope)?,
            per_million,
        });
    }
    for (i, policy) in many.into_iter().enumerate() {
        let at = format!("{at}.mirrors[{i}]");
        let per_million = match policy.percentage {
            None => 1_000_000,
            Some(percent) => share(&format!("{at}.percentage.value"), percent.value.unwrap_or(0.0))?,
        };
        let destination = destination(&format!("{at}.destination"), policy.destination, scope)?;
        mirrors.push(Mirror {
            destination,
            per_million,
        });
    }
    mirrors.retain(|m| m.per_million > 0);
    Ok(mirrors)
}
