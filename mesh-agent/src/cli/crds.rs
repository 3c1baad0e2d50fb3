//! `crds`.

use anyhow::Context;
use std::process::ExitCode;

pub(super) fn run() -> anyhow::Result<ExitCode> {
    print!("{}", crate::controller::crd::yaml().context("write YAML")?);
    Ok(ExitCode::SUCCESS)
}
