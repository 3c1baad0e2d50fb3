//! Keeps the plug-in installed while others write to the same directory.

use super::{CniStatus, Install, InstallError, install};
use crate::changes::Changes;
use notify::RecursiveMode;
use std::time::Duration;
use tokio::sync::watch;

/// CNIs write their file in several steps; looking once after they are quiet sees the whole.
const QUIET: Duration = Duration::from_millis(20);
/// Changes that the watch missed are found by this, and what failed is tried again.
const RESCAN: Duration = Duration::from_secs(10);

/// Installs the plug-in, and again whenever somebody has undone it, until nobody looks at the status any more. Waited for,
/// it has nothing under way; aborted, it may still write an entry after somebody has taken it out.
///
/// A CNI that insists on its file being its own (Cilium with `cni.exclusive`) undoes every repair: the pauses between
/// repairs grow then, up to ten seconds, instead of the two rewriting the file for ever.
///
/// # Errors
/// The directory cannot be watched.
pub async fn keep(what: Install, status: watch::Sender<CniStatus>) -> Result<(), InstallError> {
    let watched = Changes::of(&what.conf_dir, RecursiveMode::NonRecursive);
    let mut watched = watched.map_err(|source| InstallError::Watch {
        path: what.conf_dir.clone(),
        source,
    })?;
    // The program may be deleted, too. Without this watch the next look finds out.
    if let Err(error) = watched.watch(&what.bin_dir, RecursiveMode::NonRecursive) {
        tracing::warn!(dir = %what.bin_dir.display(), %error, "cannot watch the plug-in directory");
    }
    let mut pause = QUIET;
    loop {
        let wanted = what.clone();
        // It reads two programs of megabytes, for which no pod and no connection should wait.
        let now = match tokio::task::spawn_blocking(move || install(&wanted)).await {
            Ok(Ok((Some(file), changed))) => {
                if changed {
                    tracing::info!(file = %file.display(), "CNI plug-in installed");
                    pause = (pause * 2).min(RESCAN);
                }
                CniStatus::Installed { file }
            }
            Ok(Ok((None, _))) => CniStatus::NoConfiguration,
            Ok(Err(error)) => CniStatus::Failed {
                reason: error.to_string(),
            },
            // The runtime is going.
            Err(_) => return Ok(()),
        };
        publish(&status, now);
        let changed = async {
            watched.any().await;
            watched.settle(pause).await;
        };
        tokio::select! {
            biased;
            () = status.closed() => return Ok(()),
            () = changed => {}
            () = tokio::time::sleep(RESCAN) => pause = QUIET,
        }
    }
}

fn publish(status: &watch::Sender<CniStatus>, now: CniStatus) {
    status.send_if_modified(|before| {
        if *before == now {
            return false;
        }
        if let CniStatus::Failed { reason } = &now {
            tracing::error!(
                reason,
                "the CNI plug-in is not installed: new pods are captured after their start"
            );
        }
        *before = now;
        true
    });
}
