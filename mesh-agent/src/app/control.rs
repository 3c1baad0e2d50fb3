//! The agent's control loop: config in, snapshots and kernel state out, upkeep, questions answered. One thread; the proxy
//! has its own, so that neither can stall the other.

use super::admin;
use super::certificates;
use super::config::AgentConfig;
use super::enrol::{Enrol, SandboxFact};
use super::figures::DatapathCollector;
use super::handover::{self, Handover, Outcome};
use super::inputs::{self, Batch, Inputs, apply};
use super::leaving;
use super::node::Node;
use super::plugin::{self, Plugin};
use super::signs;
use crate::bpf::{BpfConfig, Datapath, EventReader, cgroup2_mount, pods_cgroup};
use crate::ca::CertificateStore;
use crate::cni::decision::Capture;
use crate::cni::server::CniRequest;
use crate::contract::{Certificates, EdgeTls, NoCredentials};
use crate::dns::{Dns, DnsDeps};
use crate::drain;
use crate::problems;
use crate::proxy::{Proxy, ProxyConfig, ProxyDeps};
use crate::sandbox::Scanner;
use crate::source::kube::SourceFigures;
use crate::source::names;
use crate::sys::{NetnsFiles, yield_to_traffic};
use crate::telemetry::{Telemetry, TelemetryConfig};
use crate::tls::Originator;
use anyhow::Context;
use arc_swap::ArcSwap;
use mesh_core::model::snapshot::Snapshot;
use mesh_core::state::{Change, Problem, Sandbox, State, Versions};
use std::cell::RefCell;
use std::collections::HashSet;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::LocalSet;

const TICK: Duration = Duration::from_secs(1);
/// What could not be captured or applied is tried again after this long.
const RETRY: Duration = Duration::from_millis(200);
/// Questions of the plug-in that wait for this loop.
const PLUGIN_QUEUE: usize = 256;
/// A change is in force at once, unless another came in force less than this before: a burst is one or two snapshots, not
/// one for each object, and leaves the processor to the traffic.
const TOGETHER: Duration = Duration::from_millis(20);
/// The hooks' effect is verified again this often: another program may have been attached over them.
const VERIFY_EVERY_TICKS: u64 = 60;

/// The agent says that it lives, for the plug-in, this often.
const SIGN_EVERY_TICKS: u64 = 30;

/// Everything that the control loop and the admin interface share. Borrowed for the length of one answer or one
/// change, never across an await.
pub struct World {
    /// Settings.
    pub config: AgentConfig,
    /// What the sources said.
    pub state: State,
    /// What the Kubernetes source tells of itself.
    pub source: Option<SourceFigures>,
    /// What is wrong with what they said.
    pub problems: Vec<Problem>,
    /// Which versions the snapshot that was published last is made of; `state` may know more.
    pub in_force: Versions,
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
    /// When the last snapshot was published.
    pub published: Instant,
    /// Whether `state` may know more than the last snapshot says.
    pub behind: bool,
    /// This node's sandboxes; none where the source names them itself.
    pub enrol: Option<Enrol>,
    /// The CNI plug-in, once the agent is ready and if it is wanted.
    pub plugin: Option<Plugin>,
    /// Names that the snapshot wants resolved.
    pub names: watch::Sender<names::Names>,
    /// Takes the question of a successor.
    pub handovers: mpsc::Sender<Handover>,
    /// Rung when the successor serves.
    pub successor_serves: Option<oneshot::Sender<()>>,
}

impl World {
    /// Whether a first listing is in force: captured pods are served from here on.
    #[must_use]
    pub fn ready(&self) -> bool {
        self.last_listing.is_some()
    }

    /// Whether the pods are served, all of them, or those that could be within a few seconds.
    fn serves_what_can_be_served(&self) -> bool {
        const STRAGGLERS: Duration = Duration::from_secs(3);
        self.last_listing
            .is_some_and(|at| self.settled || at.elapsed() > STRAGGLERS)
    }

