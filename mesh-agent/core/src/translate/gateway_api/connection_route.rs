//! TLSRoute and TCPRoute: rules on connections.

use super::common::{self, Scope, rule_name};
use super::{ApiRouteSpec, ConnectionRule, RouteKind, raw};
use crate::model::snapshot::MeshSettings;
use crate::translate::head::Head;
use crate::translate::value::FieldError;
use serde_json::Value;

pub(super) fn tls_route(
    head: &Head,
    value: &Value,
    settings: &MeshSettings,
) -> Result<ApiRouteSpec, FieldError> {
    common::route(RouteKind::Tls, head, value, settings, compile)
}

pub(super) fn tcp_route(
    head: &Head,
    value: &Value,
    settings: &MeshSettings,
) -> Result<ApiRouteSpec, FieldError> {
    let spec = common::route(RouteKind::Tcp, head, value, settings, compile)?;
    if spec.hostnames.is_empty() {
        Ok(spec)
    } else {
        Err(FieldError::new("spec.hostnames", "unknown field"))
    }
}

fn compile(
    rules: Option<Vec<raw::ConnectionRule>>,
    scope: &mut Scope<'_>,
    spec: &mut ApiRouteSpec,
) -> Result<(), FieldError> {
    let mut names = Vec::new();
    for (index, raw) in rules.into_iter().flatten().enumerate() {
        let at = format!("spec.rules[{index}]");
        spec.connections.push(ConnectionRule {
            name: rule_name(&at, raw.name, &mut names)?,
            index,
            split: common::split(&at, raw.backend_refs.unwrap_or_default(), scope)?,
        });
    }
    if spec.connections.is_empty() {
        return Err(FieldError::new("spec.rules", "is missing: at least one rule"));
    }
    Ok(())
}
