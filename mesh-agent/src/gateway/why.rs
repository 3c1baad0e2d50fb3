//! `heddle why` of a gateway: which listener, rule and backend what arrives at it finds.

use super::Gateway;
use crate::app::why::{Headers, Question, shown};
use mesh_core::routing::{Arrival, Outcome, course_of};
use serde_json::{Value, json};

/// Explains.
///
/// # Errors
/// The question cannot be read; the text says what is wrong with it.
pub(super) fn answer(gateway: &Gateway, question: &Question) -> Result<Value, String> {
    let snapshot = gateway.snapshots.load();
    let headers = Headers::of(question);
    let arrival = Arrival {
        port: port(question)?,
        authority: headers.authority(question),
        sni: question.sni.as_deref(),
        method: &question.method,
        path: &question.path,
        headers: &headers,
    };
    let course = course_of(&snapshot, &gateway.me, &arrival);
    let mut steps = course.steps;
    let mut answer = json!({
        "gateway": gateway.me.pod.to_string(),
        "source_identity": gateway.me.identity.to_string(),
        "port": arrival.port,
        "pod_port": course.bind.map(|bind| bind.port),
        "listener": course.listener.as_ref().map(|listener| json!({
            "object": listener.origin.object.to_string(),
            "kind": listener.origin.kind,
            "field": format!("{}[{}]", listener.origin.list, listener.origin.index),
            "name": listener.name,
        })),
    });
    let shut = course.bind.and_then(|bind| gateway.ports.failure(bind));
    let unusable = course
        .listener
        .as_ref()
        .and_then(|listener| gateway.terminations.failure(&listener.origin));
    match course.outcome {
        Outcome::Closed(reason) => answer["closed"] = json!(reason),
        Outcome::Request(decision) => shown::decided(decision, &gateway.me, &mut steps, &mut answer),
        Outcome::Connection(outcome) => shown::connected(outcome, &gateway.me, &mut steps, &mut answer),
    }
    // What rules say comes to nothing where the process could not do its part.
    if let Some(reason) = shut {
        let reason = format!("but the port could not be opened: {reason}");
        answer["closed"] = json!(reason);
        steps.push(reason);
    } else if let Some(reason) = unusable {
        let reason = format!("but the listener's TLS cannot be served: {reason}");
        answer["closed"] = json!(reason);
        steps.push(reason);
    }
    answer["steps"] = json!(steps);
    Ok(answer)
}

/// The port of the destination; what TLS has by default, if a server name is given.
fn port(question: &Question) -> Result<u16, String> {
    let destination = &*question.destination;
    let by_default = if question.sni.is_some() { 443 } else { 80 };
    match destination.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => port
            .parse()
            .map_err(|_| format!("destination {destination:?}: port {port:?} is no number")),
        _ => Ok(by_default),
    }
}
