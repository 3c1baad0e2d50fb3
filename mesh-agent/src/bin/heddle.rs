//! `heddle`: the same program as `mesh-agent` under the user's name for it.

use std::process::ExitCode;

fn main() -> ExitCode {
    mesh_agent::cli::main()
}
