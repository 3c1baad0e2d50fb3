//! Heddle's own tasks. `cargo xtask setup|build-ebpf|test|demo|bench|cluster|conformance|image`; each does what the one before it needs.

mod bench;
mod bpf;
mod cluster;
mod conformance;
mod fields;
mod generate;
mod go;
mod image;
mod setup;
mod shell;
mod suite;

use anyhow::Result;
use clap::{Parser, Subcommand};
use std::path::PathBuf;
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
    /// Writes the files of the tree that are made from the code: the chart's CRDs, docs/compatibility.md.
    Generate {
        /// First reads the fields of the APIs anew, from the newest CRDs of Istio and the Gateway API (Go modules).
        #[arg(long)]
        fields: bool,
    },
    /// Sets up, builds, and runs every check and test there is.
    Test(suite::Options),
    /// Sets up, builds, and plays the mesh on two nodes made of network namespaces.
    Demo {
        /// Arguments of the demo: --json FILE, --keep, --quick.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Sets up, builds, and measures Heddle: beside its peers, or on a Kubernetes cluster of many objects (--cluster).
    Bench {
        /// Arguments of the bench: --json FILE, --quick. With --routes: what routes cost in the core and in an agent (without: --no-cluster). With --cluster: on a Kubernetes cluster of its own (or --kubeconfig F), with
        /// --services N, --endpoints M, --storm-rate N, --storm-seconds N, --pods N, --parts LIST, --profile release.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Builds the agent and writes a container image of it, without a daemon.
    Image(image::Options),
    /// Runs the Gateway API's conformance suite against Heddle on a real cluster.
    Conformance(conformance::Options),
    /// A real Kubernetes cluster on this machine.
    Cluster {
        /// A cluster that you have, for kubectl, helm and status in place of the one that `up` makes.
        #[arg(long, env = "HEDDLE_KUBECONFIG")]
        kubeconfig: Option<PathBuf>,
        #[command(subcommand)]
        task: cluster::Task,
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
        Task::Test(options) => return suite::run(&options),
        Task::Image(options) => {
            image::run(&options)?;
        }
        Task::Conformance(options) => return conformance::run(&options),
        Task::Cluster { kubeconfig, task } => return cluster::run(&task, kubeconfig.as_deref()),
        Task::Demo { args } => return front("demo", &[], &args, "release"),
        Task::Bench { args } => return bench::run(args),
        Task::Generate { fields } => {
            if fields {
                fields::run()?;
            }
            generate::run()?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Builds everything that a program of mesh-tests runs, and runs it in place of this one, with the agent of `profile`.
fn front(program: &str, packages: &[setup::Package], args: &[String], profile: &str) -> Result<ExitCode> {
    setup::run()?;
    setup::packages(packages)?;
    bpf::build()?;
    suite::build_release()?;
    if profile != "release" {
        suite::build_agent(profile)?;
    }
    let target = shell::root().join("target");
    let status = std::process::Command::new(target.join("release").join(program))
        .args(args)
        .env("HEDDLE_BIN_DIR", target.join(profile))
        .current_dir(shell::root())
        .status()?;
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
