//! Opens and closes the ports that the snapshot says.

use crate::contract::PodHandle;
use crate::errors::chain;
use crate::proxy::Proxy;
use crate::sys::{listen_any, listen_at};
use mesh_core::model::gateway::{Bind, Edge};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// The ports that are open.
pub(super) struct Ports {
    proxy: Arc<Proxy>,
    handle: Arc<PodHandle>,
    drain: Duration,
    open: BTreeSet<Bind>,
    /// Those that could not be opened, and why: said once.
    failed: BTreeMap<Bind, String>,
}

impl Ports {
    pub(super) const fn new(proxy: Arc<Proxy>, handle: Arc<PodHandle>, drain: Duration) -> Self {
        Self {
            proxy,
            handle,
            drain,
            open: BTreeSet::new(),
            failed: BTreeMap::new(),
        }
    }

    /// Whether a port is open.
    pub(super) fn is_open(&self, bind: Bind) -> bool {
        self.open.contains(&bind)
    }

    /// Why a port could not be opened.
    pub(super) fn failure(&self, bind: Bind) -> Option<&str> {
        self.failed.get(&bind).map(String::as_str)
    }

    /// Opens what is new, and tries again what failed; closes what is not served any more.
    pub(super) fn follow(&mut self, edge: &Edge) {
        let gone: Vec<Bind> = self
            .open
            .iter()
            .filter(|bind| !edge.ports.contains_key(bind))
            .copied()
            .collect();
        for bind in gone {
            self.open.remove(&bind);
            self.proxy.unlisten(bind, self.drain);
            tracing::info!(port = bind.port, "port closed");
        }
        self.failed.retain(|bind, _| edge.ports.contains_key(bind));
        for bind in edge.ports.keys() {
            if self.open.contains(bind) {
                continue;
            }
            match self.open(*bind) {
                Ok(()) => {
                    self.open.insert(*bind);
                    self.failed.remove(bind);
                    tracing::info!(port = bind.port, "port open");
                }
                Err(reason) if self.failed.get(bind) == Some(&reason) => {}
                Err(reason) => {
                    tracing::error!(port = bind.port, reason, "port cannot be opened");
                    self.failed.insert(*bind, reason);
                }
            }
        }
    }

    fn open(&self, bind: Bind) -> Result<(), String> {
        let socket = match bind.address {
            None => listen_any(bind.port, 0),
            Some(ip) => listen_at(SocketAddr::new(ip, bind.port)),
        };
        let socket = socket.map_err(|error| error.to_string())?;
        self.proxy
            .listen(&self.handle, bind, socket)
            .map_err(|error| chain(&error))
    }
}
