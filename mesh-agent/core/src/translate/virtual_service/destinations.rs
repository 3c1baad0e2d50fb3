//! `route` of a rule: weighted destinations.

use super::{Scope, check_host, headers, raw};
use crate::model::host;
use crate::model::route::{Backend, Destination, Split, WeightedDestination};
use crate::translate::value::{FieldError, is_subdomain};

/// Weights of `route`, which has an entry at least.
pub(super) fn split(
    at: &str,
    given: Vec<raw::RouteDestination>,
    scope: &Scope<'_>,
) -> Result<Split, FieldError> {
    let alone = given.len() == 1;
    let mut destinations = Vec::new();
    let mut total = 0_u32;
    for (index, route) in given.into_iter().enumerate() {
        let at = format!("{at}.route[{index}]");
        let weight = route.weight.unwrap_or(0);
        let weight = u32::try_from(weight)
            .map_err(|_| FieldError::new(format!("{at}.weight"), format!("weight {weight} < 0")))?;
        let weight = if alone { 1 } else { weight };
        let destination = WeightedDestination {
            weight,
            index,
            backend: Backend::Host(destination(
                &format!("{at}.destination"),
                route.destination,
                scope,
            )?),
            headers: headers::ops(&format!("{at}.headers"), route.headers)?,
        };
        total = total.checked_add(weight).ok_or_else(|| {
            FieldError::new(format!("{at}.weight"), "total destination weight > 4294967295")
        })?;
        if weight > 0 {
            destinations.push(destination);
        }
    }
    if total == 0 {
        return Err(FieldError::new(
            format!("{at}.route"),
            "total destination weight = 0",
        ));
    }
    Ok(Split {
        destinations,
        total_weight: total,
    })
}

/// A `route` of connections.
pub(super) fn connection_split(
    at: &str,
    given: Option<Vec<raw::L4Destination>>,
    scope: &Scope<'_>,
) -> Result<Split, FieldError> {
    let given: Vec<_> = given
        .unwrap_or_default()
        .into_iter()
        .map(|to| raw::RouteDestination {
            destination: to.destination,
            weight: to.weight,
            headers: None,
        })
        .collect();
    if given.is_empty() {
        return Err(FieldError::new(
            format!("{at}.route"),
            "is missing: a route is required",
        ));
    }
    split(at, given, scope)
}

/// A destination with its host made absolute.
pub(super) fn destination(
    at: &str,
    raw: raw::Destination,
    scope: &Scope<'_>,
) -> Result<Destination, FieldError> {
    check_host(&raw.host, false).map_err(|reason| FieldError::new(format!("{at}.host"), reason))?;
    let port = raw.port.map(|p| p.number);
    if port == Some(0) {
        return Err(FieldError::new(
            format!("{at}.port.number"),
            "expected 1 to 65535",
        ));
    }
    let subset = raw.subset.filter(|s| !s.is_empty());
    if subset.as_ref().is_some_and(|s| !is_subdomain(s)) {
        return Err(FieldError::new(
            format!("{at}.subset"),
            "is no DNS label (RFC 1123, lower case)",
        ));
    }
    Ok(Destination {
        host: host::absolute(&raw.host, scope.namespace, &scope.settings.cluster_domain),
        subset: subset.map(Into::into),
        port,
    })
}
