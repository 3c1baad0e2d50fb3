//! The BPF object: built by whichever toolchain this machine has, put where the agent's build finds it.

use crate::{setup, shell};
use anyhow::{Context, Result};
use std::fs;

const TARGET: &str = "bpfel-unknown-none";

/// Builds `mesh-ebpf` into `target/bpf/mesh-ebpf`; an object that did not change is not touched, so that nothing
/// else is built again.
pub(crate) fn build() -> Result<()> {
    let root = shell::root();
    let linker = setup::linker().context("bpf-linker is missing: run `cargo xtask setup`")?;
    let mut path = std::ffi::OsString::from(linker);
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    let mut cargo = shell::command("cargo");
    cargo.current_dir(root.join("mesh-ebpf")).env("PATH", path);
    // Debug information becomes BTF, without which the programs could not be told apart nor relocated.
    cargo.env(
        "RUSTFLAGS",
        "-C linker=bpf-linker -C link-arg=--btf -C debuginfo=2 -C panic=abort",
    );
    if setup::nightly_has_source() {
        cargo.args(["+nightly", "build", "-Z", "build-std=core"]);
    } else {
        cargo
            .env("RUSTC", "/usr/bin/rustc")
            .env("RUSTC_BOOTSTRAP", "1")
            .arg("build");
    }
    cargo
        .args(["--quiet", "--release", "--target", TARGET])
        .env_remove("CARGO_TARGET_DIR");
    shell::run("building the BPF programs", &mut cargo)?;
    let built = fs::read(
        root.join("mesh-ebpf/target")
            .join(TARGET)
            .join("release/mesh-ebpf"),
    )
    .context("reading the BPF object")?;
    let place = root.join("target/bpf/mesh-ebpf");
    if fs::read(&place).ok().as_ref() != Some(&built) {
        fs::create_dir_all(root.join("target/bpf"))?;
        fs::write(&place, &built)?;
    }
    eprintln!("  target/bpf/mesh-ebpf: {} bytes", built.len());
    Ok(())
}

/// Prints what the kernel's verifier says of every program, if an agent is built to ask it.
pub(crate) fn verify() -> Result<()> {
    let agent = shell::root().join("target/release/mesh-agent");
    if !agent.exists() {
        eprintln!(
            "  verifier statistics come from the agent: `cargo build --release -p mesh-agent`, then again"
        );
        return Ok(());
    }
    shell::run(
        "verifier statistics",
        shell::command(&agent.display().to_string()).arg("verify-bpf"),
    )
}
