//! VirtualServices that take rules over from others (`delegate`): one table out of a root and its delegates.

use super::routes::warning;
use super::tables::Tables;
use super::world::Warning;
use crate::model::ObjectName;
use crate::model::route::{RequestMatch, RouteAction, RouteRule, RouteTable, StringMatch, ValueMatch};
use crate::translate::{Delegation, Given, VirtualServiceSpec};
use std::sync::Arc;

/// The rules of a VirtualService together with those it has from others; its own table if it has none from others.
pub(super) fn table(
    tables: &Tables,
    name: &ObjectName,
    spec: &VirtualServiceSpec,
    warnings: &mut Vec<Warning>,
) -> Arc<RouteTable> {
    if spec.delegations.is_empty() {
        return Arc::clone(&spec.table);
    }
    let own = &spec.table.rules;
    let mut rules = Vec::new();
    let mut taken = 0;
    for delegation in &spec.delegations {
        rules.extend(own.iter().take(delegation.place).skip(taken).cloned());
        taken = delegation.place;
        match delegate(tables, name, delegation) {
            Ok(delegate) => taken_over(name, delegation, delegate, &mut rules, warnings),
            Err(reason) => {
                let field = format!("{}.delegate", delegation.rule.origin.field());
                let reason = format!("{reason}: the rule is left out");
                warnings.push(warning("VirtualService", name, field, reason));
            }
        }
    }
    rules.extend(own.iter().skip(taken).cloned());
    Arc::new(RouteTable {
        api: spec.table.api,
        object: spec.table.object.clone(),
        rules,
    })
}

/// A delegate that nobody takes rules from: perhaps the hosts were forgotten.
pub(super) fn unused(name: &ObjectName) -> Warning {
    let reason = "is missing, and no VirtualService delegates to this one: it has no effect".into();
    warning("VirtualService", name, "spec.hosts".into(), reason)
}

fn delegate<'a>(
    tables: &'a Tables,
    root: &ObjectName,
    delegation: &Delegation,
) -> Result<&'a VirtualServiceSpec, String> {
    let to = &delegation.to;
    let Some(spec) = tables.virtual_services.get(to) else {
        return Err(format!("there is no VirtualService {to}"));
    };
    if !spec.hosts.is_empty() {
        return Err(format!("VirtualService {to} has hosts: it is no delegate"));
    }
    if !spec.export_to.admits(Some(&root.namespace)) {
        let namespace = &root.namespace;
        return Err(format!(
            "VirtualService {to} is not exported to namespace {namespace}"
        ));
    }
    Ok(spec)
}

/// Adds the delegate's rules, each narrowed down to what the root's entry takes.
fn taken_over(
    root: &ObjectName,
    delegation: &Delegation,
    delegate: &VirtualServiceSpec,
    rules: &mut Vec<RouteRule>,
    warnings: &mut Vec<Warning>,
) {
    for (rule, given) in delegate.table.rules.iter().zip(&delegate.given) {
        match matches(&delegation.rule.matches, &rule.matches) {
            Some(matches) => rules.push(RouteRule {
                origin: rule.origin.clone(),
                name: joined(&delegation.rule.name, &rule.name),
                matches,
                action: action(&delegation.rule.action, &rule.action, *given),
            }),
            None => {
                let reason = format!(
                    "takes requests that {} of VirtualService {root} does not: the rule is left out there",
                    delegation.rule.origin.field()
                );
                let field = format!("{}.match", rule.origin.field());
                warnings.push(warning("VirtualService", &rule.origin.object, field, reason));
            }
        }
    }
}

/// What the delegate does not say itself it has from the root.
fn action(root: &Arc<RouteAction>, own: &Arc<RouteAction>, given: Given) -> Arc<RouteAction> {
    let mut action = RouteAction::clone(own);
    if !given.rewrite {
        action.rewrite.clone_from(&root.rewrite);
    }
    if !given.timeout {
        action.timeout = root.timeout;
    }
    if !given.retries {
        action.retries.clone_from(&root.retries);
    }
    if !given.fault {
        action.fault.clone_from(&root.fault);
    }
    if !given.mirrors {
        action.mirrors.clone_from(&root.mirrors);
    }
    if !given.cors {
        action.cors.clone_from(&root.cors);
    }
    if !given.headers {
        action.headers.clone_from(&root.headers);
    }
    Arc::new(action)
}

fn joined(root: &Arc<str>, own: &Arc<str>) -> Arc<str> {
    match (root.is_empty(), own.is_empty()) {
        (_, true) => Arc::clone(root),
        (true, false) => Arc::clone(own),
        (false, false) => format!("{root}-{own}").into(),
    }
}

