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
