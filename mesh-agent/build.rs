//! Embeds the BPF object that `cargo xtask build-ebpf` leaves in `target/bpf/`. Without it the agent still builds, for
//! lints and for the parts that need no kernel; `mesh-agent run` then says what is missing.

use std::path::PathBuf;
use std::{env, fs};

fn main() {
    println!("cargo:rerun-if-env-changed=HEDDLE_BPF_OBJECT");
    let object = env::var_os("HEDDLE_BPF_OBJECT")
        .map(PathBuf::from)
        .unwrap_or_else(|| {
            let manifest = env::var_os("CARGO_MANIFEST_DIR")
                .map(PathBuf::from)
                .unwrap_or_default();
            manifest.join("../target/bpf/mesh-ebpf")
        });
    println!("cargo:rerun-if-changed={}", object.display());
    let bytes = fs::read(&object).unwrap_or_default();
    if bytes.is_empty() {
        println!(
            "cargo:warning=no BPF object at {}: run `cargo xtask build-ebpf`",
            object.display()
        );
    }
    let out = env::var_os("OUT_DIR")
        .map(PathBuf::from)
        .unwrap_or_default()
        .join("mesh-ebpf");
    if let Err(error) = fs::write(&out, bytes) {
        println!("cargo:error=cannot write {}: {error}", out.display());
    }
}
