//! Where the files of network namespaces are, seen from the agent.

use nix::sys::statfs::{FsType, statfs};
use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// `NSFS_MAGIC` of linux/magic.h.
const NSFS: FsType = FsType(0x6e73_6673);

/// Device and inode of a namespace: its name as long as it lives, the same in every mount namespace.
pub type NetnsId = (u64, u64);

/// The directories in which container runtimes pin pods' network namespaces.
///
/// A namespace has several paths (`/run` and `/var/run`, through a mount of the pod's or through the node's root). The
/// same one is given every time, however it was asked for: a pod whose path changes is another pod.
#[derive(Clone, Debug)]
pub struct NetnsFiles {
    host_root: PathBuf,
    dirs: Vec<PathBuf>,
}

impl NetnsFiles {
    /// `host_root` is the node's root directory seen from here: `/proc/1/root` in a container with the node's PID
    /// namespace, which takes CAP_SYS_PTRACE (proc_pid_root(5)).
    #[must_use]
    pub fn new(host_root: &Path) -> Self {
        let below = |root: &Path| ["run/netns", "var/run/netns"].map(|dir| root.join(dir));
        Self {
            host_root: host_root.to_owned(),
            dirs: [below(Path::new("/")), below(host_root)].concat(),
        }
    }

    /// The file of a namespace whose path on the node is `path`, if it is there and a namespace.
    #[must_use]
    pub fn by_path(&self, path: &Path) -> Option<Arc<str>> {
        let pinned = path.parent().is_some_and(|dir| dir.ends_with("run/netns"));
        let name = path.file_name()?;
        let relative = path.strip_prefix("/").ok()?;
        let in_dirs = self.dirs.iter().filter(|_| pinned).map(|dir| dir.join(name));
        in_dirs
            .chain([path.to_owned(), self.host_root.join(relative)])
            .find(|path| is_namespace(path))
            .and_then(|path| path.to_str().map(Arc::from))
    }

    /// All pinned namespaces.
    #[must_use]
    pub fn pinned(&self) -> HashMap<NetnsId, Arc<str>> {
        let mut found = HashMap::new();
        for entry in self
            .dirs
            .iter()
            .filter_map(|dir| fs::read_dir(dir).ok())
            .flatten()
            .flatten()
        {
            let path = entry.path();
            if let (Ok(id), Some(path)) = (netns_id(&path), path.to_str()) {
                // The first directory wins, as in `by_path`.
                found.entry(id).or_insert_with(|| path.into());
            }
        }
        found
    }
}

/// Device and inode of the namespace that `path` leads to.
///
/// # Errors
/// As stat(2).
pub fn netns_id(path: &Path) -> std::io::Result<NetnsId> {
    fs::metadata(path).map(|file| (file.dev(), file.ino()))
}

/// A pin's file is there before and after the namespace is: only the mount on it counts.
fn is_namespace(path: &Path) -> bool {
    statfs(path).is_ok_and(|stat| stat.filesystem_type() == NSFS)
}
