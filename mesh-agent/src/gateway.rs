//! A gateway: the proxy at the mesh's edge, in an ordinary pod without a privilege.
//!
//! It is a member of the mesh by itself and not by capture: it has its own certificate and speaks HBONE to the pods behind it.
//! Captured by its node's agent each request would be read twice, and its routes decided twice by different rules; so its
//! pods are labelled `heddle.io/mesh: disabled`.
//!
//! A program of its own beside the agent: like `app` it names what it wires together.

mod admin;
pub mod config;
mod face;
mod itself;
mod material;
mod ports;
mod report;
mod tls;
mod why;

use crate::app::certificates;
use crate::ca::CertificateStore;
use crate::contract::{Certificates, EdgeTls, NoCredentials, NoNames, PodHandle, SocketRecords};
use crate::drain;
use crate::problems;
use crate::proxy::{Proxy, ProxyConfig, ProxyDeps};
use crate::source::kube::material::{Followed, News};
use crate::source::{files, kube, names};
use crate::sys::{NetNs, yield_to_traffic};
use crate::telemetry::{Telemetry, TelemetryConfig};
use crate::tls::Originator;
use anyhow::Context;
use arc_swap::ArcSwap;
use config::GatewayConfig;
use face::Health;
use material::Scope;
use mesh_common::SocketRecord;
use mesh_core::model::snapshot::Snapshot;
use mesh_core::model::workload::Workload;
use mesh_core::state::{Change, Problem, State, Versions};
use ports::Ports;
use std::cell::RefCell;
use std::io;
use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tls::Terminations;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, LocalSet};

/// Files with certificates, and ports that another process holds, are looked at again this often.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// Runs a gateway until SIGTERM or SIGINT.
///
/// # Errors
/// What is missing, before anything is served.
pub fn run(config: GatewayConfig) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime")?;
    LocalSet::new().block_on(&runtime, async {
        let mut terminate = signal(SignalKind::terminate()).context("watch SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("watch SIGINT")?;
        serve(config, async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        })
        .await
    })
}

/// Everything that the loop changes.
struct Gateway {
    me: Arc<Workload>,
    started: Instant,
    store: Arc<CertificateStore>,
    state: State,
    problems: Vec<Problem>,
    /// Which versions the snapshot that was published last is made of.
    in_force: Versions,
    snapshots: Arc<ArcSwap<Snapshot>>,
    terminations: Terminations,
    ports: Ports,
    health: Arc<Health>,
    /// Names of ServiceEntries that are to be resolved.
    names: watch::Sender<names::Names>,
    scope: Scope,
    followed: Followed,
    /// Whether the first listing is complete.
    listed: bool,
}

async fn serve(config: GatewayConfig, until: impl Future<Output = ()>) -> anyhow::Result<()> {
    let telemetry = Telemetry::new(&TelemetryConfig::default());
    telemetry.access.set_on(config.access_log);
    let me = itself::workload(&config)?;
    let (sender, mut changes) = mpsc::channel(8);
    let (wanted, names) = watch::channel(names::Names::new());
    tokio::task::spawn_local(names::follow_on_demand(names, sender.clone()));
    let (told, mut material_news) = mpsc::channel(8);
    let followed = Followed::default();
    let scope = scope(&config);
    let (state, mut source) = start_source(&config, &telemetry, sender, (&followed, told)).await?;
    let state = state.serving(itself::role(&config, &me));
    let store = Arc::new(certificates::store(
        &config.ca,
        &config.trust_domain,
        &config.mesh_namespace,
    )?);
    store.want(&me.identity);
    let snapshots = Arc::new(ArcSwap::from_pointee(Snapshot::default()));
    let edge_tls = EdgeTls::default();
    let proxy = Arc::new(start_proxy(&config, &snapshots, &store, &telemetry, &edge_tls)?);
    yield_to_traffic();
    let handle = Arc::new(PodHandle {
        workload: Arc::clone(&me),
        netns: NetNs::own().context("open the own network namespace")?,
        listeners: None,
        resolver: Vec::new(),
    });
    proxy
        .add_pod(Arc::clone(&handle))
        .context("serve the gateway itself")?;
    let (_serving, until_end) = drain::drain();
    tokio::task::spawn_local(Arc::clone(&store).run(until_end));
    let health = Arc::new(Health::default());
    face::start(&config, Arc::clone(&health), Arc::clone(&telemetry)).await?;
    let gateway = Rc::new(RefCell::new(Gateway {
        me,
        started: Instant::now(),
        store,
        state,
        problems: Vec::new(),
        in_force: Versions::default(),
        snapshots,
        terminations: Terminations::new(edge_tls),
        ports: Ports::new(Arc::clone(&proxy), handle, config.drain_deadline()),
        health: Arc::clone(&health),
        names: wanted,
        scope,
        followed,
        listed: false,
    }));
    if let Some(path) = &config.admin_socket {
        admin::start(path, &gateway)?;
    }
    let mut until = std::pin::pin!(until);
    let mut again = tokio::time::interval(LOOK_AGAIN);
    again.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = &mut until => break,
            Some(batch) = changes.recv() => gateway.borrow_mut().take(batch),
            Some(news) = material_news.recv() => {
                let mut gateway = gateway.borrow_mut();
                let changes = gateway.followed.take(news);
                gateway.take(changes);
            }
            ended = &mut source => return ended.context("config source")?.context("config source"),
            _ = again.tick() => gateway.borrow_mut().look_again(),
        }
    }
    // Load balancers learn of it by the probe; until they have, connections still come.
    health.leave();
    let wait = config.drain_delay();
    tracing::info!(
        wait_s = wait.as_secs(),
        deadline_s = config.drain_seconds,
        "draining"
    );
    tokio::time::sleep(wait).await;
    proxy.drain(config.drain_deadline()).await;
    Ok(())
}

