//! Running other programs: each with a line of progress, and an error that names what failed.

use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

/// The workspace's folder.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .canonicalize()
        .unwrap_or_else(|_| PathBuf::from("."))
}

/// A command in the workspace's folder. What `cargo xtask` sets for itself (its toolchain, its package) is taken
/// out, because a child that builds with another toolchain would otherwise get this one.
pub(crate) fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    command.current_dir(root());
    let ours = |name: &str| {
        name.starts_with("CARGO_PKG_")
            || name.starts_with("CARGO_MANIFEST")
            || matches!(
                name,
                "CARGO"
                    | "RUSTUP_TOOLCHAIN"
                    | "RUSTC"
                    | "RUSTDOC"
                    | "RUST_RECURSION_COUNT"
                    | "LD_LIBRARY_PATH"
            )
    };
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(ours) {
            command.env_remove(&name);
        }
    }
    command
}

/// Runs to the end, its output shown, with a line before and the time after.
pub(crate) fn run(what: &str, command: &mut Command) -> Result<()> {
    let start = Instant::now();
    eprintln!("▸ {what}");
    let status = command
        .status()
        .with_context(|| format!("{what}: cannot run {command:?}"))?;
    ensure!(status.success(), "{what}: {status} from {command:?}");
    eprintln!("✔ {what} ({:.0} s)", start.elapsed().as_secs_f64());
    Ok(())
}

/// Output of a command that succeeded; `None` if it is missing or failed.
pub(crate) fn quiet(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Whether a program is on the PATH or in one of the folders that root's programs are in.
pub(crate) fn installed(program: &str) -> bool {
    which(program).is_some()
}

/// Where that is.
pub(crate) fn which(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(program))
        .find(|file| file.is_file())
}
