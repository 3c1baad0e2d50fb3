//! Filters of rules and of backends, and the rules that they make.

use super::common::{Scope, backend};
use super::cors::cors;
use super::{Rank, RankedRule, raw};
use crate::model::route::{
    Backend, Cors, HeaderEdits, HeaderOps, Mirror, Origin, Outcome, PathChange, Redirect, RedirectPort,
    RequestMatch, RetryPolicy, Rewrite, RouteAction, RouteRule, Split,
};
use crate::model::traffic::Persistence;
use crate::translate::value::{FieldError, is_header_name, is_header_value, is_subdomain};
use std::sync::Arc;
use std::time::Duration;

/// What a rule's filters come to.
#[derive(Default)]
pub(super) struct Filters {
    headers: HeaderOps,
    mirrors: Vec<Mirror>,
    pub(super) redirect: Option<Redirect>,
    rewrite: Option<Rewrite>,
    cors: Option<Cors>,
}

impl Filters {
    /// What happens to the path, in whichever filter it is written.
    pub(super) fn path_change(&self) -> Option<&PathChange> {
        let redirect = self.redirect.as_ref().and_then(|r| r.path.as_ref());
        redirect.or_else(|| self.rewrite.as_ref()?.path.as_ref())
    }
}

/// Everything that a rule says beside its matches.
pub(super) struct Action {
    pub(super) filters: Filters,
    pub(super) split: Split,
    pub(super) timeout: Option<Duration>,
    pub(super) retries: Option<RetryPolicy>,
    pub(super) session: Option<Arc<Persistence>>,
}

/// `sessionPersistence` of a rule.
pub(super) fn session(
    at: &str,
    index: usize,
    raw: Option<super::session::Raw>,
    scope: &Scope<'_>,
) -> Result<Option<Arc<Persistence>>, FieldError> {
    let place = format!("{} {} {index}", scope.kind.name(), scope.object);
    super::session::persistence(&format!("{at}.sessionPersistence"), raw, &place)
}

impl Action {
    /// One rule for each block: where a rule stands in a table depends on the block.
    pub(super) fn into_rules(
        self,
        index: usize,
        name: Arc<str>,
        blocks: Vec<(Rank, RequestMatch)>,
        scope: &Scope<'_>,
        rules: &mut Vec<RankedRule>,
    ) {
        let origin = Origin {
            kind: scope.kind.name(),
            object: scope.object.clone(),
            list: "spec.rules",
            index,
        };
        let action = Arc::new(self.into_action());
        let rule = |matches| RouteRule {
            origin: origin.clone(),
            name: Arc::clone(&name),
            matches,
            action: Arc::clone(&action),
        };
        if blocks.is_empty() {
            let rank = super::matches::rank_of_everything(scope.kind);
            rules.push(RankedRule {
                rank,
                rule: rule(Vec::new()),
            });
        }
        for (rank, block) in blocks {
            rules.push(RankedRule {
                rank,
                rule: rule(vec![block]),
            });
        }
    }

    fn into_action(self) -> RouteAction {
        let outcome = match self.filters.redirect {
            Some(redirect) => Outcome::Redirect(Box::new(redirect)),
            None if self.split.total_weight == 0 => Outcome::Fail {
                status: 500,
                reason: "the rule has no backend of a weight above 0".into(),
            },
            None => Outcome::Forward(self.split),
        };
        let retries = self.retries.map_or_else(RetryPolicy::shared_default, Arc::new);
        RouteAction {
            mirrors: self.filters.mirrors,
            timeout: self.timeout,
            retries,
            headers: Some(Box::new(self.filters.headers)).filter(|ops| !ops.is_empty()),
            rewrite: self.filters.rewrite.map(Box::new),
            cors: self.filters.cors.map(Box::new),
            session: self.session,
            ..RouteAction::new(outcome)
        }
    }
}

