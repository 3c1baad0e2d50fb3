//! What of ours is in the kernel, found by looking, and its removal.

use mesh_common::maps::MAPS;
use std::fs;
use std::path::{Path, PathBuf};

/// Everything of ours that was found below one pin directory and among the kernel's objects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Residue {
    /// Files below the pin directory.
    pub pins: Vec<PathBuf>,
    /// Live programs whose name starts with `heddle_`.
    pub programs: Vec<String>,
    /// Live maps that only our object has.
    pub maps: Vec<String>,
}

impl Residue {
    /// Whether nothing was found.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pins.is_empty() && self.programs.is_empty() && self.maps.is_empty()
    }
}

/// Looks. Programs and maps are those of the whole kernel: another agent's count as well.
#[must_use]
pub fn find_residue(bpf_dir: &Path) -> Residue {
    let mut residue = Residue::default();
    collect_files(bpf_dir, &mut residue.pins);
    for program in aya::programs::loaded_programs().flatten() {
        if let Some(name) = program.name_as_str()
            && name.starts_with("heddle_")
        {
            residue.programs.push(format!("{name} (id {})", program.id()));
        }
    }
    for map in aya::maps::loaded_maps().flatten() {
        if let Some(name) = map.name_as_str()
            && is_our_map(name)
        {
            residue.maps.push(format!("{name} (id {})", map.id()));
        }
    }
    residue
}

/// The kernel cuts names at 15 characters; ours are shorter. Generic ones could be anybody's.
fn is_our_map(name: &str) -> bool {
    MAPS.iter().any(|map| map.name == name) && !matches!(name, "COUNTERS" | "SERVICES" | "FLOWS" | "SOCKETS")
}

/// Removes every pin below the directory, and the directory: links without a pin end, programs without a link, and
/// maps without a program.
///
/// # Errors
/// A file or directory that cannot be removed.
pub fn remove_residue(bpf_dir: &Path) -> std::io::Result<usize> {
    if !bpf_dir.exists() {
        return Ok(0);
    }
    let mut files = Vec::new();
    collect_files(bpf_dir, &mut files);
    // Links first: with the maps gone first, programs would still run on them, but a half-removed pod could not be
    // told from a captured one.
    files.sort_by_key(|path| path.components().any(|c| c.as_os_str() == "maps"));
    for file in &files {
        fs::remove_file(file)?;
    }
    for sub in ["maps", "links", "netns"] {
        let path = bpf_dir.join(sub);
        if path.exists() {
            fs::remove_dir(path)?;
        }
    }
    fs::remove_dir(bpf_dir)?;
    Ok(files.len())
}

fn collect_files(dir: &Path, into: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect_files(&path, into)
        } else {
            into.push(path)
        }
    }
}
