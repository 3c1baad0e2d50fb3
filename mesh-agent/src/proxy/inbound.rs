//! Connections to a pod of this node: plaintext, or out of a tunnel. They go to the application and nowhere else.

use super::LocalPod;
use super::detect::{self, Detected};
use super::http::{self, Side};
use super::io::{Io, Prefixed, Reset as _};
use super::lookup;
use super::pair::Pair;
use super::tcp::{self, TcpRecord};
use super::tunnel::baggage::Baggage;
use super::tunnel::{self, TunnelError, TunnelHandler, TunnelIncoming, TunnelKind};
use super::upstream::{self, ConnectError, Origin, Path};
use super::worker::Worker;
use crate::telemetry::labels::{
    PairLabels, Party, Reporter, RequestProtocol, Security, ServiceNames, UNKNOWN, principal,
};
use bytes::{Bytes, BytesMut};
use futures_util::future::LocalBoxFuture;
use mesh_core::model::ObjectName;
use mesh_core::model::identity::SpiffeId;
use mesh_core::model::peer::PeerMode;
use mesh_core::model::service::Protocol;
use mesh_core::model::workload::Workload;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

/// A PeerAuthentication refuses plaintext.
#[derive(Debug, thiserror::Error)]
#[error("PeerAuthentication {object} wants mutual TLS ({field}), and this is plaintext")]
struct NeedsMutualTls {
    object: ObjectName,
    field: String,
}

/// A connection to an application of this node.
pub(super) struct Inbound {
    pub(super) worker: Rc<Worker>,
    pub(super) pod: Arc<LocalPod>,
    /// Verified in the tunnel's handshake; nothing else proves an identity.
    pub(super) peer: Option<SpiffeId>,
    source: Option<Arc<Workload>>,
    party: Arc<Party>,
    destination: Arc<Party>,
    service: Arc<ServiceNames>,
    protocol: Protocol,
    pub(super) client: SocketAddr,
    /// The pod's address and the port of the application.
    pub(super) target: SocketAddr,
}

/// Serves a plaintext connection: its local address is what the client dialled.
pub(super) async fn serve_plain(worker: Rc<Worker>, pod: Arc<LocalPod>, stream: TcpStream) {
    let (Ok(client), Ok(local)) = (upstream::peer_of(&stream), stream.local_addr()) else {
        return;
    };
    if pod.own_ports.contains(&local.port()) {
        return; // nobody dials a listener of the agent, and what is behind it is the agent
    }
    let conn = Inbound::plain(worker, pod, client, upstream::canonical(local));
    match conn.needs_mutual_tls() {
        Some(refusal) => conn.refuse(&stream, &refusal),
        None => conn.serve(Io::Tcp(stream), None).await,
    }
}

/// Serves a connection of tunnels.
pub(super) async fn serve_tunnel(worker: Rc<Worker>, pod: Arc<LocalPod>, stream: TcpStream) {
    let certs = Arc::clone(&worker.shared.deps.certs);
    let config = worker.tunnel_config();
    let (handle, watch) = (Arc::clone(&pod.handle), pod.watch.clone());
    let handler = Rc::new(Streams { worker, pod });
    tunnel::serve(stream, handle, certs, config, handler, watch).await;
}

/// Takes the streams of one tunnel connection.
struct Streams {
    worker: Rc<Worker>,
    pod: Arc<LocalPod>,
}

impl TunnelHandler for Streams {
    fn failed(&self, peer: SocketAddr, error: &TunnelError) {
        self.worker.telemetry().proxy.tunnels_failed.inc();
        tracing::debug!(%peer, error = %crate::errors::chain(error), pod = %self.pod.handle.workload.pod, "no tunnel");
    }

    fn handle(&self, incoming: TunnelIncoming) -> LocalBoxFuture<'static, ()> {
        let (worker, pod) = (Rc::clone(&self.worker), Arc::clone(&self.pod));
        Box::pin(async move {
            if pod.own_ports.contains(&incoming.target.port()) {
                return incoming.refuse(503, "port of the mesh itself");
            }
            let kind = incoming.kind;
            let conn = Inbound::tunnelled(worker, pod, &incoming);
            match kind {
                TunnelKind::Http1 | TunnelKind::Http2 => {
                    let Ok(stream) = incoming.accept().await else {
                        return;
                    };
                    conn.serve(Io::Tunnel(Box::new(stream)), Some(kind)).await;
                }
                TunnelKind::Tcp => conn.serve_connect(incoming).await,
            }
        })
    }
}

impl Inbound {
    fn plain(worker: Rc<Worker>, pod: Arc<LocalPod>, client: SocketAddr, target: SocketAddr) -> Rc<Self> {
        let source = worker.snapshot().workload_by_ip(client.ip()).cloned();
        let party = source
            .as_ref()
            .map_or_else(|| worker.meter.unknown(), |w| worker.meter.pod(w, false));
        Rc::new(Self::new(worker, pod, None, source, party, client, target))
    }

