//! Where the pods' cgroup is, and the agent's own place in it.
//!
//! `sock_ops` sees a socket by the cgroup of the process that made it, and the agent's sockets are half of every captured
//! connection. So the agent must live below the cgroup that the hooks are attached to, as a DaemonSet's pod does by
//! itself.

use super::BpfError;
use std::fs;
use std::path::{Path, PathBuf};

/// Directory that an agent outside of the pods' cgroup makes for itself below it.
pub const AGENT_CGROUP: &str = "heddle-agent";

/// The cgroup v2 mount point: `/sys/fs/cgroup`, or `/sys/fs/cgroup/unified` on a hybrid host. `None` without cgroup v2.
#[must_use]
pub fn cgroup2_mount() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let (_, path, kind) = (fields.next()?, fields.next()?, fields.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(path))
    })
}

/// The cgroup that holds all pods of this node, below the mount: the names that kubelet's two drivers and kind use. Falls
/// back to the mount itself, where other programs attach as well.
#[must_use]
pub fn pods_cgroup(mount: &Path) -> PathBuf {
    let known = [
        "kubepods.slice",
        "kubepods",
        "kubelet.slice/kubelet-kubepods.slice",
        "kubelet/kubepods",
    ];
    let found = known
        .iter()
        .map(|name| mount.join(name))
        .find(|path| path.is_dir());
    found.unwrap_or_else(|| {
        tracing::warn!(cgroup = %mount.display(), "no pods' cgroup found: attaching to the root of cgroup v2");
        mount.to_owned()
    })
}

/// Whether a path is a directory of the cgroup v2 tree.
pub(super) fn check(cgroup: &Path) -> Result<(), BpfError> {
    let stat = nix::sys::statfs::statfs(cgroup)
        .map_err(|error| BpfError::io(format!("cgroup {}", cgroup.display()))(error.into()))?;
    let ours = stat.filesystem_type() == nix::sys::statfs::CGROUP2_SUPER_MAGIC && cgroup.is_dir();
    if ours {
        Ok(())
    } else {
        Err(BpfError::NotCgroup2(cgroup.to_owned()))
    }
}

/// Removes the directory that [`join`] made, if it did. An agent that has just ended is in it for a moment longer.
///
/// # Errors
/// Another process lives there.
pub fn remove_agent_cgroup(cgroup: &Path) -> std::io::Result<bool> {
    let home = cgroup.join(AGENT_CGROUP);
    for _ in 0..50 {
        match fs::remove_dir(&home) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
            Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy => {
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
            other => return other.map(|()| true),
        }
    }
    fs::remove_dir(&home).map(|()| true)
}

/// Whether this process has a cgroup namespace of its own, as containers on cgroup v2 have: its path says nothing then,
/// and the container is a pod's.
fn in_a_container() -> bool {
    let namespace = |process: &str| fs::read_link(format!("/proc/{process}/ns/cgroup")).ok();
    matches!((namespace("self"), namespace("1")), (Some(own), Some(node)) if own != node)
}

/// Moves this process below `cgroup` unless it is there already.
pub(super) fn join(cgroup: &Path) -> Result<(), BpfError> {
    let mount = cgroup2_mount().unwrap_or_default();
    let own = fs::read_to_string("/proc/self/cgroup").map_err(BpfError::io("read /proc/self/cgroup"))?;
    let own = own
        .lines()
        .find_map(|line| line.strip_prefix("0::/"))
        .unwrap_or_default();
    if mount.join(own).starts_with(cgroup) || in_a_container() {
        return Ok(());
    }
    let home = cgroup.join(AGENT_CGROUP);
    fs::create_dir_all(&home).map_err(BpfError::io(format!("create {}", home.display())))?;
    let procs = home.join("cgroup.procs");
    fs::write(&procs, std::process::id().to_string())
        .map_err(BpfError::io(format!("join {}", home.display())))
}
