//! What arrives at a gateway, from the port that a client dials to the backend: what `heddle why` tells of a gateway. Every
//! decision in it is made by the functions that the proxy calls.

use super::connection::{ConnectionFacts, ConnectionPlan, Opening};
use super::gateway::{
    connect_at_gateway, explain_at_gateway, explain_connection_at_gateway, route_at_gateway,
};
use super::{Decision, Draws, HeaderView, Refusal, RequestFacts};
use crate::model::gateway::{
    Bind, Edge, EdgePort, Listener, ListenerOrigin, ListenerProtocol, ServerTls, TlsMode, Transport,
};
use crate::model::host;
use crate::model::snapshot::{Snapshot, Target};
use crate::model::workload::Workload;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

/// What a client sends to a gateway.
pub struct Arrival<'a> {
    /// The port that it dials: a listener's in the API, or the pod's.
    pub port: u16,
    /// The Host header, perhaps with a port.
    pub authority: &'a str,
    /// Server name of TLS; without one it is the host, as clients have it.
    pub sni: Option<&'a str>,
    /// Method.
    pub method: &'a str,
    /// Path and query.
    pub path: &'a str,
    /// Header fields.
    pub headers: &'a dyn HeaderView,
}

/// What becomes of it.
#[derive(Debug)]
pub struct Course {
    /// Where the process listens for it; `None` = nowhere.
    pub bind: Option<Bind>,
    /// The listener that takes it, where the server name or the Host header says which.
    pub listener: Option<Arc<Listener>>,
    /// How it ends.
    pub outcome: Outcome,
    /// One line for each step, for people.
    pub steps: Vec<String>,
}

/// How an arrival ends.
#[derive(Debug)]
pub enum Outcome {
    /// A request: what is decided on it.
    Request(Decision),
    /// Bytes: where they are carried.
    Connection(Result<ConnectionPlan, Refusal>),
    /// No connection comes about, and why.
    Closed(String),
}

/// Follows what a client sends to the gateway that `snapshot` is of. `gateway` is that process as a workload of the mesh.
#[must_use]
pub fn course_of(snapshot: &Snapshot, gateway: &Workload, arrival: &Arrival<'_>) -> Course {
    let mut course = Course {
        bind: None,
        listener: None,
        outcome: Outcome::Closed(String::new()),
        steps: Vec::new(),
    };
    course.outcome = match port_of(&snapshot.edge, arrival.port) {
        Some((bind, port)) => {
            course.bind = Some(*bind);
            course.steps.push(port_line(arrival.port, *bind, port));
            let at = At {
                snapshot,
                gateway,
                port,
                arrival,
            };
            at.follow(&mut course)
        }
        None => Outcome::Closed(nobody_listens(&snapshot.edge, arrival.port)),
    };
    if let Outcome::Closed(reason) = &course.outcome {
        course.steps.push(reason.clone());
    }
    course
}

/// The port of a listener in the API comes first: it is what users write, and what a Service shows.
fn port_of(edge: &Edge, number: u16) -> Option<(&Bind, &Arc<EdgePort>)> {
    let written = |port: &EdgePort| port.listeners.iter().any(|l| l.port == number);
    let mut ports = edge.ports.iter();
    let by_api = ports.find(|(_, port)| written(port));
    by_api.or_else(|| edge.ports.iter().find(|(bind, _)| bind.port == number))
}

fn port_line(number: u16, bind: Bind, port: &EdgePort) -> String {
    let own = match (bind.port == number, bind.address) {
        (true, None) => String::new(),
        (false, None) => format!(" (port {} of the pod)", bind.port),
        (_, Some(ip)) => format!(" ({} of the pod)", SocketAddr::new(ip, bind.port)),
    };
    let speaks = match port.transport {
        Transport::Http => "HTTP",
        Transport::Tls => "TLS",
        Transport::Tcp => "bytes",
    };
    let listeners: Vec<String> = port.listeners.iter().map(|l| named(l)).collect();
    format!("port {number}{own} takes {speaks}, for {}", listeners.join(", "))
}

fn nobody_listens(edge: &Edge, number: u16) -> String {
    let mut ports: Vec<String> = Vec::new();
    for port in edge.ports.values().flat_map(|port| &port.listeners) {
        let text = port.port.to_string();
        if !ports.contains(&text) {
            ports.push(text);
        }
    }
    let others = if ports.is_empty() {
        "no listener of this gateway is usable".to_owned()
    } else {
        format!("its listeners have {}", ports.join(", "))
    };
    format!("nothing listens on port {number}, so the connection is refused: {others}")
}

