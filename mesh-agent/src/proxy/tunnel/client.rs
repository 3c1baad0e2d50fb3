//! The opening end: pool, dial, retry on a connection that died in the pool.

use super::baggage::Baggage;
use super::dial::{Dialed, Offer, dial};
use super::hbone::client::{HboneConn, Place};
use super::head::{Head, read_reply};
use super::native::{NativeConn, NativeStream};
use super::pool::{Form, Key, Pool};
use super::{TunnelConfig, TunnelError, TunnelKind, TunnelRequest, TunnelStream};
use crate::contract::Certificates;
use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use tokio::io::AsyncWriteExt;
use tokio::sync::Notify;

/// Longest text of a peer that is kept, in bytes.
const MAX_REASON: usize = 256;
/// Connections tried for one stream, if each turns out to have ended before it.
const MAX_ATTEMPTS: u32 = 4;

/// Opens streams; one per worker.
pub struct TunnelClient {
    certs: Arc<dyn Certificates>,
    config: TunnelConfig,
    pool: RefCell<Pool>,
    draining: Cell<bool>,
    active: Cell<usize>,
    quiet: Notify,
    me: Weak<Self>,
}

/// What a worker's client holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolStats {
    /// Native connections without a stream.
    pub native_idle: usize,
    /// HBONE connections that take new streams.
    pub hbone_connections: usize,
    /// Streams open or being opened.
    pub active_streams: usize,
}

/// Counts a stream from before it is opened until it is dropped.
struct Active(Rc<TunnelClient>);

impl Active {
    fn new(client: Rc<TunnelClient>) -> Self {
        client.active.set(client.active.get() + 1);
        Self(client)
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        let left = self.0.active.get() - 1;
        self.0.active.set(left);
        if left == 0 {
            self.0.quiet.notify_waiters();
        }
    }
}

/// A failure on a connection: the error, and whether the connection had simply ended before the stream.
struct Failed {
    error: TunnelError,
    stale: bool,
}

impl TunnelClient {
    /// A client with an empty pool.
    pub fn new(certs: Arc<dyn Certificates>, config: TunnelConfig) -> Rc<Self> {
        Rc::new_cyclic(|me| Self {
            certs,
            config,
            pool: RefCell::default(),
            draining: Cell::new(false),
            active: Cell::new(0),
            quiet: Notify::new(),
            me: Weak::clone(me),
        })
    }

    /// Opens a stream: returns once the peer has said 200, that is, once the application there has taken the
    /// connection. A pooled connection that turns out to be dead is replaced; the application has seen nothing.
    /// Cancel safe: nothing is left behind.
    ///
    /// # Errors
    /// See [`TunnelError`]; nothing of the payload was sent.
    pub async fn open(&self, request: &TunnelRequest) -> Result<TunnelStream, TunnelError> {
        let me = self.me.upgrade().ok_or(TunnelError::Draining)?;
        if self.draining.get() {
            return Err(TunnelError::Draining);
        }
        let key = Key {
            source: request.source.identity.clone(),
            source_uid: Arc::clone(&request.source.uid),
            peer: request.peer.clone(),
            addr: SocketAddr::new(request.target.ip().to_canonical(), self.config.port),
        };
        let mut attempt = 1;
        loop {
            // Boxed: the caller's task lives as long as the stream and must not have the size of a handshake.
            match Box::pin(self.attempt(&me, request, &key)).await {
                Ok(stream) => return Ok(stream),
                Err(Failed { stale: true, error }) if attempt < MAX_ATTEMPTS => {
                    tracing::debug!(to = %key.addr, error = %error, "tunnel connection had ended before the stream");
                    attempt += 1;
                }
                Err(Failed { error, .. }) => return Err(error),
            }
        }
    }

