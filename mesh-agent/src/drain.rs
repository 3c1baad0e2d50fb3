//! Telling every connection that the agent is about to go: first "take nothing new", at the deadline "stop".

use tokio::sync::watch;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Serving,
    Draining,
    Cut,
}

/// The side that decides. Dropping it counts as [`DrainTrigger::cut`]: nobody is left to decide otherwise.
#[derive(Debug)]
pub struct DrainTrigger(watch::Sender<Stage>);

/// The side that is told; cheap to clone.
#[derive(Clone, Debug)]
pub struct DrainWatch(watch::Receiver<Stage>);

/// A connected pair.
#[must_use]
pub fn drain() -> (DrainTrigger, DrainWatch) {
    let (sender, receiver) = watch::channel(Stage::Serving);
    (DrainTrigger(sender), DrainWatch(receiver))
}

impl DrainTrigger {
    /// Asks for a graceful end: what runs may finish, nothing new is taken.
    pub fn start(&self) {
        self.advance(Stage::Draining);
    }

    /// The drain deadline has passed: what still runs is dropped.
    pub fn cut(&self) {
        self.advance(Stage::Cut);
    }

    fn advance(&self, to: Stage) {
        self.0.send_if_modified(|stage| {
            let later = to > *stage;
            if later {
                *stage = to;
            }
            later
        });
    }

    /// Whether nobody is left to be told.
    #[must_use]
    pub fn is_alone(&self) -> bool {
        self.0.is_closed()
    }

    /// Another watcher.
    #[must_use]
    pub fn watch(&self) -> DrainWatch {
        DrainWatch(self.0.subscribe())
    }
}

impl DrainWatch {
    /// Whether the graceful end has begun.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        *self.0.borrow() >= Stage::Draining || self.0.has_changed().is_err()
    }

    /// Waits for the graceful end to begin. Cancel safe.
    pub async fn draining(&self) {
        self.reach(Stage::Draining).await;
    }

    /// Waits for the deadline of the drain. Cancel safe.
    pub async fn cut(&self) {
        self.reach(Stage::Cut).await;
    }

    /// What `work` yields; nothing if the deadline comes first, which drops it.
    pub async fn unless_cut<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            done = work => Some(done),
            () = self.cut() => None,
        }
    }

    async fn reach(&self, stage: Stage) {
        // An error means that the trigger is gone, which is the last stage.
        let mut receiver = self.0.clone();
        let _gone = receiver.wait_for(|now| *now >= stage).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_drain_goes_forward_only_and_wakes_every_watcher() {
        let (trigger, watch) = drain();
        assert!(!watch.is_draining());
        let other = watch.clone();
        let waiter = tokio::spawn(async move { other.draining().await });
        trigger.cut();
        trigger.start();
        waiter.await.unwrap();
        watch.cut().await;
        assert!(watch.is_draining());
    }

    #[tokio::test]
    async fn a_lost_trigger_counts_as_the_deadline() {
        let (trigger, watch) = drain();
        drop(trigger);
        watch.cut().await;
        assert!(watch.is_draining());
    }
}
