//! Heddle's own tasks. `cargo xtask setup|build-ebpf|test|demo|bench`; each does what the one before it needs.

mod bpf;
mod generate;
mod setup;
mod shell;
mod suite;

use anyhow::Result;
use clap::{Parser, Subcommand};
use std::process::ExitCode;

#[derive(Parser)]
#[command(name = "xtask", about = "Heddle's own tasks")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Installs what building and testing needs and this machine lacks.
    Setup,
    /// Builds the BPF object into target/bpf and prints what the verifier says of it.
    BuildEbpf,
    /// Writes the files of the tree that are made from the code: the chart's CRDs.
    Generate,
    /// Sets up, builds, and runs every check and test there is.
    Test,
    /// Sets up, builds, and plays the mesh on two nodes made of network namespaces.
    Demo {
        /// Arguments of the demo: --json FILE, --keep, --quick.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Sets up, builds, and measures Heddle beside its peers.
    Bench {
        /// Arguments of the bench: --json FILE, --quick.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
}

fn main() -> ExitCode {
    match run(Cli::parse().task) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("✘ {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<ExitCode> {
    match task {
        Task::Setup => setup::run()?,
        Task::BuildEbpf => {
            setup::run()?;
            bpf::build()?;
            bpf::verify()?;
        }
        Task::Generate => generate::run()?,
        Task::Test => return suite::run(),
        Task::Demo { args } => return front("demo", &[], &args),
        Task::Bench { args } => return front("bench", setup::BENCH, &args),
    }
    Ok(ExitCode::SUCCESS)
}

/// Builds everything that a program of mesh-tests runs, and runs it in place of this one.
fn front(program: &str, packages: &[setup::Package], args: &[String]) -> Result<ExitCode> {
    setup::run()?;
    setup::packages(packages)?;
    bpf::build()?;
    suite::build_release()?;
    let path = shell::root().join("target/release").join(program);
    let status = std::process::Command::new(path)
        .args(args)
        .current_dir(shell::root())
        .status()?;
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
