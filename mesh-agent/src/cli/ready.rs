//! `ready`: whether the agent of this container serves; for the kubelet's probe.

use std::path::PathBuf;
use std::process::ExitCode;

/// Arguments.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The file of `run --ready-file`.
    #[arg(long, env = "HEDDLE_READY_FILE")]
    file: PathBuf,
}

pub(super) fn run(args: &Args) -> ExitCode {
    if args.file.exists() {
        ExitCode::SUCCESS
    } else {
        eprintln!("the agent does not serve yet, or another has taken over");
        ExitCode::FAILURE
    }
}
