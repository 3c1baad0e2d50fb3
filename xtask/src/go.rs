//! The Go toolchain that builds the test cluster: found, or asked for.

use crate::shell;
use anyhow::{Result, bail};
use std::path::PathBuf;
use std::process::Command;

/// Oldest minor version that builds the cluster's modules.
const MINOR: u32 = 26;
/// From this one on, `go` can fetch another toolchain as a module.
const FETCHES: u32 = 21;
/// What an older one is told to fetch.
const TOOLCHAIN: &str = "go1.26.8";

/// A Go that can build the cluster.
#[derive(Debug)]
pub(crate) struct Go {
    dir: PathBuf,
    toolchain: Option<&'static str>,
}

impl Go {
    /// Makes a command find it first.
    pub(crate) fn add_to(&self, command: &mut Command) {
        let mut path = self.dir.clone().into_os_string();
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap_or_default());
        command.env("PATH", path);
        if let Some(toolchain) = self.toolchain {
            command.env("GOTOOLCHAIN", toolchain);
        }
    }
}

/// The newest of those on the PATH and in /usr/local/go.
pub(crate) fn find() -> Result<Go> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let best = std::env::split_paths(&path)
        .chain(["/usr/local/go/bin", "/usr/lib/go/bin"].map(PathBuf::from))
        .filter_map(|dir| {
            let program = dir.join("go");
            if !program.is_file() {
                return None;
            }
            // What this one is itself, not what it would fetch for the module it is called in.
            let mut command = shell::command(&program.display().to_string());
            let said = shell::quiet(command.arg("version").env("GOTOOLCHAIN", "local"))?;
            Some((minor(&said)?, dir))
        })
        .max();
    match best {
        Some((found, dir)) if found >= MINOR => Ok(Go { dir, toolchain: None }),
        Some((found, dir)) if found >= FETCHES => {
            eprintln!("  Go 1.{found} is too old for the cluster; it fetches {TOOLCHAIN} for itself");
            Ok(Go {
                dir,
                toolchain: Some(TOOLCHAIN),
            })
        }
        Some((found, dir)) => bail!(
            "{} is Go 1.{found}; the test cluster is built with 1.{MINOR} or newer: https://go.dev/dl",
            dir.join("go").display()
        ),
        None => bail!(
            "no go on the PATH or in /usr/local/go/bin: the test cluster is built with Go 1.{MINOR} or newer: https://go.dev/dl"
        ),
    }
}

/// `go version go1.26.8 linux/amd64`
fn minor(said: &str) -> Option<u32> {
    let version = said.split(' ').nth(2)?.strip_prefix("go1.")?;
    version.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::minor;

    #[test]
    fn versions_of_go_are_read_with_and_without_patch_and_candidates() {
        assert_eq!(minor("go version go1.26.8 linux/amd64"), Some(26));
        assert_eq!(minor("go version go1.27rc1 linux/arm64"), Some(27));
        assert_eq!(minor("go version go1.9 linux/amd64"), Some(9));
        assert_eq!(minor("go: command failed"), None);
    }
}
