//! `cargo xtask bench`: Heddle beside its peers; with `--cluster`, on a Kubernetes API server of many objects; with
//! `--routes`, what routes cost in the core and in an agent.

pub(crate) mod routes;

use crate::cluster::{Cluster, Layout};
use crate::{bpf, image, setup, shell, suite};
use anyhow::{Context, Result, ensure};
use clap::ValueEnum as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// Runs the bench that the arguments ask for, with what they have besides.
pub(crate) fn run(mut args: Vec<String>) -> Result<ExitCode> {
    let routes = args.iter().any(|arg| arg == routes::ARGUMENT);
    let cluster = args.iter().position(|arg| arg == "--cluster");
    if !routes && cluster.is_none() {
        return on_namespaces(&args);
    }
    // What is measured is what the image ships, unless somebody is in a hurry.
    let profile = match take(&mut args, "--profile")? {
        None => image::Profile::Dist,
        Some(name) => {
            image::Profile::from_str(&name, false).map_err(|error| anyhow::anyhow!("--profile: {error}"))?
        }
    };
    if routes {
        return routes::run(args, profile);
    }
    args.retain(|arg| arg != "--cluster");
    let kubeconfig = take(&mut args, "--kubeconfig")?
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HEDDLE_KUBECONFIG").map(PathBuf::from));
    build()?;
    match kubeconfig {
        Some(file) => pass(&mut program(), &args, &std::path::absolute(file)?),
        None => on_own_cluster(&args, profile),
    }
}

fn build() -> Result<()> {
    setup::run()?;
    bpf::build()?;
    suite::build_release()
}

/// Two nodes made of network namespaces, with the agent that the image ships.
fn on_namespaces(args: &[String]) -> Result<ExitCode> {
    crate::front("bench", setup::BENCH, args, "dist")
}

/// One node: everything that is measured is of one agent, and a second would share its cores.
fn on_own_cluster(args: &[String], profile: image::Profile) -> Result<ExitCode> {
    ensure!(
        setup::is_root(),
        "the cluster's machines are namespaces, which need root: run this as root, or give --kubeconfig"
    );
    let image = image::write(&image::Options::of(profile))?;
    let cluster = Cluster::of_bench();
    cluster.down()?;
    let ran = cluster
        .up(&Layout {
            nodes: 1,
            ..Layout::default()
        })
        .and_then(|()| cluster.load(&[image]))
        .and_then(|()| {
            // In the control plane's network: no forwarder's CPU in the figures.
            let program = program();
            let mut inside = cluster.in_network_of("cp", program.get_program());
            inside.args(args).arg("--leave").env("KC_WORK", cluster.work());
            pass(&mut inside, &[], &cluster.work().join("pki/admin.conf"))
        });
    let down = cluster.down();
    let code = ran?;
    down?;
    Ok(code)
}

fn program() -> Command {
    Command::new(shell::root().join("target/release/cluster-bench"))
}

fn pass(command: &mut Command, args: &[String], kubeconfig: &Path) -> Result<ExitCode> {
    let status = command
        .args(args)
        .env("HEDDLE_KUBECONFIG", kubeconfig)
        .env("HEDDLE_IMAGE", image::reference())
        .env("KC_BUILD", crate::cluster::built())
        .status()
        .with_context(|| format!("cannot run {command:?}"))?;
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Takes an option and its value out of the arguments: `--name value` or `--name=value`.
fn take(args: &mut Vec<String>, name: &str) -> Result<Option<String>> {
    let prefix = format!("{name}=");
    let Some(at) = args
        .iter()
        .position(|arg| arg == name || arg.starts_with(&prefix))
    else {
        return Ok(None);
    };
    let arg = args.remove(at);
    if let Some(value) = arg.strip_prefix(&prefix) {
        return Ok(Some(value.to_owned()));
    }
    ensure!(at < args.len(), "{name} wants a value");
    Ok(Some(args.remove(at)))
}

#[cfg(test)]
mod tests {
    use super::take;

    #[test]
    fn an_option_leaves_with_its_value_and_the_others_stay_in_order() {
        let mut args: Vec<String> = ["--quick", "--kubeconfig", "f", "--json=x"]
            .map(str::to_owned)
            .into();
        assert_eq!(take(&mut args, "--kubeconfig").unwrap().as_deref(), Some("f"));
        assert_eq!(take(&mut args, "--json").unwrap().as_deref(), Some("x"));
        assert_eq!(take(&mut args, "--profile").unwrap(), None);
        assert_eq!(args, ["--quick"]);
        assert!(take(&mut args, "--quick").is_err());
    }
}
