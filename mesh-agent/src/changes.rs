//! When something in a directory has changed: one look for a burst of events, and none for being read.

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use std::path::Path;
use std::time::Duration;
use tokio::sync::mpsc;

/// Watches directories, until dropped.
pub(crate) struct Changes {
    watcher: RecommendedWatcher,
    woken: mpsc::Receiver<()>,
}

impl Changes {
    /// Watches a directory.
    ///
    /// # Errors
    /// As [`Changes::watch`], or the kernel has no more watches for this user (inotify(7), `max_user_instances`).
    pub(crate) fn of(dir: &Path, mode: RecursiveMode) -> notify::Result<Self> {
        let (wake, woken) = mpsc::channel(1);
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            if is_change(&event) {
                // A full channel means that a look is already due.
                let _ = wake.try_send(());
            }
        })?;
        let mut changes = Self { watcher, woken };
        changes.watch(dir, mode)?;
        Ok(changes)
    }

    /// Watches one more directory.
    ///
    /// # Errors
    /// It is not there, or cannot be watched.
    pub(crate) fn watch(&mut self, dir: &Path, mode: RecursiveMode) -> notify::Result<()> {
        self.watcher.watch(dir, mode)
    }

    /// Waits for a change. Cancel safe.
    pub(crate) async fn any(&mut self) {
        let _ = self.woken.recv().await;
    }

    /// Writers take several steps: waits for them, and counts what comes meanwhile as the change that was.
    pub(crate) async fn settle(&mut self, quiet: Duration) {
        tokio::time::sleep(quiet).await;
        while self.woken.try_recv().is_ok() {}
    }
}

/// Whoever looks at a directory opens its files: were that a change, each look would lead to the next.
fn is_change(event: &notify::Result<Event>) -> bool {
    const WRITTEN: AccessKind = AccessKind::Close(AccessMode::Write);
    let kind = event.as_ref().map(|event| event.kind);
    !matches!(kind, Ok(EventKind::Access(access)) if access != WRITTEN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    #[tokio::test]
    async fn a_directory_that_is_only_read_has_not_changed() {
        let dir = TempDir::new();
        let file = dir.0.join("a");
        std::fs::write(&file, "1").unwrap();
        let mut changes = Changes::of(&dir.0, RecursiveMode::Recursive).unwrap();

        assert_eq!(std::fs::read_to_string(&file).unwrap(), "1");
        assert_eq!(std::fs::read_dir(&dir.0).unwrap().count(), 1);
        let read = tokio::time::timeout(Duration::from_millis(300), changes.any()).await;
        assert!(read.is_err(), "reading counted as a change");

        std::fs::write(&file, "2").unwrap();
        let written = tokio::time::timeout(Duration::from_secs(10), changes.any()).await;
        assert!(written.is_ok(), "writing did not count as a change");
    }
}
