//! Files of the CNI configuration directory: read whole, replaced by rename.

use crate::cni::conflist::{self, ConflistError};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

/// A CNI configuration is a few KiB.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// Why the plug-in cannot be installed or removed.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// A file operation.
    #[error("cannot {what} {path}: {source}")]
    Io {
        /// In the infinitive.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A configuration that cannot take or lose the entry.
    #[error("CNI configuration {path}: {reason}")]
    Refused {
        /// Which file.
        path: PathBuf,
        /// Which field, and why.
        reason: ConflistError,
    },
    /// A single configuration is in force beside a list of the same name that is not ours.
    #[error("CNI configuration {single} cannot be made a list: {list} is there already and not Heddle's")]
    InTheWay {
        /// The one in force.
        single: PathBuf,
        /// The other.
        list: PathBuf,
    },
    /// The directory cannot be watched.
    #[error("cannot watch {path}: {source}")]
    Watch {
        /// Which.
        path: PathBuf,
        /// Why.
        source: notify::Error,
    },
}

impl InstallError {
    pub(super) fn io(what: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io {
            what,
            path: path.to_owned(),
            source,
        }
    }
}

/// The configuration directory as it was when opened.
pub(super) struct Dir {
    path: PathBuf,
    names: Vec<String>,
}

impl Dir {
    pub(super) fn open(path: &Path) -> Result<Self, InstallError> {
        let failed = |source| InstallError::io("list", path, source);
        let mut names = Vec::new();
        for entry in fs::read_dir(path).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            // A link to a file is one; what is no UTF-8 is nobody's configuration.
            let is_file = fs::metadata(entry.path()).is_ok_and(|meta| meta.is_file());
            if let Some(name) = entry.file_name().to_str().filter(|_| is_file) {
                names.push(name.to_owned());
            }
        }
        names.sort();
        Ok(Self {
            path: path.to_owned(),
            names,
        })
    }

    /// In lexical order.
    pub(super) fn names(&self) -> Vec<String> {
        self.names.clone()
    }

    pub(super) fn active(&self) -> Option<String> {
        conflist::active(self.names.iter().map(String::as_str)).map(str::to_owned)
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    pub(super) fn is_there(&self, name: &str) -> bool {
        self.path(name).exists()
    }

    pub(super) fn refused(&self, name: &str, reason: ConflistError) -> InstallError {
        InstallError::Refused {
            path: self.path(name),
            reason,
        }
    }

    pub(super) fn read(&self, name: &str) -> Result<String, InstallError> {
        let path = self.path(name);
        let read = || {
            let mut text = String::new();
            File::open(&path)?
                .take(MAX_FILE_BYTES + 1)
                .read_to_string(&mut text)?;
            if text.len() as u64 > MAX_FILE_BYTES {
                return Err(io::Error::new(io::ErrorKind::FileTooLarge, "larger than 1 MiB"));
            }
            Ok(text)
        };
        read().map_err(|source| InstallError::io("read", &path, source))
    }

    pub(super) fn read_if_there(&self, name: &str) -> Result<Option<String>, InstallError> {
        match self.read(name) {
            Ok(text) => Ok(Some(text)),
            Err(InstallError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Replaces `name`, with owner and mode of `like`: such files may hold a CNI's credentials.
    pub(super) fn write(&self, name: &str, text: &str, like: &str) -> Result<(), InstallError> {
        let target = self.path(name);
        let write = || {
            let like = fs::metadata(self.path(like))?;
            replace(&target, like.permissions().mode() & 0o7777, |file| {
                fchown(&*file, Some(like.uid()), Some(like.gid()))?;
                file.write_all(text.as_bytes())
            })
        };
        write().map_err(|source| InstallError::io("write", &target, source))
    }

    pub(super) fn rename(&self, from: &str, to: &str) -> Result<(), InstallError> {
        let from = self.path(from);
        fs::rename(&from, self.path(to)).map_err(|source| InstallError::io("rename", &from, source))
    }

    pub(super) fn delete(&self, name: &str) -> Result<(), InstallError> {
        let path = self.path(name);
        fs::remove_file(&path).map_err(|source| InstallError::io("remove", &path, source))
    }
}

/// Replaces a file as a whole: readers see the old one or the new one. A link is followed, so that it stays one.
pub(super) fn replace(
    target: &Path,
    mode: u32,
    fill: impl FnOnce(&mut File) -> io::Result<()>,
) -> io::Result<()> {
    let target = fs::canonicalize(target).unwrap_or_else(|_| target.to_owned());
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    // No ending that a runtime would load, and the same name for the same process: a crash leaves at most one.
    let new = target.with_file_name(format!(".{name}.heddle-new"));
    let written = write_new(&new, mode, fill).and_then(|()| fs::rename(&new, &target));
    if written.is_err() {
        let _ = fs::remove_file(&new);
    }
    written
}

fn write_new(new: &Path, mode: u32, fill: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(new)?;
    fill(&mut file)?;
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.sync_all()
}
