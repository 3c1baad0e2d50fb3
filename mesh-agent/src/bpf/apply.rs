//! Carries out the operations of a data path plan, and reads back what the maps hold.

use super::Datapath;
use aya::maps::MapError;
use mesh_core::datapath::{Op, Plan};

/// One operation that the kernel refused.
#[derive(Debug, thiserror::Error)]
#[error("{op:?}")]
pub struct ApplyError {
    /// Which.
    pub op: Box<Op>,
    /// The kernel's words.
    #[source]
    pub source: MapError,
}

impl Datapath {
    /// What the config maps hold now: the starting point of a diff after a restart.
    #[must_use]
    pub fn contents(&self) -> Plan {
        let m = &self.maps;
        Plan {
            workloads: m.workloads.iter().flatten().collect(),
            local_pods: m.local_pods.iter().flatten().collect(),
            probe_ports: m.probe_ports.keys().flatten().collect(),
            node_addrs: m.node_addrs.keys().flatten().collect(),
            services: m.services.iter().flatten().collect(),
            backends: m.backends.iter().flatten().collect(),
            ..Plan::default()
        }
    }

    /// Carries out `ops` in order and stops at the first one refused, so that nothing later relies on it.
    ///
    /// # Errors
    /// The refused operation. What was done before it stands; the next plan starts from [`Datapath::contents`].
    pub fn apply(&mut self, ops: &[Op]) -> Result<(), ApplyError> {
        for op in ops {
            self.apply_one(op).map_err(|source| ApplyError {
                op: Box::new(op.clone()),
                source,
            })?;
        }
        Ok(())
    }

    fn apply_one(&mut self, op: &Op) -> Result<(), MapError> {
        let m = &mut self.maps;
        match op {
            Op::PutWorkload(key, value) => m.workloads.insert(key, value, 0),
            Op::PutLocalPod(key, value) => m.local_pods.insert(key, value, 0),
            Op::PutProbePort(key) => m.probe_ports.insert(key, 1, 0),
            Op::PutNodeAddr(key) => m.node_addrs.insert(key, 1, 0),
            Op::PutService(key, value) => m.services.insert(key, value, 0),
            Op::PutBackend(key, value) => m.backends.insert(key, value, 0),
            Op::DeleteWorkload(key) => absent_is_fine(m.workloads.remove(key)),
            Op::DeleteLocalPod(key) => absent_is_fine(m.local_pods.remove(key)),
            Op::DeleteProbePort(key) => absent_is_fine(m.probe_ports.remove(key)),
            Op::DeleteNodeAddr(key) => absent_is_fine(m.node_addrs.remove(key)),
            Op::DeleteService(key) => absent_is_fine(m.services.remove(key)),
            Op::DeleteBackend(key) => absent_is_fine(m.backends.remove(key)),
        }
    }
}

fn absent_is_fine(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
