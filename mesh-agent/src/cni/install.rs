//! Puts the plug-in on the node and keeps it there: the program in the runtime's plug-in directory, the entry in the
//! configuration that the runtime uses.
//!
//! The entry stays while an agent restarts or is replaced: pods that start meanwhile wait. It goes when Heddle goes from
//! the node ([`uninstall`]; when that is, [`super::leave`] decides).

mod files;
mod watch;

pub use files::InstallError;
pub use watch::keep;

use super::PLUGIN_TYPE;
use super::conflist::{self, Entry};
use files::{Dir, replace};
use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

/// What a single configuration is called while a list of ours stands in its place; no runtime loads such a file.
const SAVED_ENDING: &str = ".heddle-saved";

/// What is to be installed, and where.
#[derive(Clone, Debug)]
pub struct Install {
    /// The runtime's plug-in directory, `/opt/cni/bin` on most nodes, as the agent sees it.
    pub bin_dir: PathBuf,
    /// The runtime's configuration directory, `/etc/cni/net.d` on most nodes, as the agent sees it.
    pub conf_dir: PathBuf,
    /// The program to copy: the agent's own.
    pub program: PathBuf,
    /// The plug-in's configuration.
    pub entry: Entry,
}

/// State of the plug-in on this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum CniStatus {
    /// Not looked yet.
    #[default]
    Starting,
    /// The runtime calls the plug-in for every new pod.
    Installed {
        /// The file that says so.
        file: PathBuf,
    },
    /// The node has no CNI configuration yet.
    NoConfiguration,
    /// New pods are not held: they are captured after their start.
    Failed {
        /// File and reason.
        reason: String,
    },
}

/// Makes program and entry what they should be. Returns the configuration in force, `None` if the node has none yet, and
/// whether anything was changed.
///
/// # Errors
/// See [`InstallError`]; no file is left half-written, and no other than the one in force is touched.
pub fn install(what: &Install) -> Result<(Option<PathBuf>, bool), InstallError> {
    // First the program: an entry without it would stop every pod of the node.
    let copied = install_program(what)?;
    let dir = Dir::open(&what.conf_dir)?;
    let Some(name) = dir.active() else {
        return Ok((None, copied));
    };
    let (name, changed) = if conflist::is_list(&name) {
        let text = dir.read(&name)?;
        let with = conflist::insert(&text, &what.entry).map_err(|error| dir.refused(&name, error))?;
        if let Some(with) = &with {
            dir.write(&name, with, &name)?;
        }
        (name, with.is_some())
    } else {
        (wrap_single(&dir, &name, &what.entry)?, true)
    };
    Ok((Some(what.conf_dir.join(name)), copied || changed))
}

/// Puts a list in the place of a single configuration, which is kept under a name that no runtime loads. In between both
/// are there and the single one, first in order, is still in force.
fn wrap_single(dir: &Dir, name: &str, entry: &Entry) -> Result<String, InstallError> {
    let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
    let list_name = format!("{stem}.conflist");
    let single = dir.read(name)?;
    let list = conflist::wrap(&single, entry).map_err(|error| dir.refused(name, error))?;
    if let Some(there) = dir.read_if_there(&list_name)? {
        // Ours from an earlier time, of which the CNI has rewritten the single form since; another's is not overwritten.
        if !matches!(conflist::remove(&there), Ok(Some(_))) {
            return Err(InstallError::InTheWay {
                single: dir.path(name),
                list: dir.path(&list_name),
            });
        }
    }
    dir.write(&list_name, &list, name)?;
    dir.rename(name, &format!("{name}{SAVED_ENDING}"))?;
    Ok(list_name)
}

fn install_program(what: &Install) -> Result<bool, InstallError> {
    let target = what.bin_dir.join(PLUGIN_TYPE);
    let failed = |source| InstallError::io("install", &target, source);
    if same_content(&what.program, &target).map_err(failed)? {
        return Ok(false);
    }
    let mut program = File::open(&what.program).map_err(failed)?;
    replace(&target, 0o755, |file| io::copy(&mut program, file).map(drop)).map_err(failed)?;
    Ok(true)
}

/// Whether `there` is a file with the contents of `wanted` that may be run.
fn same_content(wanted: &Path, there: &Path) -> io::Result<bool> {
    use std::os::unix::fs::PermissionsExt;
    let there = match File::open(there) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    let wanted = File::open(wanted)?;
    let (meta, size) = (there.metadata()?, wanted.metadata()?.len());
    if meta.len() != size || meta.permissions().mode() & 0o111 != 0o111 {
        return Ok(false);
    }
    let (mut left, mut right) = (BufReader::new(wanted), BufReader::new(there));
    let (mut one, mut two) = (vec![0u8; 64 * 1024], vec![0u8; 64 * 1024]);
    loop {
        let count = left.read(&mut one)?;
        if count == 0 {
            return Ok(true);
        }
        right.read_exact(&mut two[..count])?;
        if one[..count] != two[..count] {
            return Ok(false);
        }
    }
}

