//! Decoding of JSON values with the path of what is wrong, and checks of names, numbers and times.

use serde::de::{Deserialize, Deserializer, Error as _};
use serde_json::Value;
use std::fmt;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::Duration;

/// Objects nested deeper than this are refused before anything walks them.
const MAX_DEPTH: usize = 64;
/// A reason is cut after this many bytes: it may quote the object.
const MAX_REASON: usize = 300;

/// A field and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FieldError {
    pub(crate) field: String,
    pub(crate) reason: String,
}

impl FieldError {
    pub(crate) fn new(field: impl Into<String>, reason: impl Into<String>) -> Self {
        let mut reason = reason.into();
        if reason.len() > MAX_REASON {
            let cut = (0..=MAX_REASON)
                .rev()
                .find(|i| reason.is_char_boundary(*i))
                .unwrap_or(0);
            reason.truncate(cut);
            reason.push('…');
        }
        // A key of the object may be as long as it likes, and hold anything.
        let field: String = field
            .into()
            .chars()
            .filter(|c| !c.is_control())
            .take(MAX_REASON)
            .collect();
        Self { field, reason }
    }
}

/// Of a text that may be large, to tell whether another version differs. Whoever makes two versions of one object collide
/// has hidden his own change.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Digest([u64; 2]);

/// What is shown of an object is what it means, not how it was written.
impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("_")
    }
}

impl Digest {
    pub(super) fn of(source: &Value) -> Self {
        let text = source.to_string();
        Self([0_u8, 1].map(|half| {
            let mut hasher = DefaultHasher::new();
            (half, &text).hash(&mut hasher);
            hasher.finish()
        }))
    }
}

/// A field that the API knows and this mesh does not honour: there at all means refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unsupported;

impl<'de> Deserialize<'de> for Unsupported {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        Err(D::Error::custom("not supported yet"))
    }
}

/// `spec` of an object.
pub(crate) fn spec_of(value: &Value) -> Result<&Value, FieldError> {
    let spec = value.get("spec").filter(|spec| !spec.is_null());
    spec.ok_or_else(|| FieldError::new("spec", "is missing"))
}

/// Decodes `value`, which is found at `at` inside its object.
pub(crate) fn decode<'de, T: Deserialize<'de>>(value: &'de Value, at: &str) -> Result<T, FieldError> {
    serde_path_to_error::deserialize(value).map_err(|e| {
        let path = e.path().to_string();
        let reason = e.inner().to_string();
        let reason = match reason.strip_prefix("unknown field `") {
            Some(rest) => match rest.split_once("`, ") {
                Some((_, expected)) => format!("unknown field, {expected}"),
                None => "unknown field".into(),
            },
            None => reason,
        };
        FieldError::new(join(at, &path), reason)
    })
}

/// `spec` and `http[0]` → `spec.http[0]`.
pub(crate) fn join(at: &str, path: &str) -> String {
    match (at, path) {
        (at, "" | ".") => at.into(),
        ("", path) => path.into(),
        (at, path) => format!("{at}.{path}"),
    }
}

/// Whether an object may be walked by recursion.
pub(crate) fn too_deep(value: &Value) -> bool {
    let mut open = vec![(value, 0_usize)];
    while let Some((value, depth)) = open.pop() {
        if depth > MAX_DEPTH {
            return true;
        }
        match value {
            Value::Array(items) => open.extend(items.iter().map(|v| (v, depth + 1))),
            Value::Object(fields) => open.extend(fields.values().map(|v| (v, depth + 1))),
            _ => {}
        }
    }
    false
}

/// RFC 1123 label: what namespaces and services are called.
pub(crate) fn is_label(name: &str) -> bool {
    let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    (1..=63).contains(&name.len())
        && name.bytes().all(inner)
        && !name.starts_with('-')
        && !name.ends_with('-')
}

/// RFC 1123 subdomain: what everything else is called.
pub(crate) fn is_subdomain(name: &str) -> bool {
    name.len() <= 253 && !name.is_empty() && name.split('.').all(is_label)
}

/// A duration as Go and protobuf write it: `10s`, `1.5s`, `1h2m`, `250ms`, `0`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let invalid = || format!("{text:?} is no duration: write it like 10s, 1.5s or 250ms");
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    if text.len() > 32 || text.is_empty() {
        return Err("no duration: write it like 10s, 1.5s or 250ms".into());
    }
    let mut total = 0_f64;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .ok_or_else(invalid)?;
        let number: f64 = rest[..digits].parse().map_err(|_| invalid())?;
        rest = &rest[digits..];
        let unit = rest
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(rest.len());
        total += number
            * match &rest[..unit] {
                "h" => 3_600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 1e-3,
                "us" | "µs" | "μs" => 1e-6,
                "ns" => 1e-9,
                _ => return Err(invalid()),
            };
        rest = &rest[unit..];
    }
    let exact = Duration::try_from_secs_f64(total).map_err(|_| invalid())?;
    // 315,576,000,000 s is protobuf's own limit; a tenth of it is far beyond any use and safe to add to a clock.
    if exact > Duration::from_secs(31_557_600_000) {
        Err(invalid())
    } else {
        Ok(exact)
    }
}

/// A duration of at least 1 ms, or zero.
pub(crate) fn timeout(text: &str) -> Result<Duration, String> {
    let parsed = duration(text)?;
    if parsed > Duration::ZERO && parsed < Duration::from_millis(1) {
        return Err("duration must be greater than 1ms".into());
    }
    Ok(parsed)
}

/// An HTTP field name (RFC 9110 § 5.6.2).
pub(crate) fn is_header_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 256
        && name
            .bytes()
            .all(|c| c.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&c))
}

/// Whether a text may stand in an HTTP field value: nothing that ends a line.
pub(crate) fn is_header_value(value: &str) -> bool {
    value.len() <= 16_384 && value.bytes().all(|c| c == b'\t' || (c >= 0x20 && c != 0x7f))
}
