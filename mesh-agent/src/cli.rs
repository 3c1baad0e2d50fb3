//! The command line: one file per verb.

mod analyze;
mod ask;
mod certs;
mod check;
mod cleanup;
mod controller;
mod convert;
mod crds;
mod documents;
mod fleet;
mod gateway;
mod live;
mod logs;
mod objects;
mod ready;
mod rights;
mod routes;
mod run;
mod status;
mod survey;
mod verify;
mod what_if;
mod why;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// Heddle: a sidecarless service mesh.
#[derive(Debug, Parser)]
#[command(name = "heddle", version, about)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run the agent of this node.
    Run(Box<crate::app::config::AgentConfig>),
    /// Run a gateway: what comes into the mesh, or leaves it, through one place.
    Gateway(Box<crate::gateway::config::GatewayConfig>),
    /// Run the controller: CA, templates of workloads, validating webhook.
    Controller(Box<crate::controller::config::ControllerConfig>),
    /// Say what the cluster, or this machine, lacks for the mesh; once installed, what is in it and what not, and why.
    Check(check::Args),
    /// Show the agent, its pods, what is captured and what not and why, and what is wrong with the config.
    Status(status::Args),
    /// Explain what becomes of a connection or request: which rule, which object, which field, why.
    Why(why::Args),
    /// Show the route tables in force.
    Routes(routes::Args),
    /// Show the certificates in use.
    Certs(certs::Args),
    /// Show what passed through the mesh for one pod.
    Logs(logs::Args),
    /// Show what passes through the mesh for one pod, as it happens.
    Tap(logs::Args),
    /// Say whether what the chart installs is there and serves, and what is in the mesh.
    VerifyInstall(check::Args),
    /// Say what is wrong with files, or with a cluster's objects: by object, field and line, with Istio's codes.
    Analyze(analyze::Args),
    /// Show which requests would be routed otherwise if files were applied.
    WhatIf(what_if::Args),
    /// Turn objects of Istio's first APIs (config.istio.io/v1alpha2, v1alpha3) into current ones.
    Convert(convert::Args),
    /// Remove everything that an agent left in the kernel and on disk. No agent may be running on the directories.
    Cleanup(cleanup::Args),
    /// Succeed if the agent of this container serves; for the kubelet's probe.
    #[command(hide = true)]
    Ready(ready::Args),
    /// The CNI plug-in, which the container runtime runs: reads its call from the environment and standard input.
    #[command(hide = true)]
    Cni,
    /// Print the CustomResourceDefinitions of the mesh as YAML.
    Crds,
    /// Load the BPF programs, print the verifier's statistics, and attach nothing.
    VerifyBpf(verify::Args),
}

/// Parses the command line and runs the verb.
#[must_use]
pub fn main() -> ExitCode {
    if crate::cni::plugin::is_called() {
        return crate::cni::plugin::main();
    }
    let cli = Cli::parse();
    let result = match cli.verb {
        Verb::Run(config) => run::run(*config),
        Verb::Gateway(config) => gateway::run(*config),
        Verb::Controller(config) => controller::run(*config),
        Verb::Check(args) => check::run(&args),
        Verb::Status(args) => status::run(&args),
        Verb::Why(args) => why::run(&args),
        Verb::Routes(args) => routes::run(&args),
        Verb::Certs(args) => certs::run(&args),
        Verb::Logs(args) => logs::run(&args),
        Verb::Tap(args) => logs::tap(&args),
        Verb::VerifyInstall(args) => check::verify_install(&args),
        Verb::Analyze(args) => analyze::run(&args),
        Verb::WhatIf(args) => what_if::run(&args),
        Verb::Convert(args) => convert::run(&args),
        Verb::Cleanup(args) => cleanup::run(&args),
        Verb::Ready(args) => Ok(ready::run(&args)),
        Verb::Cni => Ok(crate::cni::plugin::main()),
        Verb::Crds => crds::run(),
        Verb::VerifyBpf(args) => verify::run(&args),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Log lines to standard error; `HEDDLE_LOG` filters them.
fn log(format: crate::app::config::LogFormat) {
    use crate::app::config::LogFormat;
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_env("HEDDLE_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Json => log.json().flatten_event(true).init(),
        LogFormat::Text => log.init(),
    }
}
