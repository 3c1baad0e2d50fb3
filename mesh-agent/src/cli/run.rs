//! `run`: the agent.

use crate::app::config::{AgentConfig, LogFormat};
use crate::app::control;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

pub(super) fn run(config: AgentConfig) -> anyhow::Result<ExitCode> {
    let filter = EnvFilter::try_from_env("HEDDLE_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match config.log_format {
        LogFormat::Json => log.json().flatten_event(true).init(),
        LogFormat::Text => log.init(),
    }
    control::run(config)?;
    Ok(ExitCode::SUCCESS)
}
