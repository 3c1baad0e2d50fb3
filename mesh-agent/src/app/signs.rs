//! What the agent tells by files: to the kubelet that it serves, or what it waits for; to its CNI plug-in that it lives.

use super::config::AgentConfig;
use crate::cni::LIFE_SIGN;
use crate::source::kube::SourceFigures;
use anyhow::Context;
use std::path::{Path, PathBuf};

/// Where an agent that is not ready says what it waits for: beside the file of `--ready-file`.
#[must_use]
pub fn reason_file(ready_file: &Path) -> PathBuf {
    ready_file.with_extension("waits-for")
}

/// From here on the pods of the node are served.
///
/// # Errors
/// The file cannot be made.
pub(super) fn serves(config: &AgentConfig) -> anyhow::Result<()> {
    let Some(path) = &config.ready_file else {
        return Ok(());
    };
    // Not there is what it should be.
    let _ = std::fs::remove_file(reason_file(path));
    std::fs::write(path, "").with_context(|| format!("write {}", path.display()))
}

/// For the kubelet's Event on a pod that does not become ready: kinds that may not be read, and the API server's words.
pub(super) fn waits_for(config: &AgentConfig, source: Option<&SourceFigures>) {
    let refused = source.map(SourceFigures::refused).unwrap_or_default();
    let Some(path) = config.ready_file.as_ref().filter(|_| !refused.is_empty()) else {
        return;
    };
    let words = refused
        .into_iter()
        .map(|(kind, words)| format!("{kind}: {words}"));
    if let Err(error) = std::fs::write(reason_file(path), words.collect::<Vec<_>>().join("; ")) {
        tracing::warn!(%error, "cannot say what is waited for");
    }
}

/// For a plug-in that finds nobody to ask.
pub(super) fn lives(config: &AgentConfig) {
    let path = config.state_dir.join(LIFE_SIGN);
    if let Err(error) = std::fs::write(&path, "") {
        tracing::warn!(%error, path = %path.display(), "cannot be written");
    }
}
