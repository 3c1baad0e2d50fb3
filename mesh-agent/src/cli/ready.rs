//! `ready`: whether the agent of this container serves; for the kubelet's probe.

use crate::app::signs::reason_file;
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
        match std::fs::read_to_string(reason_file(&args.file)) {
            Ok(why) => eprintln!("the agent does not serve yet: {why}"),
            Err(_) => eprintln!("the agent does not serve yet, or another has taken over"),
        }
        ExitCode::FAILURE
    }
}
