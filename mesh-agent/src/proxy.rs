//! The data path in user space: takes the connections of this node's captured pods and carries them, as bytes or as
//! HTTP, to where the core says.
//!
//! Worker threads share nothing that a request waits for: each has its own runtime, connection pools and metric
//! handles. A connection stays on the worker it was given to. What they share is read-mostly: the snapshot, the
//! table of local pods, and what was learned of protocols.

mod accept;
pub mod copy;
pub mod detect;
mod edge;
mod hello;
mod http;
mod inbound;
mod io;
mod lookup;
mod names;
mod outbound;
mod pair;
mod policy;
mod tcp;
#[cfg(test)]
mod tests;
pub use policy::Ejected;
pub mod tunnel;
mod upstream;
mod worker;

use crate::contract::{Certificates, EdgeTls, Listeners, NameAnswers, Origination, PodHandle, SocketRecords};
use crate::drain::{DrainTrigger, DrainWatch, drain};
use crate::telemetry::Telemetry;
use arc_swap::ArcSwap;
use mesh_core::model::gateway::Bind;
use mesh_core::model::snapshot::Snapshot;
use parking_lot::Mutex;
use socket2::SockRef;
use std::collections::HashMap;
use std::io as stdio;
use std::net::Shutdown;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::mpsc;
use worker::Command;

/// Settings of the proxy. `Default` holds the values to ship.
#[derive(Clone, Debug)]
pub struct ProxyConfig {
    /// Threads; 0 = one per core.
    pub workers: usize,
    /// Live connections of one pod above which new ones are closed at once.
    pub connections_per_pod: usize,
    /// How long a client's first byte is waited for on a port of unknown protocol.
    pub detect_patience: Duration,
    /// Deadline of connect to another node or outside.
    pub connect_timeout: Duration,
    /// Deadline of connect to an application of this node. Longer than the kernel waits before it sends a SYN again
    /// (1 s, then 2 s more): a burst that overflows the application's backlog is no failure (ztunnel: 10 s).
    pub local_connect_timeout: Duration,
    /// How long an unused upstream connection is kept.
    pub pool_idle: Duration,
    /// Unused HTTP/1.1 connections kept per destination, source and worker.
    pub pool_idle_per_destination: usize,
    /// Bytes of a request body that are kept for another try.
    pub retry_buffer: usize,
    /// Mirrored requests in flight per worker; more are dropped and counted.
    pub mirrors: usize,
    /// Proxies in front of a gateway that are trusted to say in `X-Forwarded-For` who the client is
    /// (`gatewayTopology.numTrustedProxies`).
    pub trusted_hops: usize,
}

impl Default for ProxyConfig {
    fn default() -> Self {
        Self {
            workers: 0,
            connections_per_pod: 65_536,
            detect_patience: Duration::from_millis(20),
            connect_timeout: Duration::from_secs(10),
            local_connect_timeout: Duration::from_secs(10),
            pool_idle: Duration::from_secs(300),
            pool_idle_per_destination: 128,
            retry_buffer: 64 * 1024,
            mirrors: 256,
            trusted_hops: 0,
        }
    }
}

/// What the proxy works with.
#[derive(Clone)]
pub struct ProxyDeps {
    /// The known mesh.
    pub snapshots: Arc<ArcSwap<Snapshot>>,
    /// Certificates of this node's workloads.
    pub certs: Arc<dyn Certificates>,
    /// What the kernel programs recorded for sockets.
    pub sockets: Arc<dyn SocketRecords>,
    /// Answers to questions for names that come over TCP.
    pub names: Arc<dyn NameAnswers>,
    /// Metrics and access log.
    pub telemetry: Arc<Telemetry>,
    /// Name of this node.
    pub node: Arc<str>,
    /// Mark of the agent's own sockets.
    pub mark: u32,
    /// TLS towards servers that users vouch for.
    pub origination: Arc<dyn Origination>,
    /// TLS of a gateway's listeners; empty in an agent.
    pub edge_tls: EdgeTls,
}

