//! `cargo xtask generate`: files in the tree that the program itself can print.

use crate::shell;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::process::Command;

/// File, and the arguments of cargo that print it.
const MADE: [(&str, &[&str]); 2] = [
    (
        "docs/compatibility.md",
        &["run", "--quiet", "-p", "mesh-core", "--example", "compatibility"],
    ),
    (
        "charts/heddle/crds/workloadtemplates.yaml",
        &[
            "run",
            "--quiet",
            "-p",
            "mesh-agent",
            "--bin",
            "heddle",
            "--",
            "crds",
        ],
    ),
];

/// Writes them.
pub(crate) fn run() -> Result<()> {
    for (file, arguments) in MADE {
        write(file, shell::command("cargo").args(arguments))?;
    }
    Ok(())
}

fn write(file: &str, print: &mut Command) -> Result<()> {
    let output = print.output().with_context(|| format!("cannot run {print:?}"))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{print:?}: {errors}");
    let path = shell::root().join(file);
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    }
    fs::write(&path, output.stdout).with_context(|| format!("write {}", path.display()))?;
    eprintln!("✔ {file}");
    Ok(())
}