    async fn attempt(
        &self,
        me: &Rc<Self>,
        request: &TunnelRequest,
        key: &Key,
    ) -> Result<TunnelStream, Failed> {
        if let Some(stream) = self.on_pooled(me, request, key).await? {
            return Ok(stream);
        }
        let (form, failures, lock) = self.pool.borrow_mut().dialing(key);
        let full = form == Some(Form::Native) && self.pool.borrow().shares(key, self.config.native_per_peer);
        let mut guard = None;
        if form != Some(Form::Native) || full {
            // One handshake at a time towards a peer whose connections are shared, or may turn out to be.
            let waited = lock.lock().await;
            let (form, failed_since, _) = self.pool.borrow_mut().dialing(key);
            if let Some(stream) = self.on_pooled(me, request, key).await? {
                return Ok(stream);
            }
            // Behind a failed dial nobody waits in line for another timeout.
            if (form != Some(Form::Native) || full) && failed_since == failures {
                guard = Some(waited);
            }
        }
        let fresh = |error| Failed { error, stale: false };
        let offer = if full || !self.config.native {
            Offer::Hbone
        } else {
            Offer::Both
        };
        // Taken before the handshake, so that a burst of dials cannot exceed the limit together.
        let slot = (offer == Offer::Both).then(|| self.pool.borrow_mut().native_slot(key));
        let dialed = dial(request, key.addr, &*self.certs, &self.config, offer).await;
        let form = dialed.as_ref().ok().map(|dialed| match dialed {
            // A connection to be shared says nothing about what else the peer speaks.
            Dialed::Hbone(..) if !full => Form::Hbone,
            Dialed::Hbone(..) | Dialed::Native(_) => Form::Native,
        });
        self.pool.borrow_mut().dialed(key, form);
        match dialed.map_err(fresh)? {
            Dialed::Native(mut conn) => {
                conn.slot = slot;
                drop(guard);
                self.on_native(me, request, key, conn, false).await
            }
            Dialed::Hbone(tls, not_after) => {
                let conn = HboneConn::start(*tls, not_after, &self.config)
                    .await
                    .map_err(|error| {
                        fresh(TunnelError::Reset(io::Error::new(
                            io::ErrorKind::ConnectionReset,
                            error,
                        )))
                    })?;
                let place = conn.place();
                if !self.draining.get() {
                    self.pool.borrow_mut().put_hbone(key, conn);
                }
                drop(guard);
                self.on_hbone(me, request, place, false).await
            }
        }
    }

    async fn on_pooled(
        &self,
        me: &Rc<Self>,
        request: &TunnelRequest,
        key: &Key,
    ) -> Result<Option<TunnelStream>, Failed> {
        let now = unix_now();
        let native = self.pool.borrow_mut().take_native(key, now);
        if let Some(conn) = native {
            return self.on_native(me, request, key, conn, true).await.map(Some);
        }
        if !self.pool.borrow().shares(key, self.config.native_per_peer) {
            return Ok(None);
        }
        let place = self.pool.borrow_mut().take_hbone(key, now);
        match place {
            Some(place) => self.on_hbone(me, request, place, true).await.map(Some),
            None => Ok(None),
        }
    }

    async fn on_hbone(
        &self,
        me: &Rc<Self>,
        request: &TunnelRequest,
        place: Place,
        reused: bool,
    ) -> Result<TunnelStream, Failed> {
        let conn = place.connection();
        let not_after = conn.not_after;
        let opening = place.open(request, &self.config, Active::new(Rc::clone(me)));
        match self.in_time(opening).await {
            Ok((stream, baggage)) => {
                Ok(TunnelStream::hbone(stream, request.peer.clone(), baggage, reused).until(not_after))
            }
            Err(error) => {
                // A reset of the stream alone is an answer; so is the end of a fresh connection, but for GOAWAY.
                let ended = conn.went_away() || (reused && conn.is_gone());
                Err(Failed {
                    stale: ended && matches!(error, TunnelError::Reset(_)),
                    error,
                })
            }
        }
    }

