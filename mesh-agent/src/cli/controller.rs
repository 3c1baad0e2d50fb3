//! `controller`.

use crate::controller::config::ControllerConfig;
use std::process::ExitCode;

pub(super) fn run(config: ControllerConfig) -> anyhow::Result<ExitCode> {
    super::log(config.log_format);
    crate::controller::run(config)?;
    Ok(ExitCode::SUCCESS)
}
