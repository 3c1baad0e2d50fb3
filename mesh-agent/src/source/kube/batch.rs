//! Changes in batches: one snapshot and one update of the kernel's maps for many events.

use super::WatchSettings;
use mesh_core::state::Change;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

/// More than this many changes are not held back: each is a whole object.
const MOST: usize = 256;

/// What a follower says.
pub(super) enum Step {
    /// A change.
    Change(Change),
    /// The kind with this number has been listed, or does not exist.
    Listed(usize),
}

/// Hands changes over until the receiver or the last sender is gone.
pub(super) async fn gather(
    mut steps: mpsc::Receiver<Step>,
    kinds: usize,
    settings: &WatchSettings,
    changes: mpsc::Sender<Vec<Change>>,
) {
    let mut unlisted: Vec<bool> = vec![true; kinds];
    let mut batch = vec![Change::Init];
    loop {
        let first = tokio::select! {
            step = steps.recv() => step,
            () = changes.closed() => return,
        };
        let Some(first) = first else { return };
        take(first, &mut batch, &mut unlisted);
        let latest = Instant::now() + settings.gather_at_most;
        let mut until = Instant::now() + settings.gather;
        while batch.len() < MOST {
            match timeout_at(until, steps.recv()).await {
                Ok(Some(step)) => {
                    take(step, &mut batch, &mut unlisted);
                    // Under load a little longer, for fewer and larger batches.
                    until = latest;
                }
                Ok(None) | Err(_) => break,
            }
        }
        if !batch.is_empty() && changes.send(std::mem::take(&mut batch)).await.is_err() {
            return;
        }
    }
}

fn take(step: Step, batch: &mut Vec<Change>, unlisted: &mut [bool]) {
    match step {
        Step::Change(change) => batch.push(change),
        Step::Listed(kind) => {
            let before = unlisted.contains(&true);
            unlisted[kind] = false;
            if before && !unlisted.contains(&true) {
                batch.push(Change::InitDone);
            }
        }
    }
}
