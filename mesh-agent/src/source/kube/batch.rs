//! Changes in batches: one snapshot and one update of the kernel's maps for many events.

use super::WatchSettings;
use mesh_core::state::Change;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

/// More than this many changes are not held back: each is a whole object.
const MOST: usize = 256;
/// With this many, more can be expected.
const MANY: usize = 32;
/// What belongs together arrives within this time.
const GRACE: Duration = Duration::from_millis(5);

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
    let mut last = Instant::now();
    loop {
        let first = tokio::select! {
            step = steps.recv() => step,
            () = changes.closed() => return,
        };
        let Some(first) = first else { return };
        take(first, &mut batch, &mut unlisted);
        let first = Instant::now();
        while batch.len() < MOST {
            match timeout_at(due(first, last, batch.len(), settings), steps.recv()).await {
                Ok(Some(step)) => take(step, &mut batch, &mut unlisted),
                Ok(None) | Err(_) => break,
            }
        }
        last = Instant::now();
        if !batch.is_empty() && changes.send(std::mem::take(&mut batch)).await.is_err() {
            return;
        }
    }
}

/// When a batch whose first change came at `first` is handed over: at once if the `last` one was long ago, and under load
/// a little later, for fewer and larger ones.
fn due(first: Instant, last: Instant, size: usize, settings: &WatchSettings) -> Instant {
    let apart = if size < MANY {
        settings.gather
    } else {
        settings.gather_at_most
    };
    (first + GRACE).max(last + apart)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lone_change_does_not_wait_and_many_come_in_batches_a_tenth_of_a_second_apart() {
        let settings = WatchSettings::default();
        let ms = Duration::from_millis;
        let last = Instant::now();
        let due = |after, size| due(last + ms(after), last, size, &settings) - last;
        assert_eq!(due(1_000, 1), ms(1_005));
        assert_eq!(due(10, 1), ms(50));
        assert_eq!(due(10, 200), ms(100));
    }

    #[tokio::test]
    async fn the_listing_is_complete_when_every_kind_is_and_only_once() {
        let (steps, gathered) = mpsc::channel(8);
        let (changes, mut received) = mpsc::channel(8);
        for kind in [0, 1, 1, 0] {
            steps.send(Step::Listed(kind)).await.unwrap();
        }
        drop(steps);
        gather(gathered, 2, &WatchSettings::default(), changes).await;
        let mut all = Vec::new();
        while let Some(batch) = received.recv().await {
            all.extend(batch);
        }
        assert!(matches!(all[..], [Change::Init, Change::InitDone]), "{all:?}");
    }
}
