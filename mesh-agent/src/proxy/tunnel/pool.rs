//! Connections kept for the next stream.

use super::hbone::client::{HboneConn, Place};
use super::native::{NativeConn, Slot};
use mesh_core::model::identity::SpiffeId;
use std::cell::Cell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;

/// Whose connections may carry whose streams. The source's uid is part of it: a later pod with the same address and
/// account is another network namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) source: SpiffeId,
    pub(super) source_uid: Arc<str>,
    pub(super) peer: SpiffeId,
    pub(super) addr: SocketAddr,
}

/// Wire form that the peer chose last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Native,
    Hbone,
}

#[derive(Default)]
#[allow(
    clippy::vec_box,
    reason = "streams hold connections boxed; moving them in and out must not copy 1.5 KiB"
)]
struct Entry {
    native: Vec<Box<NativeConn>>,
    hbone: Vec<Rc<HboneConn>>,
    form: Option<Form>,
    failures: u64,
    dialing: Rc<Mutex<()>>,
    /// Native connections alive, idle or not.
    native_open: Rc<Cell<usize>>,
}

/// Connections of one worker.
#[derive(Default)]
pub(super) struct Pool {
    entries: HashMap<Key, Entry>,
}

impl Pool {
    /// The native connection used last, if one is alive and its certificate is.
    pub(super) fn take_native(&mut self, key: &Key, now: u64) -> Option<Box<NativeConn>> {
        let entry = self.entries.get_mut(key)?;
        while let Some(mut conn) = entry.native.pop() {
            if conn.not_after > now && conn.is_quiet() {
                return Some(conn);
            }
        }
        None
    }

    /// Counts a fresh native connection for as long as it lives.
    pub(super) fn native_slot(&mut self, key: &Key) -> Slot {
        Slot::new(&self.entry(key).native_open)
    }

    /// Whether more streams to this peer should share connections: it speaks HBONE only, or has as many native
    /// connections as it may.
    pub(super) fn shares(&self, key: &Key, native_limit: usize) -> bool {
        let Some(entry) = self.entries.get(key) else {
            return false;
        };
        entry.form == Some(Form::Hbone) || entry.native_open.get() >= native_limit
    }

    /// Keeps a native connection, the newest `limit` of a key.
    pub(super) fn put_native(&mut self, key: &Key, conn: Box<NativeConn>, limit: usize) {
        let entry = self.entry(key);
        if limit == 0 {
            return;
        }
        if entry.native.len() >= limit {
            entry.native.remove(0);
        }
        entry.native.push(conn);
    }

    /// A place on an HBONE connection that has room; one that has had its last stream leaves the pool.
    pub(super) fn take_hbone(&mut self, key: &Key, now: u64) -> Option<Place> {
        let entry = self.entries.get_mut(key)?;
        entry
            .hbone
            .retain(|conn| !conn.is_spent() && conn.not_after > now);
        let conn = entry.hbone.iter().find(|conn| conn.has_room())?;
        let place = conn.place();
        entry.hbone.retain(|conn| !conn.is_spent());
        Some(place)
    }

    /// Adds a fresh HBONE connection.
    pub(super) fn put_hbone(&mut self, key: &Key, conn: Rc<HboneConn>) {
        self.entry(key).hbone.push(conn);
    }

    /// What the peer spoke last, how many dials failed so far, and the lock under which HBONE and first dials run.
    pub(super) fn dialing(&mut self, key: &Key) -> (Option<Form>, u64, Rc<Mutex<()>>) {
        let entry = self.entry(key);
        (entry.form, entry.failures, Rc::clone(&entry.dialing))
    }

    /// Records how a dial ended.
    pub(super) fn dialed(&mut self, key: &Key, form: Option<Form>) {
        let entry = self.entry(key);
        match form {
            Some(_) => entry.form = form,
            None => entry.failures += 1,
        }
    }

    fn entry(&mut self, key: &Key) -> &mut Entry {
        self.entries.entry(key.clone()).or_default()
    }

    /// Drops what has had no stream for `timeout`, what the peer has closed, and entries with nothing in them.
    pub(super) fn close_idle(&mut self, now: Instant, timeout: Duration) {
        let idle = |since: Instant| now.saturating_duration_since(since) >= timeout;
        self.entries.retain(|_, entry| {
            entry
                .native
                .retain_mut(|conn| !idle(conn.idle_since) && conn.is_quiet());
            entry
                .hbone
                .retain(|conn| !conn.is_gone() && !conn.idle_since().is_some_and(idle));
            !entry.native.is_empty()
                || !entry.hbone.is_empty()
                || entry.native_open.get() > 0
                || Rc::strong_count(&entry.dialing) > 1
        });
    }

    /// Drops what belongs to sources that `keep` refuses; streams that run keep their connections.
    pub(super) fn retain_sources(&mut self, keep: impl Fn(&str) -> bool) {
        self.entries.retain(|key, _| keep(&key.source_uid));
    }

    /// Forgets everything; streams that run keep their connections.
    pub(super) fn clear(&mut self) {
        self.entries.clear();
    }

    /// Idle native connections and pooled HBONE connections.
    pub(super) fn counts(&self) -> (usize, usize) {
        self.entries.values().fold((0, 0), |(native, hbone), entry| {
            (native + entry.native.len(), hbone + entry.hbone.len())
        })
    }
}
