//! `gateway`.

use crate::gateway::config::GatewayConfig;
use std::process::ExitCode;

pub(super) fn run(config: GatewayConfig) -> anyhow::Result<ExitCode> {
    super::log(config.log_format);
    crate::gateway::run(config)?;
    Ok(ExitCode::SUCCESS)
}
