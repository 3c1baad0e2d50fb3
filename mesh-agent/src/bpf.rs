//! The BPF edge: loads the object, attaches and adopts programs, carries out data path plans, reads records, counters
//! and events. It decides nothing: what the maps hold comes from `mesh_core::datapath`.
//!
//! Everything is pinned below one directory: `maps/<NAME>-v<layout>`, `links/<hook>`, `netns/<inode>`. Pinned programs
//! and maps outlive the agent; the next one adopts them by `BPF_LINK_UPDATE`, so there is no moment without a program.

mod apply;
mod attach;
mod cgroup;
mod check;
mod events;
mod load;
mod maps;
mod records;
mod residue;
mod servers;
mod sys;

pub use apply::ApplyError;
pub use attach::NetnsLink;
pub use cgroup::{AGENT_CGROUP, cgroup2_mount, pods_cgroup, remove_agent_cgroup};
pub use check::{Feature, check_features};
pub use events::EventReader;
pub use load::{BpfConfig, Datapath, agent_is_locked};
pub use maps::{MapUsage, PodTotals};
pub use records::Records;
pub use residue::{Residue, find_residue, remove_residue};
pub use servers::Servers;

use std::io;
use std::path::PathBuf;

/// Why the data path cannot be loaded, attached or read.
#[derive(Debug, thiserror::Error)]
pub enum BpfError {
    /// The agent was built without an object.
    #[error("this agent was built without BPF objects: run `cargo xtask build-ebpf` and build again")]
    NoObject,
    /// The pin directory is not on a BPF file system.
    #[error("{0} is not on a bpf file system: mount -t bpf bpf /sys/fs/bpf")]
    NotBpffs(PathBuf),
    /// The pods' cgroup is none.
    #[error("{0} is not a directory of a cgroup v2 tree")]
    NotCgroup2(PathBuf),
    /// Another agent owns the state or pin directory.
    #[error("another agent holds {0}: two agents must not share a data path")]
    Locked(PathBuf),
    /// aya could not load the object or create a map; the kernel's words are inside.
    #[error("the kernel refuses the BPF object")]
    Load(#[from] aya::EbpfError),
    /// The verifier refuses a program, or it cannot be attached.
    #[error("program {name}")]
    Program {
        /// Which.
        name: &'static str,
        /// The kernel's words, with the verifier's log.
        #[source]
        source: aya::programs::ProgramError,
    },
    /// A map is missing from the object or has another shape.
    #[error("map {name}")]
    Map {
        /// Which.
        name: &'static str,
        /// What aya says.
        #[source]
        source: aya::maps::MapError,
    },
    /// The hooks are attached, but a connection made to see it did not meet them.
    #[error(
        "the programs are attached to {0}, but a connection from below it does not meet them: is another program's \
             override in place?"
    )]
    NoEffect(PathBuf),
    /// The object has no such program or map.
    #[error("the BPF object has no {0}: agent and object are of different builds")]
    Missing(&'static str),
    /// A file or system call.
    #[error("{what}")]
    Io {
        /// What was tried.
        what: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}

impl BpfError {
    fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}
