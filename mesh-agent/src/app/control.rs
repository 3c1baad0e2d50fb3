//! The agent's control loop: config in, snapshots and kernel state out, upkeep, questions answered. One thread; the proxy
//! has its own, so that neither can stall the other.

use super::admin;
use super::certificates;
use super::config::AgentConfig;
use super::enrol::{Enrol, SandboxFact};
use super::figures::DatapathCollector;
use super::leaving;
use super::node::Node;
use crate::bpf::{BpfConfig, Datapath, EventReader, cgroup2_mount, pods_cgroup};
use crate::ca::CertificateStore;
use crate::cni::SOCKET_NAME;
use crate::cni::decision::Capture;
use crate::cni::install::{self, CniStatus};
use crate::cni::server::{CniRequest, CniServer};
use crate::contract::Certificates;
use crate::drain;
use crate::errors::chain;
use crate::proxy::{Proxy, ProxyConfig, ProxyDeps};
use crate::sandbox::Scanner;
use crate::source::{files, kube};
use crate::sys::NetnsFiles;
use crate::telemetry::{Telemetry, TelemetryConfig};
use anyhow::Context;
use arc_swap::ArcSwap;
use mesh_core::model::snapshot::Snapshot;
use mesh_core::state::{Change, Problem, Sandbox, State};
use std::cell::RefCell;
use std::collections::HashSet;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, LocalSet};

const TICK: Duration = Duration::from_secs(1);
/// What could not be captured or applied is tried again after this long.
const RETRY: Duration = Duration::from_millis(200);
/// The hooks' effect is verified again this often: another program may have been attached over them.
const VERIFY_EVERY_TICKS: u64 = 60;

/// Everything that the control loop and the admin interface share. Borrowed for the length of one answer or one
/// change, never across an await.
pub struct World {
    /// Settings.
    pub config: AgentConfig,
    /// What the sources said.
    pub state: State,
    /// What is wrong with what they said.
    pub problems: Vec<Problem>,
    /// This node's kernel side.
    pub node: Node,
    /// What the proxy reads.
    pub snapshots: Arc<ArcSwap<Snapshot>>,
    /// Certificates.
    pub certificates: Arc<CertificateStore>,
    /// Metrics.
    pub telemetry: Arc<Telemetry>,
    /// The data path's part of them.
    pub figures: Arc<DatapathCollector>,
    /// When the agent started.
    pub started: Instant,
    /// When the sources last completed a listing.
    pub last_listing: Option<Instant>,
    /// Whether everything is as the snapshot wants it.
    pub settled: bool,
    /// Where this node's pods run; none where the source says so itself.
    pub enrol: Option<Enrol>,
    /// State of the CNI plug-in, if it is to be installed.
    pub cni: Option<watch::Receiver<CniStatus>>,
}

impl World {
    /// Whether a first listing is in force: captured pods are served from here on.
    #[must_use]
    pub fn ready(&self) -> bool {
        self.last_listing.is_some()
    }

    fn take(&mut self, changes: Vec<Change>) {
        let mut changed = false;
        let mut complete = false;
        for change in changes {
            complete |= matches!(change, Change::InitDone);
            changed |= self.state.apply(change);
        }
        if complete {
            self.last_listing = Some(Instant::now());
        }
        if self.state.listing() {
            return;
        }
        self.report_problems();
        if changed || !self.settled {
            self.publish();
        }
    }

    fn report_problems(&mut self) {
        let problems = self.state.problems();
        for problem in problems.iter().filter(|problem| !self.problems.contains(problem)) {
            let rejected = &problem.rejected;
            tracing::warn!(
                origin = problem.origin,
                object = rejected.object,
                field = rejected.field,
                reason = rejected.reason,
                last_good_in_force = problem.last_good_in_force,
                "config problem"
            );
        }
        self.problems = problems;
    }

    pub(super) fn publish(&mut self) {
        self.learn_sandboxes();
        let snapshot = self.state.snapshot();
        let snapshots = Arc::clone(&self.snapshots);
        self.settled = self
            .node
            .reconcile(&snapshot, || snapshots.store(Arc::clone(&snapshot)));
        let captured = snapshot
            .workloads
            .iter()
            .filter(|workload| self.node.captured(workload.id).is_some());
        let identities: HashSet<_> = captured.map(|workload| &workload.identity).collect();
        self.certificates.retain(|identity| identities.contains(identity));
        for identity in identities {
            self.certificates.want(identity);
        }
        self.settle_cni();
    }

