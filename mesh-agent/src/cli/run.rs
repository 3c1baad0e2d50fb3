//! `run`: the agent.

use crate::app::config::AgentConfig;
use crate::app::control;
use std::process::ExitCode;

pub(super) fn run(config: AgentConfig) -> anyhow::Result<ExitCode> {
    super::log(config.log_format);
    control::run(config)?;
    Ok(ExitCode::SUCCESS)
}
