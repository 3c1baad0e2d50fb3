//! Who talks to whom, as telemetry tells it. A hop inside one node is told by both reporters at once.

use super::upstream::Path;
use super::worker::Worker;
use crate::telemetry::access_log::{Line, Side};
use crate::telemetry::labels::{
    PairLabels, Party, Reporter, RequestProtocol, Security, ServiceNames, UNKNOWN,
};
use mesh_core::model::workload::Workload;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// One hop.
#[derive(Clone)]
pub(super) struct Pair {
    /// What the source reports.
    pub(super) outbound: Option<PairLabels>,
    /// What the destination reports.
    pub(super) inbound: Option<PairLabels>,
    pub(super) client: SocketAddr,
    pub(super) server: SocketAddr,
    tunnel: bool,
}

/// Numbers for an access line.
pub(super) struct Numbers<'a> {
    pub(super) sent: u64,
    pub(super) received: u64,
    pub(super) duration: Duration,
    pub(super) flags: &'static str,
    pub(super) error: &'a str,
}

/// What a source knows of a hop; `path` is `None` if no endpoint was chosen.
pub(super) struct Outgoing<'a> {
    pub(super) source: &'a Arc<Party>,
    pub(super) service: &'a Arc<ServiceNames>,
    pub(super) workload: Option<&'a Arc<Workload>>,
    pub(super) path: Option<&'a Path>,
    pub(super) client: SocketAddr,
    pub(super) server: SocketAddr,
    pub(super) protocol: RequestProtocol,
}

impl Pair {
    /// As the source's node sees it.
    pub(super) fn outgoing(worker: &Worker, hop: &Outgoing<'_>) -> Self {
        let proven = matches!(hop.path, Some(Path::App(_) | Path::Tunnel(_)));
        let tunnel = matches!(hop.path, Some(Path::Tunnel(_)));
        let outbound = PairLabels {
            reporter: Reporter::Source,
            source: Arc::clone(hop.source),
            destination: hop
                .workload
                .map_or_else(|| worker.meter.unknown(), |w| worker.meter.pod(w, proven)),
            service: Arc::clone(hop.service),
            protocol: hop.protocol,
            security: if tunnel {
                Security::MutualTls
            } else {
                Security::None
            },
            flags: NO_FLAGS,
        };
        let here = matches!(hop.path, Some(Path::App(_)));
        let inbound = here.then(|| PairLabels {
            reporter: Reporter::Destination,
            ..outbound.clone()
        });
        Self {
            outbound: Some(outbound),
            inbound,
            client: hop.client,
            server: hop.server,
            tunnel,
        }
    }

    /// As the destination's node sees it.
    pub(super) const fn incoming(labels: PairLabels, client: SocketAddr, server: SocketAddr) -> Self {
        let tunnel = matches!(labels.security, Security::MutualTls);
        Self {
            outbound: None,
            inbound: Some(labels),
            client,
            server,
            tunnel,
        }
    }

    /// One or two reports.
    pub(super) fn reports(&self) -> impl Iterator<Item = &PairLabels> {
        self.outbound.iter().chain(self.inbound.iter())
    }

    /// An access line of one report.
    pub(super) fn line<'a>(&self, labels: &'a PairLabels, numbers: &Numbers<'a>) -> Line<'a> {
        Line {
            reporter: labels.reporter,
            src: side(&labels.source, self.client),
            dst: side(&labels.destination, self.server),
            hbone_addr: self.tunnel.then(|| SocketAddr::new(self.server.ip(), HBONE_PORT)),
            service: &labels.service.host,
            protocol: labels.protocol.as_str(),
            bytes_sent: numbers.sent,
            bytes_recv: numbers.received,
            duration: numbers.duration,
            flags: numbers.flags,
            error: numbers.error,
        }
    }
}

fn side(party: &Party, addr: SocketAddr) -> Side<'_> {
    let identity = if &*party.principal == UNKNOWN {
        ""
    } else {
        &party.principal
    };
    Side {
        addr: Some(addr),
        workload: &party.workload,
        namespace: &party.namespace,
        identity,
    }
}

/// `response_flags` of a request without a fault, as Envoy writes it.
pub(super) const NO_FLAGS: &str = "-";
const HBONE_PORT: u16 = 15008;