    /// Opens the plug-in's socket and keeps the plug-in installed, where the settings ask for it.
    fn start_cni(&mut self, asked: mpsc::Sender<CniRequest>, files: Arc<NetnsFiles>) -> anyhow::Result<()> {
        let Some(what) = self.config.cni.install(&self.config.state_dir) else {
            return Ok(());
        };
        let socket = self.config.state_dir.join(SOCKET_NAME);
        let server = CniServer::bind(&socket, files, asked)
            .with_context(|| format!("listen on {}", socket.display()))?;
        let (status, seen) = watch::channel(CniStatus::default());
        self.cni = Some(seen);
        tokio::task::spawn_local(server.serve());
        tokio::task::spawn_local(async move {
            if let Err(error) = install::keep(what, status).await {
                tracing::error!(error = %chain(&error), "the CNI plug-in cannot be kept installed");
            }
        });
        Ok(())
    }

    /// Lets go of every pod, as if none were enrolled.
    fn release_all(&mut self) {
        let empty = Snapshot {
            settings: self.snapshots.load().settings.clone(),
            ..Snapshot::default()
        };
        self.node.reconcile(&empty, || {});
    }

    /// Tells the state what plug-in and `/proc` say of this node's pods. Returns whether it was news.
    fn learn_sandboxes(&mut self) -> bool {
        let Some(enrol) = &mut self.enrol else {
            return false;
        };
        let facts = match enrol.facts(&self.state.snapshot()) {
            Ok(facts) => facts,
            Err(error) => {
                tracing::error!(%error, "cannot look for the pods' network namespaces");
                return false;
            }
        };
        let mut news = false;
        for SandboxFact { uid, netns, ips } in facts {
            let sandbox = netns.map(|netns| Sandbox { netns, ips });
            news |= self.state.apply(Change::Sandbox { uid, sandbox });
        }
        news
    }

    /// Takes a question of the plug-in, and answers it at once if that is possible.
    fn take_cni(&mut self, question: CniRequest) {
        if let Some(enrol) = &mut self.enrol {
            enrol.take(question, Instant::now());
        }
        if self.learn_sandboxes() {
            self.publish();
        } else {
            self.settle_cni();
        }
    }

    /// Answers the questions of the plug-in that can be answered by now.
    fn settle_cni(&mut self) {
        let Some(enrol) = &mut self.enrol else {
            return;
        };
        let node = &self.node;
        enrol.settle(&self.snapshots.load(), Instant::now(), |pod| {
            match (node.captured(pod.id), node.failure(pod.id)) {
                (Some(_), _) if node.applied() => Capture::Captured,
                (_, Some(reason)) => Capture::Failed(reason),
                _ => Capture::NotYet,
            }
        });
    }

    fn tick(&mut self, ticks: u64) {
        if !self.ready() {
            return;
        }
        self.node.tick();
        if self.learn_sandboxes() {
            self.publish();
        }
        if ticks.is_multiple_of(VERIFY_EVERY_TICKS)
            && let Err(error) = self.node.datapath().verify_effect()
        {
            tracing::error!(%error, "the data path is not in effect");
        }
    }
}

/// Runs the agent until SIGTERM or SIGINT.
///
/// # Errors
/// What is missing, before anything is captured.
pub fn run(config: AgentConfig) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime")?;
    LocalSet::new().block_on(&runtime, serve(config))
}

async fn serve(config: AgentConfig) -> anyhow::Result<()> {
    let mark = getrandom::u32().map_err(|error| anyhow::anyhow!("draw the socket mark: {error}"))? | 1;
    let cgroup = match &config.cgroup {
        Some(path) => path.clone(),
        None => pods_cgroup(&cgroup2_mount().context("no cgroup v2 mount: see `heddle check`")?),
    };
    let bpf = BpfConfig {
        bpf_dir: config.bpf_dir.clone(),
        cgroup,
        state_dir: config.state_dir.clone(),
    };
    let mut datapath = Datapath::load(bpf).context("load the data path (see `heddle check`)")?;
    datapath.begin(mark).context("announce the socket mark")?;
    let events = datapath.take_events().context("open the event ring")?;
    let certificates = Arc::new(certificates::store(&config)?);
    let snapshots = Arc::new(ArcSwap::from_pointee(Snapshot::default()));
    let telemetry = Telemetry::new(&TelemetryConfig::default());
    telemetry.access.set_on(config.access_log);
    let figures = DatapathCollector::new();
    telemetry.register(|registry| registry.register_collector(Box::new(Arc::clone(&figures))));
    let proxy = Arc::new(
        Proxy::start(
            ProxyConfig {
                workers: config.workers,
                ..ProxyConfig::default()
            },
            ProxyDeps {
                snapshots: Arc::clone(&snapshots),
                certs: Arc::clone(&certificates) as Arc<dyn Certificates>,
                sockets: datapath.records(),
                telemetry: Arc::clone(&telemetry),
                node: config.node.as_str().into(),
                mark,
            },
        )
        .context("start the proxy")?,
    );
    let node = Node::new(
        config.node.clone(),
        mark,
        config.drain_deadline(),
        datapath,
        Arc::clone(&proxy),
    );
    let drain = config.drain_deadline();
    let (sender, changes) = mpsc::channel(8);
    let (state, source) = start_source(&config, &telemetry, sender).await?;
    let files = Arc::new(NetnsFiles::new(&config.cni.host_root));
    // Of a folder, each pod says itself where it runs.
    let on_kubernetes = config.config.is_none();
    let scanner = Scanner::new(Path::new("/proc"), Arc::clone(&files));
    let enrol = on_kubernetes.then(|| Enrol::new(config.node.as_str().into(), scanner));
    let world = Rc::new(RefCell::new(World {
        state,
        problems: Vec::new(),
        node,
        snapshots,
        certificates,
        telemetry,
        figures,
        started: Instant::now(),
        last_listing: None,
        settled: false,
        enrol,
        cni: None,
        config,
    }));
    let (_serving, until_end) = drain::drain();
    let store = Arc::clone(&world.borrow().certificates);
    tokio::task::spawn_local(store.run(until_end));
    let _admin = admin::start(&world).await?;
    if let Some(events) = events {
        tokio::task::spawn_local(log_events(events, Rc::clone(&world)));
    }
    tokio::select! {
        ended = source => ended.context("config source")?.context("config source")?,
        result = control(Rc::clone(&world), changes, files) => result?,
    }
    let config = world.borrow().config.clone();
    let for_good = on_kubernetes && leaving::uninstalled(&config).await;
    if for_good {
        leaving::remove_cni(&config);
        // Nobody will take over: what is captured goes on as it was before the mesh.
        world.borrow_mut().release_all();
    }
    tracing::info!(deadline_s = drain.as_secs(), for_good, "draining");
    world.borrow_mut().node.stop_taking();
    proxy.drain(drain).await;
    if for_good {
        leaving::remove_everything(&config);
    }
    Ok(())
}

