//! `headers` of routes and destinations.

use super::raw;
use crate::model::route::{HeaderEdits, HeaderOps};
use crate::translate::value::{FieldError, is_header_name, is_header_value};
use std::collections::BTreeMap;

/// `None` where nothing is written.
pub(super) fn ops(at: &str, raw: Option<raw::Headers>) -> Result<Option<Box<HeaderOps>>, FieldError> {
    let Some(raw) = raw else {
        return Ok(None);
    };
    Ok(Some(Box::new(HeaderOps {
        request: edits(&format!("{at}.request"), raw.request, true)?,
        response: edits(&format!("{at}.response"), raw.response, false)?,
    })))
}

fn edits(at: &str, raw: Option<raw::HeaderEdits>, request: bool) -> Result<HeaderEdits, FieldError> {
    let Some(raw) = raw else {
        return Ok(HeaderEdits::default());
    };
    let pairs = |map: BTreeMap<String, String>, field: &str, authority: bool| {
        map.into_iter()
            .map(|(name, value)| {
                let lower = name.to_ascii_lowercase();
                let field = format!("{at}.{field}.{name}");
                let pseudo = authority && lower == ":authority";
                if !pseudo && !is_header_name(&lower) {
                    Err(FieldError::new(field, "is no header name that can be changed"))
                } else if !is_header_value(&value) {
                    Err(FieldError::new(
                        field,
                        "value has a control character or more than 16384 bytes",
                    ))
                } else {
                    Ok((lower.into(), value.into()))
                }
            })
            .collect::<Result<Vec<_>, _>>()
    };
    let remove = raw
        .remove
        .unwrap_or_default()
        .into_iter()
        .enumerate()
        .map(|(i, name)| {
            let lower = name.to_ascii_lowercase();
            if lower == "host" || !is_header_name(&lower) {
                return Err(FieldError::new(
                    format!("{at}.remove[{i}]"),
                    "is no header name that can be removed",
                ));
            }
            Ok(lower.into())
        });
    Ok(HeaderEdits {
        set: pairs(raw.set.unwrap_or_default(), "set", request)?,
        add: pairs(raw.add.unwrap_or_default(), "add", false)?,
        remove: remove.collect::<Result<Vec<_>, _>>()?,
    })
}
