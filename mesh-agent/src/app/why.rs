//! `heddle why`: what would become of a connection and a request, told by the functions that decide it.

pub(crate) mod shown;

use super::control::World;
use super::report;
use mesh_common::verdict::{Verdict, outbound_backend, outbound_service, outbound_shortcut};
use mesh_common::{AddrPort, BackendKey, Ip};
use mesh_core::datapath::Plan;
use mesh_core::model::host;
use mesh_core::model::peer::PeerMode;
use mesh_core::model::service::{Protocol, Service};
use mesh_core::model::snapshot::{Snapshot, Target};
use mesh_core::model::workload::Workload;
use mesh_core::names;
use mesh_core::routing::{self, ConnectionFacts, Draws, HeaderView, Opening, RequestFacts};
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

/// Header fields by their names in lower case.
pub(crate) struct Headers(BTreeMap<String, String>);

impl Headers {
    /// Those of a question.
    pub(crate) fn of(question: &Question) -> Self {
        let each = question.headers.iter();
        Self(
            each.map(|(name, value)| (name.to_ascii_lowercase(), value.clone()))
                .collect(),
        )
    }

    /// The Host header, else what is dialled.
    pub(crate) fn authority<'a>(&'a self, question: &'a Question) -> &'a str {
        self.0.get("host").unwrap_or(&question.destination)
    }
}

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
    let name = name_of(&snapshot, source, &question.destination);
    let mut steps: Vec<String> = name.iter().map(|service| name_line(service)).collect();
    steps.push(format!(
        "{} dials {}, which is {addr}: {}",
        source.pod,
        question.destination,
        describe(&target)
    ));
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
            "name": name.map(report::name), "kernel": {"verdict": "untouched", "reason": "not_enrolled"}}),
        );
    }
    let (verdict, backends) = kernel(world.node.plan(), source, addr);
    steps.push(format!("kernel: {}", verdict_text(verdict)));
    let mut answer = json!({
        "source": source.pod.to_string(),
        "source_identity": source.identity.to_string(),
        "address": addr.to_string(),
        "name": name.map(report::name),
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

/// The ServiceEntry's host that a pod dials by its name, if the mesh answers the pod's question for it.
fn name_of<'a>(snapshot: &'a Snapshot, source: &Workload, destination: &str) -> Option<&'a Arc<Service>> {
    let asks = snapshot.settings.capture_names && source.enrolled() && !source.resolves_itself;
    let name = host::canonical(destination);
    if !asks || name.parse::<IpAddr>().is_ok() {
        return None;
    }
    names::known(snapshot, source, &name)
}

fn name_line(service: &Service) -> String {
    let addresses: Vec<String> = service.vips.iter().map(ToString::to_string).collect();
    let (by, object) = match &service.external {
        Some(external) if external.allocated => ("which the mesh chose", external.object.to_string()),
        Some(external) => ("its own spec.addresses", external.object.to_string()),
        None => ("its addresses", service.name.to_string()),
    };
    format!(
        "the mesh answers for the name {}, by ServiceEntry {object}: {}, {by}",
        service.host,
        addresses.join(", ")
    )
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
            "service {} port {} ({}), {} ready endpoints{}",
            service.name,
            port.number,
            protocol_text(port.protocol),
            port.endpoints.len(),
            match &service.external {
                Some(external) if external.allocated => format!(
                    ", an address chosen by the mesh for ServiceEntry {}",
                    external.object
                ),
                _ => String::new(),
            }
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
        let outcome = routing::route_connection(snapshot, &facts, 0);
        shown::connected(outcome, source, steps, answer);
        return;
    }
    let headers = Headers::of(question);
    let authority = headers.authority(question);
    let facts = RequestFacts {
        client: Some(source),
        gateway: None,
        dialled: Some(addr),
        target,
        port: addr.port(),
        method: &question.method,
        scheme: "http",
        authority,
        path: &question.path,
        headers: &headers,
    };
    steps.extend(routing::explain_request(snapshot, &facts));
    let decision = routing::route_request(snapshot, &facts, Draws::default());
    shown::decided(decision, source, steps, answer);
}
