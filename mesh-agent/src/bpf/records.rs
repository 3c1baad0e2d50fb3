//! Socket storage, read and written by file descriptor.

use super::BpfError;
use crate::contract::SocketRecords;
use aya::Ebpf;
use aya::maps::{Map, MapData, MapError, SkStorage};
use mesh_common::SocketRecord;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

/// The `SOCKETS` map.
pub struct Records {
    map: Map,
}

impl Records {
    pub(super) fn open(ebpf: &mut Ebpf) -> Result<Self, BpfError> {
        let map = ebpf.take_map(NAME).ok_or(BpfError::Missing(NAME))?;
        Self { map }.checked()
    }

    /// Settles once that key and value have the sizes that the calls below rely on.
    fn checked(self) -> Result<Self, BpfError> {
        self.storage()
            .map_err(|source| BpfError::Map { name: NAME, source })?;
        Ok(self)
    }

    fn storage(&self) -> Result<SkStorage<&MapData, SocketRecord>, MapError> {
        (&self.map).try_into()
    }
}

const NAME: &str = "SOCKETS";

impl SocketRecords for Records {
    fn record(&self, socket: BorrowedFd<'_>) -> io::Result<SocketRecord> {
        self.storage()
            .and_then(|storage| storage.get(&socket, 0))
            .map_err(|error| match error {
                MapError::KeyNotFound => {
                    io::Error::new(io::ErrorKind::NotFound, "the kernel has no record of this socket")
                }
                other => io::Error::other(other),
            })
    }

    fn announce(&self, socket: BorrowedFd<'_>, record: &SocketRecord) -> io::Result<()> {
        let Map::SkStorage(data) = &self.map else {
            return Err(io::Error::other("SOCKETS is no socket storage"));
        };
        update_elem(data.fd().as_fd(), socket, record)
    }
}

/// `BPF_MAP_UPDATE_ELEM` by shared reference: aya wants `&mut` for it, but the kernel serialises updates itself, and
/// every worker announces its own sockets.
fn update_elem(map: BorrowedFd<'_>, socket: BorrowedFd<'_>, record: &SocketRecord) -> io::Result<()> {
    const BPF_MAP_UPDATE_ELEM: libc::c_int = 2;
    #[repr(C)]
    struct Attr {
        map_fd: u32,
        pad: u32,
        key: u64,
        value: u64,
        flags: u64,
    }
    let key = socket.as_raw_fd();
    let attr = Attr {
        map_fd: map.as_raw_fd().unsigned_abs(),
        pad: 0,
        key: (&raw const key) as u64,
        value: std::ptr::from_ref(record) as u64,
        flags: 0,
    };
    // SAFETY: key and value outlive the call and have the sizes that the map was created with.
    let rc = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_MAP_UPDATE_ELEM,
            &raw const attr,
            size_of::<Attr>(),
        )
    };
    if rc == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
