//! What BPF objects the kernel holds, by id: for seeing that none stays behind.

use std::collections::BTreeSet;

/// Ids of the programs, maps and links that are loaded now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BpfObjects {
    /// Programs.
    pub programs: BTreeSet<u32>,
    /// Maps.
    pub maps: BTreeSet<u32>,
    /// Links.
    pub links: BTreeSet<u32>,
}

// enum bpf_cmd, linux/bpf.h.
const PROG_GET_NEXT_ID: libc::c_int = 11;
const MAP_GET_NEXT_ID: libc::c_int = 12;
const LINK_GET_NEXT_ID: libc::c_int = 31;

impl BpfObjects {
    /// Looks. Needs CAP_SYS_ADMIN; without it nothing is seen.
    #[must_use]
    pub fn now() -> Self {
        Self {
            programs: ids(PROG_GET_NEXT_ID),
            maps: ids(MAP_GET_NEXT_ID),
            links: ids(LINK_GET_NEXT_ID),
        }
    }

    /// What a process has descriptors of.
    ///
    /// # Errors
    /// It has ended.
    pub fn held_by(pid: i32) -> std::io::Result<Self> {
        let mut held = Self::default();
        for entry in std::fs::read_dir(format!("/proc/{pid}/fdinfo"))?.flatten() {
            // A descriptor may close in between.
            let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
            for line in text.lines() {
                let Some((key, value)) = line.split_once(":\t") else {
                    continue;
                };
                let ids = match key {
                    "prog_id" => &mut held.programs,
                    "map_id" => &mut held.maps,
                    "link_id" => &mut held.links,
                    _ => continue,
                };
                ids.extend(value.trim().parse::<u32>());
            }
        }
        Ok(held)
    }

    /// How many of `self` are still loaded: programs, maps, links.
    #[must_use]
    pub fn alive(&self) -> [usize; 3] {
        let now = Self::now();
        [
            self.programs.intersection(&now.programs).count(),
            self.maps.intersection(&now.maps).count(),
            self.links.intersection(&now.links).count(),
        ]
    }

    /// How many programs, maps and links are here that were not in `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> [usize; 3] {
        [
            self.programs.difference(&earlier.programs).count(),
            self.maps.difference(&earlier.maps).count(),
            self.links.difference(&earlier.links).count(),
        ]
    }
}

fn ids(command: libc::c_int) -> BTreeSet<u32> {
    let mut found = BTreeSet::new();
    // start_id, next_id, open_flags: the part of union bpf_attr that these commands use.
    let mut attr = [0u32; 3];
    loop {
        // SAFETY: the pointer and the length describe `attr`, which the kernel reads and writes within that length.
        let rc = unsafe { libc::syscall(libc::SYS_bpf, command, attr.as_mut_ptr(), size_of_val(&attr)) };
        if rc != 0 {
            return found;
        }
        found.insert(attr[1]);
        attr[0] = attr[1];
    }
}

/// `enum bpf_attach_type` of the hooks on a cgroup, linux/bpf.h: `sock_ops`; connect, sendmsg, recvmsg and getpeername by family.
pub const CGROUP_HOOKS: [u32; 9] = [3, 10, 11, 14, 15, 19, 20, 29, 30];
/// As [`CGROUP_HOOKS`]: `sk_lookup` of a network namespace.
pub const SK_LOOKUP: u32 = 36;

/// Ids of the programs attached to a cgroup's directory or a network namespace's file.
///
/// # Errors
/// As `BPF_PROG_QUERY`.
pub fn attached(target: &std::fs::File, attach_type: u32) -> std::io::Result<Vec<u32>> {
    use std::os::fd::AsRawFd;
    const PROG_QUERY: libc::c_int = 16;
    #[repr(C)]
    struct Attr {
        target: u32,
        attach_type: u32,
        query_flags: u32,
        attach_flags: u32,
        ids: u64,
        count: u32,
        pad: u32,
    }
    let mut ids = [0u32; 64];
    let mut attr = Attr {
        target: target.as_raw_fd().unsigned_abs(),
        attach_type,
        query_flags: 0,
        attach_flags: 0,
        ids: ids.as_mut_ptr() as u64,
        count: 64,
        pad: 0,
    };
    // SAFETY: `attr` is a prefix of union bpf_attr, and `ids` has room for as many as `count` says.
    let rc = unsafe { libc::syscall(libc::SYS_bpf, PROG_QUERY, &raw mut attr, size_of::<Attr>()) };
    if rc != 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok(ids[..attr.count as usize].to_vec())
}
