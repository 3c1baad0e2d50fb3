//! `cargo xtask bench --routes`: what choosing, keeping and changing routes costs in the core, and then what 5,000 HTTPRoutes
//! cost an agent that serves traffic, beside the goals.

use crate::{fields, image, shell};
use anyhow::{Context, Result, ensure};
use std::process::{Command, ExitCode};

/// The argument that asks for it.
pub(super) const ARGUMENT: &str = "--routes";
/// Leaves out what needs a cluster.
const NO_CLUSTER: &str = "--no-cluster";
const SERVICES: &str = "5000";

/// Everything, on a cluster of its own, in the profile of the tests; a goal that is missed is a failure.
///
/// # Errors
/// What could not be measured, or the goals that were missed.
pub(crate) fn held() -> Result<()> {
    let code = run(vec!["--strict".to_owned()], image::Profile::Release)?;
    ensure!(
        code == ExitCode::SUCCESS,
        "cargo xtask bench --routes --strict: see above"
    );
    Ok(())
}

/// Builds the measurements and runs them.
pub(super) fn run(mut args: Vec<String>, profile: image::Profile) -> Result<ExitCode> {
    let without = args.iter().any(|arg| arg == NO_CLUSTER);
    args.retain(|arg| arg != NO_CLUSTER && arg != ARGUMENT);
    let core = Command::new(env!("CARGO"))
        .args(["run", "--release", "--quiet", "-p", "mesh-core"])
        .args(["--example", "routes"])
        .current_dir(shell::root())
        .status()?;
    let core = if core.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    };
    if without {
        eprintln!("✘ NOT RUN: an agent on a cluster ({NO_CLUSTER})");
        return Ok(core);
    }
    let crd = fields::http_route_crd()?;
    let crd = crd.to_str().context("the CRD's path is not UTF-8")?;
    let own = [
        "--parts",
        "routes",
        "--services",
        SERVICES,
        "--endpoints",
        SERVICES,
        "--http-route-crd",
        crd,
    ];
    args.extend(own.map(str::to_owned));
    super::build()?;
    let live = super::on_own_cluster(&args, profile)?;
    Ok(if core == ExitCode::SUCCESS { live } else { core })
}
