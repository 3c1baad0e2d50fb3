//! `cargo xtask generate`: files in the tree that the program itself can print.

use crate::shell;
use anyhow::{Context, Result, ensure};
use std::fs;

const CRDS: &str = "charts/heddle/crds/workloadtemplates.yaml";

/// Writes them.
pub(crate) fn run() -> Result<()> {
    let mut print = shell::command("cargo");
    print.args([
        "run",
        "--quiet",
        "-p",
        "mesh-agent",
        "--bin",
        "heddle",
        "--",
        "crds",
    ]);
    let output = print.output().with_context(|| format!("cannot run {print:?}"))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{print:?}: {errors}");
    let path = shell::root().join(CRDS);
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    }
    fs::write(&path, output.stdout).with_context(|| format!("write {}", path.display()))?;
    eprintln!("✔ {CRDS}");
    Ok(())
}
