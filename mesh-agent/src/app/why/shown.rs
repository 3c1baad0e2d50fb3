//! What was decided, as `heddle why` shows it: the same for pods and for gateways.

use mesh_core::model::service::Endpoint;
use mesh_core::model::traffic::TlsMode;
use mesh_core::model::workload::Workload;
use mesh_core::routing::{ConnectionPlan, Decision, MatchedConnection, MatchedRule, Refusal, Upstream};
use serde_json::{Value, json};
use std::sync::Arc;

/// Adds what is decided on a request of `source`.
pub(crate) fn decided(decision: Decision, source: &Workload, steps: &mut Vec<String>, answer: &mut Value) {
    match decision {
        Decision::Refuse(refusal) => refuse(&refusal, steps, answer),
        Decision::Answer(reply) => {
            answer["route"] = route(&reply.rule);
            answer["answered"] = json!({"status": reply.status, "location": reply.location});
        }
        Decision::Forward(plan) => {
            if let Some(matched) = &plan.rule {
                answer["route"] = route(matched);
            }
            name_endpoints(source, &plan.upstream, steps, answer);
        }
    }
}

/// Adds where the bytes of a connection of `source` are carried.
pub(crate) fn connected(
    outcome: Result<ConnectionPlan, Refusal>,
    source: &Workload,
    steps: &mut Vec<String>,
    answer: &mut Value,
) {
    match outcome {
        Ok(plan) => {
            if let Some(matched) = &plan.rule {
                answer["route"] = connection_route(matched);
            }
            name_endpoints(source, &plan.upstream, steps, answer);
        }
        Err(refusal) => refuse(&refusal, steps, answer),
    }
}

fn route(matched: &MatchedRule) -> Value {
    let rule = matched.rule();
    let mut shown = crate::app::routes::action(&rule.action);
    shown["object"] = json!(rule.origin.object.to_string());
    shown["kind"] = json!(rule.origin.kind);
    shown["rule"] = json!(rule.origin.index);
    shown["name"] = json!(rule.name);
    shown
}

fn connection_route(matched: &MatchedConnection) -> Value {
    let rule = matched.rule();
    json!({
        "object": rule.origin.object.to_string(),
        "kind": rule.origin.kind,
        "field": rule.origin.field(),
        "rule": rule.origin.index,
        "destinations": rule.split.destinations.iter().map(|to| json!({
            "host": to.backend.host().map(|d| &d.host),
            "subset": to.backend.host().and_then(|d| d.subset.as_ref()),
            "weight": to.weight,
        })).collect::<Vec<_>>(),
    })
}

fn refuse(refusal: &Refusal, steps: &mut Vec<String>, answer: &mut Value) {
    steps.push(format!(
        "answered {} with flag {}: {}",
        refusal.status, refusal.flag, refusal.detail
    ));
    answer["refused"] = json!({"status": refusal.status, "flag": refusal.flag, "detail": refusal.detail});
}

fn name_endpoints(source: &Workload, upstream: &Upstream, steps: &mut Vec<String>, answer: &mut Value) {
    let rows: Vec<Value> = upstream
        .endpoints
        .iter()
        .map(|endpoint| {
            let transport = match &upstream.policy.tls {
                Some(tls) if tls.mode == TlsMode::Disable => {
                    "plaintext: a DestinationRule says DISABLE".to_owned()
                }
                Some(tls) if tls.originates() => {
                    let rule = match &tls.vouched {
                        None => "the DestinationRule".to_owned(),
                        Some(vouched) => format!("BackendTLSPolicy {}", vouched.object),
                    };
                    let broken = tls.vouched.as_ref().and_then(|v| v.broken.as_ref());
                    let broken = broken.map(|reason| format!(", which fails: {reason}"));
                    let path = transport(source, endpoint);
                    let broken = broken.unwrap_or_default();
                    format!("{path}, with the TLS of {rule} inside{broken}")
                }
                _ => transport(source, endpoint),
            };
            steps.push(format!("endpoint {}: {transport}", endpoint.addr));
            json!({
                "address": endpoint.addr.to_string(),
                "pod": endpoint.workload.as_ref().map(|workload| workload.pod.to_string()),
                "version": endpoint.workload.as_ref().map(|workload| Arc::clone(&workload.names.version)),
                "node": endpoint.workload.as_ref().map(|workload| Arc::clone(&workload.node)),
                "transport": transport,
            })
        })
        .collect();
    answer["endpoints"] = json!(rows);
}

fn transport(source: &Workload, endpoint: &Endpoint) -> String {
    match &endpoint.workload {
        Some(to) if to.enrolled() && to.node == source.node => format!("pod {}, same node, one pass", to.pod),
        Some(to) if to.enrolled() => {
            format!(
                "pod {}, mutual TLS to node {} as {}, expecting {}",
                to.pod, to.node, source.identity, to.identity
            )
        }
        Some(to) => format!("pod {}, plaintext: {}", to.pod, to.enrollment.describe()),
        None => "plaintext: no pod is known at this address".to_owned(),
    }
}
