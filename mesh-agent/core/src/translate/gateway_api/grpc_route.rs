//! GRPCRoute.

use super::common::{self, Scope, rule_name};
use super::filters::{self, Action, session};
use super::{ApiRouteSpec, RouteKind, matches, raw};
use crate::model::snapshot::MeshSettings;
use crate::translate::head::Head;
use crate::translate::value::FieldError;
use serde_json::Value;

pub(super) fn grpc_route(
    head: &Head,
    value: &Value,
    settings: &MeshSettings,
) -> Result<ApiRouteSpec, FieldError> {
    common::route(RouteKind::Grpc, head, value, settings, compile)
}

fn compile(
    rules: Option<Vec<raw::GrpcRule>>,
    scope: &mut Scope<'_>,
    spec: &mut ApiRouteSpec,
) -> Result<(), FieldError> {
    let mut names = Vec::new();
    for (index, raw) in rules.into_iter().flatten().enumerate() {
        let at = format!("spec.rules[{index}]");
        let name = rule_name(&at, raw.name, &mut names)?;
        let blocks = matches::of_rule(&at, raw.matches, matches::grpc)?;
        let filters = filters::rule_filters(&at, raw.filters.unwrap_or_default(), scope)?;
        let action = Action {
            filters,
            split: common::split(&at, raw.backend_refs.unwrap_or_default(), scope)?,
            timeout: None,
            retries: None,
            session: session(&at, index, raw.session_persistence, scope)?,
        };
        action.into_rules(index, name, blocks, scope, &mut spec.rules);
    }
    Ok(())
}
