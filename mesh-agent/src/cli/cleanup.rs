//! `cleanup`: removes what an agent left, and looks whether it is gone.

use super::Output;
use crate::bpf::{find_residue, remove_residue};
use anyhow::{Context, bail};
use nix::fcntl::{Flock, FlockArg};
use serde_json::json;
use std::fs::File;
use std::path::PathBuf;
use std::process::ExitCode;

/// Arguments.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Directory of the pins.
    #[arg(long, env = "HEDDLE_BPF_DIR", default_value = "/sys/fs/bpf/heddle")]
    bpf_dir: PathBuf,
    /// Directory of the lock file and the admin socket.
    #[arg(long, env = "HEDDLE_STATE_DIR", default_value = "/run/heddle")]
    state_dir: PathBuf,
    /// Only look, remove nothing.
    #[arg(long)]
    dry_run: bool,
    /// How to print.
    #[arg(long, short, default_value = "text")]
    output: Output,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let mut removed = 0;
    if !args.dry_run {
        let lock = args.state_dir.join("agent.lock");
        let _held = match File::open(&lock) {
            Ok(file) => match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(held) => Some(held),
                Err(_) => bail!(
                    "an agent is running on {}: stop it first",
                    args.state_dir.display()
                ),
            },
            Err(_) => None,
        };
        removed =
            remove_residue(&args.bpf_dir).with_context(|| format!("remove {}", args.bpf_dir.display()))?;
        for name in ["admin.sock", "agent.lock"] {
            let path = args.state_dir.join(name);
            if path.exists() {
                std::fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
                removed += 1;
            }
        }
    }
    let left = find_residue(&args.bpf_dir);
    match args.output {
        Output::Json => println!(
            "{}",
            json!({"removed": removed, "pins": left.pins, "programs": left.programs, "maps": left.maps})
        ),
        Output::Text => {
            println!("removed {removed} files");
            for pin in &left.pins {
                println!("left: pin {}", pin.display());
            }
            for object in left.programs.iter().chain(&left.maps) {
                println!("in the kernel, perhaps another agent's: {object}");
            }
        }
    }
    Ok(if left.pins.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
