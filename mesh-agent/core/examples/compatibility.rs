//! Prints `docs/compatibility.md`; run by `cargo xtask generate`.

use mesh_core::translate::fields;
use std::process::ExitCode;

fn main() -> ExitCode {
    match fields::markdown() {
        Ok(page) => {
            print!("{page}");
            ExitCode::SUCCESS
        }
        Err(unclear) => {
            eprintln!("{}: {}", unclear.0, unclear.1);
            ExitCode::FAILURE
        }
    }
}
