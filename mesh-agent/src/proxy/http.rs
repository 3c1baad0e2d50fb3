//! HTTP: requests are looked at one by one, routed and carried over pooled connections.

mod answer;
mod attach;
mod attempt;
mod body;
mod edge;
mod exchange;
mod forward;
mod guard;
mod head;
mod headers;
mod mirror;
mod plan;
mod pool;
mod record;
mod respond;
mod retry;
mod upgrade;

pub(super) use pool::Pools;

use super::detect::Detected;
use super::inbound::Inbound;
use super::io::{Io, Prefixed};
use super::outbound::Outbound;
use super::worker::Worker;
use crate::drain::DrainWatch;
use guard::Guard;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;
use tokio::io::AsyncWriteExt as _;

/// Which direction a connection has, and what is known of it.
#[derive(Clone)]
pub(super) enum Side {
    /// From a pod.
    Outbound(Rc<Outbound>),
    /// To a pod.
    Inbound(Rc<Inbound>),
}

/// One client connection.
struct Context {
    side: Side,
    version: Detected,
    /// HTTP/1.1 only.
    guard: Option<Rc<guard::Shared>>,
    upgrade: upgrade::Slot,
    /// HTTP/1.1 only: every response is the connection's last.
    closing: Cell<bool>,
}

/// Serves a connection until it ends; a drain ends it between requests.
pub(super) async fn serve(side: Side, version: Detected, io: Prefixed<Io>, draining: DrainWatch) {
    let outcome = match version {
        Detected::Http2 => serve_http2(side, io, draining).await,
        Detected::Http1 | Detected::Opaque => serve_http1(side, io, draining).await,
    };
    if let Err(error) = outcome {
        tracing::debug!(%error, "http connection ended");
    }
}

/// How long a draining HTTP/1.1 connection waits for one more request.
const LAST_REQUEST: Duration = Duration::from_secs(2);

async fn serve_http1(side: Side, io: Prefixed<Io>, draining: DrainWatch) -> hyper::Result<()> {
    let (guard, shared) = Guard::new(io);
    let context = Rc::new(Context {
        side,
        version: Detected::Http1,
        guard: Some(shared),
        upgrade: upgrade::Slot::default(),
        closing: Cell::new(false),
    });
    let served = Rc::clone(&context);
    let service = service_fn(move |request| Box::pin(forward::handle(Rc::clone(&served), request)));
    let mut builder = http1::Builder::new();
    // The guard keeps the deadline of heads: hyper's would also end idle connections.
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(None)
        .max_headers(HEADERS)
        .auto_date_header(false);
    let mut conn = builder.serve_connection(guard, service);
    // A request may be on its way on a connection that seems idle. So the next response says that it is the last one,
    // and only what stays silent is closed without.
    let mut drain = pin!(async {
        draining.draining().await;
        context.closing.set(true);
        tokio::time::sleep(LAST_REQUEST).await;
    });
    let mut told = false;
    let ended = poll_fn(|cx| {
        if !told && drain.as_mut().poll(cx).is_ready() {
            told = true;
            Pin::new(&mut conn).graceful_shutdown();
        }
        conn.poll_without_shutdown(cx)
    })
    .await;
    let parts = conn.into_parts();
    let (mut rest, mut io) = parts.io.into_parts();
    if let Some(upgraded) = context.upgrade.take() {
        let mut read = bytes::BytesMut::from(&parts.read_buf[..]);
        read.unsplit(std::mem::take(&mut rest));
        upgraded.run(Prefixed::new(read.freeze(), io)).await;
        return Ok(());
    }
    let _peer_gone = io.shutdown().await;
    ended
}

async fn serve_http2(side: Side, io: Prefixed<Io>, draining: DrainWatch) -> hyper::Result<()> {
    let context = Rc::new(Context {
        side,
        version: Detected::Http2,
        guard: None,
        upgrade: upgrade::Slot::default(),
        closing: Cell::new(false),
    });
    let service = service_fn(move |request| forward::handle(Rc::clone(&context), request));
    let mut builder = http2::Builder::new(LocalExec);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(HEADER_LIST)
        .max_pending_accept_reset_streams(RESETS)
        .max_local_error_reset_streams(LOCAL_RESETS)
        .enable_connect_protocol()
        .auto_date_header(false);
    let mut conn = pin!(builder.serve_connection(TokioIo::new(io), service));
    let mut drain = pin!(draining.draining());
    let mut told = false;
    poll_fn(|cx| {
        if !told && drain.as_mut().poll(cx).is_ready() {
            told = true;
            conn.as_mut().graceful_shutdown();
        }
        match conn.as_mut().poll(cx) {
            Poll::Ready(done) => Poll::Ready(done),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

impl Side {
    fn worker(&self) -> &Rc<Worker> {
        match self {
            Self::Outbound(conn) => &conn.worker,
            Self::Inbound(conn) => &conn.worker,
        }
    }

    fn client(&self) -> SocketAddr {
        match self {
            Self::Outbound(conn) => conn.client,
            Self::Inbound(conn) => conn.client,
        }
    }
}

/// hyper's tasks run on the thread of their connection.
#[derive(Clone, Copy)]
struct LocalExec;

impl<F: Future<Output: 'static> + 'static> hyper::rt::Executor<F> for LocalExec {
    fn execute(&self, task: F) {
        tokio::task::spawn_local(task);
    }
}

const HEADERS: usize = 128;
const STREAMS: u32 = 100;
const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
const HEADER_LIST: u32 = 32 * 1024;
const RESETS: usize = 20;
const LOCAL_RESETS: usize = 1_024;