    fn tunnelled(worker: Rc<Worker>, pod: Arc<LocalPod>, incoming: &TunnelIncoming) -> Rc<Self> {
        let client = upstream::canonical(incoming.client);
        let source = worker.snapshot().workload_by_ip(client.ip()).cloned();
        let source = source.filter(|w| w.identity == incoming.peer);
        let party = match &source {
            Some(workload) => worker.meter.pod(workload, true),
            None => worker.meter.intern(told(&incoming.baggage, &incoming.peer)),
        };
        let target = upstream::canonical(incoming.target);
        // The peer's word chooses a name among those that this address has, and nothing else.
        let told = lookup::told(&worker.snapshot(), target, &incoming.host);
        let mut inbound = Self::new(
            worker,
            pod,
            Some(incoming.peer.clone()),
            source,
            party,
            client,
            target,
        );
        if let Some(service) = told {
            inbound.service = inbound.worker.meter.service(&service);
        }
        Rc::new(inbound)
    }

    fn new(
        worker: Rc<Worker>,
        pod: Arc<LocalPod>,
        peer: Option<SpiffeId>,
        source: Option<Arc<Workload>>,
        party: Arc<Party>,
        client: SocketAddr,
        target: SocketAddr,
    ) -> Self {
        let enrolled = &pod.handle.workload;
        let snapshot = worker.snapshot();
        let known = snapshot
            .workload_by_ip(target.ip())
            .filter(|w| w.id == enrolled.id)
            .unwrap_or(enrolled);
        let (service, protocol) = match lookup::port_of(&snapshot, known, target) {
            Some((service, port)) => (worker.meter.service(&service), port.protocol),
            None => (worker.meter.named(UNKNOWN), Protocol::Auto),
        };
        let opaque = snapshot.l4_only.contains(&known.pod.namespace);
        let protocol = if opaque { Protocol::Tcp } else { protocol };
        let destination = worker.meter.pod(known, peer.is_some());
        Self {
            worker,
            pod,
            peer,
            source,
            party,
            destination,
            service,
            protocol,
            client,
            target,
        }
    }

    /// Why plaintext is not taken, if it is not. The kubelet's probes do not come here: the programs know them by their
    /// source, an address of this node, and the port of a declared probe.
    fn needs_mutual_tls(&self) -> Option<NeedsMutualTls> {
        let snapshot = self.worker.snapshot();
        let enrolled = &self.pod.handle.workload;
        let known = snapshot.workload_by_ip(self.target.ip());
        let workload = known.filter(|w| w.id == enrolled.id).unwrap_or(enrolled);
        let rule = snapshot.peer_rule(workload, self.target.port());
        let (object, field) = rule.by.filter(|_| rule.mode == PeerMode::Strict)?;
        Some(NeedsMutualTls { object, field })
    }

    fn refuse(self: &Rc<Self>, stream: &TcpStream, refusal: &NeedsMutualTls) {
        self.worker.telemetry().proxy.plaintext_refused.inc();
        TcpRecord::open(&self.worker, self.pair(RequestProtocol::Tcp), tcp::DENIED).fail(refusal);
        stream.reset_on_drop();
    }

    /// Serves a stream that is already accepted; `told` is what the other end says it carries.
    async fn serve(self: Rc<Self>, io: Io, told: Option<TunnelKind>) {
        if let Some(Detected::Opaque) = detect::declared(self.protocol) {
            return self.carry(Prefixed::new(Bytes::new(), io)).await;
        }
        let mut io = io;
        let protocol = if told.is_some() {
            Protocol::Http
        } else {
            self.protocol
        };
        let found = self.worker.detect(&mut io, protocol, self.target).await;
        match found.protocol {
            Detected::Opaque if found.outcome == "silent" && protocol != Protocol::Auto => {}
            Detected::Opaque if found.outcome == "silent" && found.prefix.is_empty() => {
                self.listen_both(io).await
            }
            Detected::Opaque => self.carry(Prefixed::new(found.prefix, io)).await,
            http => self.http(http, Prefixed::new(found.prefix, io)).await,
        }
    }

    /// A plain CONNECT: the application must answer before the stream is accepted, as ztunnel does.
    async fn serve_connect(self: Rc<Self>, incoming: TunnelIncoming) {
        let opaque = detect::declared(self.protocol) == Some(Detected::Opaque);
        let mut server = match self.connect().await {
            Ok(server) => server,
            Err(error) => {
                self.failed(&error);
                return incoming.refuse(503, "connection to the application failed");
            }
        };
        let Ok(stream) = incoming.accept().await else {
            return;
        };
        let mut client = Io::Tunnel(Box::new(stream));
        if opaque {
            let record = TcpRecord::open(&self.worker, self.pair(RequestProtocol::Tcp), tcp::CARRIED);
            return tcp::forward(&mut client, &mut server, &record, &self.pod.watch).await;
        }
        self.first_speaker(client, server).await;
    }

