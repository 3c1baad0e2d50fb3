//! Which functions of the kernel and the machine the data path needs, tested by using them: never by version number.

use super::load::{CGROUP_HOOKS, OBJECT, SOCK_OPS, STEER, load_object, program};
use super::{BpfError, cgroup2_mount};
use crate::errors::chain;
use crate::sys::NetNs;
use aya::programs::{CgroupSockAddr, SkLookup, SockOps};
use std::path::Path;

/// One row of `heddle check`.
#[derive(Clone, Debug)]
pub struct Feature {
    /// What it is.
    pub name: String,
    /// Whether it is there; `Err` holds the reason in the kernel's words.
    pub present: Result<(), String>,
    /// What does not work without it, and what to do.
    pub without: &'static str,
    /// Whether the agent cannot run without it.
    pub required: bool,
}

/// Tests everything that the agent needs of this kernel and this machine. Attaches nothing, pins nothing.
#[must_use]
pub fn check_features() -> Vec<Feature> {
    let mut rows = vec![
        row(
            "root (CAP_SYS_ADMIN, CAP_NET_ADMIN, CAP_BPF)",
            root(),
            "nothing can be loaded: run as root",
            true,
        ),
        row(
            "bpf file system on /sys/fs/bpf",
            bpffs(),
            "programs would not outlive the agent; it tries to mount it: mount -t bpf bpf /sys/fs/bpf",
            false,
        ),
        row(
            "cgroup v2",
            cgroup2_mount()
                .map(drop)
                .ok_or_else(|| "no cgroup2 mount in /proc/self/mounts".to_owned()),
            "connections cannot be captured: mount cgroup2 (any mount point)",
            true,
        ),
        row(
            "SO_NETNS_COOKIE (Linux 5.14)",
            NetNs::current()
                .and_then(|netns| netns.cookie())
                .map(drop)
                .map_err(|error| error.to_string()),
            "pods cannot be told apart",
            true,
        ),
        row(
            "entering network namespaces (setns)",
            NetNs::current()
                .and_then(|netns| netns.run(|| Ok(())))
                .map_err(|error| error.to_string()),
            "listeners cannot be opened inside pods: CAP_SYS_ADMIN",
            true,
        ),
        row(
            "JIT compiler",
            jit(),
            "programs are interpreted: correct, but slower",
            false,
        ),
    ];
    rows.extend(programs());
    rows
}

fn row(name: &str, present: Result<(), String>, without: &'static str, required: bool) -> Feature {
    Feature {
        name: name.to_owned(),
        present,
        without,
        required,
    }
}

fn root() -> Result<(), String> {
    if nix::unistd::geteuid().is_root() {
        Ok(())
    } else {
        Err("not root".to_owned())
    }
}

fn bpffs() -> Result<(), String> {
    super::load::on_bpffs(Path::new(super::load::BPF_FS)).map_err(|error| error.to_string())
}

fn jit() -> Result<(), String> {
    let path = "/proc/sys/net/core/bpf_jit_enable";
    match std::fs::read_to_string(path) {
        Ok(value) if value.trim() == "0" => Err(format!("{path} is 0")),
        // A kernel with CONFIG_BPF_JIT_ALWAYS_ON may hide the switch.
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Creates the maps and has the verifier look at each program, one row each.
fn programs() -> Vec<Feature> {
    const LOST: &str = "this hook is part of every captured connection";
    if OBJECT.is_empty() {
        return vec![row(
            "BPF object",
            Err(BpfError::NoObject.to_string()),
            "nothing can be captured",
            true,
        )];
    }
    let mut ebpf = match load_object(None) {
        Ok(ebpf) => ebpf,
        Err(error) => {
            return vec![row(
                "BPF maps",
                Err(chain(&error)),
                "nothing can be captured",
                true,
            )];
        }
    };
    let mut rows = vec![row(
        "BPF maps: hash, sockhash, socket storage, ring buffer",
        Ok(()),
        "",
        true,
    )];
    for name in CGROUP_HOOKS {
        let loaded = program(&mut ebpf, name).and_then(|hook: &mut CgroupSockAddr| {
            hook.load().map_err(|source| BpfError::Program { name, source })
        });
        rows.push(hook_row(name, loaded, LOST));
    }
    let loaded = program(&mut ebpf, SOCK_OPS).and_then(|hook: &mut SockOps| {
        hook.load().map_err(|source| BpfError::Program {
            name: SOCK_OPS,
            source,
        })
    });
    rows.push(hook_row(SOCK_OPS, loaded, LOST));
    let loaded = program(&mut ebpf, STEER).and_then(|hook: &mut SkLookup| {
        hook.load()
            .map_err(|source| BpfError::Program { name: STEER, source })
    });
    rows.push(hook_row(STEER, loaded, LOST));
    rows
}

fn hook_row(name: &str, loaded: Result<(), BpfError>, without: &'static str) -> Feature {
    row(
        &format!("BPF program {name}"),
        loaded.map_err(|error| chain(&error)),
        without,
        true,
    )
}
