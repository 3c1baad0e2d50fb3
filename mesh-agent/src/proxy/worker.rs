//! One worker: a thread with a current-thread runtime, and everything its connections share without locks.

use super::accept::{self, Role};
use super::detect::{self, Detection};
use super::http::Pools;
use super::tunnel::{TunnelClient, TunnelConfig};
use super::{LocalPod, Shared};
use crate::telemetry::Telemetry;
use crate::telemetry::meter::Meter;
use arc_swap::ArcSwap;
use arc_swap::cache::Cache;
use futures_util::FutureExt as _;
use mesh_core::model::service::Protocol;
use mesh_core::model::snapshot::Snapshot;
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::io::AsyncRead;
use tokio::sync::mpsc;
use tokio::task::LocalSet;

/// What a worker is told.
pub(super) enum Command {
    /// Accept on the pod's listeners.
    Listen(Arc<LocalPod>),
    /// Serve a connection that another worker accepted.
    Connection(std::net::TcpStream, Arc<LocalPod>, Role),
    /// A pod is gone: close what is kept for it.
    Sweep,
    /// Close a pod's listeners once their backlogs are empty, and end what is left of it after this long.
    Release(Arc<LocalPod>, Duration),
    /// Return.
    End,
}

/// State of one worker; reached through `Rc` by all its tasks.
pub(super) struct Worker {
    pub(super) index: usize,
    pub(super) shared: Arc<Shared>,
    pub(super) meter: Meter,
    pub(super) pools: Pools,
    pub(super) tunnels: Rc<TunnelClient>,
    pub(super) mirrors: Cell<usize>,
    snapshots: RefCell<Cache<Arc<ArcSwap<Snapshot>>, Arc<Snapshot>>>,
    loads: RefCell<HashMap<SocketAddr, Rc<Cell<u32>>>>,
}

/// One request or connection in flight to an endpoint, for as long as it is kept.
pub(super) struct Load(Rc<Cell<u32>>);

impl Worker {
    fn new(index: usize, shared: Arc<Shared>) -> Self {
        let deps = &shared.deps;
        Self {
            index,
            meter: Meter::new(Arc::clone(&deps.telemetry)),
            pools: Pools::default(),
            tunnels: TunnelClient::new(Arc::clone(&deps.certs), tunnel_config(&shared)),
            mirrors: Cell::new(0),
            snapshots: RefCell::new(Cache::new(Arc::clone(&deps.snapshots))),
            loads: RefCell::default(),
            shared,
        }
    }

    /// The mesh as it is known now.
    pub(super) fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(self.snapshots.borrow_mut().load())
    }

    /// The agent's metrics.
    pub(super) fn telemetry(&self) -> &Arc<Telemetry> {
        self.meter.telemetry()
    }

    /// Settings of tunnels, both ends.
    pub(super) fn tunnel_config(&self) -> TunnelConfig {
        tunnel_config(&self.shared)
    }

    /// As [`detect`](detect::detect), with what connections to `dst` have taught; the outcome is counted.
    pub(super) async fn detect<T: AsyncRead + Unpin>(
        &self,
        io: &mut T,
        protocol: Protocol,
        dst: SocketAddr,
    ) -> Detection {
        let patience = self.shared.config.detect_patience;
        let found = detect::detect(io, protocol, dst, &self.shared.learned, patience).await;
        let labels = [("outcome", found.outcome)];
        self.telemetry().proxy.detections.get_or_create(&labels).inc();
        found
    }

    /// What is in flight to `addr` from this worker.
    pub(super) fn load_of(&self, addr: &SocketAddr) -> u32 {
        self.loads.borrow().get(addr).map_or(0, |load| load.get())
    }

    /// Counts one more in flight to `addr`.
    pub(super) fn take_load(&self, addr: SocketAddr) -> Load {
        let mut loads = self.loads.borrow_mut();
        if loads.len() > LOADS {
            loads.retain(|_, load| load.get() > 0);
        }
        let load = Rc::clone(loads.entry(addr).or_default());
        load.set(load.get() + 1);
        Load(load)
    }

    /// Closes upstream connections that nobody will use.
    fn sweep(&self) {
        let pods = self.shared.pods.load();
        self.pools
            .sweep(self.shared.config.pool_idle, &|id| pods.contains_key(&id));
        let uids: HashSet<&str> = pods.values().map(|pod| &*pod.handle.workload.uid).collect();
        self.tunnels.retain_sources(|uid| uids.contains(uid));
        self.tunnels.close_idle(Instant::now());
        self.shared.policies.sweep();
    }

    /// Runs a task whose panic ends nothing but itself.
    pub(super) fn spawn_fenced(self: &Rc<Self>, task: impl Future<Output = ()> + 'static) {
        let worker = Rc::clone(self);
        // Not an async block around the task: that would hold it twice, once as captured and once as awaited.
        tokio::task::spawn_local(AssertUnwindSafe(task).catch_unwind().map(move |done| {
            if done.is_err() {
                worker.telemetry().proxy.panics.inc();
            }
        }));
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

/// Starts the thread of worker `index`.
pub(super) fn spawn(
    index: usize,
    shared: Arc<Shared>,
    inbox: mpsc::Receiver<Command>,
) -> io::Result<JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    std::thread::Builder::new()
        .name(format!("proxy-{index}"))
        .spawn(move || {
            let local = LocalSet::new();
            local.block_on(&runtime, run(index, shared, inbox));
        })
}

async fn run(index: usize, shared: Arc<Shared>, mut inbox: mpsc::Receiver<Command>) {
    let worker = Rc::new(Worker::new(index, shared));
    let sweeper = Rc::clone(&worker);
    worker.spawn_fenced(async move {
        loop {
            tokio::time::sleep(SWEEP).await;
            sweeper.sweep();
        }
    });
    while let Some(command) = inbox.recv().await {
        match command {
            Command::Listen(pod) => accept::listen(&worker, &pod),
            Command::Connection(stream, pod, role) => accept::adopt(&worker, stream, &pod, role),
            Command::Release(pod, deadline) => {
                worker.spawn_fenced(async move {
                    tokio::time::sleep(super::ARRIVED).await;
                    pod.trigger.start();
                    pod.close_listeners();
                    let ended = async {
                        while pod.live.load(Ordering::Acquire) > 0 {
                            tokio::time::sleep(super::DRAIN_POLL).await;
                        }
                    };
                    let _cut_below = tokio::time::timeout(deadline, ended).await;
                    pod.trigger.cut();
                });
            }
            Command::Sweep => worker.sweep(),
            Command::End => break,
        }
    }
}

fn tunnel_config(shared: &Shared) -> TunnelConfig {
    let deps = &shared.deps;
    TunnelConfig {
        mark: deps.mark,
        cluster: Arc::clone(deps.telemetry.cluster()),
        ..TunnelConfig::default()
    }
}

const SWEEP: Duration = Duration::from_secs(5);
/// Endpoints with a load counter before those without load are dropped.
const LOADS: usize = 8_192;
