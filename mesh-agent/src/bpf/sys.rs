//! The `bpf(2)` calls that aya 0.14 does not offer: opening a pinned link, replacing its program, asking what it is
//! attached to.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

const BPF_OBJ_GET: libc::c_int = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const BPF_LINK_UPDATE: libc::c_int = 29;

fn bpf<T>(command: libc::c_int, attr: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: `attr` is a `repr(C)` prefix of `union bpf_attr` of the size given; the kernel treats the rest as zero.
    let rc = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    if rc < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(rc)
    }
}

/// Opens a pinned link, map or program.
///
/// # Errors
/// `ENOENT` if there is no pin.
pub(super) fn obj_get(path: &Path) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Attr {
        pathname: u64,
        bpf_fd: u32,
        file_flags: u32,
    }
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = Attr {
        pathname: path.as_ptr() as u64,
        bpf_fd: 0,
        file_flags: 0,
    };
    let fd = bpf(BPF_OBJ_GET, &mut attr)?;
    // SAFETY: the kernel returned a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(i32::try_from(fd).map_err(io::Error::other)?) })
}

/// Replaces the program of a link in one step.
///
/// # Errors
/// `ENOLINK` if what it was attached to is gone.
pub(super) fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    #[repr(C)]
    struct Attr {
        link_fd: u32,
        new_prog_fd: u32,
        flags: u32,
        old_prog_fd: u32,
    }
    let mut attr = Attr {
        link_fd: link.as_raw_fd().unsigned_abs(),
        new_prog_fd: program.as_raw_fd().unsigned_abs(),
        flags: 0,
        old_prog_fd: 0,
    };
    bpf(BPF_LINK_UPDATE, &mut attr).map(drop)
}

/// What a link is attached to (`struct bpf_link_info`): the cgroup's id or the namespace's inode.
///
/// # Errors
/// The descriptor is no link.
pub(super) fn link_target(link: BorrowedFd<'_>) -> io::Result<u64> {
    const LINK_TYPE_CGROUP: u32 = 3;
    const LINK_TYPE_NETNS: u32 = 5;
    #[repr(C)]
    #[derive(Default)]
    struct Info {
        kind: u32,
        id: u32,
        prog_id: u32,
        pad: u32,
        // The union: `cgroup.cgroup_id` is a u64, `netns.netns_ino` a u32 at the same place.
        target: [u32; 2],
        rest: [u64; 8],
    }
    #[repr(C)]
    struct Attr {
        bpf_fd: u32,
        info_len: u32,
        info: u64,
    }
    let mut info = Info::default();
    let mut attr = Attr {
        bpf_fd: link.as_raw_fd().unsigned_abs(),
        info_len: u32::try_from(size_of::<Info>()).map_err(io::Error::other)?,
        info: (&raw mut info) as u64,
    };
    bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr)?;
    match info.kind {
        LINK_TYPE_CGROUP => Ok(u64::from(info.target[0]) | (u64::from(info.target[1]) << 32)),
        LINK_TYPE_NETNS => Ok(u64::from(info.target[0])),
        other => Err(io::Error::other(format!("link of unexpected type {other}"))),
    }
}

/// CLOCK_MONOTONIC in nanoseconds: what `bpf_ktime_get_ns` returns in the programs.
pub(super) fn monotonic_ns() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
    now.map_or(0, |t| {
        t.tv_sec().unsigned_abs() * 1_000_000_000 + t.tv_nsec().unsigned_abs()
    })
}
