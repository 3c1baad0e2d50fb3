//! A worker's connections to upstreams, kept for reuse: HTTP/1.1 ones last in, first out; HTTP/2 ones shared.
//!
//! A connection serves one source at one way to one endpoint. Sources never share: what the far end knows of its
//! peer, be it a certificate or an address, is true of each request.

use super::super::io::Io;
use super::super::policy::{self, Dress, Link};
use super::super::tunnel::{TunnelKind, unix_now};
use super::super::upstream::{ConnectError, Origin, Path};
use super::super::worker::Worker;
use super::LocalExec;
use super::body::RequestBody;
use super::upgrade::{self, Switched};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use mesh_core::model::identity::SpiffeId;
use mesh_core::model::traffic::{ConnectionPool, TrafficPolicy};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// All pools of a worker.
#[derive(Default)]
pub(in super::super) struct Pools {
    http1: RefCell<HashMap<Key, Vec<Idle>>>,
    http2: RefCell<HashMap<Key, Rc<Shared>>>,
}

/// Who and where to.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    addr: SocketAddr,
    /// Id of this node's pod for which the connection is made.
    pod: u32,
    /// Id of this node's pod in whose network namespace the socket is, if that is another one.
    within: Option<u32>,
    /// Id of the pod behind `addr`; an address is given to another pod some day.
    upstream: u32,
    tunnel: bool,
    client: IpAddr,
    peer: Option<SpiffeId>,
    /// Host of the service, which the far end is told once for a whole tunnel.
    host: Option<Arc<str>>,
    /// What it begins with, if a policy says so.
    dress: Option<Box<Dress>>,
}

/// An HTTP/1.1 connection; exclusive while a request uses it.
pub(super) struct Http1 {
    sender: http1::SendRequest<RequestBody>,
    switched: Rc<RefCell<Option<oneshot::Sender<Switched>>>>,
    not_after: Option<u64>,
    terms: Box<Terms>,
}

struct Idle {
    conn: Http1,
    since: Instant,
}

/// HTTP/2 connections of one key.
#[derive(Default)]
struct Shared {
    conns: RefCell<Vec<Rc<Http2>>>,
    connecting: tokio::sync::Mutex<()>,
    used: Cell<Option<Instant>>,
}

struct Http2 {
    sender: http2::SendRequest<RequestBody>,
    streams: Cell<usize>,
    not_after: Option<u64>,
    terms: Terms,
}

/// How long a connection may serve.
struct Terms {
    /// After this, nothing new.
    until: Option<Instant>,
    /// Requests left; `None` = any number.
    left: Cell<Option<u32>>,
    /// How long it is kept unused, if a policy says: `Some(None)` = for ever.
    idle: Option<Option<Duration>>,
    /// Requests at once.
    most: usize,
}

impl Terms {
    fn of(policy: Option<&TrafficPolicy>) -> Self {
        let pool = policy.map(|p| &p.connection_pool);
        let most = pool.and_then(|p| p.http.max_concurrent_streams);
        Self {
            until: pool.and_then(|p| Instant::now().checked_add(p.tcp.max_duration?)),
            left: Cell::new(pool.and_then(|p| p.http.max_requests_per_connection)),
            idle: pool.and_then(ConnectionPool::http_idle),
            most: most.map_or(super::STREAMS as usize, |n| n as usize),
        }
    }

    /// Whether it may serve one more request.
    fn hold(&self) -> bool {
        self.left.get() != Some(0) && self.until.is_none_or(|until| Instant::now() < until)
    }

    fn serve(&self) {
        self.left.set(self.left.get().map(|n| n.saturating_sub(1)));
    }

    /// Whether a connection unused for this long is kept.
    fn keep(&self, unused: Duration, default: Duration) -> bool {
        match self.idle {
            None => unused < default,
            Some(limit) => limit.is_none_or(|limit| unused < limit),
        }
    }
}

/// A connection in use by one request.
pub(super) enum Lease {
    /// Exclusive.
    Http1(Rc<Worker>, Key, Http1),
    /// One stream.
    Http2(Stream),
}

/// One stream's place.
pub(super) struct Stream(Rc<Http2>);

impl Key {
    pub(super) fn new(
        path: &Path,
        addr: SocketAddr,
        origin: &Origin,
        peer: Option<&SpiffeId>,
        host: Option<&Arc<str>>,
        dress: Option<Box<Dress>>,
    ) -> Self {
        let (upstream, tunnel) = match path {
            Path::App(pod) => (pod.handle.workload.id, false),
            Path::Tunnel(workload) => (workload.id, true),
            Path::Plain => (0, false),
        };
        let within = matches!(path, Path::App(_)).then_some(upstream);
        let pod = origin.pod.handle.workload.id;
        Self {
            addr,
            pod,
            within,
            upstream,
            tunnel,
            client: origin.client.ip(),
            peer: peer.cloned(),
            host: host.filter(|_| tunnel).cloned(),
            dress,
        }
    }
}