    /// Takes a batch; the first complete listing makes the agent ready.
    fn take_batch(
        &mut self,
        batch: Batch,
        netns_files: &Arc<NetnsFiles>,
        plugins: &mpsc::Sender<CniRequest>,
    ) -> anyhow::Result<()> {
        let first = !self.ready();
        self.take(batch);
        if !(first && self.ready()) {
            return Ok(());
        }
        self.node.tick();
        self.node.datapath_mut().keep();
        self.announce(netns_files, plugins)
    }

    /// Takes the plug-in's questions, and is ready for the kubelet.
    fn announce(
        &mut self,
        netns_files: &Arc<NetnsFiles>,
        plugins: &mpsc::Sender<CniRequest>,
    ) -> anyhow::Result<()> {
        if self.enrol.is_some() {
            self.plugin = Plugin::start(&self.config, Arc::clone(netns_files), plugins.clone())?;
            signs::lives(&self.config);
        }
        signs::serves(&self.config)?;
        tracing::info!("ready");
        Ok(())
    }

    fn take(&mut self, batch: Batch) {
        let (changed, complete) = match batch {
            Batch::New(changes) => apply(&mut self.state, changes),
            Batch::Listed => (true, true),
        };
        if complete {
            self.last_listing = Some(Instant::now());
        }
        self.behind |= changed || !self.settled;
        if self.state.listing() {
            return;
        }
        if !self.behind {
            // What came means the same as what is published.
            self.in_force = self.state.versions().clone();
        } else if complete {
            self.publish();
        }
    }

    /// When a snapshot is to be published.
    fn due(&self) -> Option<Instant> {
        (self.behind && !self.state.listing()).then(|| self.published + TOGETHER)
    }

    /// Has the state know the sandboxes of this node's pods. Returns whether any was new.
    fn learn_sandboxes(&mut self) -> bool {
        let Some(enrol) = &mut self.enrol else {
            return false;
        };
        let facts = enrol.facts(&self.state.snapshot()).unwrap_or_else(|error| {
            tracing::error!(%error, "cannot look for the pods' network namespaces");
            Vec::new()
        });
        let any = !facts.is_empty();
        for SandboxFact { uid, netns, ips } in facts {
            let sandbox = netns.map(|netns| Sandbox { netns, ips });
            self.state.apply(Change::Sandbox { uid, sandbox });
        }
        any
    }

    fn answer_plugin(&mut self, snapshot: &Snapshot) {
        let (node, certificates) = (&self.node, &self.certificates);
        if let Some(enrol) = &mut self.enrol {
            enrol.settle(snapshot, Instant::now(), |pod| {
                match (node.captured(pod.id), node.failure(pod.id)) {
                    (Some(_), _) if certificates.tls(&pod.identity).is_ok() => Capture::Captured,
                    (Some(_), _) => Capture::Uncertified,
                    (None, Some(reason)) => Capture::Failed(reason),
                    (None, None) => Capture::NotYet,
                }
            });
        }
    }

    /// Questions of the plug-in.
    fn take_requests(&mut self, requests: &mut Vec<CniRequest>) {
        for request in requests.drain(..) {
            if let Some(enrol) = &mut self.enrol {
                enrol.take(request, Instant::now());
            }
        }
        self.look_again();
    }

    /// What is not as it should be is tried again, what can be known by now is said.
    fn look_again(&mut self) {
        if self.learn_sandboxes() || !self.settled || self.behind {
            self.publish();
        } else {
            let snapshot = self.state.snapshot();
            self.answer_plugin(&snapshot);
        }
    }

    /// Lets go of every pod, as if none were enrolled.
    pub(super) fn release_all(&mut self) {
        self.node.reconcile(&Snapshot::default(), || {});
    }

    fn publish(&mut self) {
        // Of half a listing nothing is published; its end is.
        self.behind = self.state.listing();
        if self.behind {
            return;
        }
        self.published = Instant::now();
        problems::follow(&mut self.problems, self.state.problems());
        self.learn_sandboxes();
        let snapshot = self.state.snapshot();
        let snapshots = Arc::clone(&self.snapshots);
        self.settled = self
            .node
            .reconcile(&snapshot, || snapshots.store(Arc::clone(&snapshot)));
        self.in_force = self.state.versions().clone();
        names::want(&self.names, &snapshot.registry.names);
        let captured = snapshot
            .workloads
            .iter()
            .filter(|workload| self.node.captured(workload.id).is_some());
        let identities: HashSet<_> = captured.map(|workload| &workload.identity).collect();
        self.certificates.retain(|identity| identities.contains(identity));
        for identity in identities {
            self.certificates.want(identity);
        }
        self.answer_plugin(&snapshot);
    }