impl Gateway {
    fn take(&mut self, changes: Vec<Change>) {
        let mut changed = false;
        for change in changes {
            changed |= self.state.apply(change);
        }
        if self.state.listing() {
            return;
        }
        problems::follow(&mut self.problems, self.state.problems());
        self.scope.want(&self.followed, &self.state);
        // A listener must not be closed for a certificate that is only not known yet.
        let complete = !self.listed && self.followed.complete();
        if !self.listed && !complete {
            return;
        }
        if changed || complete {
            let snapshot = self.state.snapshot();
            // A handshake must not meet a listener of which only the proxy knows.
            self.terminations.follow(&snapshot.edge);
            self.snapshots.store(Arc::clone(&snapshot));
            self.ports.follow(&snapshot.edge);
            names::want(&self.names, &snapshot.registry.names);
        }
        self.in_force = self.state.versions().clone();
        if complete {
            self.listed = true;
            self.health.listed();
        }
    }

    /// What did not work, or may have changed without a word.
    fn look_again(&mut self) {
        let snapshot = self.snapshots.load_full();
        self.terminations.reread(&snapshot.edge);
        self.ports.follow(&snapshot.edge);
    }
}

fn start_proxy(
    config: &GatewayConfig,
    snapshots: &Arc<ArcSwap<Snapshot>>,
    store: &Arc<CertificateStore>,
    telemetry: &Arc<Telemetry>,
    edge_tls: &EdgeTls,
) -> anyhow::Result<Proxy> {
    let settings = ProxyConfig {
        workers: config.workers,
        trusted_hops: config.num_trusted_proxies,
        ..ProxyConfig::default()
    };
    let deps = ProxyDeps {
        origination: Arc::new(Originator::new(Arc::new(NoCredentials))),
        snapshots: Arc::clone(snapshots),
        certs: Arc::clone(store) as Arc<dyn Certificates>,
        sockets: Arc::new(NothingCaptured),
        names: Arc::new(NoNames),
        telemetry: Arc::clone(telemetry),
        node: itself::NO_NODE.into(),
        mark: 0,
        edge_tls: Arc::clone(edge_tls),
    };
    Proxy::start(settings, deps).context("start the proxy")
}

/// A gateway has no kernel programs, and no application that would ask who its client is.
struct NothingCaptured;

impl SocketRecords for NothingCaptured {
    fn record(&self, _: BorrowedFd<'_>) -> io::Result<SocketRecord> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn announce(&self, _: BorrowedFd<'_>, _: &SocketRecord) -> io::Result<()> {
        Ok(())
    }
}

fn scope(config: &GatewayConfig) -> Scope {
    match (&config.config, &config.gateway) {
        (Some(_), gateway) => Scope::Files(gateway.clone()),
        (None, None) => Scope::Selected(config.namespace.as_str().into()),
        (None, Some(gateway)) => Scope::Only(gateway.clone()),
    }
}

/// A folder, or the Kubernetes API: then pods are known by endpoints and WorkloadTemplates, as other nodes' pods are to an
/// agent.
async fn start_source(
    config: &GatewayConfig,
    telemetry: &Telemetry,
    sender: mpsc::Sender<Vec<Change>>,
    (followed, told): (&Followed, mpsc::Sender<News>),
) -> anyhow::Result<(State, JoinHandle<anyhow::Result<()>>)> {
    if let Some(folder) = config.config.clone() {
        let source = async move { Ok(files::watch(folder, sender).await?) };
        return Ok((State::new(config.settings()), tokio::task::spawn_local(source)));
    }
    let settings = kube::WatchSettings::default();
    let figures = telemetry.register(kube::SourceFigures::register);
    let client = kube::client(&settings, &figures)
        .await
        .context("no config folder is given (--config), and")?;
    let reader = match &config.gateway {
        None => kube::Reader::Gateway(config.namespace.clone()),
        Some(_) => kube::Reader::ApiGateway,
    };
    let following = {
        let (client, settings, figures) = (client.clone(), settings.clone(), figures.clone());
        kube::material::follow(client, settings, figures, followed.wanted(), told)
    };
    tokio::spawn(following);
    let source = async move {
        kube::watch(client, reader, settings, figures, sender).await;
        Ok(())
    };
    let state = State::for_node(config.settings(), itself::NO_NODE);
    Ok((state, tokio::task::spawn_local(source)))
}
