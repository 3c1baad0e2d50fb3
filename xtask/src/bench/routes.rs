//! `cargo xtask bench --routes`: what choosing, keeping and changing routes costs in the core, beside its goals.

use crate::shell;
use anyhow::Result;
use std::process::{Command, ExitCode};

/// The argument that asks for it.
pub(super) const ARGUMENT: &str = "--routes";

/// Builds the measurement and runs it.
pub(super) fn run() -> Result<ExitCode> {
    let status = Command::new(env!("CARGO"))
        .args([
            "run",
            "--release",
            "--quiet",
            "-p",
            "mesh-core",
            "--example",
            "routes",
        ])
        .current_dir(shell::root())
        .status()?;
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