impl Pools {
    /// Closes what was not used for `idle`, and what belongs to pods that are gone: an open socket would keep their
    /// network namespace alive.
    pub(in super::super) fn sweep(&self, idle: Duration, served: &dyn Fn(u32) -> bool) {
        let now = Instant::now();
        let gone = |key: &Key| !served(key.pod) || key.within.is_some_and(|id| !served(id));
        self.http1.borrow_mut().retain(|key, list| {
            if gone(key) {
                return false;
            }
            list.retain(|i| {
                let unused = now.duration_since(i.since);
                !i.conn.sender.is_closed() && i.conn.terms.hold() && i.conn.terms.keep(unused, idle)
            });
            !list.is_empty()
        });
        self.http2.borrow_mut().retain(|key, shared| {
            if gone(key) {
                return false;
            }
            shared.conns.borrow_mut().retain(|c| !c.sender.is_closed());
            let busy = shared.conns.borrow().iter().any(|c| c.streams.get() > 0);
            let unused = shared.used.get().map(|t| now.duration_since(t));
            let fresh = unused.is_some_and(|unused| match shared.conns.borrow().first() {
                Some(conn) => conn.terms.keep(unused, idle),
                None => unused < idle,
            });
            busy || fresh || Rc::strong_count(shared) > 1
        });
    }

    fn take(&self, key: &Key) -> Option<Http1> {
        let mut pools = self.http1.borrow_mut();
        let list = pools.get_mut(key)?;
        // The newest is looked at first; one whose last exchange is not over yet is left where it is.
        let mut at = list.len();
        while at > 0 {
            at -= 1;
            let sender = &list[at].conn.sender;
            let conn = &list[at].conn;
            // The sweep comes by every few seconds only.
            let over = !conn.terms.hold() || !conn.terms.keep(list[at].since.elapsed(), Duration::MAX);
            if sender.is_closed() || over || expired(conn.not_after) {
                list.remove(at);
            } else if sender.is_ready() {
                return Some(list.remove(at).conn);
            }
        }
        None
    }

    fn put(&self, key: Key, conn: Http1, limit: usize) {
        let mut pools = self.http1.borrow_mut();
        let list = pools.entry(key).or_default();
        if list.len() < limit {
            list.push(Idle {
                conn,
                since: Instant::now(),
            });
        }
    }
}

/// Connection parameters of one try.
pub(super) struct Wanted<'a> {
    pub(super) path: &'a Path,
    pub(super) addr: SocketAddr,
    pub(super) origin: &'a Origin,
    pub(super) peer: Option<&'a SpiffeId>,
    pub(super) host: Option<&'a Arc<str>>,
    pub(super) http2: bool,
    /// How connections to the endpoint are made; `None` = as the mesh does.
    pub(super) policy: Option<&'a Arc<TrafficPolicy>>,
    /// What the server is called, where it must prove it.
    pub(super) server_name: &'a str,
}

/// A connection for one request, and whether it was used before.
pub(super) async fn lease(worker: &Rc<Worker>, wanted: &Wanted<'_>) -> Result<(Lease, bool), ConnectError> {
    let dress = wanted
        .policy
        .and_then(|policy| Dress::of(policy, wanted.origin.client, wanted.server_name))
        .map(Box::new);
    let key = Key::new(
        wanted.path,
        wanted.addr,
        wanted.origin,
        wanted.peer,
        wanted.host,
        dress,
    );
    if wanted.http2 {
        return lease_http2(worker, key, wanted).await;
    }
    if let Some(conn) = worker.pools.take(&key) {
        conn.terms.serve();
        return Ok((Lease::Http1(Rc::clone(worker), key, conn), true));
    }
    let conn = connect_http1(worker, wanted, key.dress.as_deref()).await?;
    conn.terms.serve();
    Ok((Lease::Http1(Rc::clone(worker), key, conn), false))
}

/// A bare connection.
async fn connect(
    worker: &Worker,
    wanted: &Wanted<'_>,
    kind: TunnelKind,
    dress: Option<&Dress>,
) -> Result<Io, ConnectError> {
    let link = Link {
        path: wanted.path,
        addr: wanted.addr,
        origin: wanted.origin,
        kind,
        host: wanted.host,
        policy: wanted.policy.map(|p| &**p),
        dress,
    };
    policy::connect(worker, &link).await
}

