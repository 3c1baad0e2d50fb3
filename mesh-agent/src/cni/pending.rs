//! Pods that wait in the container runtime for an answer.

use super::Answer;
use super::server::CniRequest;
use std::time::{Duration, Instant};

/// The plug-in's open questions. Owned by the control loop, which settles them whenever it knows more.
#[derive(Debug, Default)]
pub struct Pending {
    waiting: Vec<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    request: CniRequest,
    since: Instant,
}

impl Pending {
    /// Adds a question. An older one about another sandbox of the same pod is answered: that sandbox has failed
    /// meanwhile, or the runtime would not make a new one.
    pub fn add(&mut self, request: CniRequest, now: Instant) {
        let (superseded, kept) = std::mem::take(&mut self.waiting).into_iter().partition(|old| {
            old.request.pod == request.pod && old.request.container_id != request.container_id
        });
        self.waiting = kept;
        for old in superseded {
            answer(
                old.request,
                Answer::Failed {
                    reason: "a newer sandbox of the pod has taken its place".to_owned(),
                },
            );
        }
        self.waiting.push(Waiting { request, since: now });
    }

    /// Answers every question that `decide` can answer. It is given how long the pod has waited; `None` leaves it
    /// waiting. Plug-ins that have gone are forgotten.
    pub fn settle(&mut self, now: Instant, mut decide: impl FnMut(&CniRequest, Duration) -> Option<Answer>) {
        for waiting in std::mem::take(&mut self.waiting) {
            if waiting.request.reply.is_closed() {
                continue;
            }
            let waited = now.saturating_duration_since(waiting.since);
            match decide(&waiting.request, waited) {
                Some(answered) => answer(waiting.request, answered),
                None => self.waiting.push(waiting),
            }
        }
    }

    /// What waits.
    pub fn requests(&self) -> impl Iterator<Item = &CniRequest> {
        self.waiting.iter().map(|waiting| &waiting.request)
    }

    /// Whether nobody waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

fn answer(request: CniRequest, answer: Answer) {
    // A plug-in that went away in this moment asks again, if it still wants to know.
    let _ = request.reply.send(answer);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cni::{Operation, PodRef};
    use tokio::sync::oneshot;

    fn request(name: &str, container: &str) -> (CniRequest, oneshot::Receiver<Answer>) {
        let (reply, answer) = oneshot::channel();
        let pod = PodRef {
            namespace: "weather".into(),
            name: name.into(),
            uid: None,
        };
        let request = CniRequest {
            operation: Operation::Add,
            pod,
            container_id: container.into(),
            netns: None,
            ips: Vec::new(),
            reply,
        };
        (request, answer)
    }

    #[test]
    fn a_pod_waits_until_it_is_decided_and_others_do_not_wait_with_it() {
        let start = Instant::now();
        let mut pending = Pending::default();
        let (slow, mut slow_answer) = request("slow", "1");
        let (quick, mut quick_answer) = request("quick", "2");
        pending.add(slow, start);
        pending.add(quick, start);
        let later = start + Duration::from_secs(3);
        pending.settle(later, |request, waited| {
            assert_eq!(waited, Duration::from_secs(3));
            (&*request.pod.name == "quick").then_some(Answer::Captured)
        });
        assert_eq!(quick_answer.try_recv().unwrap(), Answer::Captured);
        assert!(slow_answer.try_recv().is_err());
        assert_eq!(pending.requests().count(), 1);
        pending.settle(later, |_, _| Some(Answer::Captured));
        assert_eq!(slow_answer.try_recv().unwrap(), Answer::Captured);
        assert!(pending.is_empty());
    }

    #[test]
    fn a_plugin_that_went_away_is_forgotten() {
        let mut pending = Pending::default();
        let (gone, answer) = request("gone", "1");
        drop(answer);
        pending.add(gone, Instant::now());
        pending.settle(Instant::now(), |_, _| unreachable!("nobody waits for this"));
        assert!(pending.is_empty());
    }

    #[test]
    fn a_new_sandbox_of_a_pod_ends_the_waiting_of_the_old_one() {
        let mut pending = Pending::default();
        let (old, mut old_answer) = request("pod", "1");
        let (new, mut new_answer) = request("pod", "2");
        pending.add(old, Instant::now());
        pending.add(new, Instant::now());
        assert!(matches!(old_answer.try_recv(), Ok(Answer::Failed { .. })));
        pending.settle(Instant::now(), |_, _| Some(Answer::Captured));
        assert_eq!(new_answer.try_recv().unwrap(), Answer::Captured);
    }
}
