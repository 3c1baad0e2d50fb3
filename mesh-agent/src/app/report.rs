//! Status, BPF metrics and event lines: what the agent says of itself.

use super::control::World;
use crate::ca::CertificateStore;
use crate::source::kube::SourceFigures;
use mesh_common::verdict::Reason;
use mesh_common::{Event, EventKind};
use mesh_core::model::service::Service;
use mesh_core::model::snapshot::{Snapshot, Target};
use mesh_core::model::workload::Workload;
use mesh_core::names;
use mesh_core::state::{ObjectKey, ObjectVersion, Problem, Proof, Versions, kind_of};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;

/// Of many pods that are held out, the first tell as much as all.
const MOST_HELD_OUT: usize = 100;

/// The answer to `heddle status`.
#[must_use]
pub fn status(world: &World) -> Value {
    let snapshot = world.snapshots.load();
    let node = &world.node;
    json!({
        "agent": {
            "version": env!("CARGO_PKG_VERSION"),
            "node": node.name(),
            "pid": std::process::id(),
            "uptime_s": world.started.elapsed().as_secs(),
            "ready": world.ready(),
            "settled": world.settled,
            "snapshot": snapshot.version,
            "config_age_s": world.last_listing.map(|at| at.elapsed().as_secs()),
            "cgroup": node.datapath().config().cgroup,
            "bpf_dir": node.datapath().config().bpf_dir,
        },
        "pods": snapshot.workloads.iter().map(|workload| pod(world, &snapshot, workload)).collect::<Vec<_>>(),
        "problems": problems(&world.problems),
        "names": names::answered(&snapshot).map(name).collect::<Vec<_>>(),
        "ejected": node.ejected().iter().map(|out| json!({
            "service": out.service.to_string(),
            "port": out.port,
            "subset": out.subset,
            "endpoint": out.addr.to_string(),
        })).collect::<Vec<_>>(),
        "held_out": world.state.held_out().take(MOST_HELD_OUT).map(|(pod, why)| json!({
            "pod": pod.to_string(),
            "why": why.describe(),
        })).collect::<Vec<_>>(),
        "in_force": proofs(&world.in_force),
        "newest_resource_versions": world.in_force.newest(),
        "refused_by_api_server": world.source.iter().flat_map(SourceFigures::refused)
            .map(|(kind, reason)| json!({"kind": kind, "reason": reason})).collect::<Vec<_>>(),
        "cni": world.plugin.as_ref().map(|plugin| format!("{:?}", *plugin.status.borrow())),
        "refused_by_datapath": node.plan().refused,
        "maps": node.datapath().usage(node.plan()).iter().map(|map| json!({
            "name": map.name, "entries": map.entries, "max": map.max,
        })).collect::<Vec<_>>(),
        "decisions": node.datapath().decisions().iter()
            .map(|(reason, count)| (reason.name().to_owned(), json!(count)))
            .collect::<serde_json::Map<_, _>>(),
        "certificates": certificates(&world.certificates),
    })
}

/// What is wrong with the config.
pub(crate) fn problems(problems: &[Problem]) -> Value {
    let row = |problem: &Problem| {
        json!({
            "origin": problem.origin,
            "object": problem.rejected.object,
            "field": problem.rejected.field,
            "reason": problem.rejected.reason,
            "last_good_in_force": problem.last_good_in_force,
        })
    };
    problems.iter().map(row).collect()
}

/// What is in force on this node, in a line for each kind; with `objects`, the version of each rule.
#[must_use]
pub fn in_force(world: &World, objects: bool) -> Value {
    let mut answer = json!({
        "agent": {"node": world.node.name(), "ready": world.ready(), "settled": world.settled,
            "snapshot": world.snapshots.load().version},
        "in_force": proofs(&world.in_force),
    });
    if objects {
        answer["objects"] = rules(&world.in_force);
        answer["problems"] = problems(&world.problems);
    }
    answer
}

/// What is in force, in a line for each kind.
pub(crate) fn proofs(versions: &Versions) -> Value {
    let row =
        |(kind, proof): (String, Proof)| (kind, json!({"objects": proof.objects, "digest": proof.digest()}));
    Value::Object(versions.proofs().into_iter().map(row).collect())
}

