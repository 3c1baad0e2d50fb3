//! `heddle why`: what would become of a connection and a request, told by the functions that decide it.

use super::control::World;
use mesh_common::verdict::{Verdict, outbound_backend, outbound_service, outbound_shortcut};
use mesh_common::{AddrPort, BackendKey, Ip};
use mesh_core::datapath::Plan;
use mesh_core::model::host;
use mesh_core::model::peer::PeerMode;
use mesh_core::model::service::{Endpoint, Protocol};
use mesh_core::model::snapshot::{Snapshot, Target};
use mesh_core::model::traffic::TlsMode;
use mesh_core::model::workload::Workload;
use mesh_core::routing::{
    self, ConnectionFacts, Decision, Draws, HeaderView, MatchedConnection, MatchedRule, Opening,
    RequestFacts, Upstream,
};
use serde::Deserialize;
use serde_json::{Value, json};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// What is asked.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// `namespace/pod`.
    pub source: String,
    /// Host or address, with or without a port.
    pub destination: String,
    /// Path and query.
    #[serde(default = "slash")]
    pub path: String,
    /// Method.
    #[serde(default = "get")]
    pub method: String,
    /// Header fields.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// Server name of a TLS connection, in place of a request.
    #[serde(default)]
    pub sni: Option<String>,
}

fn slash() -> String {
    "/".to_owned()
}

fn get() -> String {
    "GET".to_owned()
}

struct Headers(BTreeMap<String, String>);

impl HeaderView for Headers {
    fn joined(&self, name: &str) -> Option<Cow<'_, str>> {
        self.0.get(name).map(|value| Cow::Borrowed(value.as_str()))
    }
}

/// Explains.
///
/// # Errors
/// The question names something that is not known; the text says what.
pub fn answer(world: &World, question: &Question) -> Result<Value, String> {
    let snapshot = world.snapshots.load();
    let source = find_pod(&snapshot, &question.source)?;
    let addr = resolve(&snapshot, source, &question.destination)?;
    let target = snapshot.target_for(addr, Some(source));
    let mut steps = vec![format!(
        "{} dials {}, which is {addr}: {}",
        source.pod,
        question.destination,
        describe(&target)
    )];
    if world.node.captured(source.id).is_none() {
        let why = match world.node.failure(source.id) {
            Some(failure) => failure.to_owned(),
            None if *source.node != *world.node.name() => {
                format!("it runs on node {}: ask there", source.node)
            }
            None => source.enrollment.describe().to_owned(),
        };
        steps.push(format!("the pod is not captured by this agent: {why}"));
        steps.extend(plaintext(&snapshot, &target, addr));
        return Ok(
            json!({"source": source.pod.to_string(), "address": addr.to_string(), "steps": steps,
            "kernel": {"verdict": "untouched", "reason": "not_enrolled"}}),
        );
    }
    let (verdict, backends) = kernel(world.node.plan(), source, addr);
    steps.push(format!("kernel: {}", verdict_text(verdict)));
    let mut answer = json!({
        "source": source.pod.to_string(),
        "source_identity": source.identity.to_string(),
        "address": addr.to_string(),
        "kernel": {"verdict": verdict_name(verdict), "reason": verdict.reason().name(), "backends": backends},
    });
    if matches!(verdict, Verdict::Proxy(_)) {
        proxy(
            &snapshot,
            source,
            question,
            addr,
            &target,
            &mut steps,
            &mut answer,
        );
    }
    name_ejected(world, &answer, &mut steps);
    answer["steps"] = json!(steps);
    Ok(answer)
}

/// Of the endpoints that were named, those that get no requests for the time being.
fn name_ejected(world: &World, answer: &Value, steps: &mut Vec<String>) {
    let named = answer["endpoints"].as_array().into_iter().flatten();
    let named: Vec<&str> = named.filter_map(|row| row["address"].as_str()).collect();
    for out in world.node.ejected() {
        let addr = out.addr.to_string();
        if named.contains(&addr.as_str()) {
            steps.push(format!(
                "endpoint {addr} is ejected by outlier detection of {}",
                out.service
            ));
        }
    }
}

