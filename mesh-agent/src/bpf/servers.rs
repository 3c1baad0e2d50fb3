//! The name servers that pods ask, as the programs noted them.

use super::BpfError;
use super::maps::take;
use crate::contract::NameServers;
use aya::Ebpf;
use aya::maps::{HashMap, MapData};
use mesh_common::maps::RESOLVERS_PER_POD;
use mesh_common::{Ip, ResolverKey};
use parking_lot::Mutex;
use std::net::IpAddr;

/// The `RESOLVERS` map. It is read once for each name server of a pod.
pub struct Servers(Mutex<HashMap<MapData, ResolverKey, Ip>>);

impl Servers {
    pub(super) fn open(ebpf: &mut Ebpf) -> Result<Self, BpfError> {
        Ok(Self(Mutex::new(take(ebpf, "RESOLVERS")?)))
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.lock().keys().count()
    }

    /// Removes those of one pod.
    pub fn remove(&self, cookie: u64) {
        let mut map = self.0.lock();
        for slot in 0..u32::from(RESOLVERS_PER_POD) {
            // Absent is what we want.
            let _ = map.remove(&ResolverKey { cookie, slot, pad: 0 });
        }
    }

    /// Removes those of every pod but these.
    pub fn retain(&self, stays: impl Fn(u64) -> bool) {
        let gone: Vec<u64> = {
            let map = self.0.lock();
            let cookies = map.keys().flatten().map(|key: ResolverKey| key.cookie);
            cookies.filter(|cookie| !stays(*cookie)).collect()
        };
        gone.into_iter().for_each(|cookie| self.remove(cookie));
    }
}

impl NameServers for Servers {
    fn server(&self, cookie: u64, slot: u32) -> Option<IpAddr> {
        let found = self.0.lock().get(&ResolverKey { cookie, slot, pad: 0 }, 0);
        found.ok().map(IpAddr::from)
    }
}
