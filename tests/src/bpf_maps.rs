//! What pinned BPF maps hold, in a form that two agents' maps can be compared in: without the numbers that an agent
//! gives out in the order of its life.

use anyhow::{Context, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CString;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

// enum bpf_cmd, linux/bpf.h.
const MAP_LOOKUP_ELEM: libc::c_int = 1;
const MAP_GET_NEXT_KEY: libc::c_int = 4;
const OBJ_GET: libc::c_int = 7;
const OBJ_GET_INFO_BY_FD: libc::c_int = 15;

type Bytes = Vec<u8>;

/// One service port: what it is but for its number, and its backends in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceEntry {
    /// Flags, count of backends, sum of weights as the map holds them.
    pub value: Bytes,
    /// The backends that it has in fact.
    pub backends: Vec<Bytes>,
}

/// The config maps below one pin directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// `SERVICES` with `BACKENDS`.
    pub services: BTreeMap<Bytes, ServiceEntry>,
    /// Backends of services that are not there.
    pub orphans: usize,
    /// `WORKLOADS` without the pods' numbers.
    pub workloads: BTreeMap<Bytes, Bytes>,
    /// `LOCAL_PODS` without the pods' numbers.
    pub local_pods: BTreeMap<Bytes, Bytes>,
    /// `NODE_ADDRS`.
    pub node_addrs: BTreeSet<Bytes>,
    /// Number of `PROBE_PORTS`.
    pub probe_ports: usize,
}

impl Contents {
    /// Reads the maps pinned in `bpf_dir`.
    ///
    /// # Errors
    /// There is none, or the kernel refuses.
    pub fn read(bpf_dir: &Path) -> Result<Self> {
        let map = |name: &str| PinnedMap::open(bpf_dir, name).map(|map| map.entries());
        let mut backends: BTreeMap<Bytes, Vec<Bytes>> = BTreeMap::new();
        // Keys are service number and place, so that each service's backends come in order.
        for (key, value) in map("BACKENDS")? {
            backends.entry(key[..4].to_vec()).or_default().push(value);
        }
        let mut services = BTreeMap::new();
        for (key, value) in map("SERVICES")? {
            let backends = backends.remove(&value[..4]).unwrap_or_default();
            services.insert(
                key,
                ServiceEntry {
                    value: value[4..].to_vec(),
                    backends,
                },
            );
        }
        let unnumbered = |name: &str| -> Result<BTreeMap<Bytes, Bytes>> {
            let entries = map(name)?.into_iter();
            Ok(entries.map(|(key, value)| (key, value[4..].to_vec())).collect())
        };
        Ok(Self {
            services,
            orphans: backends.values().map(Vec::len).sum(),
            workloads: unnumbered("WORKLOADS")?,
            local_pods: unnumbered("LOCAL_PODS")?,
            node_addrs: map("NODE_ADDRS")?.into_keys().collect(),
            probe_ports: map("PROBE_PORTS")?.len(),
        })
    }
}

/// A pinned map, open.
#[derive(Debug)]
pub struct PinnedMap {
    fd: OwnedFd,
    key_size: usize,
    value_size: usize,
}

impl PinnedMap {
    /// Opens the map that has this name in the object, whatever its layout.
    ///
    /// # Errors
    /// There is none in `bpf_dir`, or the kernel refuses.
    pub fn open(bpf_dir: &Path, name: &str) -> Result<Self> {
        let pin = std::fs::read_dir(bpf_dir.join("maps"))?
            .flatten()
            .find(|entry| {
                let file = entry.file_name();
                let file = file.to_string_lossy();
                file.strip_prefix(name).is_some_and(|rest| rest.starts_with("-v"))
            })
            .with_context(|| format!("no pin of {name}"))?;
        let path = CString::new(pin.path().as_os_str().as_encoded_bytes())?;
        let fd = bpf(OBJ_GET, &mut [path.as_ptr() as u64, 0])?;
        // SAFETY: the kernel returned a new descriptor that nobody else owns.
        let fd = unsafe { OwnedFd::from_raw_fd(i32::try_from(fd)?) };
        // struct bpf_map_info: type, id, key_size, value_size, …
        let mut info = [0u32; 20];
        let size = u64::try_from(size_of_val(&info))?;
        let number = u64::from(fd.as_raw_fd().unsigned_abs());
        bpf(
            OBJ_GET_INFO_BY_FD,
            &mut [number | size << 32, info.as_mut_ptr() as u64],
        )?;
        Ok(Self {
            fd,
            key_size: info[2] as usize,
            value_size: info[3] as usize,
        })
    }

    /// The value under a key of the map's size, if there is one.
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        if key.len() != self.key_size {
            return None;
        }
        let mut value = vec![0u8; self.value_size];
        let mut attr = [self.number(), key.as_ptr() as u64, value.as_mut_ptr() as u64, 0];
        bpf(MAP_LOOKUP_ELEM, &mut attr).is_ok().then_some(value)
    }

    /// All entries.
    #[must_use]
    pub fn entries(&self) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let mut key = vec![0u8; self.key_size];
        let mut entries = BTreeMap::new();
        let mut previous: Option<Bytes> = None;
        loop {
            let from = previous.as_ref().map_or(0, |key| key.as_ptr() as u64);
            if bpf(
                MAP_GET_NEXT_KEY,
                &mut [self.number(), from, key.as_mut_ptr() as u64, 0],
            )
            .is_err()
            {
                return entries;
            }
            if let Some(value) = self.get(&key) {
                entries.insert(key.clone(), value);
            }
            previous = Some(key.clone());
        }
    }

    fn number(&self) -> u64 {
        u64::from(self.fd.as_raw_fd().unsigned_abs())
    }
}

fn bpf<const N: usize>(command: libc::c_int, attr: &mut [u64; N]) -> Result<libc::c_long> {
    // SAFETY: the words are the part of union bpf_attr that these commands use, and the pointers in them are to
    // buffers of the sizes that the map has.
    let rc = unsafe { libc::syscall(libc::SYS_bpf, command, attr.as_mut_ptr(), size_of_val(attr)) };
    if rc < 0 {
        return Err(std::io::Error::last_os_error().into());
    }
    Ok(rc)
}