/// Which version of each rule is in force.
pub(crate) fn rules(versions: &Versions) -> Value {
    let row = |(key, version): (&ObjectKey, &ObjectVersion)| {
        json!({
            "kind": kind_of(key),
            "namespace": key.namespace,
            "name": key.name,
            "generation": version.generation,
            "resource_version": version.resource_version,
        })
    };
    versions.rules().iter().map(row).collect()
}

/// The certificates of a store.
pub(crate) fn certificates(store: &CertificateStore) -> Value {
    let list = store.list();
    let rows = list.iter().map(|certificate| {
        json!({
            "identity": certificate.identity.to_string(),
            "serial": certificate.serial,
            "not_after": certificate.not_after,
            "state": format!("{:?}", certificate.state),
            "last_error": certificate.last_error,
        })
    });
    rows.collect()
}

/// A name that pods are answered, and its addresses.
pub(super) fn name(service: &Arc<Service>) -> Value {
    let external = service.external.as_ref();
    json!({
        "host": service.host,
        "addresses": service.vips,
        "allocated": external.is_some_and(|e| e.allocated),
        "service_entry": external.map(|e| e.object.to_string()),
    })
}

fn pod(world: &World, snapshot: &Snapshot, workload: &Workload) -> Value {
    let node = &world.node;
    let here = *workload.node == *node.name();
    let captured = node.captured(workload.id);
    let why = match (here, captured, node.failure(workload.id)) {
        (false, ..) => "on another node".to_owned(),
        (true, Some(_), _) => "captured".to_owned(),
        (true, None, Some(failure)) => failure.to_owned(),
        (true, None, None) => workload.enrollment.describe().to_owned(),
    };
    // Of the pod as a whole: single ports may differ.
    let mutual_tls = snapshot.peer_rule(workload, 0);
    let totals = captured.map(|_| node.datapath().pod_totals(workload.id));
    json!({
        "pod": workload.pod.to_string(),
        "workload": workload.names.workload,
        "version": workload.names.version,
        "node": workload.node,
        "ips": workload.ips,
        "identity": workload.identity.to_string(),
        "enrolled": workload.enrolled(),
        "captured": captured.is_some(),
        "why": why,
        "mutual_tls": mutual_tls.mode.name(),
        "mutual_tls_by": mutual_tls.by.map(|(object, _)| object.to_string()),
        "connections_before_enrollment": captured.map(|pod| pod.preexisting),
        "connections": totals.map(|t| json!({
            "direct": t.direct, "proxied": t.proxied, "passed": t.passed, "denied": t.denied,
            "steered": t.steered, "admitted": t.admitted, "dropped": t.dropped,
        })),
    })
}

/// All metrics in the Prometheus text format.
#[must_use]
pub fn metrics(world: &World) -> String {
    world.figures.refresh(world);
    world.telemetry.encode()
}

/// One line for a kernel event. Connections without a proxy have no other.
pub fn log_event(snapshot: &Snapshot, event: &Event) {
    let reason = Reason::ALL
        .get(event.reason as usize)
        .map_or("unknown", |reason| reason.name());
    let workload = snapshot
        .workloads
        .iter()
        .find(|workload| workload.id == event.workload);
    let pod = workload
        .map(|workload| workload.pod.to_string())
        .unwrap_or_default();
    let dst = SocketAddr::from(event.dst);
    let peer = SocketAddr::from(event.peer);
    let service = match snapshot.target(dst) {
        Target::Service(service, _) | Target::NoSuchPort(service) => service.host.to_string(),
        Target::Workload(workload) => workload.pod.to_string(),
        Target::Unknown => String::new(),
    };
    let is = |kind: EventKind| event.kind == kind as u32;
    if is(EventKind::Denied) {
        tracing::info!(target: "access", { src.workload = pod, dst.addr = %dst, dst.service = service, reason }, "connection refused");
    } else if is(EventKind::Dropped) {
        tracing::info!(target: "access", { dst.workload = pod, dst.addr = %dst, src.addr = %peer, reason }, "connection dropped");
    } else if is(EventKind::Direct) {
        tracing::info!(target: "access", { src.workload = pod, dst.addr = %dst, dst.service = service, upstream = %peer, reason }, "direct connection");
    } else {
        tracing::debug!(target: "access", { src.workload = pod, dst.addr = %dst, reason }, "connection not captured");
    }
}
