//! `cleanup`: removes what an agent left, and looks whether it is gone.

use super::Output;
use crate::bpf::{cgroup2_mount, find_residue, pods_cgroup, remove_agent_cgroup, remove_residue};
use crate::cni;
use anyhow::{Context, bail};
use nix::fcntl::{Flock, FlockArg};
use serde_json::json;
use std::fs::File;
use std::path::{Path, PathBuf};
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
    /// The pods' cgroup that the agent was given; without it, the one that it would find.
    #[arg(long, env = "HEDDLE_CGROUP")]
    cgroup: Option<PathBuf>,
    /// Plug-in directory of the container runtime: takes the CNI plug-in out of it.
    #[arg(long, env = "HEDDLE_CNI_BIN_DIR")]
    cni_bin_dir: Option<PathBuf>,
    /// CNI configuration directory: takes the CNI plug-in's entry out of its files.
    #[arg(long, env = "HEDDLE_CNI_CONF_DIR")]
    cni_conf_dir: Option<PathBuf>,
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
        let held = [args.state_dir.join("agent.lock"), args.bpf_dir.clone()];
        let _held = held
            .iter()
            .map(|path| hold(path))
            .collect::<anyhow::Result<Vec<_>>>()?;
        // First: without an agent, the plug-in holds every pod that starts.
        removed += cni::install::uninstall(args.cni_bin_dir.as_deref(), args.cni_conf_dir.as_deref())?.len();
        removed +=
            remove_residue(&args.bpf_dir).with_context(|| format!("remove {}", args.bpf_dir.display()))?;
        let found = || cgroup2_mount().map(|mount| pods_cgroup(&mount));
        if let Some(cgroup) = args.cgroup.clone().or_else(found) {
            let gone = remove_agent_cgroup(&cgroup);
            removed += usize::from(
                gone.with_context(|| format!("remove the agent's place in {}", cgroup.display()))?,
            );
        }
        for name in ["admin.sock", cni::SOCKET_NAME, cni::LIFE_SIGN, "agent.lock"] {
            let path = args.state_dir.join(name);
            if path.exists() {
                std::fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
                removed += 1;
            }
        }
    }
    let left = find_residue(&args.bpf_dir);
    let plugin = cni::install::find(args.cni_bin_dir.as_deref(), args.cni_conf_dir.as_deref())?;
    match args.output {
        Output::Json => println!(
            "{}",
            json!({"removed": removed, "cni": plugin, "pins": left.pins, "programs": left.programs, "maps": left.maps})
        ),
        Output::Text => {
            println!("removed {removed} files");
            for file in &plugin {
                println!("left: CNI plug-in in {}", file.display());
            }
            for pin in &left.pins {
                println!("left: pin {}", pin.display());
            }
            for object in left.programs.iter().chain(&left.maps) {
                println!("in the kernel, perhaps another agent's: {object}");
            }
        }
    }
    Ok(if left.pins.is_empty() && plugin.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Keeps agents away from a lock file or directory, if it is there.
fn hold(path: &Path) -> anyhow::Result<Option<Flock<File>>> {
    let Ok(file) = File::open(path) else {
        return Ok(None);
    };
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(held) => Ok(Some(held)),
        Err(_) => bail!("an agent is running on {}: stop it first", path.display()),
    }
}