/// Why the proxy refuses a command.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// A worker could not be started.
    #[error("cannot start worker {0}")]
    Start(usize, #[source] stdio::Error),
    /// A worker has too much to do, or has ended.
    #[error("worker {0} takes no commands")]
    Busy(usize),
    /// The pod is served already.
    #[error("pod with id {0} is served already")]
    Duplicate(u32),
}

/// The running proxy. Dropping it ends the workers and every connection.
pub struct Proxy {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// What all workers see.
struct Shared {
    config: ProxyConfig,
    deps: ProxyDeps,
    pods: ArcSwap<HashMap<u32, Arc<LocalPod>>>,
    /// The ports of a gateway.
    edges: Mutex<HashMap<Bind, Arc<LocalPod>>>,
    /// No longer served, but their connections go on until their deadline.
    leaving: Mutex<Vec<Weak<LocalPod>>>,
    learned: detect::Learned,
    policies: policy::Policies,
    workers: Vec<WorkerHandle>,
}

/// One worker as others see it.
struct WorkerHandle {
    commands: mpsc::Sender<Command>,
    live: AtomicUsize,
}

/// A captured pod, or one port of a gateway, while it is served.
struct LocalPod {
    handle: Arc<PodHandle>,
    /// The port, if it is one.
    edge: Option<edge::Port>,
    /// Ports of the agent's listeners: no application is behind them, and dialling them would come back here.
    own_ports: [u16; 3],
    live: AtomicUsize,
    trigger: DrainTrigger,
    watch: DrainWatch,
}

// === impl Proxy ===

impl Proxy {
    /// Starts the workers.
    ///
    /// # Errors
    /// A thread or its runtime cannot be made.
    pub fn start(config: ProxyConfig, deps: ProxyDeps) -> Result<Self, ProxyError> {
        let wanted = match config.workers {
            0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            n => n,
        };
        let (workers, inboxes): (Vec<_>, Vec<_>) = (0..wanted)
            .map(|_| {
                let (commands, inbox) = mpsc::channel(COMMANDS);
                (
                    WorkerHandle {
                        commands,
                        live: AtomicUsize::new(0),
                    },
                    inbox,
                )
            })
            .unzip();
        let shared = Arc::new(Shared {
            config,
            deps,
            pods: ArcSwap::default(),
            edges: Mutex::default(),
            leaving: Mutex::default(),
            learned: detect::Learned::default(),
            policies: policy::Policies::new(),
            workers,
        });
        let threads = inboxes
            .into_iter()
            .enumerate()
            .map(|(i, inbox)| {
                worker::spawn(i, Arc::clone(&shared), inbox).map_err(|error| ProxyError::Start(i, error))
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { shared, threads })
    }

    /// Serves a pod's listeners from now on.
    ///
    /// # Errors
    /// The pod is served already, or its worker takes no commands.
    pub fn add_pod(&self, handle: Arc<PodHandle>) -> Result<(), ProxyError> {
        let id = handle.workload.id;
        if self.shared.pods.load().contains_key(&id) {
            return Err(ProxyError::Duplicate(id));
        }
        let (trigger, watch) = drain();
        let own_ports = handle.listeners.as_ref().map_or([0; 3], own_ports);
        let pod = Arc::new(LocalPod {
            handle,
            edge: None,
            own_ports,
            live: AtomicUsize::new(0),
            trigger,
            watch,
        });
        let index = id as usize % self.shared.workers.len();
        self.shared.workers[index]
            .commands
            .try_send(Command::Listen(Arc::clone(&pod)))
            .map_err(|_| ProxyError::Busy(index))?;
        self.shared.pods.rcu(|pods| {
            let mut pods = HashMap::clone(pods);
            pods.insert(id, Arc::clone(&pod));
            pods
        });
        Ok(())
    }

    /// Stops serving a pod: its listeners are closed now, its connections end gracefully, at the deadline by force.
    pub fn remove_pod(&self, id: u32, deadline: Duration) {
        let Some(pod) = self.shared.pods.load().get(&id).cloned() else {
            return;
        };
        self.shared.pods.rcu(|pods| {
            let mut pods = HashMap::clone(pods);
            pods.remove(&id);
            pods
        });
        for worker in &self.shared.workers {
            // A full queue means a sweep a few seconds later, by the worker's own timer.
            let _later = worker.commands.try_send(Command::Sweep);
        }
        self.release(&pod, id as usize, deadline);
    }

    /// `number` chooses the worker, as it did when the worker was told to listen.
    fn release(&self, pod: &Arc<LocalPod>, number: usize, deadline: Duration) {
        let mut leaving = self.shared.leaving.lock();
        leaving.retain(|pod| pod.strong_count() > 0);
        leaving.push(Arc::downgrade(pod));
        let workers = &self.shared.workers;
        let release = Command::Release(Arc::clone(pod), deadline);
        if workers[number % workers.len()]
            .commands
            .try_send(release)
            .is_err()
        {
            pod.close_listeners();
            pod.trigger.cut();
        }
    }

    /// Accepts what has arrived already, then nothing new, and waits for what runs, of pods that have left as well, at
    /// most until the deadline, then cuts it.
    pub async fn drain(&self, deadline: Duration) {
        let pods = self.shared.pods.load_full();
        let edges: Vec<_> = self.shared.edges.lock().values().cloned().collect();
        let leaving = self
            .shared
            .leaving
            .lock()
            .iter()
            .filter_map(Weak::upgrade)
            .collect::<Vec<_>>();
        let pods = || pods.values().chain(&edges).chain(&leaving);
        tokio::time::sleep(ARRIVED).await;
        for pod in pods() {
            pod.trigger.start();
            pod.close_listeners();
        }
        let all_ended = async {
            while pods().any(|pod| pod.live.load(Ordering::Acquire) > 0) {
                tokio::time::sleep(DRAIN_POLL).await;
            }
        };
        let _cut_below = tokio::time::timeout(deadline, all_ended).await;
        pods().for_each(|pod| pod.trigger.cut());
    }

    /// The endpoints that outlier detection has taken out for the time being.
    #[must_use]
    pub fn ejected(&self) -> Vec<Ejected> {
        self.shared.policies.ejected()
    }

    /// Live connections of all pods.
    #[must_use]
    pub fn live_connections(&self) -> usize {
        self.shared
            .workers
            .iter()
            .map(|w| w.live.load(Ordering::Relaxed))
            .sum()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.pods.load().values().for_each(|pod| pod.trigger.cut());
        self.shared
            .edges
            .lock()
            .values()
            .for_each(|port| port.trigger.cut());
        for worker in &self.shared.workers {
            // A full queue is read until its sender is closed, which the worker sees as the same command.
            let _full = worker.commands.try_send(Command::End);
        }
        for thread in self.threads.drain(..) {
            let _panicked = thread.join();
        }
    }
}

// === impl LocalPod ===

impl LocalPod {
    /// Other descriptors of the same sockets stop listening as well (`tcp_disconnect` in the kernel).
    fn close_listeners(&self) {
        let captured = self.handle.listeners.iter().filter(|_| self.edge.is_none());
        let captured = captured.flat_map(|l| [&l.outbound, &l.inbound, &l.tunnel]);
        for listener in captured.chain(self.edge.iter().map(|port| &port.socket)) {
            if let Err(error) = SockRef::from(listener).shutdown(Shutdown::Both) {
                tracing::debug!(%error, pod = %self.handle.workload.pod, "listener was closed already");
            }
        }
    }
}

fn own_ports(listeners: &Listeners) -> [u16; 3] {
    [&listeners.outbound, &listeners.inbound, &listeners.tunnel]
        .map(|listener| listener.local_addr().map_or(0, |addr| addr.port()))
}

/// Commands waiting per worker.
const COMMANDS: usize = 16_384;
/// How long connections are still accepted once nothing new is steered to a listener: those in its backlog would be
/// reset otherwise.
const ARRIVED: Duration = Duration::from_millis(100);
const DRAIN_POLL: Duration = Duration::from_millis(10);