fn named(listener: &Listener) -> String {
    match &*listener.name {
        "" => listener.origin.to_string(),
        name => format!("{} {name:?}", listener.origin),
    }
}

/// An arrival on a port.
struct At<'a> {
    snapshot: &'a Snapshot,
    gateway: &'a Workload,
    port: &'a EdgePort,
    arrival: &'a Arrival<'a>,
}

impl At<'_> {
    fn follow(&self, course: &mut Course) -> Outcome {
        match self.port.transport {
            Transport::Http => self.request(None, course),
            Transport::Tcp => self.connection(None, Opening::Bytes, course),
            Transport::Tls => self.tls(course),
        }
    }

    fn tls(&self, course: &mut Course) -> Outcome {
        let host = host::canonical(self.arrival.authority);
        // Clients send no address as a server name.
        let by_host = Some(&*host).filter(|host| host.parse::<IpAddr>().is_err());
        let name = self.arrival.sni.or(by_host).map(str::to_ascii_lowercase);
        let name = name.as_deref();
        let shown = name.map_or_else(|| "no server name".to_owned(), |n| format!("server name {n:?}"));
        let Some(listener) = self.port.listener(name) else {
            return Outcome::Closed(format!("no listener of the port is for {shown}: closed"));
        };
        course.steps.push(format!(
            "{shown}: {}, hosts {}",
            named(listener),
            listener.hosts.join(", ")
        ));
        course.listener = Some(Arc::clone(listener));
        if let Some(tls) = &listener.tls {
            course.steps.push(ends(tls));
            if let Some(why) = &tls.broken {
                return Outcome::Closed(format!("every handshake fails: {why}"));
            }
        }
        match listener.protocol {
            ListenerProtocol::Https => self.request(Some(&listener.origin), course),
            _ => self.connection(Some(&listener.origin), Opening::Tls(name), course),
        }
    }

    fn request(&self, by_sni: Option<&ListenerOrigin>, course: &mut Course) -> Outcome {
        let facts = RequestFacts {
            client: Some(self.gateway),
            gateway: None,
            target: &Target::Unknown,
            port: self.arrival.port,
            dialled: None,
            method: self.arrival.method,
            scheme: if by_sni.is_some() { "https" } else { "http" },
            authority: self.arrival.authority,
            path: self.arrival.path,
            headers: self.arrival.headers,
        };
        if course.listener.is_none() {
            let host = host::canonical(self.arrival.authority);
            course.listener = self.port.listener(Some(&host)).cloned();
        }
        let lines = explain_at_gateway(self.snapshot, self.port, by_sni, &facts);
        course.steps.extend(lines);
        let decision = route_at_gateway(self.snapshot, self.port, by_sni, &facts, Draws::default());
        Outcome::Request(decision)
    }

    fn connection(
        &self,
        by_sni: Option<&ListenerOrigin>,
        opening: Opening<'_>,
        course: &mut Course,
    ) -> Outcome {
        let own = self.gateway.ips.first().copied();
        let facts = ConnectionFacts {
            client: Some(self.gateway),
            source: None,
            gateway: None,
            target: &Target::Unknown,
            original: SocketAddr::new(own.unwrap_or(Ipv4Addr::UNSPECIFIED.into()), self.arrival.port),
            port: self.arrival.port,
            opening,
        };
        let lines = explain_connection_at_gateway(self.snapshot, self.port, by_sni, &facts);
        course.steps.extend(lines);
        Outcome::Connection(connect_at_gateway(self.snapshot, self.port, by_sni, &facts, 0))
    }
}

/// How TLS ends at a listener, and which objects that is from.
fn ends(tls: &ServerTls) -> String {
    let certificates: Vec<String> = tls
        .certificates
        .iter()
        .map(|c| c.certificate.to_string())
        .collect();
    let mut text = match tls.mode {
        TlsMode::IstioMutual => "TLS ends here with the gateway's own certificate of the mesh".to_owned(),
        _ if certificates.is_empty() => "TLS would end here".to_owned(),
        _ => format!(
            "TLS ends here with the certificate of {}",
            certificates.join(", ")
        ),
    };
    let authorities = || match &tls.clients.authorities {
        Some(source) => format!(" that leads to {source}"),
        None => String::new(),
    };
    match tls.mode {
        TlsMode::Simple => {}
        TlsMode::Mutual => text += &format!("; clients must show a certificate{}", authorities()),
        TlsMode::OptionalMutual => text += &format!("; clients may show a certificate{}", authorities()),
        TlsMode::IstioMutual => text += "; clients must show one of the mesh",
    }
    text
}
