//! `http[]`: one rule, or the order to take over another object's.

use super::destinations::split;
use super::{Scope, action, headers, matches, raw, retries};
use crate::model::ObjectName;
use crate::model::route::{Origin, Outcome, RouteAction, RouteRule, Split};
use crate::translate::value::{FieldError, is_label, is_subdomain, timeout};
use std::sync::Arc;

/// Which parts of a rule are written; a delegate has the others from its root.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a field of the API that is there or not"
)]
pub struct Given {
    /// `rewrite`.
    pub rewrite: bool,
    /// `timeout`.
    pub timeout: bool,
    /// `retries`.
    pub retries: bool,
    /// `fault`.
    pub fault: bool,
    /// `mirror` or `mirrors`.
    pub mirrors: bool,
    /// `corsPolicy`.
    pub cors: bool,
    /// `headers`.
    pub headers: bool,
}

/// An entry of `http` that stands for the rules of another VirtualService.
#[derive(Clone, Debug)]
pub struct Delegation {
    /// The other VirtualService.
    pub to: ObjectName,
    /// How many rules of the own table come before.
    pub place: usize,
    /// Name, conditions and what the delegate's rules get from here; its outcome means nothing.
    pub rule: RouteRule,
}

/// What an entry comes to.
pub(super) enum Entry {
    Rule(RouteRule, Given),
    Delegation(ObjectName, RouteRule),
}

pub(super) fn entry(index: usize, raw: raw::HttpRoute, scope: &Scope<'_>) -> Result<Entry, FieldError> {
    let at = format!("spec.http[{index}]");
    let mut raw = raw;
    let delegate = raw.delegate.take();
    let given = given(&raw);
    let outcome = match &delegate {
        None => outcome(&at, &mut raw, scope)?,
        Some(_) => {
            check_root(&at, &raw, scope)?;
            Outcome::Forward(Split::default())
        }
    };
    let rule = rule(index, &at, raw, outcome, scope)?;
    Ok(match delegate {
        None => Entry::Rule(rule, given),
        Some(delegate) => Entry::Delegation(target(&at, delegate, scope)?, rule),
    })
}

const fn given(raw: &raw::HttpRoute) -> Given {
    Given {
        rewrite: raw.rewrite.is_some(),
        timeout: raw.timeout.is_some(),
        retries: raw.retries.is_some(),
        fault: raw.fault.is_some(),
        mirrors: raw.mirror.is_some() || raw.mirrors.is_some(),
        cors: raw.cors_policy.is_some(),
        headers: raw.headers.is_some(),
    }
}

/// One of route, redirect and directResponse, with what may stand beside it.
fn outcome(at: &str, raw: &mut raw::HttpRoute, scope: &Scope<'_>) -> Result<Outcome, FieldError> {
    let bad = |reason: &str| Err(FieldError::new(at, reason));
    let routes = raw.route.take().unwrap_or_default();
    let (redirect, response) = (raw.redirect.take(), raw.direct_response.take());
    let beside = [
        ("route", !routes.is_empty()),
        ("fault", raw.fault.is_some()),
        ("rewrite", raw.rewrite.is_some()),
    ];
    let beside = beside.into_iter().find(|(_, there)| *there).map(|(name, _)| name);
    match (redirect, response, beside) {
        (Some(_), Some(_), _) => bad("HTTP route cannot contain both redirect and direct_response"),
        (Some(_), None, Some(name)) => bad(&format!("HTTP route cannot contain both {name} and redirect")),
        (None, Some(_), Some(name)) => bad(&format!(
            "HTTP route cannot contain both {name} and direct_response"
        )),
        (Some(redirect), None, None) => {
            action::redirect(&format!("{at}.redirect"), redirect).map(|r| Outcome::Redirect(r.into()))
        }
        (None, Some(response), None) => {
            action::direct_response(&format!("{at}.directResponse"), response).map(Outcome::Respond)
        }
        (None, None, _) if routes.is_empty() => Err(FieldError::new(
            format!("{at}.route"),
            "HTTP route, redirect or direct_response is required",
        )),
        (None, None, _) => split(at, routes, scope).map(Outcome::Forward),
    }
}

fn check_root(at: &str, raw: &raw::HttpRoute, scope: &Scope<'_>) -> Result<(), FieldError> {
    if scope.delegate {
        let reason = "delegate HTTP route cannot contain delegate";
        return Err(FieldError::new(format!("{at}.delegate"), reason));
    }
    for (name, there) in [
        ("route", raw.route.is_some()),
        ("redirect", raw.redirect.is_some()),
        ("direct_response", raw.direct_response.is_some()),
    ] {
        if there {
            let reason = format!("root HTTP route must not specify {name}");
            return Err(FieldError::new(at, reason));
        }
    }
    Ok(())
}

fn target(at: &str, raw: raw::Delegate, scope: &Scope<'_>) -> Result<ObjectName, FieldError> {
    let namespace = raw.namespace.filter(|ns| !ns.is_empty());
    let namespace = namespace.as_deref().unwrap_or(scope.namespace);
    if !is_subdomain(&raw.name) {
        let reason = "is no name of a VirtualService";
        return Err(FieldError::new(format!("{at}.delegate.name"), reason));
    }
    if !is_label(namespace) {
        let reason = "is no namespace";
        return Err(FieldError::new(format!("{at}.delegate.namespace"), reason));
    }
    Ok(ObjectName::new(namespace, raw.name.as_str()))
}

/// Everything but the outcome.
fn rule(
    index: usize,
    at: &str,
    raw: raw::HttpRoute,
    outcome: Outcome,
    scope: &Scope<'_>,
) -> Result<RouteRule, FieldError> {
    let single = raw.mirror.map(|destination| {
        action::mirror_share(at, raw.mirror_percent, raw.mirror_percentage.as_ref())
            .map(|share| (destination, share))
    });
    let mirrors = action::mirrors(at, single.transpose()?, raw.mirrors.unwrap_or_default(), scope)?;
    let timeout = match raw.timeout {
        None => None,
        Some(text) => Some(timeout(&text).map_err(|e| FieldError::new(format!("{at}.timeout"), e))?),
    };
    let mut blocks = Vec::new();
    for (i, block) in raw.r#match.into_iter().flatten().enumerate() {
        blocks.push(matches::block(&format!("{at}.match[{i}]"), block, scope)?);
    }
    let rewrite = raw.rewrite.map(|r| action::rewrite(&format!("{at}.rewrite"), r));
    let fault = raw.fault.map(|f| action::fault(&format!("{at}.fault"), f));
    let cors = raw
        .cors_policy
        .map(|c| action::cors(&format!("{at}.corsPolicy"), c));
    let action = RouteAction {
        outcome,
        mirrors,
        timeout: timeout.filter(|t| !t.is_zero()),
        retries: retries::policy(&format!("{at}.retries"), raw.retries, scope)?,
        headers: headers::ops(&format!("{at}.headers"), raw.headers)?,
        rewrite: rewrite.transpose()?.map(Box::new),
        fault: fault.transpose()?.map(Box::new),
        cors: cors.transpose()?.map(Box::new),
        session: None,
    };
    Ok(RouteRule {
        origin: Origin {
            kind: "VirtualService",
            object: scope.object.clone(),
            list: "spec.http",
            index,
        },
        name: raw.name.unwrap_or_default().into(),
        matches: blocks,
        action: Arc::new(action),
    })
}