/// Filters of a rule. Each type but the mirror at most once.
pub(super) fn rule_filters(
    at: &str,
    given: Vec<raw::Filter>,
    scope: &mut Scope<'_>,
) -> Result<Filters, FieldError> {
    let mut filters = Filters::default();
    let mut seen: Vec<String> = Vec::new();
    let http = scope.kind == super::RouteKind::Http;
    for (i, raw) in given.into_iter().enumerate() {
        let at = format!("{at}.filters[{i}]");
        let kind = raw.r#type.clone();
        if kind != "RequestMirror" && seen.contains(&kind) {
            return Err(FieldError::new(at, format!("filter {kind} is there twice")));
        }
        match kind.as_str() {
            "RequestHeaderModifier" => {
                let raw = present(&at, "requestHeaderModifier", raw.request_header_modifier)?;
                filters.headers.request = header_edits(&format!("{at}.requestHeaderModifier"), raw)?;
            }
            "ResponseHeaderModifier" => {
                let raw = present(&at, "responseHeaderModifier", raw.response_header_modifier)?;
                filters.headers.response = header_edits(&format!("{at}.responseHeaderModifier"), raw)?;
            }
            "RequestMirror" => {
                let raw = present(&at, "requestMirror", raw.request_mirror)?;
                filters
                    .mirrors
                    .extend(mirror(&format!("{at}.requestMirror"), raw, scope)?);
            }
            "RequestRedirect" if http => {
                let raw = present(&at, "requestRedirect", raw.request_redirect)?;
                filters.redirect = Some(redirect(&format!("{at}.requestRedirect"), raw)?);
            }
            "URLRewrite" if http => {
                let raw = present(&at, "urlRewrite", raw.url_rewrite)?;
                filters.rewrite = Some(rewrite(&format!("{at}.urlRewrite"), raw)?);
            }
            "CORS" if http => {
                let raw = present(&at, "cors", raw.cors)?;
                filters.cors = Some(cors(&format!("{at}.cors"), raw)?);
            }
            other => return Err(refused(&at, other)),
        }
        seen.push(kind);
    }
    if filters.redirect.is_some() && filters.rewrite.is_some() {
        let reason = "RequestRedirect and URLRewrite cannot be in one rule";
        return Err(FieldError::new(format!("{at}.filters"), reason));
    }
    Ok(filters)
}

/// Filters of one backend: header changes.
pub(super) fn backend_filters(
    at: &str,
    given: Vec<raw::Filter>,
) -> Result<Option<Box<HeaderOps>>, FieldError> {
    let mut headers = HeaderOps::default();
    for (i, raw) in given.into_iter().enumerate() {
        let at = format!("{at}.filters[{i}]");
        match raw.r#type.as_str() {
            "RequestHeaderModifier" => {
                let raw = present(&at, "requestHeaderModifier", raw.request_header_modifier)?;
                headers.request = header_edits(&format!("{at}.requestHeaderModifier"), raw)?;
            }
            "ResponseHeaderModifier" => {
                let raw = present(&at, "responseHeaderModifier", raw.response_header_modifier)?;
                headers.response = header_edits(&format!("{at}.responseHeaderModifier"), raw)?;
            }
            other @ ("RequestMirror" | "RequestRedirect" | "URLRewrite" | "CORS") => {
                let reason = format!("{other} is not supported on a backend: write it in the rule's filters");
                return Err(FieldError::new(format!("{at}.type"), reason));
            }
            other => return Err(refused(&at, other)),
        }
    }
    Ok(Some(Box::new(headers)).filter(|ops| !ops.is_empty()))
}

fn refused(at: &str, kind: &str) -> FieldError {
    let reason = match kind {
        "ExternalAuth" | "ExtensionRef" => format!("{kind} is not supported"),
        "RequestRedirect" | "URLRewrite" | "CORS" => format!("{kind} is no filter of this kind of route"),
        _ => format!("{kind:?} is no filter"),
    };
    FieldError::new(format!("{at}.type"), reason)
}

fn present<T>(at: &str, field: &str, given: Option<T>) -> Result<T, FieldError> {
    given.ok_or_else(|| FieldError::new(format!("{at}.{field}"), "is missing: the type asks for it"))
}

fn header_edits(at: &str, raw: raw::HeaderModifier) -> Result<HeaderEdits, FieldError> {
    let pairs = |field: &str, given: Option<Vec<raw::Header>>| {
        let mut pairs: Vec<(Arc<str>, Arc<str>)> = Vec::new();
        for (i, header) in given.into_iter().flatten().enumerate() {
            let at = format!("{at}.{field}[{i}]");
            let name = header.name.to_ascii_lowercase();
            if !is_header_name(&name) {
                return Err(FieldError::new(format!("{at}.name"), "is no header name"));
            }
            if !is_header_value(&header.value) {
                let reason = "has a control character or more than 16384 bytes";
                return Err(FieldError::new(format!("{at}.value"), reason));
            }
            // Of equivalent names only the first counts.
            if !pairs.iter().any(|(n, _)| **n == name) {
                pairs.push((name.into(), header.value.into()));
            }
        }
        Ok(pairs)
    };
    let remove = raw.remove.into_iter().flatten().enumerate().map(|(i, name)| {
        let lower = name.to_ascii_lowercase();
        if lower == "host" || !is_header_name(&lower) {
            let reason = "is no header name that can be removed";
            return Err(FieldError::new(format!("{at}.remove[{i}]"), reason));
        }
        Ok(lower.into())
    });
    Ok(HeaderEdits {
        set: pairs("set", raw.set)?,
        add: pairs("add", raw.add)?,
        remove: remove.collect::<Result<_, _>>()?,
    })
}