    async fn on_native(
        &self,
        me: &Rc<Self>,
        request: &TunnelRequest,
        key: &Key,
        mut conn: Box<NativeConn>,
        reused: bool,
    ) -> Result<TunnelStream, Failed> {
        let active = Active::new(Rc::clone(me));
        let head = Head {
            kind: request.kind,
            early: false,
            target: request.target,
            client: request.client,
            host: request.host.as_deref().unwrap_or_default().to_owned(),
            baggage: Baggage::of(&request.source, &self.config.cluster).encode(),
        };
        let asking = async {
            conn.tls.write_all(&head.encode()).await?;
            conn.tls.flush().await?;
            read_reply(&mut conn.tls).await
        };
        let asking = async { asking.await.map_err(|error| lost(error, key.addr)) };
        let (status, mut text) = match self.in_time(asking).await {
            Ok(reply) => reply,
            Err(error) => {
                return Err(Failed {
                    stale: reused && matches!(error, TunnelError::Reset(_)),
                    error,
                });
            }
        };
        let give_back = {
            let (me, key) = (Rc::downgrade(me), key.clone());
            move |mut conn: Box<NativeConn>| {
                if let Some(me) = me.upgrade().filter(|me| !me.draining.get()) {
                    conn.idle_since = Instant::now();
                    me.pool
                        .borrow_mut()
                        .put_native(&key, conn, me.config.idle_per_peer);
                }
            }
        };
        if status != 200 {
            give_back(conn);
            let cut = text.floor_char_boundary(MAX_REASON);
            text.truncate(cut);
            return Err(Failed {
                error: TunnelError::Refused { status, reason: text },
                stale: false,
            });
        }
        let not_after = conn.not_after;
        let stream = match request.kind {
            TunnelKind::Tcp => NativeStream::chunked(conn, give_back),
            TunnelKind::Http1 | TunnelKind::Http2 => NativeStream::raw(conn),
        };
        let baggage = Some(Baggage::parse(&text));
        Ok(
            TunnelStream::native(stream.guarded(active), request.peer.clone(), baggage, reused)
                .until(not_after),
        )
    }

    async fn in_time<T>(
        &self,
        opening: impl Future<Output = Result<T, TunnelError>>,
    ) -> Result<T, TunnelError> {
        let after = self.config.reply_timeout;
        tokio::time::timeout(after, opening)
            .await
            .map_err(|_| TunnelError::ReplyTimeout { after })?
    }

    /// Closes connections that have had no stream for the idle time, and those that peers have closed. To be called
    /// every few seconds.
    pub fn close_idle(&self, now: Instant) {
        self.pool.borrow_mut().close_idle(now, self.config.idle_timeout);
    }

    /// Closes what is kept for source pods whose uid `keep` refuses: they have left this node or the mesh. Their
    /// streams that still run keep their connections.
    pub fn retain_sources(&self, keep: impl Fn(&str) -> bool) {
        self.pool.borrow_mut().retain_sources(keep);
    }

    /// What is held now.
    #[must_use]
    pub fn pool_stats(&self) -> PoolStats {
        let (native_idle, hbone_connections) = self.pool.borrow().counts();
        PoolStats {
            native_idle,
            hbone_connections,
            active_streams: self.active.get(),
        }
    }

    /// Opens nothing more, closes what is idle, and waits until the last stream has been dropped. The caller has the
    /// deadline. Cancel safe.
    pub async fn drain(&self) {
        self.draining.set(true);
        self.pool.borrow_mut().clear();
        while self.active.get() > 0 {
            self.quiet.notified().await;
        }
    }
}

/// Failure before the answer. With TLS 1.3 a server's refusal of our certificate arrives only here.
fn lost(error: io::Error, to: SocketAddr) -> TunnelError {
    if error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()) {
        return TunnelError::Handshake { to, source: error };
    }
    if error.kind() == io::ErrorKind::InvalidData {
        return TunnelError::Protocol("malformed reply");
    }
    TunnelError::Reset(error)
}

/// Seconds since the Unix epoch, as certificates count.
pub(in super::super) fn unix_now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