/// What is left of the plug-in on the node: files that name it, and the program.
///
/// # Errors
/// The directory cannot be listed, or a file of it not be read.
pub fn find(bin_dir: Option<&Path>, conf_dir: Option<&Path>) -> Result<Vec<PathBuf>, InstallError> {
    let mut found = Vec::new();
    if let Some(dir) = conf_dir.map(Dir::open).transpose()? {
        for name in dir.names() {
            let ours = name.ends_with(SAVED_ENDING)
                || conflist::is_loaded(&name) && dir.read(&name)?.contains(PLUGIN_TYPE);
            if ours {
                found.push(dir.path(&name));
            }
        }
    }
    found.extend(
        bin_dir
            .map(|dir| dir.join(PLUGIN_TYPE))
            .filter(|program| program.exists()),
    );
    Ok(found)
}

/// Whether the plug-in could be put into the node's configuration: the file that would take it, `None` if the node has
/// none yet. Changes nothing.
///
/// # Errors
/// See [`InstallError`].
pub fn examine(conf_dir: &Path) -> Result<Option<PathBuf>, InstallError> {
    let dir = Dir::open(conf_dir)?;
    let Some(name) = dir.active() else {
        return Ok(None);
    };
    let text = dir.read(&name)?;
    let entry = Entry::new(String::new(), 0, false, Vec::new());
    let taken = if conflist::is_list(&name) {
        conflist::insert(&text, &entry).map(drop)
    } else {
        conflist::wrap(&text, &entry).map(drop)
    };
    taken.map_err(|error| dir.refused(&name, error))?;
    Ok(Some(dir.path(&name)))
}

/// Takes entry and program out again, whichever of the two is there, and gives the CNI's files back as they were.
/// Returns what was changed or removed.
///
/// The entries go first: a program that is missing while an entry names it would stop every pod of the node. CRI-O tears
/// a pod down with the configuration that the pod was started with, and misses the program then; containerd takes the
/// configuration of the day.
///
/// # Errors
/// The first that was met; everything else has been removed all the same, except that the program stays while an entry
/// may be left.
pub fn uninstall(bin_dir: Option<&Path>, conf_dir: Option<&Path>) -> Result<Vec<PathBuf>, InstallError> {
    let mut changed = Vec::new();
    let mut first_error = None;
    if let Some(conf_dir) = conf_dir {
        let dir = Dir::open(conf_dir)?;
        for name in dir.names() {
            match restore(&dir, &name) {
                Ok(true) => changed.push(dir.path(&name)),
                Ok(false) => (),
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
    }
    if let Some(error) = first_error {
        return Err(error);
    }
    if let Some(program) = bin_dir.map(|dir| dir.join(PLUGIN_TYPE)) {
        match fs::remove_file(&program) {
            Ok(()) => changed.push(program),
            Err(error) if error.kind() == io::ErrorKind::NotFound => (),
            Err(error) => return Err(InstallError::io("remove", &program, error)),
        }
    }
    Ok(changed)
}

/// Takes our entry out of one file. A list that is ours alone makes way for the single configuration that it wraps.
fn restore(dir: &Dir, name: &str) -> Result<bool, InstallError> {
    if let Some(single) = name.strip_suffix(SAVED_ENDING) {
        return restore_single(dir, name, single);
    }
    if !conflist::is_list(name) {
        return Ok(false);
    }
    // The list that wrapped a saved single configuration is gone by now.
    let Some(text) = dir.read_if_there(name)?.filter(|text| text.contains(PLUGIN_TYPE)) else {
        return Ok(false);
    };
    match conflist::remove(&text).map_err(|error| dir.refused(name, error))? {
        Some(bare) => dir.write(name, &bare, name).map(|()| true),
        None => Ok(false),
    }
}

fn restore_single(dir: &Dir, saved: &str, single: &str) -> Result<bool, InstallError> {
    let stem = single.rsplit_once('.').map_or(single, |(stem, _)| stem);
    let list_name = format!("{stem}.conflist");
    let list = dir.read_if_there(&list_name)?;
    if list.is_some_and(|list| !matches!(dir.read(saved), Ok(single) if conflist::wraps(&list, &single))) {
        // The CNI has moved on to a list of its own.
        dir.delete(saved)?;
        return Ok(true);
    }
    if dir.is_there(single) {
        // The CNI has written its single form anew.
        dir.delete(saved)?;
    } else {
        dir.rename(saved, single)?;
    }
    // Only now: the node is never without a configuration.
    if dir.is_there(&list_name) {
        dir.delete(&list_name)?;
    }
    Ok(true)
}

#[cfg(test)]
mod tests;