    fn tick(&mut self, ticks: u64) {
        if !self.ready() {
            return signs::waits_for(&self.config, self.source.as_ref());
        }
        self.node.tick();
        if ticks.is_multiple_of(SIGN_EVERY_TICKS) {
            signs::lives(&self.config);
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
    let telemetry = Telemetry::new(&TelemetryConfig::default());
    telemetry.access.set_on(config.access_log);
    // No more than one batch waits: it holds whole objects.
    let (sender, mut changes) = mpsc::channel(1);
    let (wanted, names) = watch::channel(names::Names::new());
    tokio::task::spawn_local(names::follow_on_demand(names, sender.clone()));
    let mut source = inputs::start_source(&config, &telemetry, sender).await?;
    // What can fail without the other agent's help fails before it is asked to step aside.
    let listed = handover::is_due(&config) && inputs::first_listing(&config, &mut source, &mut changes).await;
    let predecessor = handover::ask(&config).await?;
    let cgroup = match &config.cgroup {
        Some(path) => path.clone(),
        None => pods_cgroup(&cgroup2_mount().context("no cgroup v2 mount: see `heddle check`")?),
    };
    let bpf = BpfConfig {
        bpf_dir: config.bpf_dir.clone(),
        cgroup,
        state_dir: config.state_dir.clone(),
        limits: config.limits(),
    };
    let mut datapath = Datapath::load(bpf).context("load the data path (see `heddle check`)")?;
    let mark = match &predecessor {
        Some(predecessor) => predecessor.mark,
        None => begin(&mut datapath).context("announce the socket mark")?,
    };
    let events = datapath.take_events().context("open the event ring")?;
    let certificates = Arc::new(certificates::store(
        &config.ca,
        &config.trust_domain,
        &config.namespace,
    )?);
    let snapshots = Arc::new(ArcSwap::from_pointee(Snapshot::default()));
    let figures = DatapathCollector::new();
    telemetry.register(|registry| registry.register_collector(Box::new(Arc::clone(&figures))));
    let dns = Dns::start(DnsDeps {
        snapshots: Arc::clone(&snapshots),
        servers: datapath.servers(),
        mark,
    });
    let dns = Arc::new(dns.context("start answering names")?);
    telemetry.register(|registry| dns.register(registry));
    let proxy = Arc::new(
        Proxy::start(
            ProxyConfig {
                workers: config.workers,
                ..ProxyConfig::default()
            },
            ProxyDeps {
                origination: Arc::new(Originator::new(Arc::new(NoCredentials))),
                snapshots: Arc::clone(&snapshots),
                certs: Arc::clone(&certificates) as Arc<dyn Certificates>,
                sockets: datapath.records(),
                names: dns.answers(),
                telemetry: Arc::clone(&telemetry),
                node: config.node.as_str().into(),
                mark,
                edge_tls: EdgeTls::default(),
            },
        )
        .context("start the proxy")?,
    );
    // Not before: threads of the proxy and of names have been started.
    yield_to_traffic();
    let node = Node::new(&config, mark, datapath, Arc::clone(&proxy), dns);
    let netns_files = Arc::new(NetnsFiles::new(&config.cni.host_root));
    let enrol = config.config.is_none().then(|| {
        let scanner = Scanner::new(Path::new("/proc"), Arc::clone(&netns_files));
        Enrol::new(config.node.as_str().into(), scanner)
    });
    let (handovers, successors) = mpsc::channel(1);
    let world = Rc::new(RefCell::new(World {
        state: source.state,
        source: source.figures,
        problems: Vec::new(),
        in_force: Versions::default(),
        node,
        snapshots,
        certificates,
        telemetry,
        figures,
        started: Instant::now(),
        last_listing: None,
        settled: false,
        published: Instant::now(),
        behind: false,
        enrol,
        plugin: None,
        names: wanted,
        handovers,
        successor_serves: None,
        config,
    }));
    let (_serving, until_end) = drain::drain();
    let store = Arc::clone(&world.borrow().certificates);
    tokio::task::spawn_local(store.run(until_end));
    if let Some(events) = events {
        tokio::task::spawn_local(log_events(events, Rc::clone(&world)));
    }
    let mut inputs = Inputs {
        listed,
        changes,
        successors,
        predecessor,
        netns_files,
    };
    let admin = loop {
        let admin = admin::start(&world).await?;
        let end = tokio::select! {
            ended = &mut source.task => {
                ended.context("config source")?.context("config source")?;
                End::Signal
            }
            end = control(Rc::clone(&world), &mut inputs) => end?,
        };
        let End::HandedOver(handover) = end else {
            break admin;
        };
        admin::close(admin).await;
        plugin::leave(&world).await;
        match handover::hand_over(&world, &proxy, handover).await? {
            Outcome::Drained => return Ok(()),
            Outcome::Resumed => {}
        }
    };
    leaving::leave(&world, &proxy, admin).await;
    Ok(())
}

/// Announces the mark of this agent's sockets.
fn begin(datapath: &mut Datapath) -> anyhow::Result<u32> {
    let mark = match datapath.withdrawn_mark()? {
        Some(mark) => mark,
        None => getrandom::u32().map_err(|error| anyhow::anyhow!("draw it: {error}"))? | 1,
    };
    datapath.begin(mark)?;
    Ok(mark)
}

/// Why the control loop has ended.
enum End {
    Signal,
    HandedOver(Handover),
}

async fn control(world: Rc<RefCell<World>>, inputs: &mut Inputs) -> anyhow::Result<End> {
    let (plugins, mut requests) = mpsc::channel(PLUGIN_QUEUE);
    let mut asked = Vec::new();
    let mut terminate = signal(SignalKind::terminate()).context("watch SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("watch SIGINT")?;
    let mut ticker = tokio::time::interval(TICK);
    ticker.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut ticks = 0u64;
    let certificates = Arc::clone(&world.borrow().certificates);
    if world.borrow().ready() {
        world.borrow_mut().announce(&inputs.netns_files, &plugins)?;
        // A successor that has died may have changed anything.
        world.borrow_mut().publish();
    }
    if std::mem::take(&mut inputs.listed) {
        world
            .borrow_mut()
            .take_batch(Batch::Listed, &inputs.netns_files, &plugins)?;
    }
    loop {
        if inputs.predecessor.is_some() && world.borrow().serves_what_can_be_served() {
            inputs
                .predecessor
                .take()
                .map(|it| tokio::task::spawn_local(it.done()));
        }
        let due = world.borrow().due();
        tokio::select! {
            biased;
            _ = terminate.recv() => return Ok(End::Signal),
            _ = interrupt.recv() => return Ok(End::Signal),
            Some(handover) = inputs.successors.recv() => return Ok(End::HandedOver(handover)),
            // Before the changes: however many there are, the kernel must hear that the agent lives.
            _ = ticker.tick() => {
                ticks += 1;
                world.borrow_mut().tick(ticks);
            }
            () = until(due) => world.borrow_mut().publish(),
            Some(batch) = inputs.changes.recv() => {
                world.borrow_mut().take_batch(Batch::New(batch), &inputs.netns_files, &plugins)?;
            }
            // A pod whose start waits for its certificate need not wait for the next look.
            () = certificates.issued(), if unsettled(&world) => world.borrow_mut().look_again(),
            _ = requests.recv_many(&mut asked, PLUGIN_QUEUE) => world.borrow_mut().take_requests(&mut asked),
            () = tokio::time::sleep(RETRY), if unsettled(&world) => world.borrow_mut().look_again(),
        }
    }
}

/// For ever if it is not due.
async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}

fn unsettled(world: &RefCell<World>) -> bool {
    let world = world.borrow();
    let looks = |enrol: &Enrol| enrol.looks_for_pods() || enrol.has_waiting();
    world.ready() && (!world.settled || world.enrol.as_ref().is_some_and(looks))
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
