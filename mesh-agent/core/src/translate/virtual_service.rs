//! VirtualService (`networking.istio.io`): validation and compilation of `spec.http`.

mod matches;
mod raw;
mod retries;

pub(super) use matches::regex;

use super::head::Head;
use super::value::{FieldError, decode, is_header_name, is_header_value, is_label, is_subdomain, timeout};
use crate::model::ObjectName;
use crate::model::host;
use crate::model::route::{
    Backend, Destination, GatewayName, HeaderEdits, HeaderOps, Mirror, Origin, Outcome, RouteAction,
    RouteApi, RouteRule, RouteTable, Split, Visibility, WeightedDestination,
};
use crate::model::snapshot::MeshSettings;
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

/// A VirtualService.
#[derive(Clone, Debug)]
pub struct VirtualServiceSpec {
    /// Absolute hosts, lower case; may be `*.suffix`.
    pub hosts: Vec<Arc<str>>,
    /// Whether it applies to clients in the mesh, not to gateways only.
    pub mesh: bool,
    /// `gateways`; `[mesh]` where nothing is written.
    pub gateways: Vec<GatewayName>,
    /// `exportTo`.
    pub export_to: Visibility,
    /// `creationTimestamp`.
    pub created: Arc<str>,
    /// The rules.
    pub table: Arc<RouteTable>,
    /// What it was made of, to tell whether a new version differs.
    source: Value,
}

impl PartialEq for VirtualServiceSpec {
    fn eq(&self, other: &Self) -> bool {
        self.created == other.created && self.source == other.source
    }
}

/// Where names inside a rule belong.
struct Scope<'a> {
    object: ObjectName,
    namespace: &'a str,
    settings: &'a MeshSettings,
}

pub(super) fn virtual_service(
    head: &Head,
    value: &Value,
    settings: &MeshSettings,
) -> Result<VirtualServiceSpec, FieldError> {
    let source = value.get("spec").filter(|s| !s.is_null());
    let source = source.ok_or_else(|| FieldError::new("spec", "is missing"))?;
    let raw: raw::Spec = decode(source, "spec")?;
    let scope = Scope {
        object: head.name(),
        namespace: &head.key.namespace,
        settings,
    };
    let mut gateways = matches::gateways("spec.gateways", raw.gateways.unwrap_or_default(), scope.namespace)?;
    if gateways.is_empty() {
        gateways.push(GatewayName::Mesh);
    }
    let mesh = gateways.contains(&GatewayName::Mesh);
    let hosts = hosts(&raw.hosts.unwrap_or_default(), mesh, &scope)?;
    let http = raw.http.unwrap_or_default();
    if http.is_empty() {
        return Err(FieldError::new(
            "spec.http",
            "is missing: http, tcp or tls must be provided",
        ));
    }
    let mut rules = Vec::new();
    for (index, route) in http.into_iter().enumerate() {
        rules.push(rule(index, route, &scope)?);
    }
    Ok(VirtualServiceSpec {
        hosts,
        mesh,
        gateways,
        export_to: export_to(raw.export_to.unwrap_or_default(), &head.key.namespace)?,
        created: Arc::clone(&head.created),
        table: Arc::new(RouteTable {
            api: RouteApi::Istio,
            object: scope.object.clone(),
            rules,
        }),
        source: source.clone(),
    })
}

fn hosts(given: &[String], mesh: bool, scope: &Scope<'_>) -> Result<Vec<Arc<str>>, FieldError> {
    if given.is_empty() {
        return Err(FieldError::new("spec.hosts", "is missing: at least one host"));
    }
    let mut hosts: Vec<Arc<str>> = Vec::new();
    for (i, given) in given.iter().enumerate() {
        let field = || format!("spec.hosts[{i}]");
        if given == "*" && mesh {
            let reason = "wildcard host * is not allowed for virtual services bound to the mesh gateway";
            return Err(FieldError::new(field(), reason));
        }
        let ip = given.parse::<IpAddr>().is_ok();
        if ip && mesh {
            return Err(FieldError::new(
                field(),
                "an IP address is no host of the mesh gateway",
            ));
        }
        if !ip && given != "*" {
            check_host(given, true).map_err(|reason| FieldError::new(field(), reason))?;
        }
        let absolute = host::absolute(given, scope.namespace, &scope.settings.cluster_domain);
        hosts.push(absolute);
    }
    Ok(hosts)
}