    async fn listen_both(self: Rc<Self>, client: Io) {
        match self.connect().await {
            Ok(server) => self.first_speaker(client, server).await,
            Err(error) => self.failed(&error),
        }
    }

    /// Both sides are open; who speaks first decides what this is.
    async fn first_speaker(self: Rc<Self>, mut client: Io, mut server: Io) {
        let mut from_server = BytesMut::new();
        let mut from_client = BytesMut::with_capacity(FIRST);
        let http = loop {
            tokio::select! {
                biased;
                read = server.read_buf(&mut from_server) => break read.map(|_| None),
                read = client.read_buf(&mut from_client) => match (read, detect::classify(&from_client)) {
                    (Ok(n), None) if n > 0 => {}
                    (Ok(_), Some(http @ (Detected::Http1 | Detected::Http2))) => break Ok(Some(http)),
                    (read, _) => break read.map(|_| None),
                },
                () = self.pod.watch.cut() => return,
            }
        };
        let Ok(http) = http else {
            // An error is told once: read again, it would look like an end.
            server.reset_on_drop();
            return client.reset_on_drop();
        };
        if detect::speaks_first(&from_server) {
            self.worker.shared.learned.server_first(self.target);
        }
        let client = Prefixed::new(from_client.freeze(), client);
        if let Some(version) = http {
            drop(server);
            return self.http(version, client).await;
        }
        let record = TcpRecord::open(&self.worker, self.pair(RequestProtocol::Tcp), tcp::CARRIED);
        let (mut client, mut server) = (client, Prefixed::new(from_server.freeze(), server));
        tcp::forward(&mut client, &mut server, &record, &self.pod.watch).await;
    }

    async fn http(self: Rc<Self>, version: Detected, io: Prefixed<Io>) {
        let watch = self.pod.watch.clone();
        // In a box of its own: most connections would carry its size for nothing.
        let serve = Box::pin(http::serve(Side::Inbound(self), version, io, watch.clone()));
        watch.unless_cut(serve).await;
    }

    async fn carry(self: Rc<Self>, mut client: Prefixed<Io>) {
        match self.connect().await {
            Ok(mut server) => {
                let record = TcpRecord::open(&self.worker, self.pair(RequestProtocol::Tcp), tcp::CARRIED);
                tcp::forward(&mut client, &mut server, &record, &self.pod.watch).await;
            }
            Err(error) => self.failed(&error),
        }
    }

    async fn connect(&self) -> Result<Io, ConnectError> {
        let (path, origin) = (Path::App(Arc::clone(&self.pod)), self.origin());
        // In a box that is gone once connected: dialling is larger than what follows.
        let dial = upstream::connect(
            &self.worker,
            &path,
            self.target,
            &origin,
            TunnelKind::Tcp,
            None,
            None,
        );
        Box::pin(dial).await
    }

    /// Who connects on behalf of this connection.
    pub(super) fn origin(&self) -> Origin {
        Origin {
            pod: Arc::clone(&self.pod),
            source: self.source.clone(),
            client: self.client,
        }
    }

    /// Both ends for telemetry.
    pub(super) fn pair(&self, protocol: RequestProtocol) -> Pair {
        let labels = PairLabels {
            reporter: Reporter::Destination,
            source: Arc::clone(&self.party),
            destination: Arc::clone(&self.destination),
            service: Arc::clone(&self.service),
            protocol,
            security: if self.peer.is_some() {
                Security::MutualTls
            } else {
                Security::None
            },
            flags: super::pair::NO_FLAGS,
        };
        Pair::incoming(labels, self.client, self.target)
    }

    fn failed(&self, error: &ConnectError) {
        TcpRecord::open(&self.worker, self.pair(RequestProtocol::Tcp), "UF").fail(error);
    }
}

/// A source by what it says of itself, under the identity it proved.
fn told(baggage: &Baggage, peer: &SpiffeId) -> Party {
    let or_unknown = |value: &Arc<str>| {
        if value.is_empty() {
            UNKNOWN.into()
        } else {
            Arc::clone(value)
        }
    };
    Party {
        workload: or_unknown(&baggage.workload),
        namespace: peer.namespace().into(),
        principal: principal(Some(peer)),
        app: or_unknown(&baggage.service),
        version: or_unknown(&baggage.revision),
        cluster: or_unknown(&baggage.cluster),
        canonical_service: or_unknown(&baggage.service),
        canonical_revision: or_unknown(&baggage.revision),
    }
}

const FIRST: usize = 4_096;
