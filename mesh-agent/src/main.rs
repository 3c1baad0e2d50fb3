//! `mesh-agent`: the program of the DaemonSet.

use std::process::ExitCode;

fn main() -> ExitCode {
    mesh_agent::cli::main()
}