/// Whether a text is a host name, perhaps `*.suffix`.
pub(super) fn check_host(given: &str, wildcard: bool) -> Result<(), String> {
    let name = given.trim_end_matches('.').to_ascii_lowercase();
    let name = if wildcard {
        name.strip_prefix("*.").unwrap_or(&name)
    } else {
        &name
    };
    if is_subdomain(name) {
        Ok(())
    } else {
        Err("is no DNS name (RFC 1123 subdomain)".into())
    }
}

/// `exportTo`.
pub(super) fn export_to(given: Vec<String>, namespace: &str) -> Result<Visibility, FieldError> {
    if given.is_empty() || given.iter().any(|n| n == "*") {
        return Ok(Visibility::All);
    }
    let mut names: Vec<Arc<str>> = Vec::new();
    for (i, name) in given.iter().enumerate() {
        match name.as_str() {
            "." => names.push(namespace.into()),
            "~" => {}
            name if is_label(name) => names.push(name.into()),
            _ => {
                return Err(FieldError::new(
                    format!("spec.exportTo[{i}]"),
                    "expected *, ., ~ or a namespace",
                ));
            }
        }
    }
    names.sort();
    names.dedup();
    Ok(Visibility::Namespaces(names))
}

/// One entry of `http`.
fn rule(index: usize, raw: raw::HttpRoute, scope: &Scope<'_>) -> Result<RouteRule, FieldError> {
    let at = format!("spec.http[{index}]");
    let split = destinations(&at, raw.route.unwrap_or_default(), scope)?;
    let single = raw.mirror.map(|destination| {
        mirror_share(&at, raw.mirror_percent, raw.mirror_percentage.as_ref())
            .map(|share| (destination, share))
    });
    let mirrors = mirrors(&at, single.transpose()?, raw.mirrors.unwrap_or_default(), scope)?;
    let timeout = match raw.timeout {
        None => None,
        Some(text) => Some(timeout(&text).map_err(|e| FieldError::new(format!("{at}.timeout"), e))?),
    };
    let given = raw.r#match.unwrap_or_default();
    let mut matches = Vec::new();
    for (i, block) in given.into_iter().enumerate() {
        matches.push(matches::block(
            &format!("{at}.match[{i}]"),
            block,
            scope.namespace,
        )?);
    }
    let action = RouteAction {
        mirrors,
        timeout: timeout.filter(|t| !t.is_zero()),
        retries: retries::policy(&format!("{at}.retries"), raw.retries)?,
        headers: header_ops(&format!("{at}.headers"), raw.headers)?,
        ..RouteAction::new(Outcome::Forward(split))
    };
    Ok(RouteRule {
        origin: Origin {
            kind: "VirtualService",
            object: scope.object.clone(),
            list: "spec.http",
            index,
        },
        name: raw.name.unwrap_or_default().into(),
        matches,
        action: Arc::new(action),
    })
}

fn destinations(at: &str, given: Vec<raw::RouteDestination>, scope: &Scope<'_>) -> Result<Split, FieldError> {
    if given.is_empty() {
        return Err(FieldError::new(
            format!("{at}.route"),
            "HTTP route, redirect or direct_response is required",
        ));
    }
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
            headers: header_ops(&format!("{at}.headers"), route.headers)?,
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

fn destination(at: &str, raw: raw::Destination, scope: &Scope<'_>) -> Result<Destination, FieldError> {
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

/// Millionths: `mirrorPercentage` wins over the deprecated `mirrorPercent`; neither is all.
fn mirror_share(at: &str, whole: Option<u32>, percent: Option<&raw::Percent>) -> Result<u32, FieldError> {
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

fn mirrors(
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

fn header_ops(at: &str, raw: Option<raw::Headers>) -> Result<HeaderOps, FieldError> {
    let Some(raw) = raw else {
        return Ok(HeaderOps::default());
    };
    Ok(HeaderOps {
        request: header_edits(&format!("{at}.request"), raw.request, true)?,
        response: header_edits(&format!("{at}.response"), raw.response, false)?,
    })
}

fn header_edits(at: &str, raw: Option<raw::HeaderEdits>, request: bool) -> Result<HeaderEdits, FieldError> {
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