/// Each block of the delegate together with every block of the root that it lies inside of; `None` if one lies inside
/// of none.
fn matches(root: &[RequestMatch], own: &[RequestMatch]) -> Option<Vec<RequestMatch>> {
    if root.is_empty() {
        return Some(own.to_vec());
    }
    if own.is_empty() {
        return Some(root.to_vec());
    }
    let mut both = Vec::new();
    for block in own {
        let before = both.len();
        both.extend(root.iter().filter(|r| agree(r, block)).map(|r| merged(r, block)));
        if both.len() == before {
            return None;
        }
    }
    Some(both)
}

/// Whether a delegate's block takes nothing that the root's does not (Istio's `hasConflict`).
fn agree(root: &RequestMatch, own: &RequestMatch) -> bool {
    let texts = [
        (&root.uri, &own.uri),
        (&root.scheme, &own.scheme),
        (&root.method, &own.method),
        (&root.authority, &own.authority),
    ];
    let same = |root: &Option<Arc<str>>, own: &Option<Arc<str>>| {
        root.as_ref()
            .zip(own.as_ref())
            .is_none_or(|(root, own)| root == own)
    };
    let labels = own.source_labels.iter().all(|(key, value)| {
        let of_root = root.source_labels.iter().find(|(k, _)| k == key);
        of_root.is_none_or(|(_, v)| v == value)
    });
    let gateways = root.gateways.is_empty() || own.gateways.iter().all(|name| root.gateways.contains(name));
    texts
        .into_iter()
        .all(|(root, own)| text_inside(root.as_ref(), own.as_ref()))
        && values_inside(&root.headers, &own.headers)
        && values_inside(&root.without_headers, &own.without_headers)
        && values_inside(&root.query, &own.query)
        && root.ignore_uri_case == own.ignore_uri_case
        && root.port.zip(own.port).is_none_or(|(root, own)| root == own)
        && same(&root.source_namespace, &own.source_namespace)
        && labels
        && gateways
}

/// Whether what the delegate wants of a text lies inside of what the root wants. Two expressions are not compared.
fn text_inside(root: Option<&StringMatch>, own: Option<&StringMatch>) -> bool {
    match (root, own) {
        (None, _) | (_, None) => true,
        (Some(StringMatch::Exact(root)), Some(StringMatch::Exact(own))) => root == own,
        (Some(StringMatch::Prefix(root)), Some(StringMatch::Exact(own) | StringMatch::Prefix(own))) => {
            own.starts_with(&**root)
        }
        _ => false,
    }
}

type Values = [(Arc<str>, ValueMatch)];

fn values_inside(root: &Values, own: &Values) -> bool {
    own.iter().all(|(key, wanted)| {
        let of_root = root.iter().find(|(k, _)| k == key).map(|(_, v)| v);
        match (of_root, wanted) {
            (Some(ValueMatch::Value(root)), ValueMatch::Value(own)) => text_inside(Some(root), Some(own)),
            _ => true,
        }
    })
}

/// What both want.
fn merged(root: &RequestMatch, own: &RequestMatch) -> RequestMatch {
    let either = |root: &Option<StringMatch>, own: &Option<StringMatch>| own.clone().or_else(|| root.clone());
    let gateways = if own.gateways.is_empty() { root } else { own };
    RequestMatch {
        name: joined(&root.name, &own.name),
        uri: either(&root.uri, &own.uri),
        ignore_uri_case: own.ignore_uri_case,
        scheme: either(&root.scheme, &own.scheme),
        method: either(&root.method, &own.method),
        authority: either(&root.authority, &own.authority),
        headers: union(&root.headers, &own.headers),
        without_headers: union(&root.without_headers, &own.without_headers),
        query: union(&root.query, &own.query),
        port: own.port.or(root.port),
        source_labels: union(&root.source_labels, &own.source_labels),
        source_namespace: own
            .source_namespace
            .clone()
            .or_else(|| root.source_namespace.clone()),
        gateways: gateways.gateways.clone(),
    }
}

/// The delegate's entries, and those of the root that it does not have.
fn union<T: Clone>(root: &[(Arc<str>, T)], own: &[(Arc<str>, T)]) -> Vec<(Arc<str>, T)> {
    let has = |key: &Arc<str>| own.iter().any(|(k, _)| k == key);
    let inherited = root.iter().filter(|(key, _)| !has(key));
    inherited.chain(own).cloned().collect()
}
