//! Keeps the plug-in installed while others write to the same directory.

use super::{CniStatus, Install, InstallError, install};
use notify::{RecursiveMode, Watcher};
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// CNIs write their file in several steps; looking once after they are quiet sees the whole.
const QUIET: Duration = Duration::from_millis(20);
/// Changes that the watch missed are found by this, and what failed is tried again.
const RESCAN: Duration = Duration::from_secs(10);

/// Installs the plug-in, and again whenever somebody has undone it, until nobody looks at the status any more.
///
/// A CNI that insists on its file being its own (Cilium with `cni.exclusive`) undoes every repair: the pauses between
/// repairs grow then, up to ten seconds, instead of the two rewriting the file for ever.
///
/// # Errors
/// The directory cannot be watched.
pub async fn keep(what: Install, status: watch::Sender<CniStatus>) -> Result<(), InstallError> {
    let (wake, mut woken) = mpsc::channel::<()>(1);
    let mut watcher = notify::recommended_watcher(move |_event| {
        // A full channel means that a look is already due.
        let _ = wake.try_send(());
    })
    .and_then(|mut watcher| {
        watcher.watch(&what.conf_dir, RecursiveMode::NonRecursive)?;
        Ok(watcher)
    })
    .map_err(|source| InstallError::Watch {
        path: what.conf_dir.clone(),
        source,
    })?;
    // The program may be deleted, too. Without this watch the next look finds out.
    if let Err(error) = watcher.watch(&what.bin_dir, RecursiveMode::NonRecursive) {
        tracing::warn!(dir = %what.bin_dir.display(), %error, "cannot watch the plug-in directory");
    }
    let mut pause = QUIET;
    loop {
        let now = match install(&what) {
            Ok((Some(file), changed)) => {
                if changed {
                    tracing::info!(file = %file.display(), "CNI plug-in installed");
                    pause = (pause * 2).min(RESCAN);
                }
                CniStatus::Installed { file }
            }
            Ok((None, _)) => CniStatus::NoConfiguration,
            Err(error) => CniStatus::Failed {
                reason: error.to_string(),
            },
        };
        publish(&status, now);
        tokio::select! {
            Some(()) = woken.recv() => {
                tokio::time::sleep(pause).await;
                while woken.try_recv().is_ok() {}
            }
            () = tokio::time::sleep(RESCAN) => pause = QUIET,
            () = status.closed() => return Ok(()),
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
