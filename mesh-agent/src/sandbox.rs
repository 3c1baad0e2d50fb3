//! Network namespaces of the pods that run already, found in `/proc`.
//!
//! The API server does not know them and the container runtimes' interfaces differ; what processes show is the same
//! everywhere. It takes the node's PID namespace, and CAP_SYS_PTRACE to look at the namespaces of others' processes
//! (proc_pid_ns(5)).

mod cgroup;

use crate::sys::{NetnsFiles, NetnsId, netns_id};
use cgroup::{PodCgroup, pod_cgroups};
use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why a pod's network namespace is not known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfound {
    /// No container of it.
    #[error("no process of the pod runs on this node, or none that this agent can see (hostPID)")]
    NoProcess,
    /// All containers are in the node's network namespace.
    #[error("it shares the node's network namespace")]
    HostNetwork,
    /// A process is there and its namespace cannot be looked at.
    #[error("cannot look at {path}: {reason}")]
    Unreadable {
        /// Below `/proc`.
        path: PathBuf,
        /// The system's answer; "permission denied" is a lack of CAP_SYS_PTRACE.
        reason: String,
    },
}

/// What a scan finds: by pod UID, the path of its network namespace.
pub type Found = HashMap<Arc<str>, Result<Arc<str>, Unfound>>;

/// Finds pods' network namespaces, and keeps those alive that have no file of their own.
#[derive(Debug)]
pub struct Scanner {
    proc_dir: PathBuf,
    files: Arc<NetnsFiles>,
    /// Namespaces without a pin, by pod: their path leads through these open files.
    held: HashMap<Arc<str>, Held>,
}

#[derive(Debug)]
struct Held {
    id: NetnsId,
    path: Arc<str>,
    /// Open for as long as `path` is in use.
    _file: File,
}

/// What one pod's processes show.
#[derive(Debug, Default)]
struct Sightings {
    /// One process for each namespace.
    namespaces: HashMap<NetnsId, Seen>,
    in_host_network: bool,
    unreadable: Option<Unfound>,
}

#[derive(Clone, Debug)]
struct Seen {
    pid: u32,
    /// Clock ticks after boot.
    started: u64,
}

impl Scanner {
    /// `proc_dir` is `/proc`.
    #[must_use]
    pub fn new(proc_dir: &Path, files: Arc<NetnsFiles>) -> Self {
        Self {
            proc_dir: proc_dir.to_owned(),
            files,
            held: HashMap::new(),
        }
    }

