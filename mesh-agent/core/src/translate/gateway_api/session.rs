//! `sessionPersistence` (GEP-1619), of routes and of XBackendTrafficPolicies.

use crate::model::traffic::{Carrier, Persistence};
use crate::translate::value::{FieldError, duration};
use serde::Deserialize;
use std::sync::Arc;
use twox_hash::XxHash64;

/// The CRDs' own bound.
const MAX_NAME: usize = 128;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Raw {
    session_name: Option<String>,
    absolute_timeout: Option<String>,
    r#type: Option<String>,
    cookie_config: Option<RawCookie>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawCookie {
    lifetime_type: Option<String>,
}

/// Reads it; `place` is what a session without a name is named after: no two of them share a name.
pub(super) fn persistence(
    at: &str,
    raw: Option<Raw>,
    place: &str,
) -> Result<Option<Arc<Persistence>>, FieldError> {
    let Some(raw) = raw else { return Ok(None) };
    let bad = |field: &str, reason: String| FieldError::new(format!("{at}.{field}"), reason);
    let carrier = match raw.r#type.as_deref() {
        None | Some("Cookie") => Carrier::Cookie,
        Some("Header") => Carrier::Header,
        Some(other) => {
            return Err(bad(
                "type",
                format!("{other:?} is not known: expected Cookie or Header"),
            ));
        }
    };
    let lifetime = raw.cookie_config.map(|c| c.lifetime_type);
    if lifetime.is_some() && carrier == Carrier::Header {
        return Err(bad("cookieConfig", "is for type Cookie only".into()));
    }
    let permanent = match lifetime.flatten().as_deref() {
        None | Some("Session") => false,
        Some("Permanent") => true,
        Some(other) => {
            let reason = format!("{other:?} is not known: expected Session or Permanent");
            return Err(bad("cookieConfig.lifetimeType", reason));
        }
    };
    let absolute = match raw.absolute_timeout {
        None => None,
        Some(text) => Some(duration(&text).map_err(|reason| bad("absoluteTimeout", reason))?),
    };
    if absolute.is_some_and(|time| time.is_zero()) {
        return Err(bad("absoluteTimeout", "no session lasts no time".into()));
    }
    if permanent && absolute.is_none() {
        return Err(bad(
            "absoluteTimeout",
            "is missing: a permanent cookie has one".into(),
        ));
    }
    let name = match raw.session_name.filter(|n| !n.is_empty()) {
        None => format!("heddle-session-{:016x}", XxHash64::oneshot(0, place.as_bytes())),
        Some(name) if name.len() <= MAX_NAME && name.bytes().all(is_token) => name,
        Some(_) => {
            let reason = format!(
                "is no name of a cookie or header (a token of RFC 9110, at most {MAX_NAME} characters)"
            );
            return Err(bad("sessionName", reason));
        }
    };
    let name = match carrier {
        Carrier::Cookie => name,
        Carrier::Header => name.to_ascii_lowercase(),
    };
    if carrier == Carrier::Header && RESERVED.contains(&&*name) {
        return Err(bad("sessionName", format!("header {name} has another meaning")));
    }
    Ok(Some(Arc::new(Persistence {
        carrier,
        name: name.into(),
        absolute,
        permanent,
    })))
}

/// Headers by which messages are read, or that are not an application's.
const RESERVED: [&str; 14] = [
    "authorization",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "cookie",
    "date",
    "expect",
    "host",
    "set-cookie",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

const fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(byte, b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'^'..=b'`' | b'|' | b'~')
}