/// What becomes of plaintext to this destination, where it is in the mesh: a line for each pod behind it.
fn plaintext(snapshot: &Snapshot, target: &Target, addr: SocketAddr) -> Vec<String> {
    let ends: Vec<(&Arc<Workload>, u16)> = match target {
        Target::Workload(workload) => vec![(workload, addr.port())],
        Target::Service(_, port) => {
            let ends = port.endpoints.iter();
            ends.filter_map(|end| Some((end.workload.as_ref()?, end.addr.port())))
                .collect()
        }
        Target::NoSuchPort(_) | Target::Unknown => Vec::new(),
    };
    let enrolled = ends.into_iter().filter(|(workload, _)| workload.enrolled());
    enrolled
        .map(|(workload, port)| {
            let rule = snapshot.peer_rule(workload, port);
            let by = rule
                .by
                .map(|(object, field)| format!(" by PeerAuthentication {object}, {field}"));
            let (mode, by) = (rule.mode.name(), by.unwrap_or_default());
            let outcome = match rule.mode {
                PeerMode::Strict => "refuses plaintext",
                PeerMode::Permissive | PeerMode::Disable => "takes plaintext",
            };
            format!("pod {} {outcome} on port {port}: {mode}{by}", workload.pod)
        })
        .collect()
}

fn find_pod<'a>(snapshot: &'a Snapshot, name: &str) -> Result<&'a Arc<Workload>, String> {
    let (namespace, pod) = name
        .split_once('/')
        .ok_or_else(|| format!("source {name:?}: write namespace/pod"))?;
    snapshot
        .workloads
        .iter()
        .find(|workload| *workload.pod.namespace == *namespace && *workload.pod.name == *pod)
        .ok_or_else(|| format!("source {name:?}: no such pod"))
}

/// The address that the application would dial: DNS gives a service's virtual address.
fn resolve(snapshot: &Snapshot, source: &Workload, destination: &str) -> Result<SocketAddr, String> {
    if let Ok(addr) = destination.parse::<SocketAddr>() {
        return Ok(addr);
    }
    let (name, port) = match destination.rsplit_once(':') {
        Some((name, port)) if !name.contains(':') => (
            name,
            port.parse::<u16>()
                .map_err(|_| format!("destination {destination:?}: port {port:?} is no number"))?,
        ),
        _ => (destination, 80),
    };
    if let Ok(ip) = name.parse::<IpAddr>() {
        return Ok(SocketAddr::new(ip, port));
    }
    let canonical = host::canonical(name);
    let service =
        host::service_named(snapshot, &canonical, Some(&source.pod.namespace)).ok_or_else(|| {
            format!(
                "destination {name:?}: no service of that name seen from namespace {}",
                source.pod.namespace
            )
        })?;
    if let Some(vip) = service.vips.first() {
        return Ok(SocketAddr::new(*vip, port));
    }
    let first = service.port(port).and_then(|port| port.endpoints.first());
    first
        .map(|endpoint| endpoint.addr)
        .ok_or_else(|| format!("destination {name:?}: headless, and without an endpoint"))
}

fn describe(target: &Target) -> String {
    match target {
        Target::Service(service, port) => format!(
            "service {} port {} ({}), {} ready endpoints",
            service.name,
            port.number,
            protocol_text(port.protocol),
            port.endpoints.len()
        ),
        Target::Workload(workload) => format!("pod {}, {}", workload.pod, workload.enrollment.describe()),
        Target::NoSuchPort(service) => format!("service {}, which has no such port", service.name),
        Target::Unknown => "not known to the mesh".to_owned(),
    }
}

fn protocol_text(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Auto => "protocol detected on each connection",
        Protocol::Http => "HTTP",
        Protocol::Http2 => "HTTP/2",
        Protocol::Grpc => "gRPC",
        Protocol::Tls => "TLS, passed through",
        Protocol::Tcp => "TCP, passed through",
    }
}

