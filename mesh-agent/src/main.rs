//! `mesh-agent`, and `heddle`, the same program under the user's name for it.

use std::process::ExitCode;

fn main() -> ExitCode {
    mesh_agent::cli::main()
}