/// `None` for a mirror of nothing, and for one whose backend cannot be one: it is not sent, the status says why.
fn mirror(at: &str, raw: raw::Mirror, scope: &mut Scope<'_>) -> Result<Option<Mirror>, FieldError> {
    let per_million = match (raw.percent, raw.fraction) {
        (None, None) => 1_000_000,
        (Some(percent @ 0..=100), None) => percent * 10_000,
        (Some(_), None) => return Err(FieldError::new(format!("{at}.percent"), "expected 0 to 100")),
        (None, Some(fraction)) => {
            let whole = fraction.denominator.unwrap_or(100);
            if whole == 0 || fraction.numerator > whole {
                let reason = "expected a denominator above 0 and a numerator up to it";
                return Err(FieldError::new(format!("{at}.fraction"), reason));
            }
            let share = u64::from(fraction.numerator) * 1_000_000 / u64::from(whole);
            u32::try_from(share).unwrap_or(1_000_000)
        }
        (Some(_), Some(_)) => {
            return Err(FieldError::new(at, "expected only one of percent and fraction"));
        }
    };
    let backend = backend(&format!("{at}.backendRef"), raw.backend_ref, scope)?;
    Ok(match backend {
        Backend::Host(destination) if per_million > 0 => Some(Mirror {
            destination,
            per_million,
        }),
        _ => None,
    })
}

fn redirect(at: &str, raw: raw::Redirect) -> Result<Redirect, FieldError> {
    let scheme = match raw.scheme.as_deref() {
        None => None,
        Some(scheme @ ("http" | "https")) => Some(scheme.into()),
        Some(_) => return Err(FieldError::new(format!("{at}.scheme"), "expected http or https")),
    };
    let status = match raw.status_code.unwrap_or(302) {
        status @ (301 | 302 | 303 | 307 | 308) => status,
        _ => {
            let reason = "expected 301, 302, 303, 307 or 308";
            return Err(FieldError::new(format!("{at}.statusCode"), reason));
        }
    };
    let port = match (raw.port, &scheme) {
        (Some(0), _) => return Err(FieldError::new(format!("{at}.port"), "expected 1 to 65535")),
        (Some(port), _) => RedirectPort::Number(port),
        (None, Some(_)) => RedirectPort::OfScheme,
        (None, None) => RedirectPort::OfRequest,
    };
    Ok(Redirect {
        status,
        scheme,
        host: hostname(at, raw.hostname)?,
        port,
        path: path(at, raw.path)?,
    })
}

fn rewrite(at: &str, raw: raw::Rewrite) -> Result<Rewrite, FieldError> {
    Ok(Rewrite {
        authority: hostname(at, raw.hostname)?,
        path: path(at, raw.path)?,
    })
}

fn hostname(at: &str, given: Option<String>) -> Result<Option<Arc<str>>, FieldError> {
    match given {
        Some(name) if !is_subdomain(&name) => Err(FieldError::new(
            format!("{at}.hostname"),
            "is no DNS name (RFC 1123 subdomain)",
        )),
        given => Ok(given.map(Into::into)),
    }
}

fn path(at: &str, raw: Option<raw::PathModifier>) -> Result<Option<PathChange>, FieldError> {
    let Some(raw) = raw else { return Ok(None) };
    let at = format!("{at}.path");
    let text = |field: &str, given: Option<String>| {
        let given = present(&at, field, given)?;
        // It becomes part of a request line or of a field value.
        if given.bytes().any(|c| c <= b' ' || c == 0x7f) {
            return Err(FieldError::new(
                format!("{at}.{field}"),
                "has a space or control character",
            ));
        }
        Ok(given.into())
    };
    match raw.r#type.as_str() {
        "ReplaceFullPath" => Ok(Some(PathChange::Full(text(
            "replaceFullPath",
            raw.replace_full_path,
        )?))),
        "ReplacePrefixMatch" => Ok(Some(PathChange::PrefixSegments(text(
            "replacePrefixMatch",
            raw.replace_prefix_match,
        )?))),
        other => Err(FieldError::new(
            format!("{at}.type"),
            format!("{other:?} is not known: expected ReplaceFullPath or ReplacePrefixMatch"),
        )),
    }
}