async fn connect_http1(
    worker: &Rc<Worker>,
    wanted: &Wanted<'_>,
    dress: Option<&Dress>,
) -> Result<Http1, ConnectError> {
    let io = connect(worker, wanted, TunnelKind::Http1, dress).await?;
    let not_after = io.not_after();
    let (sender, mut conn) = http1::Builder::new()
        .max_headers(super::HEADERS)
        .handshake(TokioIo::new(io))
        .await
        .map_err(|e| ConnectError::Io(wanted.addr, std::io::Error::other(e)))?;
    let switched = Rc::new(RefCell::new(None::<oneshot::Sender<Switched>>));
    let slot = Rc::clone(&switched);
    worker.spawn_fenced(async move {
        let ended = poll_fn(|cx| conn.poll_without_shutdown(cx)).await;
        if let Err(error) = &ended {
            tracing::debug!(%error, "upstream connection ended");
        }
        let waiter = slot.borrow_mut().take();
        if let (Ok(()), Some(waiter)) = (ended, waiter) {
            let parts = conn.into_parts();
            let _nobody_waits = waiter.send(upgrade::switched(parts.read_buf, parts.io.into_inner()));
        }
    });
    Ok(Http1 {
        sender,
        switched,
        not_after,
        terms: Box::new(Terms::of(wanted.policy.map(|p| &**p))),
    })
}

async fn lease_http2(
    worker: &Rc<Worker>,
    key: Key,
    wanted: &Wanted<'_>,
) -> Result<(Lease, bool), ConnectError> {
    let dress = key.dress.clone();
    let shared = Rc::clone(worker.pools.http2.borrow_mut().entry(key).or_default());
    shared.used.set(Some(Instant::now()));
    if let Some(stream) = shared.pick() {
        return Ok((Lease::Http2(stream), true));
    }
    let _one_at_a_time = shared.connecting.lock().await;
    if let Some(stream) = shared.pick() {
        return Ok((Lease::Http2(stream), true));
    }
    let io = connect(worker, wanted, TunnelKind::Http2, dress.as_deref()).await?;
    let not_after = io.not_after();
    let mut builder = http2::Builder::new(LocalExec);
    if let Some((interval, timeout)) = wanted.policy.and_then(|p| p.connection_pool.http.ping) {
        builder
            .keep_alive_interval(interval)
            .keep_alive_timeout(timeout)
            .keep_alive_while_idle(true);
    }
    let (sender, conn) = builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(UPSTREAM_STREAM_WINDOW)
        .initial_connection_window_size(UPSTREAM_CONNECTION_WINDOW)
        .max_header_list_size(super::HEADER_LIST)
        .handshake(TokioIo::new(io))
        .await
        .map_err(|e| ConnectError::Io(wanted.addr, std::io::Error::other(e)))?;
    worker.spawn_fenced(async move {
        if let Err(error) = conn.await {
            tracing::debug!(%error, "upstream connection ended");
        }
    });
    let conn = Rc::new(Http2 {
        sender,
        streams: Cell::new(0),
        not_after,
        terms: Terms::of(wanted.policy.map(|p| &**p)),
    });
    shared.conns.borrow_mut().push(Rc::clone(&conn));
    Ok((Lease::Http2(Stream::new(conn)), false))
}

impl Shared {
    fn pick(&self) -> Option<Stream> {
        let mut conns = self.conns.borrow_mut();
        // One whose certificate has expired serves what it has; nothing new.
        conns.retain(|c| !c.sender.is_closed() && !expired(c.not_after) && c.terms.hold());
        conns
            .iter()
            .find(|c| c.streams.get() < c.terms.most)
            .map(|c| Stream::new(Rc::clone(c)))
    }
}

/// Whether the certificate behind a pooled connection is no longer good: an expired identity proves nothing for a new
/// request, though the connection would carry it.
fn expired(not_after: Option<u64>) -> bool {
    not_after.is_some_and(|end| end <= unix_now())
}

impl Stream {
    fn new(conn: Rc<Http2>) -> Self {
        conn.streams.set(conn.streams.get() + 1);
        conn.terms.serve();
        Self(conn)
    }

    /// A sender for one request.
    pub(super) fn sender(&self) -> http2::SendRequest<RequestBody> {
        self.0.sender.clone()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.streams.set(self.0.streams.get() - 1);
    }
}

impl Http1 {
    /// The sender.
    pub(super) const fn sender(&mut self) -> &mut http1::SendRequest<RequestBody> {
        &mut self.sender
    }

    /// Asks for the bare stream once the server has switched protocols.
    pub(super) fn expect_switch(&self) -> oneshot::Receiver<Switched> {
        let (sender, receiver) = oneshot::channel();
        *self.switched.borrow_mut() = Some(sender);
        receiver
    }
}

impl Lease {
    /// The exchange is over and was clean.
    pub(super) fn give_back(self) {
        match self {
            Self::Http1(worker, key, conn) => {
                let limit = worker.shared.config.pool_idle_per_destination;
                if !conn.sender.is_closed() && conn.terms.hold() && conn.switched.borrow().is_none() {
                    worker.pools.put(key, conn, limit);
                }
            }
            Self::Http2(stream) => drop(stream),
        }
    }
}

/// Responses come at the speed of the client; these windows only bound what waits in memory.
const UPSTREAM_STREAM_WINDOW: u32 = 256 * 1024;
const UPSTREAM_CONNECTION_WINDOW: u32 = 1024 * 1024;
