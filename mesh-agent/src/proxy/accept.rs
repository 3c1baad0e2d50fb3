//! Accept loops. They survive every error and end by drain only.

use super::worker::{Command, Worker};
use super::{LocalPod, edge, inbound, outbound};
use socket2::SockRef;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};

/// Which of a pod's listeners a connection came by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// From the pod.
    Outbound,
    /// To the pod, plaintext.
    Inbound,
    /// To the pod, HBONE.
    Tunnel,
    /// To a gateway.
    Edge,
}

/// Accepts on all three listeners of the pod, or on the one of a gateway's port.
pub(super) fn listen(worker: &Rc<Worker>, pod: &Arc<LocalPod>) {
    let captured = pod.handle.listeners.iter().filter(|_| pod.edge.is_none());
    let captured = captured.flat_map(|listeners| {
        [
            (&listeners.outbound, Role::Outbound),
            (&listeners.inbound, Role::Inbound),
            (&listeners.tunnel, Role::Tunnel),
        ]
    });
    let edge = pod.edge.iter().map(|port| (&port.socket, Role::Edge));
    for (listener, role) in captured.chain(edge) {
        match listener.try_clone().and_then(TcpListener::from_std) {
            Ok(listener) => worker.spawn_fenced(accept(Rc::clone(worker), Arc::clone(pod), listener, role)),
            Err(error) => {
                worker.telemetry().proxy.accept_errors.inc();
                tracing::error!(%error, pod = %pod.handle.workload.pod, ?role, "cannot serve listener");
            }
        }
    }
}

/// Serves a connection that another worker accepted.
pub(super) fn adopt(worker: &Rc<Worker>, stream: std::net::TcpStream, pod: &Arc<LocalPod>, role: Role) {
    match TcpStream::from_std(stream) {
        Ok(stream) => serve(worker, pod, stream, role, Live::adopted(worker, pod)),
        Err(error) => {
            drop(Live::adopted(worker, pod));
            tracing::warn!(%error, "cannot take over connection");
        }
    }
}

async fn accept(worker: Rc<Worker>, pod: Arc<LocalPod>, listener: TcpListener, role: Role) {
    let draining = pod.watch.clone();
    loop {
        let accepted = tokio::select! {
            biased;
            () = draining.draining() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => dispatch(&worker, &pod, stream, role),
            Err(error) => {
                worker.telemetry().proxy.accept_errors.inc();
                if lasts(&error) {
                    tracing::warn!(%error, pod = %pod.handle.workload.pod, "accept failed");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }
}

/// Gives the connection to the worker with the fewest.
fn dispatch(worker: &Rc<Worker>, pod: &Arc<LocalPod>, stream: TcpStream, role: Role) {
    if pod.live.load(Ordering::Relaxed) >= worker.shared.config.connections_per_pod {
        worker.telemetry().proxy.refused_connections.inc();
        return;
    }
    let workers = &worker.shared.workers;
    let live = |i: usize| workers[i].live.load(Ordering::Relaxed);
    let fewest = (0..workers.len())
        .min_by_key(|i| live(*i))
        .unwrap_or(worker.index);
    let target = if live(fewest) < live(worker.index) {
        fewest
    } else {
        worker.index
    };
    pod.live.fetch_add(1, Ordering::AcqRel);
    workers[target].live.fetch_add(1, Ordering::Relaxed);
    worker.telemetry().proxy.connections.inc();
    let mut taken = Live {
        worker: Rc::clone(worker),
        index: target,
        pod: Arc::clone(pod),
        counted: true,
    };
    if target == worker.index {
        return serve(worker, pod, stream, role, taken);
    }
    if let Ok(stream) = stream.into_std() {
        let command = Command::Connection(stream, Arc::clone(pod), role);
        if workers[target].commands.try_send(command).is_ok() {
            taken.counted = false;
        }
    }
}

fn serve(worker: &Rc<Worker>, pod: &Arc<LocalPod>, stream: TcpStream, role: Role, live: Live) {
    if let Err(error) = crate::sys::tune(&SockRef::from(&stream)) {
        tracing::debug!(%error, "connection ended before it was served");
        return;
    }
    let (worker_, pod) = (Rc::clone(worker), Arc::clone(pod));
    // Each ends by itself at the drain's deadline: what carries bytes turns that into a reset.
    worker.spawn_fenced(async move {
        let _live = live;
        match role {
            Role::Outbound => outbound::serve(worker_, pod, stream).await,
            Role::Inbound => inbound::serve_plain(worker_, pod, stream).await,
            // Few, and large: in a box, so that the many are small.
            Role::Edge => Box::pin(edge::serve(worker_, pod, stream)).await,
            Role::Tunnel => Box::pin(inbound::serve_tunnel(worker_, pod, stream)).await,
        }
    });
}

/// Keeps a live connection counted.
struct Live {
    worker: Rc<Worker>,
    index: usize,
    pod: Arc<LocalPod>,
    /// False once another worker has taken it over.
    counted: bool,
}

impl Live {
    /// One that the accepting worker has counted already.
    fn adopted(worker: &Rc<Worker>, pod: &Arc<LocalPod>) -> Self {
        Self {
            worker: Rc::clone(worker),
            index: worker.index,
            pod: Arc::clone(pod),
            counted: true,
        }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        if !self.counted {
            return;
        }
        self.pod.live.fetch_sub(1, Ordering::AcqRel);
        self.worker.shared.workers[self.index]
            .live
            .fetch_sub(1, Ordering::Relaxed);
        self.worker.telemetry().proxy.connections.dec();
    }
}

/// Whether the next accept would fail as well (accept(2): errors of the new connection itself do not last).
fn lasts(error: &io::Error) -> bool {
    !matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}

const PAUSE: Duration = Duration::from_millis(50);