    /// Looks for the namespaces of the pods with these UIDs, in one pass over all processes of the node. Of a static pod
    /// the UID is the config hash (annotation `kubernetes.io/config.hash`), under which the kubelet runs it.
    ///
    /// # Errors
    /// The processes cannot be listed.
    pub fn scan(&mut self, uids: &[Arc<str>]) -> io::Result<Found> {
        let wanted: HashSet<&str> = uids.iter().map(|uid| &**uid).collect();
        let host = self.host_namespaces();
        let mut sightings: HashMap<String, Sightings> = HashMap::new();
        for entry in fs::read_dir(&self.proc_dir)?.flatten() {
            if let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) {
                self.look_at(pid, &wanted, &host, &mut sightings);
            }
        }
        let pinned = self.files.pinned();
        let nothing = Sightings::default();
        let path_of = |uid: &Arc<str>| {
            let seen = sightings.get(&**uid).unwrap_or(&nothing);
            (Arc::clone(uid), self.path_of(uid, seen, &pinned))
        };
        Ok(uids.iter().map(path_of).collect())
    }

    /// The pod is gone: its path is no longer used by anybody.
    pub fn forget(&mut self, uid: &str) {
        self.held.remove(uid);
    }

    /// The node's own namespace, and the agent's, which is the same in a right installation.
    fn host_namespaces(&self) -> Vec<NetnsId> {
        ["1", "self"]
            .iter()
            .filter_map(|process| netns_id(&self.proc_dir.join(process).join("ns/net")).ok())
            .collect()
    }

    fn look_at(
        &self,
        pid: u32,
        wanted: &HashSet<&str>,
        host: &[NetnsId],
        sightings: &mut HashMap<String, Sightings>,
    ) {
        let dir = self.proc_dir.join(pid.to_string());
        // Processes end while they are looked at; those that matter are many.
        let Ok(text) = fs::read_to_string(dir.join("cgroup")) else {
            return;
        };
        let cgroups = pod_cgroups(&text);
        let Some(PodCgroup { uid, in_container }) = cgroups
            .into_iter()
            .find(|cgroup| wanted.contains(cgroup.uid.as_str()))
        else {
            return;
        };
        let path = dir.join("ns/net");
        match netns_id(&path) {
            Ok(id) if host.contains(&id) => {
                // Shims and monitors of the runtime live beside the containers.
                sightings.entry(uid).or_default().in_host_network |= in_container;
            }
            Ok(id) => {
                let started = started(&dir).unwrap_or(u64::MAX);
                let namespaces = &mut sightings.entry(uid).or_default().namespaces;
                let seen = namespaces.entry(id).or_insert(Seen { pid, started });
                if started < seen.started {
                    *seen = Seen { pid, started };
                }
            }
            Err(error) if is_over(&error) => (),
            Err(error) => {
                sightings.entry(uid).or_default().unreadable = Some(Unfound::Unreadable {
                    path,
                    reason: error.to_string(),
                });
            }
        }
    }

    fn path_of(
        &mut self,
        uid: &Arc<str>,
        seen: &Sightings,
        pinned: &HashMap<NetnsId, Arc<str>>,
    ) -> Result<Arc<str>, Unfound> {
        // A container may make namespaces of its own; the pod's is the one that the runtime has pinned, or else that of
        // its first process.
        let by_age = |(_, seen): &(&NetnsId, &Seen)| seen.started;
        let of_pins = seen.namespaces.iter().filter(|(id, _)| pinned.contains_key(*id));
        let Some((id, process)) = of_pins
            .min_by_key(by_age)
            .or_else(|| seen.namespaces.iter().min_by_key(by_age))
        else {
            return Err(match &seen.unreadable {
                Some(unreadable) => unreadable.clone(),
                None if seen.in_host_network => Unfound::HostNetwork,
                None => Unfound::NoProcess,
            });
        };
        if let Some(path) = pinned.get(id) {
            self.held.remove(uid);
            return Ok(Arc::clone(path));
        }
        if let Some(held) = self.held.get(uid).filter(|held| held.id == *id) {
            return Ok(Arc::clone(&held.path));
        }
        self.hold(uid, *id, process.pid)
    }

    fn hold(&mut self, uid: &Arc<str>, id: NetnsId, pid: u32) -> Result<Arc<str>, Unfound> {
        let path = self.proc_dir.join(pid.to_string()).join("ns/net");
        let opened = File::open(&path).and_then(|file| {
            let same = netns_id(&Path::new("/proc/self/fd").join(file.as_raw_fd().to_string()))? == id;
            // The process has ended meanwhile and another has its number.
            same.then_some(file).ok_or_else(|| io::ErrorKind::NotFound.into())
        });
        let file = opened.map_err(|error: io::Error| {
            if is_over(&error) {
                Unfound::NoProcess
            } else {
                Unfound::Unreadable {
                    path,
                    reason: error.to_string(),
                }
            }
        })?;
        let path: Arc<str> = format!("/proc/self/fd/{}", file.as_raw_fd()).into();
        self.held.insert(
            Arc::clone(uid),
            Held {
                id,
                path: Arc::clone(&path),
                _file: file,
            },
        );
        Ok(path)
    }
}

/// The process ended between two looks.
fn is_over(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}

/// Field 22 of `/proc/<pid>/stat`; the name in field 2 may hold anything, also brackets and spaces.
fn started(dir: &Path) -> Option<u64> {
    let stat = fs::read_to_string(dir.join("stat")).ok()?;
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests;