/// Starts the config source: a folder, or the Kubernetes API. The state must know which: of the API it sees one node's
/// pods only.
async fn start_source(
    config: &AgentConfig,
    telemetry: &Telemetry,
    sender: mpsc::Sender<Vec<Change>>,
) -> anyhow::Result<(State, JoinHandle<anyhow::Result<()>>)> {
    if let Some(folder) = config.config.clone() {
        let source = async move { Ok(files::watch(folder, sender).await?) };
        return Ok((State::new(config.settings()), tokio::task::spawn_local(source)));
    }
    let settings = kube::WatchSettings::default();
    let client = kube::client(&settings)
        .await
        .context("no config folder is given (--config), and")?;
    let figures = telemetry.register(kube::SourceFigures::register);
    let node = config.node.clone();
    let state = State::for_node(config.settings(), node.as_str());
    let source = async move {
        kube::watch(client, node, settings, figures, sender).await;
        Ok(())
    };
    Ok((state, tokio::task::spawn_local(source)))
}

async fn control(
    world: Rc<RefCell<World>>,
    mut changes: mpsc::Receiver<Vec<Change>>,
    files: Arc<NetnsFiles>,
) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("watch SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("watch SIGINT")?;
    let mut ticker = tokio::time::interval(TICK);
    ticker.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut ticks = 0u64;
    let (asked, mut questions) = mpsc::channel(256);
    let mut cni_parts = Some((asked, files));
    loop {
        tokio::select! {
            biased;
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            Some(batch) = changes.recv() => {
                let first = !world.borrow().ready();
                world.borrow_mut().take(batch);
                if first && world.borrow().ready() {
                    let mut world = world.borrow_mut();
                    world.node.tick();
                    world.node.datapath_mut().keep();
                    tracing::info!("ready");
                    // From here on pods can be captured before they start; an earlier agent answered until now.
                    if let Some((asked, files)) = cni_parts.take().filter(|_| world.enrol.is_some()) {
                        world.start_cni(asked, files)?;
                    }
                }
            }
            Some(question) = questions.recv() => world.borrow_mut().take_cni(question),
            () = tokio::time::sleep(RETRY), if unsettled(&world) => world.borrow_mut().publish(),
            () = tokio::time::sleep(RETRY), if anybody_waits(&world) => world.borrow_mut().settle_cni(),
            _ = ticker.tick() => {
                ticks += 1;
                world.borrow_mut().tick(ticks);
            }
        }
    }
}

fn anybody_waits(world: &RefCell<World>) -> bool {
    world.borrow().enrol.as_ref().is_some_and(Enrol::has_waiting)
}

fn unsettled(world: &RefCell<World>) -> bool {
    let world = world.borrow();
    world.ready() && !world.settled
}

/// Turns the kernel's events into log lines; their rate is bounded per pod in the kernel.
async fn log_events(mut reader: EventReader, world: Rc<RefCell<World>>) {
    loop {
        let mut batch = Vec::new();
        reader.read(|event| batch.push(event)).await;
        let snapshot = world.borrow().snapshots.load_full();
        for event in batch {
            super::report::log_event(&snapshot, &event);
        }
    }
}
