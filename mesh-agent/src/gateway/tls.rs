//! Keeps the TLS configurations of the listeners what the snapshot and the files say.

use crate::contract::EdgeTls;
use crate::errors::chain;
use crate::tls::edge::server_config;
use mesh_core::model::gateway::{CredentialSource, Edge, ListenerOrigin, ServerTls, TlsMode};
use rustls::ServerConfig;
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

/// What every listener's configuration was made of, and what became of it.
pub(super) struct Terminations {
    published: EdgeTls,
    made: HashMap<ListenerOrigin, Made>,
}

struct Made {
    of: Arc<ServerTls>,
    /// Of the contents of the files that it names.
    files: u64,
    /// Or why there is none.
    config: Result<Arc<ServerConfig>, String>,
}

impl Terminations {
    pub(super) fn new(published: EdgeTls) -> Self {
        Self {
            published,
            made: HashMap::new(),
        }
    }

    /// Makes what is new or has changed. A listener whose certificate cannot be used serves nothing, and says why once.
    pub(super) fn follow(&mut self, edge: &Edge) {
        let before = std::mem::take(&mut self.made);
        self.made = wanted(edge)
            .map(|(origin, tls)| {
                let files = files(tls);
                let known = before
                    .get(origin)
                    .filter(|made| made.files == files && *made.of == **tls);
                let config = match known {
                    Some(made) => made.config.clone(),
                    None => make(origin, tls),
                };
                let made = Made {
                    of: Arc::clone(tls),
                    files,
                    config,
                };
                (origin.clone(), made)
            })
            .collect();
        let served = self.made.iter();
        let served = served.filter_map(|(origin, made)| Some((origin.clone(), made.config.clone().ok()?)));
        self.published.store(Arc::new(served.collect()));
    }

    /// Why a listener's TLS cannot be served.
    pub(super) fn failure(&self, origin: &ListenerOrigin) -> Option<&str> {
        let made = self.made.get(origin)?;
        made.config.as_ref().err().map(String::as_str)
    }

    /// As [`Terminations::follow`], if a listener reads files.
    pub(super) fn reread(&mut self, edge: &Edge) {
        if wanted(edge).any(|(_, tls)| sources(tls).any(|s| matches!(s, CredentialSource::File(_)))) {
            self.follow(edge);
        }
    }
}

fn wanted(edge: &Edge) -> impl Iterator<Item = (&ListenerOrigin, &Arc<ServerTls>)> {
    let listeners = edge.ports.values().flat_map(|port| &port.listeners);
    listeners
        .filter_map(|l| Some((&l.origin, l.tls.as_ref()?)))
        .filter(|(_, tls)| tls.mode != TlsMode::IstioMutual)
}

fn make(origin: &ListenerOrigin, tls: &ServerTls) -> Result<Arc<ServerConfig>, String> {
    match server_config(tls) {
        Ok(config) => {
            tracing::info!(listener = %origin, "certificate in use");
            Ok(Arc::new(config))
        }
        Err(error) => {
            let reason = chain(&error);
            tracing::error!(listener = %origin, reason, "listener serves nothing");
            Err(reason)
        }
    }
}

fn sources(tls: &ServerTls) -> impl Iterator<Item = &CredentialSource> {
    let own = tls.certificates.iter().flat_map(|c| [&c.certificate, &c.key]);
    own.chain(&tls.clients.authorities).chain(&tls.clients.revoked)
}

/// A fingerprint of the files; one that cannot be read counts as empty.
fn files(tls: &ServerTls) -> u64 {
    let mut hasher = DefaultHasher::new();
    for source in sources(tls) {
        if let CredentialSource::File(path) = source {
            std::fs::read(path).unwrap_or_default().hash(&mut hasher);
        }
    }
    hasher.finish()
}