/// Asks the hooks' own functions over what the maps hold. With several backends the most restrictive outcome is named.
fn kernel(plan: &Plan, source: &Workload, addr: SocketAddr) -> (Verdict, Vec<String>) {
    let dst = AddrPort::from(addr);
    let own = |v4: bool| {
        source
            .ips
            .iter()
            .find(|ip| ip.is_ipv4() == v4)
            .map_or(Ip::NONE, |ip| Ip::from(*ip))
    };
    if let Some(verdict) = outbound_shortcut(false, true, &dst, &own(true), &own(false)) {
        return (verdict, Vec::new());
    }
    let flags = plan
        .workloads
        .values()
        .find(|entry| entry.id == source.id)
        .map_or(0, |entry| entry.flags);
    let service = plan
        .services
        .get(&dst)
        .or_else(|| plan.services.get(&AddrPort::new(dst.ip, 0)))
        .or_else(|| plan.services.get(&AddrPort::new(Ip::NONE, dst.port)));
    if let Some(verdict) = outbound_service(service, flags, true) {
        return (verdict, Vec::new());
    }
    let Some(service) = service else {
        return (outbound_backend(None, flags, true), Vec::new());
    };
    let mut names = Vec::new();
    let mut worst = None;
    for slot in 0..service.backends {
        let backend = plan.backends.get(&BackendKey {
            service: service.id,
            slot,
        });
        let verdict = outbound_backend(backend, flags, true);
        if let Some(backend) = backend {
            let port = if backend.port == 0 { dst.port } else { backend.port };
            let addr = SocketAddr::new(backend.ip.into(), port);
            names.push(format!("{addr}: {}", verdict_text(verdict)));
        }
        if worst.is_none() || !matches!(verdict, Verdict::Direct(_)) {
            worst = Some(verdict);
        }
    }
    (
        worst.unwrap_or_else(|| outbound_backend(None, flags, true)),
        names,
    )
}

fn verdict_name(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Deny(_) => "deny",
        Verdict::Pass(_) => "pass",
        Verdict::Direct(_) => "direct",
        Verdict::Proxy(_) => "proxy",
    }
}

fn verdict_text(verdict: Verdict) -> String {
    let what = match verdict {
        Verdict::Deny(_) => "refused at once",
        Verdict::Pass(_) => "left alone",
        Verdict::Direct(_) => "sent to a backend chosen in the kernel, no proxy on the path",
        Verdict::Proxy(_) => "handed to the agent",
    };
    format!("{what} ({})", verdict.reason().name())
}

fn proxy(
    snapshot: &Snapshot,
    source: &Workload,
    question: &Question,
    addr: SocketAddr,
    target: &Target,
    steps: &mut Vec<String>,
    answer: &mut Value,
) {
    let l4 = match target {
        Target::Service(_, port) => !port.protocol.needs_bytes(),
        _ => false,
    };
    if l4 || question.sni.is_some() {
        let facts = ConnectionFacts {
            client: Some(source),
            source: source
                .ips
                .iter()
                .copied()
                .find(|ip| ip.is_ipv4() == addr.is_ipv4()),
            gateway: None,
            target,
            original: addr,
            port: addr.port(),
            opening: question
                .sni
                .as_deref()
                .map_or(Opening::Bytes, |name| Opening::Tls(Some(name))),
        };
        steps.extend(routing::explain_connection(snapshot, &facts));
        match routing::route_connection(snapshot, &facts, 0) {
            Ok(plan) => {
                if let Some(matched) = &plan.rule {
                    answer["route"] = connection_route(matched);
                }
                name_endpoints(source, &plan.upstream, steps, answer);
            }
            Err(refusal) => refuse(&refusal, steps, answer),
        }
        return;
    }
    let headers: BTreeMap<String, String> = question
        .headers
        .iter()
        .map(|(name, value)| (name.to_ascii_lowercase(), value.clone()))
        .collect();
    let authority = headers
        .get("host")
        .cloned()
        .unwrap_or_else(|| question.destination.clone());
    let headers = Headers(headers);
    let facts = RequestFacts {
        client: Some(source),
        gateway: None,
        dialled: Some(addr),
        target,
        port: addr.port(),
        method: &question.method,
        scheme: "http",
        authority: &authority,
        path: &question.path,
        headers: &headers,
    };
    steps.extend(routing::explain_request(snapshot, &facts));
    match routing::route_request(snapshot, &facts, Draws::default()) {
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

fn route(matched: &MatchedRule) -> Value {
    let rule = matched.rule();
    let mut shown = super::routes::action(&rule.action);
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

fn refuse(refusal: &routing::Refusal, steps: &mut Vec<String>, answer: &mut Value) {
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
